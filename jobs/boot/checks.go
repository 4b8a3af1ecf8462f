package boot

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// verdict is what a check found.
type verdict struct {
	result   manifest.Result
	evidence string
}

func passed(format string, args ...any) verdict {
	return verdict{manifest.Passed, fmt.Sprintf(format, args...)}
}

func failed(format string, args ...any) verdict {
	return verdict{manifest.Failed, fmt.Sprintf(format, args...)}
}

func skipped(format string, args ...any) verdict {
	return verdict{manifest.Skipped, fmt.Sprintf(format, args...)}
}

// check is an entry of the catalogue. judge is a function of what was observed and runs nothing itself.
type check struct {
	id, name string
	reads    []string // probes; a check whose probes are missing was not reached
	judge    func(o *observation) verdict
}

// Checks that cost an emulated VM much and do not depend on its firmware, so that two VMs share them out.
const (
	schemaCheck   = "29-cloud-init-schema"
	rebootCheck   = "38-reboot"
	powerOffCheck = "38-power-off"
	updateCheck   = "47-apt-update"
)

// catalogue holds the checks in the order of their numbers.
var catalogue = []check{
	{"22-ssh", "SSH answers, with the host key that the console printed", nil, judgeSSH},
	{"23-system-running", "the system reaches the state running, without a failed unit", []string{"running", "failed_logs"}, judgeRunning},
	{"24-boot-time", "the boot ends within its time limit", []string{"analyze"}, judgeBootTime},
	{"25-console-clean", "the console shows no panic, oops, emergency shell, segfault, failed unit or question", nil, judgeConsole},
	{"26-serial-console", "the serial console shows the kernel and a login", []string{"serial"}, judgeSerial},
	{"27-cloud-init-clean", "cloud-init ended without error", []string{"cloud_status", "cloud_init_log"}, judgeCloudInit},
	{"28-datasource", "cloud-init read the data source that it was given", []string{"cloud_result"}, judgeDatasource},
	{schemaCheck, "cloud-init finds its configuration valid", []string{"schema"}, judgeSchema},
	{"30-user-data", "write_files and runcmd of the user data were carried out", []string{"written", "ran"}, judgeUserData},
	{"31-default-user", "the default user is debian and may use sudo", []string{"default_user"}, judgeDefaultUser},
	{"32-passwords", "no user has a password, root is locked, and SSH takes none", []string{"passwords", "sshd"}, judgePasswords},
	{"33-host-keys", "the SSH host keys were made in this VM", []string{"host_keys"}, judgeHostKeys},
	{"34-machine-id", "the machine ID was made in this VM", []string{"machine_id"}, judgeMachineID},
	{"35-hostname", "host name and FQDN are as given, after a reboot too", []string{"hostname"}, judgeHostname},
	{"36-hosts", "/etc/hosts names localhost and this host", []string{"hosts", "hostname"}, judgeHosts},
	{"37-root-grown", "the root file system fills a disk larger than the image", []string{"root"}, judgeRoot},
	{rebootCheck, "a reboot is clean and gives a new boot ID", []string{"boot_id", "again/boot_id", "again/machine_id"}, judgeReboot},
	{powerOffCheck, "the VM powers off when its button is pressed", []string{offProbe}, judgePowerOff},
	{"39-firmware", "the system was started by the firmware of the VM", []string{"efi"}, judgeFirmware},
	{"40-secure-boot", "Secure Boot is on", []string{"efi"}, judgeSecureBoot},
	{"41-network", "the network is configured by DHCP: address, MTU, default route", []string{"addresses", "routes", "routes6"}, judgeNetwork},
	{"42-dns", "names resolve", []string{"resolve", "resolver"}, judgeDNS},
	{"43-interface-name", "the network interface has a predictable name", []string{"addresses", "cmdline"}, judgeInterfaceName},
	{"44-sockets", "only what is expected listens", []string{"sockets"}, judgeSockets},
	{"46-time-source", "the time comes from the configured source", []string{"time_source"}, judgeTimeSource},
	{updateCheck, "apt update works for main, updates, security and backports, each with its key", []string{"sources", "source_files", "update", "indexes"}, judgeApt},
	{"48-unattended-upgrades", "unattended upgrades are as the vendor's policy says, not at boot, at a random time", []string{"upgrades", "at_boot"}, judgeUpgrades},
	{"49-utc", "the clock is in UTC", []string{"clock"}, judgeClock},
	{"50-no-swap", "nothing swaps to the disk", []string{"swap"}, judgeSwap},
	{"51-useradd", "a user can be added and removed", []string{"useradd"}, judgeUseradd},
}

