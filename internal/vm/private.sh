#!/bin/sh
# Runs a libvirtd that shares nothing with the system's, as the first process of its own PID and mount namespaces:
# when that process dies, the kernel ends everything that libvirtd started.
# Arguments: RUN (a directory for sockets, logs and state), CACHE (what libvirt learnt of QEMU), hide or show (/dev/kvm),
# fleeting or lasting (domains that outlive who made them: their logs get a limit, and a libvirtd that is killed comes back),
# host or own (network namespace).
set -eu
run=$1 cache=$2 kvm=$3 kind=$4 network=$5

# Nothing of this may show outside. /proc must list this PID namespace: libvirtd finds its children there.
mount --make-rprivate /
mount -t proc proc /proc

# sysfs shows the network namespace that it was mounted in, and libvirt isolates a bridge's ports there.
if [ "$network" = own ]; then
	mount -t sysfs sysfs /sys
fi

mkdir -p "$cache"
for pair in run:/run/libvirt lib:/var/lib/libvirt log:/var/log/libvirt etc:/etc/libvirt; do
	mkdir -p "$run/${pair%%:*}" "${pair#*:}"
	mount --bind "$run/${pair%%:*}" "${pair#*:}"
done
mkdir -p /var/cache/libvirt
mount --bind "$cache" /var/cache/libvirt

# A /dev/kvm that exists but does not work makes libvirtd probe QEMU anew for each domain. What else is in /dev that libvirtd and QEMU use stays:
# net/tun for interfaces in networks.
if [ "$kvm" = hide ] && [ -e /dev/kvm ]; then
	dev=$run/dev
	mkdir -p "$dev"
	mount -t tmpfs -o mode=0755 dev "$dev"
	for node in null zero full random urandom tty; do
		: >"$dev/$node"
		mount --bind "/dev/$node" "$dev/$node"
	done
	for dir in net pts shm; do
		mkdir -p "$dev/$dir"
		[ ! -d "/dev/$dir" ] || mount --rbind "/dev/$dir" "$dev/$dir"
	done
	ln -s pts/ptmx "$dev/ptmx"
	ln -s /proc/self/fd "$dev/fd"
	mount --move "$dev" /dev
fi

cat >/etc/libvirt/libvirtd.conf <<-'END'
	auth_unix_ro = "none"
	auth_unix_rw = "none"
	unix_sock_rw_perms = "0700"
END
if [ "$kind" = lasting ]; then
	# QEMU runs as the package configures it: as a user of its own, to whom libvirt gives the disks, in a mount namespace with few devices.
	# Its cgroups would show outside.
	echo 'cgroup_controllers = []' >/etc/libvirt/qemu.conf
	printf 'max_size = 262144\nmax_backups = 2\n' >/etc/libvirt/virtlogd.conf
	virtlogd -d -f /etc/libvirt/virtlogd.conf -p /run/libvirt/virtlogd.pid
	# The loopback of a network namespace of its own is down.
	ip link set lo up
	exec tini -s -- sh -c 'while :; do libvirtd -f /etc/libvirt/libvirtd.conf -p /run/libvirt/libvirtd.pid || sleep 0.1; done'
fi
# QEMU runs as root and nothing is given to it by chown: images are read where and as they are. QEMU writes its own
# log, so that no virtlogd is needed. Its seccomp sandbox stays on.
cat >/etc/libvirt/qemu.conf <<-'END'
	user = "root"
	group = "root"
	dynamic_ownership = 0
	remember_owner = 0
	security_driver = "none"
	security_default_confined = 0
	namespaces = []
	cgroup_controllers = []
	stdio_handler = "file"
	max_core = 0
END
# libvirt waits for each helper's zombie: the first process has to reap, at once.
exec tini -s -- libvirtd -f /etc/libvirt/libvirtd.conf -p /run/libvirt/libvirtd.pid
