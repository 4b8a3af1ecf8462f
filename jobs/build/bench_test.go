package build

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// BenchmarkBuildAgainstMmdebstrap builds trixie genericcloud amd64 from nothing to its Build document, and lets
// mmdebstrap put the same packages into a tar, one after the other. It reports both times in seconds, their ratio, which
// is to be at most 1, and the peak memory of the building process in MiB, which is to be below 200.
func BenchmarkBuildAgainstMmdebstrap(b *testing.B) {
	needRoot(b)
	for b.Loop() {
		o := genericcloud(b)
		built, document := timeBuild(b, o)
		bootstrapped := timeMmdebstrap(b, document)
		b.ReportMetric(built.Seconds(), "build-s")
		b.ReportMetric(bootstrapped.Seconds(), "mmdebstrap-s")
		b.ReportMetric(built.Seconds()/bootstrapped.Seconds(), "ratio")
		b.ReportMetric(peakMemory(b), "peak-MiB")
	}
}

// genericcloud has the classes that the matrix gives the cell, but for the combinations, which the config space uses only
// for bookworm.
func genericcloud(tb testing.TB) Options {
	tb.Helper()
	return Options{
		Cell: image.Cell{
			Release: image.Release{Name: "trixie", Basename: "trixie", ID: "13", BaseID: "13"},
			Vendor:  image.Vendor{Name: "genericcloud", SizeGB: 3},
			Arch:    image.Arch{Name: "amd64"},
		},
		Type: image.BuildType{
			Name: "official", OutputName: "debian-{release}-{vendor}-{arch}-{build_type}-{version}", OutputVersion: "{date}-{version}",
		},
		Version: image.Version{Date: "20260102", Number: 3},
		Classes: strings.Fields("BUILD_IMAGE BASE DEBIAN TRIXIE LINUX_VERSION_BASE EXTRAS SYSTEM_BOOT SYSTEM_BOOT_DEFAULT CLOUD GENERIC LINUX_VARIANT_CLOUD TIME_SYSTEMD AMD64 LAST"),
		Mirror:  Mirrors{os.Getenv("DEBCLOUD_MIRROR"), os.Getenv("DEBCLOUD_SECURITY_MIRROR")},
		Output:  tb.TempDir(),
	}
}

func timeBuild(b *testing.B, o Options) (time.Duration, *manifest.Build) {
	b.Helper()
	begun := time.Now()
	path, err := Run(b.Context(), o)
	if err != nil {
		b.Fatal(err)
	}
	took := time.Since(begun)
	document, err := manifest.ReadBuild(path)
	if err != nil {
		b.Fatal(err)
	}
	return took, document
}

// timeMmdebstrap installs exactly the packages of the document.
func timeMmdebstrap(b *testing.B, document *manifest.Build) time.Duration {
	b.Helper()
	mirrors, err := MachineMirrors("/etc/apt")
	mirrors = Mirrors{os.Getenv("DEBCLOUD_MIRROR"), os.Getenv("DEBCLOUD_SECURITY_MIRROR")}.or(mirrors)
	if mirrors.Debian == "" || mirrors.Security == "" {
		b.Fatal(err)
	}
	var names []string
	for _, p := range document.Data.Packages {
		name, _, _ := strings.Cut(p.Name, ":")
		names = append(names, name)
	}
	begun := time.Now()
	mmdebstrap := exec.CommandContext(b.Context(), "mmdebstrap", "--quiet", "--mode=root", "--variant=apt",
		"--include="+strings.Join(slices.Compact(names), ","), `--aptopt=APT::Install-Recommends "false"`,
		"trixie", filepath.Join(b.TempDir(), "tree.tar"),
		"deb "+mirrors.Debian+" trixie main", "deb "+mirrors.Debian+" trixie-updates main", "deb "+mirrors.Security+" trixie-security main")
	if out, err := mmdebstrap.CombinedOutput(); err != nil {
		b.Fatalf("mmdebstrap: %v: %s", err, out)
	}
	return time.Since(begun)
}

// peakMemory is VmHWM of this process (proc(5)) in MiB.
func peakMemory(b *testing.B) float64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "VmHWM:")
	kib, err := parseKiB(after)
	if err != nil {
		b.Fatal(err)
	}
	return float64(kib) / 1024
}
