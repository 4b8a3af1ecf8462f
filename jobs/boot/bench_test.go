package boot

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// BenchmarkGate boots the image until SSH answers, by BIOS and by UEFI side by side, and then takes it through the whole gate in
// the same way. It reports the seconds of the slower raw boot to SSH, those of the slower boot to SSH in the gate, those of
// the whole gate, and its ratio to the raw boot. The gate's reboot, check 38, alone is most of another boot.
func BenchmarkGate(b *testing.B) {
	path := linkImage(b)
	for b.Loop() {
		raw, err := Run(b.Context(), Options{BuildPath: path, Raw: true})
		if err != nil {
			b.Fatal(err)
		}
		ssh := slower(raw, func(t manifest.BootTimes) float64 { return t.SSH })
		begun := time.Now()
		suite, err := Run(b.Context(), Options{BuildPath: path, Again: true})
		if err != nil {
			b.Fatal(err)
		}
		whole := time.Since(begun).Seconds()
		b.ReportMetric(ssh, "raw-ssh-s")
		b.ReportMetric(slower(suite, func(t manifest.BootTimes) float64 { return t.SSH }), "gate-ssh-s")
		b.ReportMetric(whole, "gate-s")
		b.ReportMetric(whole/ssh, "gate/raw")
	}
}

// linkImage puts a link to the test image and its document into a directory of their own, so that the report is not the image's.
func linkImage(tb testing.TB) string {
	tb.Helper()
	built := os.Getenv("DEBCLOUD_TEST_IMAGE")
	if built == "" {
		tb.Skip("DEBCLOUD_TEST_IMAGE is not set: run make bench")
	}
	d, err := manifest.ReadBuild(built)
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	if err := os.Symlink(d.ImagePath(built), filepath.Join(dir, d.Data.Image.Name)); err != nil {
		tb.Fatal(err)
	}
	text, err := os.ReadFile(built)
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(dir, filepath.Base(built))
	if err := os.WriteFile(path, text, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func slower(s *manifest.Suite, of func(manifest.BootTimes) float64) float64 {
	var most float64
	for _, b := range s.Boots {
		most = max(most, of(b.Times))
	}
	return most
}
