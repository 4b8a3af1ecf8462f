#!/bin/sh
# Stands in for FAI's install_packages. What maintainer scripts do over and over, for each package or each trigger, is put off
# and then done once, on all processors: the initramfs, the bundle of CA certificates, Python's byte code.
set -eu

tree=$FAI_ROOT
put_off=$tree/usr/local/sbin
list=$tree/tmp/put-off
programs="update-initramfs update-ca-certificates py3compile"

# A program of the administrator's own would be shadowed by none of ours: then everything takes its usual way.
for program in $programs; do
	if [ -e "$put_off/$program" ]; then exec /mnt/bin/install_packages "$@"; fi
done

# Lines are short enough to be appended in one piece.
: >"$list"
for program in $programs; do
	cat >"$put_off/$program" <<-EOF
		#!/bin/sh
		case \$1 in --version) exec /usr/sbin/$program "\$@" ;; esac
		echo "$program \$*" >>/tmp/put-off
	EOF
	chmod 755 "$put_off/$program"
done
/mnt/fast/settings "$tree"

status=0
PYTHONDONTWRITEBYTECODE=1 /mnt/bin/install_packages "$@" || status=$?

for program in $programs; do rm -f "$put_off/$program"; done
mv "$list" /mnt/put-off

initramfs() {
	grep -q '^update-initramfs ' /mnt/put-off || return 0
	for kernel in "$tree"/boot/vmlinuz-*; do
		[ -e "$kernel" ] || continue
		$ROOTCMD update-initramfs -c -k "${kernel##*/vmlinuz-}"
	done
}

certificates() {
	grep -q '^update-ca-certificates' /mnt/put-off || return 0
	$ROOTCMD update-ca-certificates
}

bytecode() {
	# $ROOTCMD is a command with arguments.
	# shellcheck disable=SC2086
	grep '^py3compile ' /mnt/put-off | sort -u | xargs -r -P "$(nproc)" -d '\n' -I{} $ROOTCMD sh -c '{}'
}

if [ $status -eq 0 ]; then
	echo "Doing what was put off"
	initramfs &
	certificates && bytecode || status=$?
	wait $! || status=$?
fi
exit $status
