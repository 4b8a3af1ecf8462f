package boot

import (
	"strconv"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

var (
	analyzed   = lazyregexp.New(`([0-9hmins. ]+?) \((firmware|loader|kernel|initrd|userspace)\)`)
	timePart   = lazyregexp.New(`([0-9.]+)(h|min|ms|us|s)`)
	initStarts = lazyregexp.New(`\[ *(\d+\.\d+)\] Run /init as init process`)
)

// parseSpan reads a time as systemd prints it, "1min 2.345s". The result is in seconds.
func parseSpan(text string) float64 {
	unit := map[string]float64{"h": 3600, "min": 60, "s": 1, "ms": 1e-3, "us": 1e-6}
	var total float64
	for _, m := range timePart.FindAllStringSubmatch(text, -1) {
		n, _ := strconv.ParseFloat(m[1], 64)
		total += n * unit[m[2]]
	}
	return total
}

// parseAnalyze reads "Startup finished in … = …" of systemd-analyze: seconds by phase.
func parseAnalyze(output string) map[string]float64 {
	phases := map[string]float64{}
	for _, m := range analyzed.FindAllStringSubmatch(output, -1) {
		phases[m[2]] = parseSpan(m[1])
	}
	return phases
}

// bootTimes splits the boot up. Power-on to the kernel's first instant is seen from outside, on the console, as only
// UEFI tells it to systemd; of initramfs-tools' initrd systemd knows nothing either, so the kernel's time ends where
// its log says that it runs /init.
func bootTimes(m marks, probes map[string]probe) manifest.BootTimes {
	t := manifest.BootTimes{SSH: m.after(m.ssh)}
	phases := parseAnalyze(probes["analyze"].out)
	if t.Firmware = m.after(m.kernel) - m.kernelAge.Seconds(); t.Firmware <= 0 {
		t.Firmware = phases["firmware"] + phases["loader"]
	}
	t.Kernel, t.Initrd, t.Userspace = phases["kernel"], phases["initrd"], phases["userspace"]
	if i := initStarts.FindStringSubmatch(probes["kernel_log"].out); i != nil && t.Initrd == 0 {
		if before, err := strconv.ParseFloat(i[1], 64); err == nil && before < t.Kernel {
			t.Initrd = t.Kernel - before
			t.Kernel = before
		}
	}
	t.CloudInit = cloudInitTime(probes["cloud_units"].out)
	if t.Userspace > 0 {
		t.Total = t.Firmware + t.Kernel + t.Initrd + t.Userspace
	}
	return t
}

// cloudInitTime is the time from the start of cloud-init's first unit to the end of its last stage, in seconds.
func cloudInitTime(output string) float64 {
	var first, last float64
	for _, unit := range properties(output) {
		start, _ := strconv.ParseFloat(unit["InactiveExitTimestampMonotonic"], 64)
		end, _ := strconv.ParseFloat(unit["ActiveEnterTimestampMonotonic"], 64)
		if start > 0 && (first == 0 || start < first) {
			first = start
		}
		last = max(last, end)
	}
	return max(0, last-first) / 1e6
}

// marks are the moments of a boot as seen from outside.
type marks struct {
	on        time.Time // power-on
	firmware  time.Time // the first byte on the console
	kernel    time.Time // the kernel's first line was seen
	kernelAge time.Duration
	ssh       time.Time // the first command over SSH had run
	settled   time.Time // systemd called the boot finished
}

func (m marks) after(t time.Time) float64 {
	if t.IsZero() || m.on.IsZero() {
		return 0
	}
	return t.Sub(m.on).Seconds()
}

var kernelLine = lazyregexp.New(`(?m)^\[ *(\d+\.\d{6})\] `)

// observe takes down what console, read at now, shows for the first time.
func (m *marks) observe(console string, now time.Time) {
	if m.firmware.IsZero() && console != "" {
		m.firmware = now
	}
	if !m.kernel.IsZero() {
		return
	}
	lines := kernelLine.FindAllStringSubmatch(console, -1)
	if len(lines) == 0 {
		return
	}
	// The console hands over what it buffered at once, so the last line is the one printed just now.
	age, _ := strconv.ParseFloat(strings.TrimSpace(lines[len(lines)-1][1]), 64)
	m.kernel, m.kernelAge = now, time.Duration(age*float64(time.Second))
}
