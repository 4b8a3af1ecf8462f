package directory

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
)

// cell says what to make a build of.
type cell struct{ vendor, arch, version string }

var trixie = cell{"genericcloud", "amd64", "20260814-1"}

// makeBuild writes a small image with data and holes, and a build and passing report on it, and returns the Build's path.
// seed makes images differ.
func makeBuild(t testing.TB, c cell, size int64, seed byte) string {
	t.Helper()
	base := filepath.Join(t.TempDir(), "debian-trixie-"+c.vendor+"-"+c.arch+"-official-"+c.version)
	writeImage(t, base+".raw", size, seed)
	f, err := os.Open(base + ".raw")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	digest, err := manifest.DigestOf(f)
	if err != nil {
		t.Fatal(err)
	}
	b := &manifest.Build{Header: manifest.Header{APIVersion: manifest.APIVersion, Kind: "Build"}}
	b.Metadata.Labels = map[string]string{
		manifest.LabelArch: c.arch, manifest.LabelDist: "debian", manifest.LabelRelease: "trixie",
		manifest.LabelVendor: c.vendor, manifest.LabelVersion: c.version,
	}
	b.Metadata.UID = manifest.NewUID("Build", digest.Hex())
	b.Metadata.SetDigest(digest)
	b.Data.Info = manifest.BuildInfo{Arch: c.arch, BuildID: "test", Release: "trixie", ReleaseBaseID: "13", ReleaseID: "13", Type: "official", Vendor: c.vendor, Version: c.version}
	b.Data.Packages = []manifest.Package{{Name: "cloud-init", Version: "25.1.4-1"}}
	b.Data.Versions = map[string]string{"cloud-init": "25.1.4-1"}
	b.Data.Image = &manifest.ImageFile{Name: filepath.Base(base) + ".raw", Size: size, Allocated: size / 2}
	if err := manifest.Write(base+".build.json", b); err != nil {
		t.Fatal(err)
	}
	started := time.Date(2026, 8, 14, 1, 0, 0, 0, time.UTC)
	for _, s := range []manifest.Suite{
		{Name: "check", Started: started, Checks: []manifest.Check{{ID: "7-fstab", Result: manifest.Passed}}},
		{Name: "boot", Started: started, Checks: []manifest.Check{{ID: "bios/22-ssh", Result: manifest.Passed}}, Boots: []manifest.Boot{{Firmware: "bios", Console: "Debian\n"}}},
	} {
		if err := manifest.RecordSuite(base+".report.json", b, s); err != nil {
			t.Fatal(err)
		}
	}
	return base + ".build.json"
}

