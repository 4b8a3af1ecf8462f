package boot

import (
	_ "embed"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// realProbes is what a trixie genericcloud image printed, shortened, with the network of usernet and a mirror.example.
//
//go:embed testdata/probes.txt
var realProbes string

// good is what a VM shows that passes every check.
func good() *observation {
	on := time.Date(2026, 11, 23, 8, 17, 40, 0, time.UTC)
	probes := parseProbes(realProbes, "abcd")
	probes["again/boot_id"] = probe{out: "0b2e2d6c-30a4-43f5-a7d5-8a4bd1e0a0c8"}
	probes["again/machine_id"] = probes["machine_id"]
	probes["again/hostname"] = probes["hostname"]
	probes[offProbe] = probe{took: 3 * time.Second}
	return &observation{
		build: &manifest.Build{Data: manifest.BuildData{
			Info:    manifest.BuildInfo{Vendor: "genericcloud", Release: "trixie", Arch: "amd64"},
			Classes: []string{"BASE", "TIME_SYSTEMD"},
			Image:   &manifest.ImageFile{Size: 3 << 30},
		}},
		firmware: "bios", limit: 10 * time.Minute, diskSize: 5 << 30, emulated: true,
		seed:    &seed{hostname: "test-bios-11be06", marker: "11be06e6c442a8a8"},
		console: healthy + moreKeys,
		hostKey: "SHA256:t0KZ+0MlLsw9eokSTrTyB8gtHpD5w3E9yLGSMxEwErs",
		marks:   marks{on: on, kernel: on.Add(3 * time.Second), kernelAge: time.Second, ssh: on.Add(118 * time.Second)},
		probes:  probes,
	}
}

const moreKeys = "\r\n[  125.971148] cloud-init[596]: SHA256:9ko5uLfH2BubUQmBQdKoNVNBXfVyrg2J4CgXbBrkDV0 root@test-bios-11be06\r\n"

// replace returns a change of one probe's output.
func replace(name, old, new string) func(*observation) {
	return func(o *observation) {
		p, ok := o.probes[name]
		if !ok || !strings.Contains(p.out, old) {
			panic(name + " does not hold " + old)
		}
		p.out = strings.ReplaceAll(p.out, old, new)
		o.probes[name] = p
	}
}

func set(name, out string, exit int) func(*observation) {
	return func(o *observation) { o.probes[name] = probe{out: out, exit: exit} }
}

func vendor(name string) func(*observation) {
	return func(o *observation) { o.build.Data.Info.Vendor = name }
}

func TestGoodVM(t *testing.T) {
	for _, c := range judgeAll(good()) {
		if c.Result != manifest.Passed && c.ID != "bios/40-secure-boot" {
			t.Errorf("%s is %s: %s", c.ID, c.Result, c.Evidence)
		}
		if c.Evidence == "" {
			t.Errorf("%s has no evidence", c.ID)
		}
	}
}

func TestChecks(t *testing.T) {
	for _, row := range []struct {
		summary string
		change  func(*observation)
		want    string // IDs of the checks that fail, without firmware
	}{
		{"another host key answers than the console printed", func(o *observation) { o.hostKey = "SHA256:AAAA" }, "22-ssh"},
		{"a unit failed", set("running", "degraded\nssh.service loaded failed failed OpenBSD Secure Shell server", 1), "23-system-running"},
		{"the boot does not come to an end", set("running", "starting", 124), "23-system-running"},
		{"the boot is too slow", func(o *observation) { o.limit = time.Minute }, "24-boot-time"},
		{"the boot never ended, says systemd", set("analyze", "Bootup is not yet finished", 1), "24-boot-time"},
		{"something crashed", func(o *observation) { o.console += "\r\n[  99.9] cron[77]: segfault at 0 ip 0" }, "25-console-clean"},
		{"no console=ttyS0", func(o *observation) {
			o.console = strings.ReplaceAll(o.console, "Linux version", "")
		}, "26-serial-console"},
		{"no getty on the serial console", func(o *observation) {
			o.console = strings.ReplaceAll(o.console, " login: ", "")
		}, "26-serial-console"},
		{"a stage of cloud-init failed", replace("cloud_status", `"errors": []`, `"errors": ["('scripts_user', RuntimeError('1 failed'))"]`), "27-cloud-init-clean"},
		{"cloud-init met an error that it calls recoverable", func(o *observation) {
			replace("cloud_status", `"recoverable_errors": {}`, `"recoverable_errors": {"ERROR": ["x failed"]}`)(o)
		}, "27-cloud-init-clean"},
		{"cloud-init never came to its last stage", set("cloud_status", `{"v1": {"init-local": {"finished": 9.1}, "init": {"finished": 10.2}, "modules-config": {"finished": null}, "modules-final": {"finished": null}}}`, 0), "27-cloud-init-clean"},
		{"cloud-init left no status", set("cloud_status", "cat: /run/cloud-init/status.json: No such file or directory", 1), "27-cloud-init-clean"},
		{"a traceback in cloud-init's log", set("cloud_init_log", "12:Traceback (most recent call last):", 1), "27-cloud-init-clean"},
		{"cloud-init fell back to no data source", replace("cloud_result", "DataSourceNoCloud [seed=/dev/vdb]", "DataSourceNone"), "28-datasource"},
		{"an invalid configuration", set("schema", "Error: Cloud config schema errors: hostnam: Additional properties are not allowed", 1), "29-cloud-init-schema"},
		{"write_files did nothing", set("written", "cat: /var/lib/debcloud-written: No such file or directory", 1), "30-user-data"},
		{"write_files ignored the mode", replace("written", "640", "644"), "30-user-data"},
		{"runcmd did nothing", set("ran", "", 1), "30-user-data"},
		{"the default user is another", set("default_user", "id: 'debian': no such user", 1), "31-default-user"},
		{"the default user is no administrator", replace("default_user", "sudo", "users"), "31-default-user"},
		{"root has no password at all", replace("passwords", "root locked", "root empty"), "32-passwords"},
		{"the default user has a password", replace("passwords", "debian locked", "debian set"), "32-passwords"},
		{"SSH takes passwords", replace("sshd", "passwordauthentication no", "passwordauthentication yes"), "32-passwords"},
		{"SSH takes root's password", replace("sshd", "permitrootlogin without-password", "permitrootlogin yes"), "32-passwords"},
		{"the host keys were in the image", func(o *observation) {
			o.peer = &observation{firmware: "uefi", probes: map[string]probe{"host_keys": o.probes["host_keys"]}}
		}, "33-host-keys"},
		{"a host key that nobody made here", func(o *observation) { o.console = strings.ReplaceAll(o.console, "9ko5", "xxxx") }, "33-host-keys"},
		{"the machine ID was in the image", func(o *observation) {
			o.peer = &observation{firmware: "uefi", probes: map[string]probe{"machine_id": o.probes["machine_id"]}}
		}, "34-machine-id"},
		{"no machine ID was made", func(o *observation) {
			set("machine_id", "uninitialized", 0)(o)
			set("again/machine_id", "uninitialized", 0)(o)
		}, "34-machine-id"},
		{"the machine ID is not kept", set("again/machine_id", "00000000000000000000000000000000", 0), "34-machine-id"},
		{"the host name is not taken", set("hostname", "localhost\nlocalhost", 0), "35-hostname, 36-hosts"},
		{"the host name is lost by a reboot", set("again/hostname", "localhost\nlocalhost", 0), "35-hostname"},
		{"/etc/hosts lacks this host", replace("hosts", "127.0.1.1", "#127.0.1.1"), "36-hosts"},
		{"/etc/hosts names the build machine", replace("hosts", "127.0.0.1 localhost", "127.0.0.1 localhost\n192.0.2.7 builder"), "36-hosts"},
		{"/etc/hosts lacks IPv6's localhost", replace("hosts", "::1", "#::1"), "36-hosts"},
		{"the partition did not grow", replace("root", "5234474496", "3087007744"), "37-root-grown"},
		{"the file system did not grow", replace("root", "5073162240", "2983153664"), "37-root-grown"},
		{"the reboot was none", func(o *observation) { o.probes["again/boot_id"] = o.probes["boot_id"] }, "38-reboot"},
		{"UEFI fell back to BIOS", func(o *observation) { o.firmware = "uefi" }, "39-firmware, 40-secure-boot"},
		{"UEFI without Secure Boot", func(o *observation) {
			o.firmware = "uefi"
			set("efi", "SecureBoot 0\nSetupMode 0\nefi", 0)(o)
		}, "40-secure-boot"},
		{"UEFI with Secure Boot", func(o *observation) {
			o.firmware = "uefi"
			set("efi", "SecureBoot    1\nSetupMode    0\nefi", 0)(o)
		}, ""},
		{"a fixed address, not DHCP's", replace("addresses", `"dynamic":true,`, ""), "41-network"},
		{"no IPv6 address", replace("addresses", "fd64:6562:636c:0:", "fe80::1:"), "41-network"},
		{"no default route", set("routes", "[]", 0), "41-network"},
		{"no IPv6 default route", set("routes6", "", 0), "41-network"},
		{"the MTU is ignored", replace("addresses", `"mtu":1500`, `"mtu":1400`), "41-network"},
		{"no name server", set("resolve", "", 2), "42-dns"},
		{"the name server lies", replace("resolve", "192.168.127.1 ", "192.0.2.1 "), "42-dns"},
		{"net.ifnames=0", replace("addresses", "enp0s2", "eth0"), "41-network, 43-interface-name"},
		{"multicast DNS listens", replace("sockets", "127.0.0.54:53", "0.0.0.0:5353"), "44-sockets"},
		{"a mail server listens", replace("sockets", "[::]:22", "[::]:25"), "44-sockets"},
		{"another program on SSH's port", replace("sockets", `"sshd"`, `"nc"`), "44-sockets"},
		{"no time daemon", replace("time_source", "ActiveState=active", "ActiveState=inactive"), "46-time-source"},
		{"timesyncd, where the class asks for chrony", func(o *observation) { o.build.Data.Classes = []string{"TIME_CHRONY"} }, "46-time-source"},
		{"backports are missing", replace("sources", "trixie-backports", "trixie-proposed"), "47-apt-update"},
		{"a source without Signed-By", replace("source_files", "trixie-security\nComponents: main\nSigned-By:", "trixie-security\nComponents: main\n#Signed-By:"), "47-apt-update"},
		{"a suite was passed over", replace("indexes", "trixie-security main\n", ""), "47-apt-update"},
		{"the update fails", set("update", "E: The repository is not signed.", 100), "47-apt-update"},
		{"the mirror cannot be reached", func(o *observation) { o.outside = errors.New("dial tcp: refused") }, "47-apt-update"},
		{"unattended upgrades are off", replace("upgrades", `Unattended-Upgrade "1"`, `Unattended-Upgrade "0"`), "48-unattended-upgrades"},
		{"all guests upgrade in the same second", replace("upgrades", "RandomizedDelayUSec=1h", "RandomizedDelayUSec=0"), "48-unattended-upgrades"},
		{"the upgrade runs at boot", replace("at_boot", "ExecMainStartTimestampMonotonic=0", "ExecMainStartTimestampMonotonic=60123456"), "48-unattended-upgrades"},
		{"the builder's time zone", set("clock", "/usr/share/zoneinfo/Europe/Berlin\nCET +0100", 0), "49-utc"},
		{"a swap file", set("swap", "Filename\tType\n/swapfile file 1048572 0 -2", 0), "50-no-swap"},
		{"useradd fails", set("useradd", "useradd: cannot lock /etc/passwd", 1), "51-useradd"},
		{"a probe that the guest does not know", func(o *observation) { delete(o.probes, "swap") }, "50-no-swap"},
	} {
		t.Run(row.summary, func(t *testing.T) {
			o := good()
			row.change(o)
			var got []string
			for _, c := range judgeAll(o) {
				if c.Result == manifest.Failed {
					got = append(got, strings.TrimPrefix(c.ID, o.firmware+"/"))
				}
			}
			if strings.Join(got, ", ") != row.want {
				t.Errorf("failed checks are %q, want %q", got, row.want)
			}
		})
	}
}

// A VM that is given up fails once, with the reason; what comes after was not reached.
func TestUnreached(t *testing.T) {
	for _, row := range []struct {
		summary string
		change  func(*observation)
		failed  string
	}{
		{"the boot ends in a panic", func(o *observation) {
			clear(o.probes)
			o.hostKey = ""
			o.console = "[    0.000000] Linux version 6.12.117+deb13-cloud-amd64\r\n[    2.1] Kernel panic - not syncing: no init"
		}, "bios/22-ssh, bios/25-console-clean"},
		{"the reboot hangs", func(o *observation) {
			maps.DeleteFunc(o.probes, func(name string, _ probe) bool { return strings.HasPrefix(name, "again/") })
		}, "bios/38-reboot"},
		{"the power button is not heard", func(o *observation) { delete(o.probes, offProbe) }, "bios/38-power-off"},
	} {
		t.Run(row.summary, func(t *testing.T) {
			o := good()
			row.change(o)
			o.fault = errors.New("the VM was not done within 40m0s\nthe console's last lines:\n...")
			var failed []string
			unreached := 0
			for _, c := range judgeAll(o) {
				if c.Result == manifest.Failed {
					failed = append(failed, c.ID)
				}
				if c.Result == manifest.Skipped && strings.Contains(c.Evidence, "not reached") {
					unreached++
				}
			}
			if strings.Join(failed, ", ") != row.failed {
				t.Errorf("failed checks are %q, want %q; %d not reached", failed, row.failed, unreached)
			}
		})
	}
}

// A nocloud image, over the console: what needs cloud-init or a key is skipped, the rest is judged.
func TestNocloud(t *testing.T) {
	o := good()
	vendor("nocloud")(o)
	o.hostKey, o.marks.ssh = "", time.Time{}
	for _, name := range slices.Concat(earlyCloudProbes, cloudProbes) {
		delete(o.probes, name)
	}
	set("hostname", "localhost\nlocalhost", 0)(o)
	set("again/hostname", "localhost\nlocalhost", 0)(o)
	replace("upgrades", `Unattended-Upgrade "1"`, `Unattended-Upgrade "0"`)(o)
	skipped := 0
	for _, c := range judgeAll(o) {
		if c.Result == manifest.Failed {
			t.Errorf("%s failed: %s", c.ID, c.Evidence)
		}
		if c.Result == manifest.Skipped {
			skipped++
		}
	}
	if skipped != 9 {
		t.Errorf("%d checks are skipped, want 9", skipped)
	}
}
