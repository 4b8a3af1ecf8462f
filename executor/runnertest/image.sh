#!/bin/sh
# Makes a disk image of a tiny guest for tests: Debian's cloud kernel, busybox, bash, git, and the agent. It boots with
# BIOS and GRUB, as any VM image, in a few seconds without KVM.
# Arguments: KERNEL (directory into which a kernel's package was unpacked), PROGRAMS (directory of what goes into
# /usr/local/bin: debcloud, gitlab-runner), IMAGE (to make).
set -eu
kernel=$1 programs=$2 image=$3

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
version=$(ls "$kernel/lib/modules")

# What the kernel needs to find its disk, its console port and its network, in the order of loading.
early=$work/early
mkdir -p "$early/bin" "$early/modules" "$early/root" "$early/proc" "$early/dev"
depmod -b "$kernel" "$version"
for module in virtio_pci virtio_blk virtio_console virtio_net virtio-rng; do
	for file in $(modprobe -d "$kernel" -S "$version" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'); do
		name=$(basename "$file")
		[ -e "$early/modules/$name" ] && continue
		cp "$file" "$early/modules/$name"
		echo "$name" >>"$early/modules/order"
	done
done
cp /bin/busybox "$early/bin/busybox"
cat >"$early/init" <<'END'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules/order); do
	/bin/busybox insmod "/modules/$module"
done
n=0
until [ -b /dev/vda2 ] || [ $n = 500 ]; do
	/bin/busybox usleep 20000
	n=$((n + 1))
done
/bin/busybox mount -t ext4 /dev/vda2 /root
exec /bin/busybox switch_root /root /init
END
chmod +x "$early/init"
(cd "$early" && find . | cpio -o -H newc --quiet) >"$work/initrd"

# The root file system: programs of this machine with the libraries that they name.
root=$work/root
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/run" "$root/tmp" "$root/root" "$root/etc" "$root/usr/local/bin"
ln -s . "$root/usr/sbin" 2>/dev/null || true
rm -f "$root/usr/sbin"
ln -s bin "$root/sbin"
copy() {
	for file; do
		mkdir -p "$root$(dirname "$file")"
		cp -L "$file" "$root$file"
		for library in $(ldd "$file" 2>/dev/null | sed -n 's/.*=> \(\/[^ ]*\).*/\1/p; s/^[[:space:]]*\(\/lib[^ ]*\) .*/\1/p'); do
			mkdir -p "$root$(dirname "$library")"
			[ -e "$root$library" ] || cp -L "$library" "$root$library"
		done
	done
}
core=$(git --exec-path)
copy /bin/bash /usr/bin/git "$core/git-remote-http"
ln -s git-remote-http "$root$core/git-remote-https"
mkdir -p "$root/usr/share/git-core/templates"
cp /bin/busybox "$root/bin/busybox"
for applet in $(busybox --list); do
	[ -e "$root/bin/$applet" ] || ln -s busybox "$root/bin/$applet"
done
cp "$programs"/* "$root/usr/local/bin/"
printf 'root:x:0:0:root:/root:/bin/bash\n' >"$root/etc/passwd"
printf 'root:x:0:\n' >"$root/etc/group"
cat >"$root/init" <<'END'
#!/bin/busybox sh
export PATH=/usr/local/bin:/usr/bin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/virtio-ports /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t cgroup2 cgroup /sys/fs/cgroup
ln -sf /proc/self/fd /dev/fd
for port in /sys/class/virtio-ports/*; do
	[ -e "$port/name" ] && ln -sf "../${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
done
ip link set lo up
[ ! -e /sys/class/net/eth0 ] || { ip link set eth0 up && udhcpc -i eth0 -t 200 -T 2 -A 1 -q -s /etc/udhcpc.sh; } >/dev/null 2>&1 &
echo "the tiny guest is up"
# What a test wants the guest to be: from a file on its disk, which tests put there.
[ ! -x /etc/rc.local ] || . /etc/rc.local
while :; do
	debcloud guest
	sleep 1
done
END
chmod +x "$root/init"
cat >"$root/etc/udhcpc.sh" <<'END'
#!/bin/busybox sh
case $1 in
bound | renew)
	ip addr add "$ip/${mask:-24}" dev "$interface"
	[ -z "${router:-}" ] || ip route add default via "${router%% *}"
	: >/etc/resolv.conf
	for server in ${dns:-}; do echo "nameserver $server" >>/etc/resolv.conf; done
	;;
esac
END
chmod +x "$root/etc/udhcpc.sh"
mke2fs -q -t ext4 -d "$root" "$work/root.ext4" 256m

# An MBR with GRUB's first sector, its core in the gap after it, a FAT partition with the kernel, and the root.
mkfs.vfat -C "$work/boot.fat" 40960 >/dev/null
cat >"$work/grub.cfg" <<'END'
serial
terminal_output serial
linux (hd0,msdos1)/vmlinuz root=/dev/vda2 console=ttyS0 loglevel=4 panic=1 no_timer_check mitigations=off nokaslr
initrd (hd0,msdos1)/initrd
boot
END
mcopy -i "$work/boot.fat" "$kernel/boot/vmlinuz-$version" ::vmlinuz
mcopy -i "$work/boot.fat" "$work/initrd" ::initrd
grub-mkimage -O i386-pc -p '(hd0,msdos1)/' -c "$work/grub.cfg" -o "$work/core.img" biosdisk part_msdos fat normal linux boot serial terminal minicmd
truncate -s 300M "$work/disk"
sfdisk -q "$work/disk" <<'END'
label: dos
start=2048, size=81920, type=c, bootable
start=83968, type=83
END
dd if=/usr/lib/grub/i386-pc/boot.img of="$work/disk" bs=440 count=1 conv=notrunc status=none
dd if="$work/core.img" of="$work/disk" bs=512 seek=1 conv=notrunc status=none
dd if="$work/boot.fat" of="$work/disk" bs=512 seek=2048 conv=notrunc,sparse status=none
dd if="$work/root.ext4" of="$work/disk" bs=512 seek=83968 conv=notrunc,sparse status=none
qemu-img convert -f raw -O qcow2 "$work/disk" "$image.new"
mv "$image.new" "$image"
