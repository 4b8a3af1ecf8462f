package boot

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"salsa.debian.org/cloud-team/debcloud/internal/guest"
	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
)

// alarm is a pattern that a healthy console never shows.
type alarm struct {
	id      string
	pattern *lazyregexp.Regexp
	load    bool // an overloaded host under emulation shows it too, with no fault of the image
}

// alarms are tried on every line. Their order is the order in which causes come before consequences.
var alarms = []alarm{
	{"no-boot-device", lazyregexp.New(`No bootable (device|option)|Boot failed: not a bootable disk|Booting from Hard Disk\.\.\.\s*Boot failed`), false},
	{"secure-boot-denied", lazyregexp.New(`Security Violation|Verification failed: \(0x1A\)|bad shim signature`), false},
	{"grub-prompt", lazyregexp.New(`^grub( rescue)?> ?`), false},
	{"grub-error", lazyregexp.New(`^error: (no such (device|partition)|symbol .* not found|unknown filesystem|file .* not found|out of range pointer|prohibited by secure boot policy)`), false},
	{"kernel-panic", lazyregexp.New(`Kernel panic - not syncing`), false},
	{"kernel-oops", lazyregexp.New(`\bOops: |kernel BUG at |\bBUG: (kernel NULL pointer|unable to handle|KASAN|Bad page)|general protection fault|[Uu]nable to handle kernel `), false},
	{"kernel-warning", lazyregexp.New(`\bWARNING: CPU: \d+ PID: \d+ at `), false},
	{"kernel-stall", lazyregexp.New(`BUG: soft lockup|rcu: INFO: rcu_\w+ (self-)?detected (expedited )?stall|blocked for more than \d+ seconds`), true},
	{"no-root", lazyregexp.New(`Gave up waiting for root|ALERT!.*does not exist|^\(initramfs\)|Cannot open root device|VFS: Unable to mount root`), false},
	{"disk-error", lazyregexp.New(`EXT4-fs error|I/O error, dev |Remounting filesystem read-only|UNEXPECTED INCONSISTENCY`), false},
	{"emergency-shell", lazyregexp.New(`You are in (emergency|rescue) mode|Give root password for maintenance|Cannot open access to console|Press Enter for maintenance`), false},
	{"segfault", lazyregexp.New(`\bsegfault at [0-9a-f]+|\btraps: \S+ (trap|general protection)`), false},
	{"out-of-memory", lazyregexp.New(`invoked oom-killer|Out of memory: Killed process`), false},
	{"ordering-cycle", lazyregexp.New(`[Ff]ound ordering cycle|deleted to break ordering cycle|Breaking ordering cycle`), false},
	{"failed-unit", lazyregexp.New(`\[FAILED\]|\[DEPEND\]`), false},
	{"frozen", lazyregexp.New(`systemd\[1\]: Freezing execution`), false},
	{"cloud-init", lazyregexp.New(`Traceback \(most recent call last\)|\[CRITICAL\]: `), false},
	{"wizard", wizard, false},
}

// wizard matches what systemd-firstboot and debconf ask on a console where nobody answers. nocloud images stalled in it.
var wizard = lazyregexp.New(`Press any key to proceed|Please enter (the )?(new )?(system )?(locale|keymap|timezone|hostname|root password|root shell|user name)|Welcome to your new installation of`)

// hostFaults are what a host does to an emulated guest, by what the console shows of it. Another try may pass.
var hostFaults = []struct {
	pattern *lazyregexp.Regexp
	says    string
}{
	// systemd gives a device 90 seconds of the guest's time, which is the host's: an emulated guest misses them with devices that are there.
	{lazyregexp.New(`Timed out waiting for device`),
		"the emulated guest waited in vain for a device, as it does where the host gives it too little of its processors: try again when the host is less busy"},
	// A breakpoint with which the kernel guards code that it alters, met after the kernel took it away (QEMU's commit deba78709a mends it).
	{lazyregexp.New(`\bint3: 0000 \[#1\]`),
		"QEMU before 8.1 runs stale code on emulated processors, of which kernels die that alter themselves (Launchpad bug 2051965): try again, on a host with KVM or a newer QEMU if there is one"},
}

