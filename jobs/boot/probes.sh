# Tells what a booted image says of itself. Run as root: sh -s -- NONCE [wait=SECONDS] [lean=1] PROBE... [resolve=NAME]
#
# Each probe prints its output between two lines that carry the nonce, so that no output can look like a mark, and
# the second one its exit code and its time in hundredths of a second. Probes only read, but for useradd and apt, which
# undo what they did. Builtins instead of processes where that is the same: an emulated guest forks slowly.
set -u
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_PAGER='' SYSTEMD_COLORS=0
nonce=$1
shift

line() { read -r text <"$1" && echo "$text"; }

p_boot_id() { line /proc/sys/kernel/random/boot_id; }
p_machine_id() { line /etc/machine-id; }
p_uptime() { line /proc/uptime; }
p_cmdline() { line /proc/cmdline; }
p_host_keys() { cat /etc/ssh/ssh_host_*_key.pub; }
p_hostname() { line /proc/sys/kernel/hostname; hostname --fqdn; }
p_hosts() { cat /etc/hosts; }

# The kind of each password field, never the field.
p_passwords() {
	getent shadow | while IFS=: read -r user field _; do
		case $field in
		'') echo "$user empty" ;;
		'!'* | '*'*) echo "$user locked" ;;
		*) echo "$user set" ;;
		esac
	done
}
p_default_user() { id debian && getent passwd debian && id -nG debian; }
p_sshd() { sshd -T; }
p_root() {
	findmnt --noheadings --bytes --raw --output SOURCE,FSTYPE,SIZE,OPTIONS / &&
		lsblk --noheadings --bytes --raw --inverse --output NAME,TYPE,SIZE "$(findmnt --noheadings --output SOURCE /)"
}
p_addresses() { ip -json address; }
p_routes() { ip -json route show default; }
p_routes6() { ip -json -6 route show default; }
p_resolver() { ls -l /etc/resolv.conf; cat /etc/resolv.conf; }
p_clock() { readlink /etc/localtime; cat /etc/timezone 2>/dev/null; date '+%Z %z'; }
p_swap() { cat /proc/swaps; }
p_useradd() {
	useradd --create-home debcloud-probe && id debcloud-probe && test -f /home/debcloud-probe/.profile &&
		userdel --remove debcloud-probe 2>/dev/null && ! id debcloud-probe 2>/dev/null
}
p_upgrades() {
	dpkg-query --show --showformat '${Package} ${db:Status-Status}\n' unattended-upgrades 2>/dev/null
	apt-config dump APT::Periodic
	systemctl show --property Id,LoadState,UnitFileState,RandomizedDelayUSec,TimersCalendar,TimersMonotonic \
		apt-daily.timer apt-daily-upgrade.timer
}
p_time_source() {
	systemctl show --property Id,LoadState,ActiveState,UnitFileState systemd-timesyncd.service chrony.service
	cat /etc/systemd/timesyncd.conf /etc/systemd/timesyncd.conf.d/*.conf /usr/lib/systemd/timesyncd.conf.d/*.conf 2>/dev/null |
		sed -n 's/^\(Fallback\)\{0,1\}NTP=/timesyncd &/p'
	cat /etc/chrony/chrony.conf /etc/chrony/conf.d/*.conf /etc/chrony/sources.d/*.sources 2>/dev/null |
		sed -nE 's/^(server|pool|refclock|peer) /chrony &/p'
	return 0
}
p_serial() { line /sys/class/tty/console/active; systemctl is-active serial-getty@ttyS0.service; }
p_efi() {
	# The first four bytes of a variable's file are its attributes (kernel documentation, efivarfs).
	for variable in SecureBoot SetupMode; do
		file=/sys/firmware/efi/efivars/$variable-8be4df61-93ca-11d2-aa0d-00e098032b8c
		[ -e "$file" ] && echo "$variable $(od -An -tu1 -j4 -N1 "$file")"
	done
	[ -d /sys/firmware/efi ] && echo efi || echo bios
}

p_running() {
	timeout "$wait" systemctl is-system-running --wait
	code=$?
	systemctl list-units --failed --plain --no-legend --no-pager
	[ $code = 124 ] && systemctl list-jobs --no-legend --no-pager
	return $code
}
p_failed_logs() {
	systemctl list-units --failed --plain --no-legend --no-pager | while read -r unit _; do
		journalctl --boot --no-pager --lines 20 --unit "$unit"
	done
}
p_cloud_status() { cat /run/cloud-init/status.json; }
p_cloud_init_log() { ! grep -nE ' - [a-zA-Z_.]+\.py\[(ERROR|CRITICAL)\]|Traceback \(most recent call last\)' /var/log/cloud-init.log; }
p_cloud_result() { cat /run/cloud-init/result.json; }
p_schema() { timeout 120 cloud-init schema --system; }
p_written() { cat /var/lib/debcloud-written; stat --format '%a %U:%G' /var/lib/debcloud-written; }
p_ran() { cat /var/lib/debcloud-ran; }
p_sockets() { ss --no-header --listening --numeric --tcp --udp --processes; }
p_analyze() { systemd-analyze time; }
p_cloud_units() {
	systemctl show --property Id,LoadState,InactiveExitTimestampMonotonic,ActiveEnterTimestampMonotonic \
		cloud-init-main.service cloud-init-local.service cloud-init-network.service cloud-init.service \
		cloud-config.service cloud-final.service
}
p_at_boot() {
	systemctl show --property Id,ExecMainStartTimestampMonotonic apt-daily.service apt-daily-upgrade.service
}
p_kernel_log() { dmesg --kernel --level emerg,alert,crit; dmesg --kernel | grep -E 'Run /init as init|Freeing unused kernel' || :; }
p_sources() {
	apt-get --quiet --print-uris update
	for list in /etc/apt/mirrors/*.list; do
		[ -e "$list" ] && sed "s|^[^#[:space:]]|$list &|" "$list"
	done
	return 0
}
p_source_files() {
	for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
		[ -e "$file" ] && echo "== $file" && cat "$file" && echo
	done
	return 0
}
# Only once they were fetched does apt list them.
p_indexes() {
	# shellcheck disable=SC2016 # apt expands these
	apt-get indextargets --format '$(RELEASE) $(COMPONENT)' 'Created-By: Packages' | sort -u
}
p_resolve() { getent ahostsv4 "$resolve"; }
# Lean: without the descriptions of the packages and apt's cache of it all, which take an emulated guest longer than the rest.
p_update() {
	[ -z "$lean" ] || set -- --option Acquire::Languages=none --option pkgCacheFile::Generate=false
	timeout 300 apt-get --quiet --option Acquire::Retries=1 --option Acquire::http::Timeout=30 \
		--option Acquire::https::Timeout=30 --option APT::Update::Error-Mode=any "$@" update
}

resolve='' wait=60 lean=''
for probe; do
	case $probe in
	wait=*) wait=${probe#wait=}; continue ;;
	lean=*) lean=${probe#lean=}; continue ;;
	resolve=*) resolve=${probe#resolve=}; probe=resolve ;;
	esac
	read -r before _ </proc/uptime
	printf '@@%s begin %s\n' "$nonce" "$probe"
	"p_$probe" </dev/null 2>&1
	code=$?
	read -r after _ </proc/uptime
	printf '\n@@%s end %s %d %d\n' "$nonce" "$probe" "$code" $((${after%.*}${after#*.} - ${before%.*}${before#*.}))
done
