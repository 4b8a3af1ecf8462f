package boot

import (
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
)

// healthy is a real console, shortened: SeaBIOS, GRUB's menu, the kernel, systemd, cloud-init, getty.
const healthy = "\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version 1.16.2-debian-1.16.2-1)\r\n" +
	"Booting from Hard Disk...\r\n" +
	"\x1b[m\x1b[4;2H+----+\x1b[5;3H*Debian GNU/Linux\r\n" +
	"[    0.000000] Linux version 6.12.117+deb13-cloud-amd64 (debian-kernel@lists.debian.org)\r\n" +
	"[    4.640988] Run /init as init process\r\n" +
	"[   41.259624] systemd[1]: Started systemd-journald.service - Journal Service.\r\n" +
	"[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39msystemd-journald.service\x1b[0m - Journal Service.\r\n" +
	"[  125.965528] cloud-init[596]: The key fingerprint is:\r\n" +
	"[  125.965945] cloud-init[596]: SHA256:++mZ4D4smmsKThCVPg/dUsbCPZJAh3nu6MZ76OD/sx0 root@test-bios-11be06\r\n" +
	"-----BEGIN SSH HOST KEY KEYS-----\r\n" +
	"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFDwtQT8UPVpE67D1mRu1EEfmjNYkPpuaJvZFUjC3FA7 root@test-bios-11be06\r\n" +
	"-----END SSH HOST KEY KEYS-----\r\n" +
	"\r\nDebian GNU/Linux 13 test-bios-11be06 ttyS0\r\n\r\ntest-bios-11be06 login: "

func TestScan(t *testing.T) {
	soon := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	allowed := []allowance{{"segfault", lazyregexp.New(`^\S+ *\S+ exim4\[`), "Debian bug 999999", soon}}
	for _, row := range []struct {
		summary string
		console string
		tcg     bool
		now     time.Time
		want    string // alarm and whether it is excused
	}{
		{summary: "a healthy boot", console: healthy},
		{summary: "a kernel panic", console: "[    2.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)", want: "kernel-panic"},
		{summary: "an oops", console: "[   12.3] Oops: Oops: 0002 [#1] PREEMPT SMP NOPTI", want: "kernel-oops"},
		{summary: "a null pointer", console: "[   12.3] BUG: kernel NULL pointer dereference, address: 0000000000000008", want: "kernel-oops"},
		{summary: "a warning of the kernel", console: "[   3.2] WARNING: CPU: 1 PID: 1 at kernel/time/clockevents.c:38", want: "kernel-warning"},
		{summary: "a lockup on real hardware", console: "[  60.1] watchdog: BUG: soft lockup - CPU#0 stuck for 26s!", want: "kernel-stall"},
		{summary: "a lockup of an emulated guest", console: "[  60.1] watchdog: BUG: soft lockup - CPU#0 stuck for 26s!", tcg: true, want: "kernel-stall excused"},
		{summary: "emergency mode", console: "You are in emergency mode. After logging in, type \"journalctl -xb\"", want: "emergency-shell"},
		{summary: "emergency mode with root locked", console: "Cannot open access to console, the root account is locked.", want: "emergency-shell"},
		{summary: "initramfs waits for a root that does not come", console: "Gave up waiting for root file system device.  Common problems:", want: "no-root"},
		{summary: "the initramfs shell", console: "(initramfs) ", want: "no-root"},
		{summary: "a disk without boot loader", console: "\x1b[2JBoot failed: not a bootable disk\r\n\r\nNo bootable device.", want: "no-boot-device, no-boot-device"},
		{summary: "UEFI finds nothing", console: "BdsDxe: No bootable option or device was found.", want: "no-boot-device"},
		{summary: "a boot entry that fails before the one that works", console: "BdsDxe: failed to load Boot0001 \"UEFI QEMU DVD-ROM\": Not Found"},
		{summary: "GRUB's rescue prompt", console: "error: no such partition.\r\nEntering rescue mode...\r\ngrub rescue> ", want: "grub-error, grub-prompt"},
		{summary: "shim refuses", console: "Verification failed: (0x1A) Security Violation", want: "secure-boot-denied"},
		{summary: "GRUB may not load a module, and goes on", console: "error: prohibited by secure boot policy.", want: "grub-error"},
		{summary: "a segfault", console: "[   33.9] python3[612]: segfault at 0 ip 00007f3c sp 00007ffd error 4 in libc.so.6", want: "segfault"},
		{summary: "a segfault that is a known bug, for a while", console: "[   33.9] exim4[612]: segfault at 0 ip 00007f3c", want: "segfault excused"},
		{summary: "a known bug that nobody looked at again in time", console: "[   33.9] exim4[612]: segfault at 0 ip 00007f3c", now: soon, want: "segfault"},
		{summary: "no memory left", console: "[   80.0] Out of memory: Killed process 500 (apt-get)", want: "out-of-memory"},
		{summary: "an ordering cycle", console: "[    5.0] systemd[1]: sysinit.target: Found ordering cycle on cloud-init.service/start", want: "ordering-cycle"},
		{summary: "a failed unit", console: "[\x1b[0;1;31mFAILED\x1b[0m] Failed to start \x1b[0;1;39mssh.service\x1b[0m - OpenBSD Secure Shell server.", want: "failed-unit"},
		{summary: "a dependency that failed", console: "[\x1b[0;1;33mDEPEND\x1b[0m] Dependency failed for \x1b[0;1;39mboot-efi.mount\x1b[0m - /boot/efi.", want: "failed-unit"},
		{summary: "cloud-init's traceback", console: "[  20.0] cloud-init[500]: Traceback (most recent call last):", want: "cloud-init"},
		{summary: "systemd's first-boot wizard", console: "Welcome to your new installation of Debian GNU/Linux!\r\n\r\n-- Press any key to proceed --", want: "wizard, wizard"},
		{summary: "GRUB's menu says: press any key", console: "Press any key to continue..."},
	} {
		t.Run(row.summary, func(t *testing.T) {
			now := row.now
			if now.IsZero() {
				now = soon.Add(-time.Hour)
			}
			var got []string
			for _, f := range scan(row.console, allowed, row.tcg, now) {
				word := f.alarm
				if f.excuse != "" {
					word += " excused"
				}
				got = append(got, word)
			}
			if strings.Join(got, ", ") != row.want {
				t.Errorf("got %q, want %q", strings.Join(got, ", "), row.want)
			}
		})
	}
}