// writeImage makes text, a hole, some noise, a hole.
func writeImage(t testing.TB, path string, size int64, seed byte) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text := bytes.Repeat([]byte(fmt.Sprintf("text %d ", seed)), int(size/4/6))
	noise := make([]byte, size/16) // xz is slow with it
	rand.NewChaCha8([32]byte{seed}).Read(noise)
	for at, b := range map[int64][]byte{0: text[:size/4], size / 2: noise} {
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

func publishTo(t testing.TB, build, tree string, o publish.Options) *publish.Result {
	t.Helper()
	o.BuildPath, o.To = build, New(tree)
	if o.Type == "" {
		o.Type = "release"
	}
	r, err := publish.Publish(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// listing describes every file of a tree, dot directories too: mode, time, link target and digest, by path.
// With inodes it tells also whether a file is the same one as before.
func listing(t testing.TB, root string, inodes bool) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		info, err := e.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %s", rel, info.Mode())
		switch {
		case e.Type()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			line += " -> " + target
		case e.Type().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %s %x", info.Size(), info.ModTime().UTC().Format(time.RFC3339), sha512.Sum512(b))
		}
		if inodes {
			line += fmt.Sprintf(" %d %s", info.Sys().(*syscall.Stat_t).Ino, info.ModTime())
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func names(t testing.TB, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

func TestTreeIsTheOneThatUsersKnow(t *testing.T) {
	for _, row := range []struct {
		summary string
		cell    cell
		kind    string
		dir     string
		want    string
	}{
		{"a release has its version right under the codename", trixie, "release", "trixie/20260814-1", "json raw qcow2 tar.xz"},
		{"a daily says so in path and name", cell{"nocloud", "arm64", "20260815-12"}, "daily", "trixie/daily/20260815-12", "json raw qcow2 tar.xz"},
		{"what nobody boots at home has no raw and qcow2", cell{"ec2", "amd64", "20260814-1"}, "release", "trixie/20260814-1", "json tar.xz"},
	} {
		t.Run(row.summary, func(t *testing.T) {
			tree := filepath.Join(t.TempDir(), "public")
			build := makeBuild(t, row.cell, 4<<20, 1)
			o := publish.Options{}
			o.Type = "release"
			if row.kind == "daily" {
				o.Type = "daily"
			}
			r := publishTo(t, build, tree, o)
			infix := map[string]string{"release": "", "daily": "-daily"}[row.kind]
			stem := "debian-13-" + row.cell.vendor + "-" + row.cell.arch + infix
			for _, ext := range append(strings.Fields(row.want), "report.json", "console-bios.log") {
				checkFile(t, filepath.Join(tree, row.dir, stem+"-"+row.cell.version+"."+ext))
				checkFile(t, filepath.Join(tree, filepath.Dir(row.dir), "latest", stem+"."+ext))
			}
			want := []string{"SHA512SUMS", "unversioned"}
			for _, ext := range append(strings.Fields(row.want), "report.json", "console-bios.log") {
				want = append(want, stem+"-"+row.cell.version+"."+ext)
			}
			slices.Sort(want)
			if got := names(t, filepath.Join(tree, row.dir)); got != strings.Join(want, " ") {
				t.Errorf("version directory holds\n%s\nwant\n%s", got, strings.Join(want, " "))
			}
			for _, dir := range []string{row.dir, filepath.Dir(row.dir) + "/latest"} {
				run(t, filepath.Join(tree, dir), "sha512sum", "--strict", "--quiet", "-c", "SHA512SUMS")
			}
			if target, _ := os.Readlink(filepath.Join(tree, filepath.Dir(row.dir), "latest")); target != row.cell.version+"/unversioned" {
				t.Errorf("latest leads to %q", target)
			}
			if len(r.Uploads) != len(strings.Fields(row.want))-1 {
				t.Errorf("%d uploads for %s", len(r.Uploads), row.want)
			}
			if left, _ := filepath.Glob(filepath.Join(tree, ".*")); len(left) != 0 {
				t.Errorf("left in the tree: %v", left)
			}
		})
	}
}

func checkFile(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Error(err)
		return
	}
	if day := info.ModTime().UTC().Format("20060102"); info.Mode() != 0o444 || !strings.HasPrefix(filepath.Base(filepath.Dir(resolved(t, path))), day) {
		t.Errorf("%s has mode %o, want 444, and is of %s", path, info.Mode(), day)
	}
}

func resolved(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func run(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	c := exec.Command(program, args...)
	c.Dir = dir
	out, err := c.CombinedOutput()
	if err != nil {
		t.Errorf("%s %v: %v\n%s", program, args, err, out)
	}
	return string(out)
}

func TestEveryFormatHoldsTheImage(t *testing.T) {
	tree := t.TempDir()
	build := makeBuild(t, trixie, 16<<20, 1)
	publishTo(t, build, tree, publish.Options{})
	image := strings.TrimSuffix(build, ".build.json") + ".raw"
	stem := filepath.Join(tree, "trixie/20260814-1/debian-13-genericcloud-amd64-20260814-1")
	out := t.TempDir()
	run(t, out, "cmp", image, stem+".raw")
	run(t, out, "tar", "-xJf", stem+".tar.xz")
	run(t, out, "cmp", image, "disk.raw")
	run(t, out, "qemu-img", "check", stem+".qcow2")
	run(t, out, "qemu-img", "compare", image, stem+".qcow2")
	for _, path := range []string{stem + ".raw", filepath.Join(out, "disk.raw")} {
		var s unix.Stat_t
		if err := unix.Stat(path, &s); err != nil {
			t.Fatal(err)
		}
		if s.Blocks*512 > 6<<20 {
			t.Errorf("%s occupies %d bytes; the image's data are 5 MiB", path, s.Blocks*512)
		}
	}
	if info := run(t, out, "qemu-img", "info", stem+".qcow2"); !strings.Contains(info, "compat: 1.1") {
		t.Errorf("qcow2 is not of version 1.1:\n%s", info)
	}
}

func TestSameInputGivesTheSameTree(t *testing.T) {
	build := makeBuild(t, trixie, 4<<20, 1)
	a, b := t.TempDir(), t.TempDir()
	publishTo(t, build, a, publish.Options{})
	publishTo(t, build, b, publish.Options{})
	if x, y := listing(t, a, false), listing(t, b, false); !slices.Equal(x, y) {
		t.Errorf("two trees of one build differ:\n%s\n\n%s", strings.Join(x, "\n"), strings.Join(y, "\n"))
	}
}

func TestRunTwiceChangesNothing(t *testing.T) {
	tree := t.TempDir()
	build := makeBuild(t, trixie, 4<<20, 1)
	first := publishTo(t, build, tree, publish.Options{})
	before, beside := listing(t, tree, true), listing(t, filepath.Dir(build), true)
	second := publishTo(t, build, tree, publish.Options{})
	if !slices.Equal(before, listing(t, tree, true)) || !slices.Equal(beside, listing(t, filepath.Dir(build), true)) {
		t.Error("publishing again changed a file")
	}
	if !first.Changed || second.Changed || !reflect.DeepEqual(first.Uploads, second.Uploads) {
		t.Errorf("first changed=%v, second changed=%v, uploads %v and %v", first.Changed, second.Changed, first.Uploads, second.Uploads)
	}
}

func TestCellsOfOneVersionShareItsDirectory(t *testing.T) {
	tree := t.TempDir()
	one := makeBuild(t, trixie, 4<<20, 1)
	publishTo(t, one, tree, publish.Options{})
	raw := filepath.Join(tree, "trixie/20260814-1/debian-13-genericcloud-amd64-20260814-1.raw")
	before, _ := os.Stat(raw)
	publishTo(t, makeBuild(t, cell{"nocloud", "arm64", "20260814-1"}, 4<<20, 2), tree, publish.Options{})
	after, err := os.Stat(raw)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the first cell's file is another one now: %v", err)
	}
	for _, dir := range []string{"trixie/20260814-1", "trixie/latest"} {
		run(t, filepath.Join(tree, dir), "sha512sum", "--strict", "--quiet", "-c", "SHA512SUMS")
		if s, err := readSums(filepath.Join(tree, dir)); err != nil || len(s) != 12 {
			t.Errorf("%s sums %d files, want 12: %v", dir, len(s), err)
		}
	}
	if r := publishTo(t, one, tree, publish.Options{}); r.Changed {
		t.Error("the first cell was published again")
	}
}

func TestLatestNeverLosesACell(t *testing.T) {
	tree := t.TempDir()
	latest := func(vendor string) string {
		path, _ := filepath.EvalSymlinks(filepath.Join(tree, "trixie/latest/debian-13-"+vendor+"-amd64.tar.xz"))
		return filepath.Base(path)
	}
	step := func(vendor, version, wantGeneric, wantNocloud string) {
		t.Helper()
		publishTo(t, makeBuild(t, cell{vendor, "amd64", version}, 4<<20, 1), tree, publish.Options{})
		for vendor, want := range map[string]string{"generic": wantGeneric, "nocloud": wantNocloud} {
			if want != "" {
				want = "debian-13-" + vendor + "-amd64-" + want + ".tar.xz"
			}
			if got := latest(vendor); got != want && want != "" {
				t.Errorf("after %s %s: latest %s is %q, want %q", vendor, version, vendor, got, want)
			}
		}
		run(t, filepath.Join(tree, "trixie/latest"), "sha512sum", "--strict", "--quiet", "-c", "SHA512SUMS")
	}
	step("generic", "20260814-9", "20260814-9", "")
	step("nocloud", "20260814-9", "20260814-9", "20260814-9")
	step("generic", "20260814-10", "20260814-10", "20260814-9") // 10 is more than 9, and nocloud stays
	step("nocloud", "20260813-1", "20260814-10", "20260814-9")  // an older version changes nothing
	step("nocloud", "20260814-10", "20260814-10", "20260814-10")
	if target, _ := os.Readlink(filepath.Join(tree, "trixie/latest")); target != "20260814-10/unversioned" {
		t.Errorf("latest leads to %q", target)
	}
}

func TestLatestMixesNoVersionsOfOneCell(t *testing.T) {
	tree := t.TempDir()
	old := makeBuild(t, trixie, 2<<20, 1)
	if err := os.WriteFile(strings.TrimSuffix(old, ".build.json")+".build.log", []byte("log"), 0o644); err != nil {
		t.Fatal(err)
	}
	publishTo(t, old, tree, publish.Options{})
	checkFile(t, filepath.Join(tree, "trixie/latest/debian-13-genericcloud-amd64.build.log"))
	publishTo(t, makeBuild(t, cell{trixie.vendor, trixie.arch, "20260815-1"}, 2<<20, 1), tree, publish.Options{})
	if got := names(t, filepath.Join(tree, "trixie/latest")); strings.Contains(got, "build.log") {
		t.Errorf("the old version's log stands beside the new version's image: %s", got)
	}
}

func TestALostFileComesBack(t *testing.T) {
	tree := t.TempDir()
	build := makeBuild(t, trixie, 4<<20, 1)
	publishTo(t, build, tree, publish.Options{})
	whole := listing(t, tree, false)
	os.Remove(filepath.Join(tree, "trixie/20260814-1/debian-13-genericcloud-amd64-20260814-1.qcow2"))
	publishTo(t, build, tree, publish.Options{})
	if !slices.Equal(whole, listing(t, tree, false)) {
		t.Error("the tree is not whole again")
	}
}

func TestPrivateStageHidesTheImageUntilItIsPublic(t *testing.T) {
	tree := t.TempDir()
	build := makeBuild(t, trixie, 4<<20, 1)
	publishTo(t, build, tree, publish.Options{Stage: publish.Private})
	if got := names(t, tree); got != ".private" {
		t.Fatalf("stage private left %q in the tree", got)
	}
	if r := publishTo(t, build, tree, publish.Options{Stage: publish.Private}); r.Changed {
		t.Error("stage private did the same again")
	}
	raw := "trixie/20260814-1/debian-13-genericcloud-amd64-20260814-1.raw"
	hidden, err := os.Stat(filepath.Join(tree, private, raw))
	if err != nil {
		t.Fatal(err)
	}
	publishTo(t, build, tree, publish.Options{})
	if shown, err := os.Stat(filepath.Join(tree, raw)); err != nil || !os.SameFile(hidden, shown) {
		t.Errorf("stage public made the files again: %v", err)
	}
	os.RemoveAll(filepath.Join(tree, private))
	fresh := t.TempDir()
	publishTo(t, build, fresh, publish.Options{})
	if !slices.Equal(listing(t, tree, false), listing(t, fresh, false)) {
		t.Error("by way of stage private the tree came out otherwise")
	}
	if r := publishTo(t, build, tree, publish.Options{Stage: publish.Private}); r.Changed || names(t, filepath.Join(tree, private)) != "" {
		t.Error("stage private hid an image that is public")
	}
}

func TestRefusals(t *testing.T) {
	for _, row := range []struct {
		summary string
		spoil   func(t *testing.T, base, tree string)
		want    string
		kind    fault.Kind
	}{
		{"the image was altered", func(t *testing.T, base, _ string) {
			f, _ := os.OpenFile(base+".raw", os.O_WRONLY, 0)
			f.WriteAt([]byte("X"), 100)
			f.Close()
		}, "it was altered; build it again", fault.Input},
		{"the image was truncated", func(t *testing.T, base, _ string) { os.Truncate(base+".raw", 1<<20) }, "it was truncated or altered", fault.Input},
		{"the image is gone", func(t *testing.T, base, _ string) { os.Remove(base + ".raw") }, "the image cannot be read", fault.Input},
		{"another image has the name", func(t *testing.T, _, tree string) {
			publishTo(t, makeBuild(t, trixie, 4<<20, 2), tree, publish.Options{})
		}, "is published already, with digest", fault.Input},
		{"the tree's path is a file", func(t *testing.T, _, tree string) { os.WriteFile(tree, nil, 0o644) }, "cannot be made", fault.Input},
	} {
		t.Run(row.summary, func(t *testing.T) {
			build := makeBuild(t, trixie, 4<<20, 1)
			tree := filepath.Join(t.TempDir(), "public")
			row.spoil(t, strings.TrimSuffix(build, ".build.json"), tree)
			var before []string
			if info, err := os.Stat(tree); err == nil && info.IsDir() {
				before = listing(t, tree, true)[1:] // the root's own time may change
			}
			_, err := publish.Publish(t.Context(), publish.Options{BuildPath: build, To: New(tree), Type: "release"})
			if err == nil || !strings.Contains(err.Error(), row.want) || fault.KindOf(err) != row.kind {
				t.Errorf("error is %v of kind %v, want %q of kind %v", err, fault.KindOf(err), row.want, row.kind)
			}
			if info, err := os.Stat(tree); err == nil && info.IsDir() && !slices.Equal(before, listing(t, tree, true)[1:]) {
				t.Error("the tree changed")
			}
		})
	}
}

func TestNoSpace(t *testing.T) {
	build := makeBuild(t, trixie, 16<<20, 1)
	tree := t.TempDir()
	if err := unix.Mount("none", tree, "tmpfs", 0, "size=3m"); err != nil {
		t.Skipf("a small tmpfs cannot be mounted here: %v", err)
	}
	defer unix.Unmount(tree, 0)
	o := publish.Options{BuildPath: build, To: New(tree), Type: "release"}
	_, err := publish.Publish(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "free and publishing") || fault.KindOf(err) != fault.Outside {
		t.Errorf("before the work: %v", err)
	}
	blind := New(tree)
	blind.free = func(string) (int64, error) { return 1 << 40, nil }
	o.To = blind
	_, err = publish.Publish(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "no space is left for debian-13-genericcloud-amd64-20260814-1") || fault.KindOf(err) != fault.Outside {
		t.Errorf("during the work: %v", err)
	}
	if got := names(t, tree); got != "" {
		t.Errorf("left in the tree: %s", got)
	}
}

func TestCancelledPublicationLeavesNothing(t *testing.T) {
	build := makeBuild(t, trixie, 64<<20, 1)
	tree := t.TempDir()
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := errors.New("stopped by signal")
	time.AfterFunc(30*time.Millisecond, func() { cancel(stop) })
	_, err := publish.Publish(ctx, publish.Options{BuildPath: build, To: New(tree), Type: "release"})
	if !errors.Is(err, stop) {
		t.Errorf("error is %v", err)
	}
	if got := names(t, tree); got != "" {
		t.Errorf("left in the tree: %s", got)
	}
}

func TestPublishersWaitForEachOther(t *testing.T) {
	tree := t.TempDir()
	var builds []string
	for i, vendor := range []string{"generic", "genericcloud", "nocloud", "ec2"} {
		builds = append(builds, makeBuild(t, cell{vendor, "amd64", "20260814-1"}, 2<<20, byte(i)))
	}
	builds = append(builds, builds[0]) // the same image twice at once
	errs := make(chan error)
	for _, b := range builds {
		go func() {
			_, err := publish.Publish(context.Background(), publish.Options{BuildPath: b, To: New(tree), Type: "release"})
			errs <- err
		}()
	}
	for range builds {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	for _, dir := range []string{"trixie/20260814-1", "trixie/latest"} {
		run(t, filepath.Join(tree, dir), "sha512sum", "--strict", "--quiet", "-c", "SHA512SUMS")
		if s, _ := readSums(filepath.Join(tree, dir)); len(s) != 3*6+4 {
			t.Errorf("%s sums %d files, want %d", dir, len(s), 3*6+4)
		}
	}
}

// The consumers of upstream's manifests find in ours every key that they know, of the same JSON type, in the same order.
func TestManifestHasTheShapeOfRealOnes(t *testing.T) {
	shared := sharedData(t)
	tree := t.TempDir()
	publishTo(t, makeBuild(t, trixie, 4<<20, 1), tree, publish.Options{})
	ours := decode(t, filepath.Join(tree, "trixie/20260814-1/debian-13-genericcloud-amd64-20260814-1.json"))
	for _, name := range []string{"debian-12-genericcloud-arm64.json", "debian-13-genericcloud-amd64.json"} {
		real := decode(t, filepath.Join(shared, "manifests", name))
		compareShape(t, name, real, ours)
		for i, item := range real["items"].([]any)[1:] {
			format := func(v any) any {
				return v.(map[string]any)["metadata"].(map[string]any)["labels"].(map[string]any)[manifest.LabelImageFormat]
			}
			if got := format(ours["items"].([]any)[i+1]); got != format(item) {
				t.Errorf("upload %d is of format %v where %s has %v", i, got, name, format(item))
			}
		}
	}
	text, _ := os.ReadFile(filepath.Join(tree, "trixie/20260814-1/debian-13-genericcloud-amd64-20260814-1.json"))
	python := "import json,sys; t=sys.stdin.read(); sys.exit(t.strip() != json.dumps(json.loads(t), indent=4, sort_keys=True, ensure_ascii=False))"
	c := exec.Command("python3", "-c", python)
	c.Stdin = bytes.NewReader(text)
	if _, err := exec.LookPath("python3"); err == nil {
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("Python writes the same document otherwise: %v %s", err, out)
		}
	}
}

func decode(t *testing.T, path string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// compareShape walks want and demands everything in it of got; got may have more.
func compareShape(t *testing.T, at string, want, got any) {
	t.Helper()
	if reflect.TypeOf(want) != reflect.TypeOf(got) {
		t.Errorf("%s is a %T where upstream has a %T", at, got, want)
		return
	}
	switch want := want.(type) {
	case map[string]any:
		for key, value := range want {
			if _, there := got.(map[string]any)[key]; !there {
				t.Errorf("%s.%s is missing", at, key)
				continue
			}
			compareShape(t, at+"."+key, value, got.(map[string]any)[key])
		}
	case []any:
		for i := range min(len(want), len(got.([]any))) {
			compareShape(t, fmt.Sprintf("%s[%d]", at, i), want[i], got.([]any)[i])
		}
	}
}

// sharedData finds the folder of real inputs beside the project.
func sharedData(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test")
		}
		dir = filepath.Dir(dir)
	}
	shared := filepath.Join(dir, "..", "shared", "data")
	if _, err := os.Stat(shared); err != nil {
		t.Skip("the folder of shared data is not here")
	}
	return shared
}

// TestNoWait: a publisher that is told so does not wait for one that changes the tree, nor for one that is at work on the same image.
func TestNoWait(t *testing.T) {
	d := New(filepath.Join(t.TempDir(), "public"))
	d.NoWait = true
	build := makeBuild(t, trixie, 1<<20, 1)
	stops := func(want string) {
		t.Helper()
		_, err := publish.Publish(t.Context(), publish.Options{BuildPath: build, To: d, Type: "daily"})
		if fault.KindOf(err) != fault.Outside || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %q", err, want)
		}
	}
	other, err := d.open(publish.Public)
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	if err := other.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	stops("another publisher changes the tree")
	s, err := other.makeStaging("debian-13-genericcloud-amd64-daily-20260814-1-")
	if err != nil {
		t.Fatal(err)
	}
	other.unlock()
	stops("another publisher is at work on debian-13-genericcloud-amd64-daily-20260814-1")
	s.remove()
	if s, err = other.makeStaging("debian-13-genericcloud-amd64-daily-20260815-1-"); err != nil {
		t.Fatal(err)
	}
	defer s.remove()
	if _, err := publish.Publish(t.Context(), publish.Options{BuildPath: build, To: d, Type: "daily"}); err != nil {
		t.Errorf("beside a publisher of another image: %v", err)
	}
}
