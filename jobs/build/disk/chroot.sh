#!/bin/sh
# Runs GRUB's own tools in the tree $1, in a mount and PID namespace of their own, which end with them.
# $2 file system UUID, $3 PARTUUID of the root that the tree will become
set -eu
umask 022

tree=$1
export FS_UUID="$2" PART_UUID="$3"

# What an interrupted run wrote under these stays in memory that nobody sees.
mkdir -p "$tree/proc" "$tree/dev" "$tree/run" "$tree/tmp"
mount -t proc proc "$tree/proc"
for dir in dev run tmp; do
	mount -t tmpfs -o mode=755,nosuid tmpfs "$tree/$dir"
done
for node in null zero full random urandom; do
	: >"$tree/dev/$node"
	mount --bind "/dev/$node" "$tree/dev/$node"
done

# grub-mkconfig names the root by PARTUUID only where udev has made this link.
mkdir -p "$tree/dev/disk/by-partuuid"
: >"$tree/dev/disk/by-partuuid/$PART_UUID"

# The tree is no block device yet, so GRUB's probes would fail, or tell of the disk that the tree lies on.
# These say what they will say in the booted image, no hints about the disk's place among them: so update-grub there
# leaves grub.cfg as it is.
cat >"$tree/run/grub-probe" <<'PROBE'
#!/bin/sh
target=fs
while [ $# -gt 0 ]; do
	case $1 in
	--target=*) target=${1#*=} ;;
	-t | --target) target=$2; shift ;;
	esac
	shift
done
case $target in
device) echo /dev/vda1 ;;
disk) echo /dev/vda ;;
fs) echo ext2 ;;
fs_uuid) echo "$FS_UUID" ;;
partuuid) echo "$PART_UUID" ;;
partmap) echo gpt ;;
drive) echo '(hd0,gpt1)' ;;
esac
PROBE
cat >"$tree/run/grub-mkrelpath" <<'RELPATH'
#!/bin/sh
for path; do :; done
readlink -m "$path"
RELPATH
chmod 755 "$tree/run/grub-probe" "$tree/run/grub-mkrelpath"
mount --bind "$tree/run/grub-probe" "$tree/usr/sbin/grub-probe"
mount --bind "$tree/run/grub-mkrelpath" "$tree/usr/bin/grub-mkrelpath"

export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root
chroot "$tree" grub-mkconfig -o /boot/grub/grub.cfg

# The modules that find the root file system; all others are loaded from it.
# GRUB calls any of ext2, ext3 and ext4 "ext2".
core=/boot/grub/i386-pc
if [ -d "$tree$core" ]; then
	chroot "$tree" grub-mkimage -O i386-pc -d /usr/lib/grub/i386-pc -p /boot/grub \
		-c $core/load.cfg -o $core/core.img biosdisk part_gpt ext2 search_fs_uuid
fi

# An upgrade of shim-signed or GRUB in the running image then does what was done here, and writes no boot entries.
if [ -x "$tree/usr/bin/debconf-set-selections" ]; then
	chroot "$tree" debconf-set-selections <<'SELECTIONS'
shim-signed grub2/update_nvram boolean false
shim-signed grub2/force_efi_extra_removable boolean true
SELECTIONS
	rm -f "$tree"/var/cache/debconf/*-old
fi
