package boot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// writeBuild writes an image of size zero bytes with its Build document, and returns the document's path.
func writeBuild(t *testing.T, size int64, change func(*manifest.Build)) string {
	t.Helper()
	dir := t.TempDir()
	image := filepath.Join(dir, "x.raw")
	if err := errors.Join(os.WriteFile(image, nil, 0o644), os.Truncate(image, size)); err != nil {
		t.Fatal(err)
	}
	digest, err := manifest.DigestOfFile(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	b := &manifest.Build{
		Header: manifest.Header{APIVersion: manifest.APIVersion, Kind: "Build"},
		Data: manifest.BuildData{
			Info:  manifest.BuildInfo{Arch: "amd64", Vendor: "genericcloud", Release: "trixie"},
			Image: &manifest.ImageFile{Name: "x.raw", Size: size},
		},
	}
	b.Metadata.SetDigest(digest)
	if change != nil {
		change(b)
	}
	path := filepath.Join(dir, "x.build.json")
	if err := manifest.Write(path, b); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRefusals(t *testing.T) {
	for _, row := range []struct {
		summary string
		options Options
		change  func(*manifest.Build)
		want    string
	}{
		{summary: "a provider that comes later", options: Options{Provider: "ec2"}, want: "cannot be imitated yet"},
		{summary: "a provider that nobody knows", options: Options{Provider: "ec3"}, want: `"ec3" is not known`},
		{summary: "a firmware that amd64 has not", options: Options{Firmware: []string{"uboot"}}, want: `"uboot" is not one of bios, uefi`},
		{summary: "another architecture", change: func(b *manifest.Build) { b.Data.Info.Arch = "s390x" }, want: "s390x cannot be booted"},
		{summary: "another schema", change: func(b *manifest.Build) { b.APIVersion = "v2" }, want: `schema "v2"`},
		{summary: "a truncated image", change: func(b *manifest.Build) { b.Data.Image.Size++ }, want: "truncated"},
		{summary: "an altered image", change: func(b *manifest.Build) { b.Metadata.SetDigest(manifest.Digest{}) }, want: "altered"},
	} {
		t.Run(row.summary, func(t *testing.T) {
			row.options.BuildPath = writeBuild(t, 1<<20, row.change)
			row.options.Dir = t.TempDir()
			_, err := Run(t.Context(), row.options)
			if err == nil || !strings.Contains(err.Error(), row.want) || fault.KindOf(err) != fault.Input {
				t.Errorf("got %v of kind %v, want %q of kind Input", err, fault.KindOf(err), row.want)
			}
			onlyImage(t, row.options)
		})
	}
}

// onlyImage fails unless the image and its Build document are all that is left.
func onlyImage(t *testing.T, o Options) {
	t.Helper()
	left, _ := filepath.Glob(filepath.Dir(o.BuildPath) + "/*")
	scratch, _ := filepath.Glob(o.Dir + "/*")
	if len(left) != 2 || len(scratch) != 0 {
		t.Errorf("left behind: %q, %q", left, scratch)
	}
}

func TestPassedBefore(t *testing.T) {
	path := writeBuild(t, 1<<20, nil)
	build, err := manifest.ReadBuild(path)
	if err != nil {
		t.Fatal(err)
	}
	s := manifest.Suite{Name: SuiteName, Checks: []manifest.Check{{ID: "bios/22-ssh", Result: manifest.Passed}}}
	if err := record(path, build, &s); err != nil {
		t.Fatal(err)
	}
	got, err := Run(t.Context(), Options{BuildPath: path, Dir: t.TempDir()})
	if err != nil || got == nil || len(got.Checks) != 1 {
		t.Errorf("got %+v, %v, where the report has a passing suite", got, err)
	}
	s.Checks[0].Result = manifest.Failed
	if err := record(path, build, &s); err != nil {
		t.Fatal(err)
	}
	if earlier(path, build) != nil {
		t.Error("a suite that failed counts as passed")
	}
}

// Only a mirror that cannot be reached from here, or a host that was too busy, makes a retry worth while.
func TestSummary(t *testing.T) {
	unreachable := manifest.Check{ID: "uefi/47-apt-update", Result: manifest.Failed, Evidence: mirrorUnreachable + ": dial tcp: refused"}
	slow := manifest.Check{ID: "bios/25-console-clean", Result: manifest.Failed, Evidence: "line 9, failed-unit: [DEPEND]\nafter the reboot: the boot ended; " + hostFault("Timed out waiting for device dev-vda1")}
	patched := manifest.Check{ID: "uefi/25-console-clean", Result: manifest.Failed, Evidence: "line 30, kernel-oops: Oops: int3\n" + hostFault(int3)}
	other := manifest.Check{ID: "uefi/49-utc", Result: manifest.Failed, Evidence: "CET"}
	for _, row := range []struct {
		checks []manifest.Check
		want   fault.Kind
	}{
		{[]manifest.Check{unreachable}, fault.Outside},
		{[]manifest.Check{slow, unreachable}, fault.Outside},
		{[]manifest.Check{patched}, fault.Outside},
		{[]manifest.Check{patched, other}, fault.Work},
		{[]manifest.Check{unreachable, other}, fault.Work},
		{[]manifest.Check{other}, fault.Work},
	} {
		if err := summary(&manifest.Suite{Checks: row.checks}, "x.raw", "x.report.json"); err == nil || fault.KindOf(err) != row.want {
			t.Errorf("%v: got %v of kind %v", row.checks, err, fault.KindOf(err))
		}
	}
	if err := summary(&manifest.Suite{}, "x.raw", "x.report.json"); err != nil {
		t.Error(err)
	}
}

const int3 = "[    4.405053] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI"

// The image is not to blame where QEMU emulates processors badly, whether the guest came through or not; on KVM it is.
func TestHostFault(t *testing.T) {
	for _, row := range []struct {
		emulated bool
		console  string
		want     fault.Kind
	}{
		{true, int3, fault.Outside},
		{true, "[   12.3] Oops: Oops: 0002 [#1] PREEMPT SMP NOPTI", fault.Work},
		{true, "[ TIME ] Timed out waiting for device dev-vdc.\n[DEPEND] Dependency failed for data.mount", fault.Work},
		{false, int3, fault.Work},
	} {
		o := good()
		o.emulated = row.emulated
		o.console += "\r\n" + row.console
		if err := summary(&manifest.Suite{Checks: judgeAll(o)}, "x.raw", "x.report.json"); fault.KindOf(err) != row.want {
			t.Errorf("emulated %v, %q: got %v of kind %v", row.emulated, row.console, err, fault.KindOf(err))
		}
	}
}

// needVM skips where a test cannot start one.
func needVM(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a private libvirtd needs root")
	}
}

// A disk of zeros boots nowhere. The test ends within its bound, says so, and leaves nothing.
func TestHang(t *testing.T) {
	needVM(t)
	o := Options{BuildPath: writeBuild(t, 64<<20, nil), Dir: t.TempDir(), MemoryMiB: 256, Timeout: 30 * time.Second}
	start := time.Now()
	suite, err := Run(t.Context(), o)
	if err == nil || suite == nil || fault.KindOf(err) != fault.Work {
		t.Fatalf("got suite %v and error %v, where the checks should fail", suite, err)
	}
	if took := time.Since(start); took > 2*time.Minute {
		t.Errorf("it took %s with a limit of %s", took, o.Timeout)
	}
	r, err := manifest.ReadReport(reportPath(o.BuildPath))
	if err != nil || len(r.Data.Suites) != 1 || r.Data.Suites[0].Passed() {
		t.Fatalf("the report has %+v, %v", r, err)
	}
	// UEFI goes on to its shell, which Secure Boot denies it, and which a slow host does not reach in time.
	for id, want := range map[string]string{"bios/22-ssh": "not a bootable disk", "uefi/22-ssh": "Security Violation|the VM was not done within 30s"} {
		i := slices.IndexFunc(suite.Checks, func(c manifest.Check) bool { return c.ID == id })
		c := suite.Checks[i]
		if c.Result != manifest.Failed || !regexp.MustCompile(want).MatchString(c.Evidence) || !strings.Contains(c.Evidence, "\nthe console") {
			t.Errorf("%s is %s: %s", c.ID, c.Result, c.Evidence)
		}
	}
	if _, err := os.Stat(manifest.Base(o.BuildPath) + ".boot.xml"); err != nil {
		t.Error(err)
	}
	nothingRuns(t, o)
}

// What SIGTERM does to the command: its context ends in the middle of a boot.
func TestCancelled(t *testing.T) {
	needVM(t)
	o := Options{BuildPath: writeBuild(t, 64<<20, nil), Dir: t.TempDir(), MemoryMiB: 256}
	stopped := errors.New("stopped by a test")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		for deadline := time.Now().Add(time.Minute); len(running(o)) == 0 && time.Now().Before(deadline); {
			time.Sleep(20 * time.Millisecond)
		}
		cancel(stopped)
	}()
	if suite, err := Run(ctx, o); suite != nil || !errors.Is(err, stopped) {
		t.Errorf("got suite %v and error %v, where the run was stopped", suite, err)
	}
	onlyImage(t, o)
	nothingRuns(t, o)
}

// nothingRuns fails if a process still names the test's directories.
func nothingRuns(t *testing.T, o Options) {
	t.Helper()
	for _, line := range running(o) {
		t.Errorf("still running: %s", line)
	}
	if left, _ := filepath.Glob(o.Dir + "/*"); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

// running returns the command lines that name the test's directories.
func running(o Options) []string {
	var lines []string
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range processes {
		line, _ := os.ReadFile(p)
		if strings.Contains(string(line), o.Dir) || strings.Contains(string(line), filepath.Dir(o.BuildPath)) {
			lines = append(lines, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return lines
}
