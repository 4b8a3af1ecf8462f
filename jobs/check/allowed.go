package check

import (
	"slices"
	"strings"
)

// What may be in an image, and where it comes from. An addition needs the package that brings it.

// logOwners names what packages make in /var/log, all of it empty.
var logOwners = map[string]string{
	"README":              "systemd, a link to its documentation",
	"apt":                 "apt",
	"btmp":                "base-files",
	"chrony":              "chrony",
	"faillog":             "base-files, until bookworm",
	"journal":             "systemd",
	"lastlog":             "base-files",
	"private":             "systemd",
	"runit":               "openssh-server",
	"unattended-upgrades": "unattended-upgrades",
	"wtmp":                "base-files",
}

// userOwners and groupOwners name the packages that make an account. One of them must be installed.
var (
	userOwners  = ownersOf(baseUsers, packageUsers)
	groupOwners = ownersOf(baseGroups, packageGroups)

	baseUsers = []string{
		"root", "daemon", "bin", "sys", "sync", "games", "man", "lp", "mail", "news", "uucp", "proxy", "www-data",
		"backup", "list", "irc", "nobody",
		"gnats", // until bullseye
	}
	packageUsers = map[string][]string{
		"dhcpcd":     {"dhcpcd-base"},
		"messagebus": {"dbus", "dbus-system-bus-common"},
		"polkitd":    {"polkitd"},
		"sshd":       {"openssh-server"},
		"tcpdump":    {"tcpdump"},
		"uuidd":      {"uuid-runtime"},
	}

	baseGroups = []string{
		"root", "daemon", "bin", "sys", "adm", "tty", "disk", "lp", "mail", "news", "uucp", "man", "proxy", "kmem",
		"dialout", "fax", "voice", "cdrom", "floppy", "tape", "sudo", "audio", "dip", "www-data", "backup", "operator",
		"list", "irc", "src", "shadow", "utmp", "video", "sasl", "plugdev", "staff", "games", "users", "nogroup",
		"gnats", // until bullseye
	}
	packageGroups = map[string][]string{
		"clock":      {"udev"},
		"input":      {"udev"},
		"kvm":        {"udev"},
		"messagebus": {"dbus", "dbus-system-bus-common"},
		"polkitd":    {"polkitd"},
		"render":     {"udev"},
		"sgx":        {"udev"},
		"tcpdump":    {"tcpdump"},
		"uuidd":      {"uuid-runtime"},
	}
)

func ownersOf(base []string, more map[string][]string) map[string][]string {
	owners := map[string][]string{}
	for _, name := range base {
		owners[name] = []string{"base-passwd"}
	}
	for name, from := range more {
		owners[name] = from
	}
	return owners
}

// vendorRule says which packages images of some vendors and releases have, and which they must not have.
type vendorRule struct {
	vendors      []string // empty: all
	except       []string // vendors
	releases     []string // without -backports; empty: all
	archs        []string // empty: all
	need, forbid []string
	why          string
}

// Releases from which on a package is in Debian, or a set of packages is used.
var sinceTrixie = []string{"trixie", "forky", "sid"}

var vendorRules = []vendorRule{
	{
		except: []string{"nocloud", "raspi"}, need: []string{"cloud-init", "openssh-server", "unattended-upgrades"},
		why: "every image but nocloud is set up by cloud-init, entered over SSH, and keeps itself up to date",
	}, {
		vendors: []string{"nocloud", "raspi"}, forbid: []string{"cloud-init", "unattended-upgrades", "openssh-server"},
		why: "nocloud is for a human at the console, with an empty root password",
	}, {
		except: []string{"raspi"}, archs: []string{"amd64"}, need: []string{"grub-cloud-amd64", "shim-signed"},
		why: "the image boots with BIOS, UEFI and Secure Boot",
	}, {
		except: []string{"raspi"}, archs: []string{"arm64"}, need: []string{"grub-efi-arm64", "shim-signed"},
		why: "the image boots with UEFI and Secure Boot",
	}, {
		except: []string{"raspi"}, archs: []string{"riscv64"}, need: []string{"grub-efi-riscv64"},
		why: "the image boots with UEFI",
	}, {
		except: []string{"raspi"}, archs: []string{"ppc64el"}, need: []string{"grub-ieee1275"},
		why: "the image boots with Open Firmware",
	}, {
		vendors: []string{"azure"}, need: []string{"waagent", "hyperv-daemons", "chrony"}, forbid: []string{"systemd-timesyncd"},
		why: "Azure's agent provisions, Hyper-V talks to its daemons, and its clock is a PTP device that chrony reads",
	}, {
		vendors: []string{"azure"}, releases: sinceTrixie, need: []string{"azure-vm-utils"},
		why: "its udev rules name Azure's NVMe disks",
	}, {
		vendors: []string{"ec2"}, need: []string{"amazon-ec2-utils", "awscli"},
		why: "its udev rules name EC2's disks, and scripts there call the AWS command line",
	}, {
		vendors: []string{"gce"}, need: []string{"google-guest-agent", "google-compute-engine-oslogin"},
		why: "accounts, keys and scripts of GCE come through its agent and OS Login",
	}, {
		except: []string{"azure"}, need: []string{"systemd-timesyncd"}, forbid: []string{"chrony"},
		why: "one time client, and only Azure needs chrony",
	},
}

func (r vendorRule) matches(s *subject) bool {
	i := s.build.Data.Info
	allows := func(list []string, name string) bool { return len(list) == 0 || slices.Contains(list, name) }
	release := strings.TrimSuffix(i.Release, "-backports")
	return allows(r.vendors, i.Vendor) && !slices.Contains(r.except, i.Vendor) && allows(r.releases, release) && allows(r.archs, i.Arch)
}
