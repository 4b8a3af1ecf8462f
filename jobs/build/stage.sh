#!/bin/sh
# Runs FAI as the first process of a mount and PID namespace of its own: whatever is mounted or started here ends with it.
# $1 is the work directory; its tree/ becomes the system. The rest of the arguments is FAI's.
set -eu
umask 022

work=$1
shift

# FAI does not quote paths, so give it some without surprises. They are also the same in every build.
mount --rbind "$work" /mnt
mount -t proc proc /proc
hostname debian

# A fresh /tmp: mmdebstrap, killed, would leave its directory of keys in the machine's.
mount -t tmpfs -o mode=1777 tmpfs /tmp

# A fresh /run and /var/log: FAI's lock on the whole machine and its logs stay in here, sockets of the machine outside.
resolv=$(readlink -f /etc/resolv.conf || true)
if [ -f "$resolv" ]; then cp "$resolv" /mnt/resolv.conf; fi
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind /mnt/log /var/log
mkdir -p /run/fai /run/lock /run/udev /var/log/fai
if [ -f /mnt/resolv.conf ] && [ ! -e "$resolv" ]; then
	mkdir -p "$(dirname "$resolv")"
	cp /mnt/resolv.conf "$resolv"
fi

# A /dev without the machine's disks, which FAI shows to the tree.
mkdir -p /mnt/dev
mount -t tmpfs -o mode=755 tmpfs /mnt/dev
mknod -m 666 /mnt/dev/null c 1 3
mknod -m 666 /mnt/dev/zero c 1 5
mknod -m 666 /mnt/dev/full c 1 7
mknod -m 666 /mnt/dev/random c 1 8
mknod -m 666 /mnt/dev/urandom c 1 9
mknod -m 666 /mnt/dev/tty c 5 0
mkdir /mnt/dev/pts /mnt/dev/shm
chmod 1777 /mnt/dev/shm
ln -s /proc/self/fd /mnt/dev/fd
ln -s fd/0 /mnt/dev/stdin
ln -s fd/1 /mnt/dev/stdout
ln -s fd/2 /mnt/dev/stderr
ln -s pts/ptmx /mnt/dev/ptmx
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts /mnt/dev/pts
mount --rbind /mnt/dev /dev

# FAI would mount the machine's EFI variables into the tree, where boot loader packages write to them.
if [ -d /sys/firmware/efi ]; then mount -t tmpfs tmpfs /sys/firmware; fi

# FAI diverts /sbin/init lest an upgrade of libc calls it. In trixie the file is /usr/sbin/init and /sbin a link, so dpkg does
# not match the diversion, and when FAI removes it, it removes init. No package calls init any more.
mkdir -p /mnt/bin
cp /usr/lib/fai/fai-divert /mnt/bin/fai-divert
cat >/mnt/bin/fai-divert-but-init <<'DIVERT'
#!/bin/sh
for name; do
	shift
	[ "$name" = /sbin/init ] || set -- "$@" "$name"
done
exec /mnt/bin/fai-divert "$@"
DIVERT
chmod 755 /mnt/bin/fai-divert-but-init
mount --bind /mnt/bin/fai-divert-but-init /usr/lib/fai/fai-divert

# Quicker ways to the same tree. What they stand in for is beside them.
if [ -d /mnt/fast ]; then
	for program in debootstrap install_packages; do
		cp "/usr/sbin/$program" /mnt/bin/
		mount --bind "/mnt/fast/$program" "/usr/sbin/$program"
	done
fi

cd /
exec fai -v -u debian -C /mnt/etc -s file:///mnt/space "$@" install /mnt/tree
