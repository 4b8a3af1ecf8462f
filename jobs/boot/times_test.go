package boot

import (
	"math"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

func TestParseAnalyze(t *testing.T) {
	for _, row := range []struct {
		summary, output string
		want            map[string]float64
	}{
		{"BIOS, an initrd that is not systemd", "Startup finished in 13.964s (kernel) + 1min 53.888s (userspace) = 2min 7.852s \ngraphical.target reached after 1min 44.713s in userspace.",
			map[string]float64{"kernel": 13.964, "userspace": 113.888}},
		{"UEFI, an initrd that is", "Startup finished in 3.121s (firmware) + 850ms (loader) + 1.2s (kernel) + 2.010s (initrd) + 9.5s (userspace) = 16.681s",
			map[string]float64{"firmware": 3.121, "loader": 0.85, "kernel": 1.2, "initrd": 2.01, "userspace": 9.5}},
		{"not yet", "Bootup is not yet finished (org.freedesktop.systemd1.Manager.FinishTimestampMonotonic=0).", nil},
	} {
		got := parseAnalyze(row.output)
		if len(got) != len(row.want) {
			t.Errorf("%s: got %v", row.summary, got)
		}
		for phase, want := range row.want {
			if math.Abs(got[phase]-want) > 1e-9 {
				t.Errorf("%s: %s took %v s, want %v", row.summary, phase, got[phase], want)
			}
		}
	}
}

func TestBootTimes(t *testing.T) {
	o := good()
	got := bootTimes(o.marks, o.probes)
	// From power-on to the kernel's clock 2 s; its log says when it ran /init; systemd the rest.
	want := manifest.BootTimes{Firmware: 2, Kernel: 4.640988, Initrd: 13.964 - 4.640988, Userspace: 113.888,
		CloudInit: 125.742417 - 33.760787, SSH: 118, Total: 2 + 13.964 + 113.888}
	for name, pair := range map[string][2]float64{
		"firmware": {got.Firmware, want.Firmware}, "kernel": {got.Kernel, want.Kernel}, "initrd": {got.Initrd, want.Initrd},
		"userspace": {got.Userspace, want.Userspace}, "cloud-init": {got.CloudInit, want.CloudInit},
		"SSH": {got.SSH, want.SSH}, "total": {got.Total, want.Total},
	} {
		if math.Abs(pair[0]-pair[1]) > 1e-6 {
			t.Errorf("%s is %v s, want %v", name, pair[0], pair[1])
		}
	}
	if zero := bootTimes(marks{}, nil); zero != (manifest.BootTimes{}) {
		t.Errorf("a boot of which nothing is known took %+v", zero)
	}
}

func TestMarks(t *testing.T) {
	on := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	m := marks{on: on}
	m.observe("", on.Add(time.Second))
	if !m.firmware.IsZero() || !m.kernel.IsZero() {
		t.Error("an empty console counts as output")
	}
	m.observe("SeaBIOS (version 1.16.2)\n", on.Add(2*time.Second))
	m.observe("SeaBIOS (version 1.16.2)\n[    0.000000] Linux version 6.12\n[    0.250000] smp: Brought up\n", on.Add(5*time.Second))
	m.observe("SeaBIOS (version 1.16.2)\n[    9.000000] later\n", on.Add(14*time.Second))
	if m.after(m.firmware) != 2 || m.after(m.kernel) != 5 || m.kernelAge != 250*time.Millisecond {
		t.Errorf("marks are %+v", m)
	}
}
