package check

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// Each row changes the sound image and says what one check then finds: a part of its evidence, or that it passes
// (want "") or does not apply (want "skipped: …").
var rows = []struct {
	number  int
	summary string
	change  func(s *subject, t tree)
	want    string
}{
	{1, "a device node", func(s *subject, t tree) { t.file("dev/null", "") }, "/dev/null is in the image"},
	{1, "a package list", func(s *subject, t tree) { t.file("var/lib/apt/lists/mirror_Packages", "x") }, "/var/lib/apt/lists/mirror_Packages is in the image"},
	{1, "a downloaded package", func(s *subject, t tree) { t.file("var/cache/apt/archives/a.deb", "x") }, "/var/cache/apt/archives/a.deb is in the image"},
	{1, "a hidden directory below /tmp", func(s *subject, t tree) { t.dir("tmp/.X11-unix") }, "/tmp/.X11-unix is in the image"},
	{1, "/tmp is only root's", func(s *subject, t tree) { t.dir("tmp") }, "/tmp has mode drwxr-xr-x, not drwxrwxrwt"},
	{1, "no /proc", func(s *subject, t tree) { t.remove("proc") }, "/proc cannot be listed"},
	{1, "no lists directory, which apt makes", func(s *subject, t tree) { t.remove("var/lib/apt/lists") }, ""},

	{2, "the build machine's mail name", func(s *subject, t tree) { t.file("etc/mailname", "build.example\n") }, "/etc/mailname is in the image"},
	{2, "a dangling link to a kernel", func(s *subject, t tree) { t.link("vmlinuz.old", "boot/gone") }, "/vmlinuz.old is in the image"},
	{2, "none", nil, ""},

	{3, "as it should be", nil, ""},
	{3, "no kernel", func(s *subject, t tree) { t.remove("boot/vmlinuz-" + release) }, "0 kernels are in /boot"},
	{3, "an old kernel is left", func(s *subject, t tree) { t.file("boot/vmlinuz-6.1.0", "x") }, "2 kernels are in /boot"},
	{3, "an empty initrd", func(s *subject, t tree) { t.file("boot/initrd.img-"+release, "") }, "/boot/initrd.img-" + release + " is absent or empty"},
	{3, "no modules", func(s *subject, t tree) { t.remove("usr/lib/modules/" + release + "/modules.dep") }, "modules.dep is absent or empty"},
	{3, "no configuration of GRUB", func(s *subject, t tree) { t.remove("boot/grub/grub.cfg") }, "/boot/grub/grub.cfg is absent or empty"},
	{3, "GRUB boots another kernel", func(s *subject, t tree) { t.edit("boot/grub/grub.cfg", "vmlinuz-"+release, "vmlinuz-6.1.0") }, "/boot/grub/grub.cfg does not name"},
	{3, "GRUB names the build machine's disk", func(s *subject, t tree) { t.edit("boot/grub/grub.cfg", "PARTUUID="+rootGUID, "/dev/loop0p1") }, "has root=/dev/loop0p1 where the root partition is PARTUUID=" + rootGUID},
	{3, "the build document names another kernel", func(s *subject, t tree) { s.build.Data.Versions["kernel"] = "6.1.0" }, "the build document names kernel 6.1.0"},

	{4, "as it should be", nil, ""},
	{4, "no modules for UEFI", func(s *subject, t tree) { t.remove("boot/grub/x86_64-efi/normal.mod") }, "/boot/grub/x86_64-efi has no modules of GRUB"},
	{4, "no boot code", func(s *subject, t tree) { s.bootCode = false }, "the first sector holds no boot code for a BIOS"},
	{4, "no BIOS boot partition", func(s *subject, t tree) { s.partitions = s.partitions[:1] }, "no partition is a BIOS boot partition"},
	{4, "no ESP", func(s *subject, t tree) { s.esp = nil }, "no partition is an EFI system partition"},
	{4, "an empty ESP", func(s *subject, t tree) { s.esp = fstest.MapFS{} }, "EFI/BOOT/BOOTX64.EFI on the EFI system partition is absent or no program"},
	{4, "signed GRUB without its configuration", func(s *subject, t tree) { delete(s.esp.(tree).MapFS, "EFI/debian/grub.cfg") }, "does not lead to /boot/grub"},
	{4, "an architecture without GRUB", func(s *subject, t tree) { s.build.Data.Info.Arch = "s390x" }, "skipped: GRUB does not exist for s390x"},
	{4, "a Raspberry Pi", func(s *subject, t tree) { s.build.Data.Info.Arch, s.build.Data.Info.Vendor = "arm64", "raspi" }, "skipped: a Raspberry Pi boots without GRUB"},

	{5, "as it should be", nil, ""},
	{5, "absent", func(s *subject, t tree) { t.remove("etc/cloud-release") }, "/etc/cloud-release is absent or empty"},
	{5, "no version", func(s *subject, t tree) { t.file("etc/cloud-release", "ID=generic\n") }, "names no ID or no VERSION"},
	{5, "of yesterday's build", func(s *subject, t tree) { s.build.Data.Info.Version = "20260702-1" }, `says version "20260701-1", the build document "20260702-1"`},

	{6, "quoted, and by way of the newer file", func(s *subject, t tree) {
		t.link("etc/default/locale", "../locale.conf")
		t.file("etc/locale.conf", "LANG=\"C.UTF-8\"\n")
	}, ""},
	{6, "the developer's locale", func(s *subject, t tree) { t.file("etc/default/locale", "LANG=de_DE.UTF-8\n") }, `sets LANG to "de_DE.UTF-8"`},
	{6, "one category differs", func(s *subject, t tree) { t.add("etc/default/locale", "LC_TIME=en_DK.UTF-8\n") }, "sets LC_TIME too"},
	{6, "absent", func(s *subject, t tree) { t.remove("etc/default/locale") }, `sets LANG to ""`},

	{7, "as it should be", nil, ""},
	{7, "a link", func(s *subject, t tree) { t.link("etc/fstab", "fstab.cloud"); t.file("etc/fstab.cloud", "") }, "/etc/fstab is not a file"},
	{7, "by device", func(s *subject, t tree) { t.edit("etc/fstab", "PARTUUID="+rootGUID, "/dev/sda1") }, "mounts / by /dev/sda1, not by PARTUUID"},
	{7, "a partition of another build", func(s *subject, t tree) { t.edit("etc/fstab", espGUID, "11111111-2222-3333-4444-555555555555") }, "which is no partition of the image"},
	{7, "the wrong one of ours", func(s *subject, t tree) { t.edit("etc/fstab", rootGUID, espGUID) }, "from partition 15, which is not the root partition"},
	{7, "does not grow", func(s *subject, t tree) { t.edit("etc/fstab", ",x-systemd.growfs", "") }, "option x-systemd.growfs is missing"},
	{7, "unconfigured", func(s *subject, t tree) { t.file("etc/fstab", "# UNCONFIGURED FSTAB FOR BASE SYSTEM\n") }, "does not mount the root file system"},
	{7, "half a line", func(s *subject, t tree) { t.add("etc/fstab", "PARTUUID=x /mnt\n") }, "has a line of 2 fields"},

	{8, "a link", nil, ""},
	{8, "absent", func(s *subject, t tree) { t.remove("etc/resolv.conf") }, ""},
	{8, "the build machine's", func(s *subject, t tree) { t.file("etc/resolv.conf", "nameserver 192.0.2.1\n") }, "/etc/resolv.conf is a file of 21 bytes"},

	{9, "as it should be", nil, ""},
	{9, "a developer", func(s *subject, t tree) { t.add("etc/passwd", "vagrant:x:1000:1000::/home/vagrant:/bin/bash\n") }, `user "vagrant" is not one that a package`},
	{9, "a group of nobody's", func(s *subject, t tree) { t.add("etc/group", "docker:x:990:\n") }, `group "docker" is not one`},
	{9, "of a package that is gone", func(s *subject, t tree) { t.add("etc/passwd", "uuidd:x:101:102::/:/usr/sbin/nologin\n") }, `user "uuidd" comes from uuid-runtime, which is not installed`},
	{9, "no nobody", func(s *subject, t tree) { t.edit("etc/passwd", "nobody:", "_nobody:") }, `user "nobody" is missing`},
	{9, "no group for administrators", func(s *subject, t tree) { t.edit("etc/group", "sudo:", "_sudo:") }, `group "sudo" is missing`},
	{9, "twice", func(s *subject, t tree) { t.add("etc/passwd", "root:x:0:0::/:/bin/bash\n") }, `user "root" is there twice`},
	{9, "a broken line", func(s *subject, t tree) { t.add("etc/passwd", "half:x\n") }, `/etc/passwd has a line of 2 fields, not 7, for "half"`},

	{10, "as it should be", nil, ""},
	{10, "a shell for a daemon", func(s *subject, t tree) {
		t.edit("etc/passwd", "/nonexistent:/usr/sbin/nologin\n_apt", "/nonexistent:/bin/sh\n_apt")
	}, `user "nobody" has the shell "/bin/sh"`},
	{10, "root with another shell", func(s *subject, t tree) { t.edit("etc/passwd", "/root:/bin/bash", "/root:/bin/zsh") }, `user "root" has the shell "/bin/zsh"`},
	{10, "a human's identifier", func(s *subject, t tree) { t.edit("etc/passwd", "tcpdump:x:102", "tcpdump:x:1000") }, `user "tcpdump" has the identifier 1000`},
	{10, "a second root", func(s *subject, t tree) { t.edit("etc/passwd", "tcpdump:x:102", "tcpdump:x:0") }, `user "tcpdump" has the identifier 0`},
	{10, "no number", func(s *subject, t tree) { t.edit("etc/group", "tcpdump:x:11", "tcpdump:x:-1") }, `group "tcpdump" has the identifier -1`},

	{11, "as it should be", nil, ""},
	{11, "half configured", func(s *subject, t tree) {
		t.edit("var/lib/dpkg/status", "install ok installed", "install ok half-configured")
	}, `is "install ok half-configured"`},
	{11, "on hold", func(s *subject, t tree) { t.edit("var/lib/dpkg/status", "install ok installed", "hold ok installed") }, `is "hold ok installed"`},
	{11, "no database", func(s *subject, t tree) { t.file("var/lib/dpkg/status", "") }, "/var/lib/dpkg/status names no package"},
	{11, "another version than the build document says", func(s *subject, t tree) {
		t.file("var/lib/dpkg/status", "Package: libc6\nStatus: install ok installed\nMulti-Arch: same\nArchitecture: amd64\nVersion: 2.41\n")
		s.build.Data.Packages = []manifest.Package{{Name: "libc6:amd64", Version: "2.36"}}
	}, "package libc6:amd64 2.41 is in the image and not in the build document"},
	{11, "less than the build document says", func(s *subject, t tree) {
		t.file("var/lib/dpkg/status", "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2\n")
		s.build.Data.Packages = []manifest.Package{{Name: "libc6", Version: "2"}, {Name: "vim", Version: "9"}}
	}, "package vim 9 is in the build document and not in the image"},

	{12, "as it should be", nil, ""},
	{12, "dpkg's log", func(s *subject, t tree) { t.file("var/log/dpkg.log", "x") }, "/var/log/dpkg.log does not belong there"},
	{12, "FAI's logs", func(s *subject, t tree) { t.file("var/log/fai/localhost/fai.log", "x") }, "/var/log/fai/localhost/fai.log does not belong there"},
	{12, "a login during the build", func(s *subject, t tree) { t.file("var/log/wtmp", "x") }, "/var/log/wtmp has 1 bytes"},
	{12, "apt's history", func(s *subject, t tree) { t.file("var/log/apt/history.log", "x") }, "/var/log/apt/history.log has 1 bytes"},

	{13, "empty", nil, ""},
	{13, "two machines would be one", func(s *subject, t tree) { t.file("etc/machine-id", "0123456789abcdef0123456789abcdef\n") }, `/etc/machine-id holds "0123456789abcdef0123456789abcdef\n", not ""`},
	{13, "absent", func(s *subject, t tree) { t.remove("etc/machine-id") }, "/etc/machine-id is not a file"},
	{13, "uninitialized, where cloud-init sets up", func(s *subject, t tree) { t.file("etc/machine-id", "uninitialized\n") }, `not ""`},
	{13, "nocloud", nocloud, ""},
	{13, "nocloud, but empty", func(s *subject, t tree) { nocloud(s, t); t.file("etc/machine-id", "") }, `holds "", not "uninitialized\n"`},
	{13, "D-Bus has its own", func(s *subject, t tree) { t.file("var/lib/dbus/machine-id", "0123\n") }, "/var/lib/dbus/machine-id is a file of its own"},
	{13, "D-Bus has a link", func(s *subject, t tree) { t.link("var/lib/dbus/machine-id", "../../../etc/machine-id") }, ""},

	{14, "none", nil, ""},
	{14, "no SSH at all", func(s *subject, t tree) { t.remove("etc/ssh/sshd_config") }, ""},
	{14, "a host key", func(s *subject, t tree) { t.file("etc/ssh/ssh_host_ed25519_key", "secret") }, "/etc/ssh/ssh_host_ed25519_key is in the image"},

	{15, "empty", nil, ""},
	{15, "absent", func(s *subject, t tree) { t.remove("etc/hostname") }, ""},
	{15, "the build machine's", func(s *subject, t tree) { t.file("etc/hostname", "build\n") }, `/etc/hostname holds "build\n"`},

	{16, "as it should be", nil, ""},
	{16, "an empty authorized_keys", func(s *subject, t tree) { t.file("root/.ssh/authorized_keys", "") }, ""},
	{16, "a way in", func(s *subject, t tree) { t.file("root/.ssh/authorized_keys", "ssh-ed25519 A") }, "/root/.ssh/authorized_keys has 13 bytes"},
	{16, "for every new user", func(s *subject, t tree) { t.file("etc/skel/.ssh/known_hosts", "x") }, "/etc/skel/.ssh/known_hosts has 1 bytes"},
	{16, "history of a user", func(s *subject, t tree) { t.file("home/dev/.bash_history", "ls") }, "/home/dev/.bash_history has 2 bytes"},
	{16, "for all users", func(s *subject, t tree) { t.file("etc/ssh/ssh_known_hosts", "x") }, "/etc/ssh/ssh_known_hosts has 1 bytes"},

	{17, "locked", nil, ""},
	{17, "a hash", func(s *subject, t tree) { t.edit("etc/shadow", "root:*:", "root:$y$j9T$secret$hash:") }, `user "root" has a password`},
	{17, "a hash that is locked can be unlocked", func(s *subject, t tree) { t.edit("etc/shadow", "root:*:", "root:!$y$j9T$secret$hash:") }, `user "root" has a password`},
	{17, "empty", func(s *subject, t tree) { t.edit("etc/shadow", "nobody:*:", "nobody::") }, `user "nobody" has an empty password`},
	{17, "nocloud", nocloud, ""},
	{17, "nocloud with a password", func(s *subject, t tree) { nocloud(s, t); t.edit("etc/shadow", "root::", "root:$y$j9T$secret$hash:") }, `user "root" cannot log in on the console`},
	{17, "nocloud, another user", func(s *subject, t tree) { nocloud(s, t); t.edit("etc/shadow", "nobody:*:", "nobody::") }, `user "nobody" has an empty password`},
	{17, "in passwd", func(s *subject, t tree) { t.edit("etc/passwd", "root:x:", "root::") }, `user "root" has a password field in /etc/passwd that is not x`},
	{17, "of a group", func(s *subject, t tree) { t.edit("etc/gshadow", "adm:*:", "adm:$6$secret:") }, `group "adm" has a password`},

	{18, "as it should be", nil, ""},
	{18, "a changed file", func(s *subject, t tree) { t.file("usr/bin/ls", "malice") }, "/usr/bin/ls of package coreutils was changed"},
	{18, "a missing file", func(s *subject, t tree) { t.remove("usr/bin/ls") }, "/usr/bin/ls of package coreutils is missing"},
	{18, "a configuration file is the administrator's", func(s *subject, t tree) {
		t.install("x", "1", "etc/x.conf")
		t.edit("var/lib/dpkg/status", "Package: x\n", "Package: x\nConffiles:\n /etc/x.conf 0123\n /etc/y.conf 4567 obsolete\n")
		t.file("etc/x.conf", "changed")
	}, ""},
	{18, "a diverted file is elsewhere", func(s *subject, t tree) {
		t.file("var/lib/dpkg/diversions", "/usr/bin/ls\n/usr/bin/ls.real\nbusybox\n")
		t.file("usr/bin/ls.real", "content of usr/bin/ls")
		t.file("usr/bin/ls", "busybox")
	}, ""},
	{18, "a diverted file was changed", func(s *subject, t tree) {
		t.file("var/lib/dpkg/diversions", "/usr/bin/ls\n/usr/bin/ls.real\n:\n")
		t.file("usr/bin/ls.real", "malice")
	}, "/usr/bin/ls.real of package coreutils was changed"},
	{18, "the diverting package's own file is in its place", func(s *subject, t tree) {
		t.file("var/lib/dpkg/diversions", "/usr/bin/ls\n/usr/bin/ls.real\ncoreutils\n")
	}, ""},
	{18, "a file that another package took over", func(s *subject, t tree) {
		t.edit("var/lib/dpkg/info/coreutils.list", "/usr/bin/ls\n", "")
		t.file("usr/bin/ls", "uutils")
	}, ""},
	{18, "documentation that dpkg did not unpack", func(s *subject, t tree) {
		t.file("etc/dpkg/dpkg.cfg.d/slim", "# slim\npath-exclude=/usr/share/doc/*\npath-include /usr/share/doc/*/copyright\n")
		t.install("x", "1", "usr/share/doc/x/README")
		t.remove("usr/share/doc/x/README")
	}, ""},
	{18, "what was included again is missing", func(s *subject, t tree) {
		t.file("etc/dpkg/dpkg.cfg.d/slim", "path-exclude=/usr/share/doc/*\npath-include=/usr/share/doc/*/copyright\n")
		t.remove("usr/share/doc/shim-signed/copyright")
	}, "/usr/share/doc/shim-signed/copyright of package shim-signed is missing"},
	{18, "by way of a link of the merged /usr", func(s *subject, t tree) {
		t.install("x", "1", "usr/lib/x")
		t.file("var/lib/dpkg/info/x.md5sums", strings.ReplaceAll(string(t.MapFS["var/lib/dpkg/info/x.md5sums"].Data), "usr/lib", "lib"))
		t.add("var/lib/dpkg/info/x.list", "/lib/x\n")
		t.link("lib", "usr/lib")
	}, ""},
	{18, "nonsense for digests", func(s *subject, t tree) { t.file("var/lib/dpkg/info/coreutils.md5sums", "nonsense\n") }, "have the line"},

	{19, "as it should be", nil, ""},
	{19, "without classes the vendor decides", func(s *subject, t tree) { s.build.Data.Classes = nil }, ""},
	{19, "the kernel for hardware", func(s *subject, t tree) { s.build.Data.Classes = []string{"LINUX_VARIANT_BASE"} }, "package linux-image-amd64 is not installed"},
	{19, "nothing pulls in the next kernel", func(s *subject, t tree) {
		t.edit("var/lib/dpkg/status", "Package: linux-image-cloud-amd64", "Package: x")
	}, "package linux-image-cloud-amd64 is not installed"},
	{19, "of no package", func(s *subject, t tree) { t.file("boot/vmlinuz-1-cloud-amd64", "x") }, "kernel 1-cloud-amd64 belongs to no package"},
	{19, "from backports, unasked", func(s *subject, t tree) { t.edit("var/lib/dpkg/status", "6.12.57-1", "6.17.8-1~bpo13+1") }, "is from backports"},
	{19, "not from backports", func(s *subject, t tree) {
		s.build.Data.Classes = []string{"LINUX_VARIANT_CLOUD", "LINUX_VERSION_BACKPORTS"}
	}, "is not from backports"},

	{20, "as it should be", nil, ""},
	{20, "no cloud-init", func(s *subject, t tree) { t.edit("var/lib/dpkg/status", "Package: cloud-init\n", "Package: x\n") }, "package cloud-init is not installed"},
	{20, "nocloud", nocloud, ""},
	{20, "nocloud with an open door", func(s *subject, t tree) { nocloud(s, t); t.install("openssh-server", "1") }, "package openssh-server is installed"},
	{20, "azure without its agent", func(s *subject, t tree) { s.build.Data.Info.Vendor = "azure" }, "package waagent is not installed"},
	{20, "ec2", func(s *subject, t tree) {
		s.build.Data.Info.Vendor = "ec2"
		t.install("amazon-ec2-utils", "2")
		t.install("awscli", "2")
	}, ""},
	{20, "two time clients", func(s *subject, t tree) { t.install("chrony", "4") }, "package chrony is installed"},
}