// inapplicable says why a check does not apply to an image of the given vendor, "" where it does.
func inapplicable(id string, o *observation) string {
	number, _, _ := strings.Cut(id, "-")
	if o.vendor() == "nocloud" {
		switch number {
		case "22", "33":
			return "a nocloud image has no key to log in with: it is tested on its serial console"
		case "27", "28", "29", "30", "31":
			return "a nocloud image has no cloud-init"
		case "32":
			return "a nocloud image lets root in without a password, on the console"
		}
	}
	switch {
	case number == "40" && o.firmware != "uefi":
		return "Secure Boot is a matter of UEFI"
	case o.elsewhere[id]:
		return "done in the " + o.peer.firmware + " VM: emulated VMs share this out, unless asked to be thorough"
	}
	return ""
}

// judgeAll returns every check of the catalogue for one VM. Of those that could not run, because the VM did not get so
// far, the first is failed, with the fault, unless a check before it failed with that; the others are skipped.
func judgeAll(o *observation) []manifest.Check {
	var checks []manifest.Check
	blamed := "" // the check that carries the fault
	for _, c := range catalogue {
		m := manifest.Check{ID: o.firmware + "/" + c.id, Name: c.name}
		v := c.verdict(o, blamed)
		if blamed == "" && o.fault != nil && v.result == manifest.Failed && strings.Contains(v.evidence, o.fault.Error()) {
			blamed = m.ID
		}
		m.Result, m.Evidence = v.result, v.evidence
		for _, name := range c.reads {
			m.Seconds += o.probes[name].took.Seconds()
		}
		checks = append(checks, m)
	}
	return checks
}

// verdict judges, or says why there is nothing to judge.
func (c check) verdict(o *observation, blamed string) verdict {
	if reason := inapplicable(c.id, o); reason != "" {
		return skipped("%s", reason)
	}
	missing := slices.IndexFunc(c.reads, func(name string) bool { _, ok := o.probes[name]; return !ok })
	switch {
	case missing < 0:
		return c.judge(o)
	case o.fault == nil:
		return failed("the guest told nothing of %s", c.reads[missing])
	case blamed == "":
		return failed("not reached, because %v", o.fault)
	}
	return skipped("not reached: see %s", blamed)
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// observation is all that was seen of one VM.
type observation struct {
	build    *manifest.Build
	firmware string // bios, uefi
	emulated bool
	limit    time.Duration // for the boot
	diskSize int64         // bytes; of the VM's disk
	seed     *seed
	raw      bool         // this VM is done when SSH answers
	lean     bool         // package lists are updated without what takes an emulated VM longest
	peer     *observation // the VM with the other firmware, nil where there is none
	// elsewhere holds the IDs of the checks that are left to the peer.
	elsewhere map[string]bool

	mu      sync.Mutex // of probes, while several sessions write it
	console string
	hostKey string // fingerprint that SSH met, "" where it was not reached
	marks   marks
	probes  map[string]probe
	fault   error // why the VM was given up, nil where all went through
	outside error // why the mirror cannot be reached, nil where it can
}

func (o *observation) vendor() string { return o.build.Data.Info.Vendor }

func (o *observation) out(name string) string { return o.probes[name].out }