func TestHopeless(t *testing.T) {
	for line, want := range map[string]string{
		"[    2.1] Kernel panic - not syncing: no init found":   "[    2.1] Kernel panic - not syncing: no init found",
		"-- Press any key to proceed --":                        "-- Press any key to proceed --",
		"[   33.9] python3[612]: segfault at 0 ip 0":            "", // a failed check, but the boot goes on
		"error: file `/boot/grub/fonts/unicode.pf2' not found.": "", // GRUB goes on with a plainer menu
		"grub rescue> ":                                           "grub rescue>",
		"[FAILED] Failed to start ssh.service":                    "",
		"[    0.000000] Linux version 6.12.117+deb13-cloud-amd64": "",
	} {
		if got := hopeless(line); got != want {
			t.Errorf("hopeless(%q) is %q, want %q", line, got, want)
		}
	}
}

func TestConsoleKeysAndLogin(t *testing.T) {
	printed := printedFingerprints(healthy)
	for _, want := range []string{
		"SHA256:++mZ4D4smmsKThCVPg/dUsbCPZJAh3nu6MZ76OD/sx0", // printed as a fingerprint
		"SHA256:t0KZ+0MlLsw9eokSTrTyB8gtHpD5w3E9yLGSMxEwErs", // printed as a key
	} {
		if !printed[want] {
			t.Errorf("%s is on the console and was not found in %v", want, printed)
		}
	}
	if host := askedLogin(healthy); host != "test-bios-11be06" {
		t.Errorf("the login prompt is of host %q", host)
	}
	if host := askedLogin("\r\ntest-a login: [  125.7] cloud-init[596]: finished\r\nLast login: Mon Nov 23 on ttyS0\r\n"); host != "test-a" {
		t.Errorf("the login prompt with a message behind it is of host %q", host)
	}
	if host := askedLogin("[  OK  ] Reached target getty.target - Login Prompts.\r\n"); host != "" {
		t.Errorf("found a login prompt of host %q where there is none", host)
	}
}