func TestChecks(t *testing.T) {
	passes, fails := map[int]bool{}, map[int]bool{}
	for _, row := range rows {
		if row.want == "" {
			passes[row.number] = true
		} else if !strings.HasPrefix(row.want, "skipped") {
			fails[row.number] = true
		}
		t.Run(fmt.Sprintf("%d %s", row.number, row.summary), func(t *testing.T) {
			s, tree := sound()
			if row.change != nil {
				row.change(s, tree)
			}
			got := catalogue[row.number].perform(context.Background(), s)
			outcome := got.Evidence
			switch got.Result {
			case manifest.Passed:
				outcome = ""
			case manifest.Skipped:
				outcome = "skipped: " + got.Evidence
			}
			if row.want == "" && outcome != "" || !strings.Contains(outcome, row.want) {
				t.Errorf("got %s\n%s\nwant %q", got.Result, got.Evidence, row.want)
			}
			if strings.Contains(got.Evidence, "secret") {
				t.Errorf("the evidence tells a secret: %s", got.Evidence)
			}
		})
	}
	for _, c := range catalogue[1:] { // check 0 needs a real file system
		if !passes[c.number] || !fails[c.number] {
			t.Errorf("check %s needs a row that passes and one that fails", c.id())
		}
	}
}

// The sound image passes everything, and each check sees something.
func TestSoundImage(t *testing.T) {
	s, _ := sound()
	for i, c := range catalogue {
		if c.number != i {
			t.Errorf("check %d stands at place %d", c.number, i)
		}
		got := c.perform(context.Background(), s)
		if got.Result != manifest.Passed || got.Evidence == "" {
			t.Errorf("%s: %s, %q", got.ID, got.Result, got.Evidence)
		}
	}
}

func TestEvidenceIsBounded(t *testing.T) {
	var f findings
	for n := range 1000 {
		f.wrongf("offence %d", n)
	}
	lines := strings.Split(f.evidence(), "\n")
	if lines[0] != "offence 0 (and 999 more)" || lines[len(lines)-1] != "… and 975 more" || len(lines) != shownOffences+1 {
		t.Errorf("%d lines, from %q to %q", len(lines), lines[0], lines[len(lines)-1])
	}
}