// hostFault says which of its host's faults an emulated guest suffered from, "" if from none.
func hostFault(console string) string {
	for _, f := range hostFaults {
		if f.pattern.MatchString(console) {
			return f.says
		}
	}
	return ""
}

// allowance lets an alarm pass where a known fault of the distribution causes it, until a day on which someone has
// to look again: after it the alarm counts.
type allowance struct {
	alarm   string
	pattern *lazyregexp.Regexp // of the whole line
	reason  string             // with the bug's number
	until   time.Time
}

// allowances are the known complaints of images that are good all the same.
var allowances = []allowance{
	{"grub-error", lazyregexp.New(`^error: prohibited by secure boot policy`),
		"grub-common's 25_bli loads the module bli, which Debian's signed GRUB does not have built in; GRUB goes on without",
		time.Date(2027, 12, 1, 0, 0, 0, 0, time.UTC)},
}

// plain returns console text without escape sequences, carriage returns, and the bytes of OVMF's line drawing.
func plain(console string) string { return strings.ToValidUTF8(guest.Plain([]byte(console)), "") }

// finding is an alarm on a line of the console.
type finding struct {
	alarm  string
	line   string
	number int    // of the line, from 1
	excuse string // why it does not count, "" where it does
}

func (f finding) String() string {
	s := fmt.Sprintf("line %d, %s: %s", f.number, f.alarm, f.line)
	if f.excuse != "" {
		s += " (" + f.excuse + ")"
	}
	return s
}

// scan returns what is alarming in the console's text. emulated excuses what an overloaded host causes under TCG.
func scan(console string, allowed []allowance, emulated bool, now time.Time) []finding {
	var found []finding
	for i, line := range strings.Split(plain(console), "\n") {
		line = strings.TrimSpace(line)
		for _, a := range alarms {
			if !a.pattern.MatchString(line) {
				continue
			}
			f := finding{alarm: a.id, line: line, number: i + 1}
			if a.load && emulated {
				f.excuse = "the emulated guest was starved by its host"
			}
			if e := excuse(a.id, line, allowed, now); e != "" {
				f.excuse = e
			}
			found = append(found, f)
			break
		}
	}
	return found
}

func excuse(id, line string, allowed []allowance, now time.Time) string {
	for _, a := range allowed {
		if a.alarm == id && a.pattern.MatchString(line) && now.Before(a.until) {
			return fmt.Sprintf("allowed until %s: %s", a.until.Format(time.DateOnly), a.reason)
		}
	}
	return ""
}

var (
	fingerprints = lazyregexp.New(`SHA256:[A-Za-z0-9+/]{43}`)
	hostKeyLines = lazyregexp.New(`(?m)^(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp\d+) [A-Za-z0-9+/=]+`)
	loginPrompt  = lazyregexp.New(`(?m)^(\S+) login: `) // messages can follow on the same line
)

// printedFingerprints returns the fingerprints of the host keys that cloud-init printed: as fingerprints when it made the
// keys, as keys at the end of its last stage.
func printedFingerprints(console string) map[string]bool {
	printed := map[string]bool{}
	text := plain(console)
	for _, f := range fingerprints.FindAllString(text, -1) {
		printed[f] = true
	}
	for _, line := range hostKeyLines.FindAllString(text, -1) {
		if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line)); err == nil {
			printed[ssh.FingerprintSHA256(key)] = true
		}
	}
	return printed
}

// askedLogin returns the host name in the console's last login prompt, "" where there was none.
func askedLogin(console string) string {
	m := loginPrompt.FindAllStringSubmatch(plain(console), -1)
	for i := len(m) - 1; i >= 0; i-- {
		if host := m[i][1]; host != "Last" { // "Last login: …" greets who has logged in
			return host
		}
	}
	return ""
}
