#!/bin/sh
# Stands in for debootstrap where FAI calls it: mmdebstrap makes the same system in half the time. What it does not do the same
# is left to debootstrap itself.
set -eu

variant="" include="" keyring=""
for arg; do
	case $arg in
	--variant=minbase | --arch=*) ;;
	--include=*) include=${arg#*=} ;;
	--keyring=*) keyring=${arg#*=} ;;
	-*) exec /mnt/bin/debootstrap "$@" ;;
	esac
	case $arg in
	--variant=*) variant=${arg#*=} ;;
	esac
done
while [ $# -gt 0 ]; do
	case $1 in
	--arch=*) arch=${1#*=} ;;
	-*) ;;
	*) break ;;
	esac
	shift
done
if [ $# -ne 3 ] || [ "$variant" != minbase ] || [ -n "$(ls -A "$2")" ]; then
	exec /mnt/bin/debootstrap ${variant:+"--variant=$variant"} ${arch:+"--arch=$arch"} ${include:+"--include=$include"} \
		${keyring:+"--keyring=$keyring"} "$@"
fi
suite=$1 tree=$2 mirror=$3

mmdebstrap --mode=root --format=directory --variant=minbase ${arch:+"--architectures=$arch"} \
	${include:+"--include=$include"} ${keyring:+"--keyring=$keyring"} --skip=cleanup/apt \
	--aptopt='Acquire::Languages "none"' --aptopt='Acquire::Retries "3"' --aptopt='Acquire::http::Timeout "30"' \
	"$suite" "$tree" "deb $mirror $suite main"

# As debootstrap leaves them.
rm -f "$tree/etc/apt/apt.conf.d/99mmdebstrap" "$tree/var/lib/apt/extended_states" "$tree/var/lib/dpkg/arch"
: >"$tree/var/lib/dpkg/available"
echo apt apt >"$tree/var/lib/dpkg/cmethopt"
echo "deb $mirror $suite main" >"$tree/etc/apt/sources.list"
/mnt/fast/settings "$tree"
