package index

import (
	"bytes"
	"crypto/sha512"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// cell is one image to put into a test's tree.
type cell struct {
	release, id, vendor, arch string
	kind                      image.UploadType
	version                   string
	fails                     bool
}

// publish puts a manifest, files and a report into the tree, as the directory publisher does.
func publish(t testing.TB, tree string, c cell) string {
	t.Helper()
	rel := image.PublicDirectory(c.release, c.kind, c.version)
	name := image.PublicName(c.id, c.vendor, c.arch, c.kind, c.version)
	digest := manifest.Digest(sha512.Sum512([]byte(name)))
	b := &manifest.Build{Header: manifest.Header{APIVersion: manifest.APIVersion, Kind: "Build"}}
	b.Metadata.SetDigest(digest)
	b.Data.Info = manifest.BuildInfo{Arch: c.arch, Release: c.release, ReleaseID: c.id, ReleaseBaseID: c.id, Vendor: c.vendor, Version: c.version, Type: "official"}
	b.Data.Packages = []manifest.Package{{Name: "cloud-init", Version: "25.1.4-1"}, {Name: "linux-image-6.12.41+deb13-cloud-amd64", Version: "6.12.41-1"}}
	var uploads []manifest.Upload
	for _, f := range [][2]string{{"internal", "tar.xz"}, {"raw", "raw"}, {"qcow2", "qcow2"}} {
		file := name + "." + f[1]
		write(t, filepath.Join(tree, rel, file), []byte("contents of "+file))
		u := manifest.Upload{Header: manifest.Header{APIVersion: manifest.APIVersion, Kind: "Upload"}}
		u.Metadata.Labels = map[string]string{manifest.LabelImageFormat: f[0], manifest.LabelUploadType: string(c.kind)}
		u.Metadata.SetDigest(sha512.Sum512([]byte("contents of " + file)))
		u.Data = manifest.UploadData{Provider: "cloud.debian.org", Ref: rel + "/" + file}
		uploads = append(uploads, u)
	}
	list, err := manifest.NewList(b, uploads)
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(tree, rel, name)
	if err := manifest.Write(base+".json", list); err != nil {
		t.Fatal(err)
	}
	writeReport(t, base+".report.json", b, c.fails)
	return base
}

func writeReport(t testing.TB, path string, b *manifest.Build, fails bool) {
	t.Helper()
	started := time.Date(2026, 8, 14, 2, 0, 0, 0, time.UTC)
	result := manifest.Passed
	if fails {
		result = manifest.Failed
	}
	for _, s := range []manifest.Suite{
		{Name: "check", Started: started, Checks: []manifest.Check{
			{ID: "7-fstab", Name: "fstab mounts root by PARTUUID", Result: manifest.Passed, Evidence: "PARTUUID=5f1a <b>not markup</b>"},
			{ID: "21-size", Name: "Size against the last build", Result: manifest.Skipped, Evidence: "no earlier build"},
		}},
		{Name: "boot", Started: started, Checks: []manifest.Check{{ID: "bios/22-ssh", Name: "SSH answers", Result: result, Seconds: 4.2}},
			Boots: []manifest.Boot{{Firmware: "bios", Accelerator: "kvm", Times: manifest.BootTimes{Kernel: 1.5, Total: 12.3}, Console: "\x1b[32mDebian GNU/Linux 13\x1b[0m\nlogin:"}}},
	} {
		if err := manifest.RecordSuite(path, b, s); err != nil {
			t.Fatal(err)
		}
	}
}

func write(t testing.TB, path string, text []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

var (
	trixie       = cell{"trixie", "13", "genericcloud", "amd64", image.Published, "20260814-1", false}
	trixieOld    = cell{"trixie", "13", "genericcloud", "amd64", image.Published, "20260801-9", false}
	trixieDaily  = cell{"trixie", "13", "nocloud", "arm64", image.Daily, "20260815-2", false}
	bookworm     = cell{"bookworm", "12", "genericcloud", "amd64", image.Published, "20260813-1", true}
	sid          = cell{"sid", "sid", "generic", "amd64", image.Daily, "20260815-2", false}
	trixieBackup = cell{"trixie-backports", "13-backports", "generic", "amd64", image.Daily, "20260815-2", false}
)

// tree publishes cells, in the order given, and returns the tree.
func tree(t testing.TB, cells ...cell) string {
	t.Helper()
	dir := t.TempDir()
	for _, c := range cells {
		publish(t, dir, c)
	}
	return dir
}

func mustWrite(t testing.TB, dir string) *manifest.Index {
	t.Helper()
	if _, err := Write(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	i, err := manifest.ReadIndex(filepath.Join(dir, IndexName))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestIndexListsEveryPublication(t *testing.T) {
	dir := tree(t, sid, trixieOld, bookworm, trixieDaily, trixieBackup, trixie)
	index := mustWrite(t, dir)
	var got []string
	for _, i := range index.Data.Images {
		got = append(got, fmt.Sprintf("%s %v", i.Name, i.Latest))
	}
	want := []string{
		"debian-13-genericcloud-amd64-20260814-1 true",
		"debian-13-genericcloud-amd64-20260801-9 false",
		"debian-12-genericcloud-amd64-20260813-1 true",
		"debian-13-nocloud-arm64-daily-20260815-2 true",
		"debian-13-backports-generic-amd64-daily-20260815-2 true",
		"debian-sid-generic-amd64-daily-20260815-2 true",
	}
	if !slices.Equal(got, want) {
		t.Errorf("index has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	i := index.Data.Images[0]
	if i.Date != "2026-08-14" || i.Versions["kernel"] != "6.12.41+deb13-cloud-amd64" || i.Versions["cloud-init"] != "25.1.4-1" || i.Packages != 2 {
		t.Errorf("date, versions or packages are wrong: %+v", i)
	}
	if r := i.Report; r == nil || r.Passed != 2 || r.Failed != 0 || r.Skipped != 1 || len(r.Boots) != 1 || r.Boots[0].Total != 12.3 {
		t.Errorf("report sums up to %+v", r)
	}
	for _, f := range i.Files {
		text, err := os.ReadFile(filepath.Join(dir, f.Path))
		if err != nil || int64(len(text)) != f.Size || manifest.Digest(sha512.Sum512(text)).Hex() != f.SHA512 {
			t.Errorf("file %s: %v, %d bytes, want %d", f.Path, err, len(text), f.Size)
		}
	}
	if r := index.Data.Images[2].Report; r.Failed != 1 {
		t.Errorf("bookworm's failed check is not counted: %+v", r)
	}
}

func TestSameTreeGivesTheSameFilesAndTouchesNothing(t *testing.T) {
	a, b := tree(t, trixie, sid), tree(t, sid, trixie)
	mustWrite(t, a)
	mustWrite(t, b)
	for _, name := range []string{IndexName, "index.html", "finder/all.html", "finder/finder.js"} {
		x, _ := os.ReadFile(filepath.Join(a, name))
		y, _ := os.ReadFile(filepath.Join(b, name))
		if !bytes.Equal(x, y) || len(x) == 0 {
			t.Errorf("%s differs between two equal trees", name)
		}
	}
	before, _ := os.Stat(filepath.Join(a, IndexName))
	r, err := Write(t.Context(), a)
	after, _ := os.Stat(filepath.Join(a, IndexName))
	if err != nil || r.Changed || !os.SameFile(before, after) {
		t.Errorf("the second run wrote again: %v %+v", err, r)
	}
}

func TestWhatKilledWritersLeftGoes(t *testing.T) {
	dir := tree(t, trixie)
	torn := []string{".index.html1", "." + IndexName + "22", "finder/.all.html333"}
	for _, name := range torn {
		write(t, filepath.Join(dir, name), []byte("half a pa"))
	}
	mustWrite(t, dir)
	for _, name := range torn {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
}

func TestWhatIsNoPublicationIsLeftOut(t *testing.T) {
	for _, row := range []struct {
		summary string
		spoil   func(dir string)
		foreign string
		broken  string
	}{
		{"someone's JSON file", func(d string) { write(t, d+"/mirror.json", []byte(`{"mirror": true}`)) }, "mirror.json", ""},
		{"a Build that is in no List", func(d string) {
			write(t, d+"/x.json", []byte(`{"kind":"Build","apiVersion":"cloud.debian.org/v1alpha1"}`))
		}, "x.json", ""},
		{"half a manifest", func(d string) { write(t, d+"/trixie/debian-13-x.json", []byte(`{"kind": "Li`)) }, "", "trixie/debian-13-x.json"},
		{"a List of another schema", func(d string) { write(t, d+"/y.json", []byte(`{"kind":"List","apiVersion":"v2","items":[]}`)) }, "", "y.json"},
		{"a List of nothing", func(d string) { write(t, d+"/y.json", []byte(`{"kind":"List","apiVersion":"v1","items":[]}`)) }, "", "y.json"},
		{"a report on another image", func(d string) {
			base := publish(t, d, sid)
			other, _ := os.ReadFile(filepath.Join(d, "trixie/20260814-1/debian-13-genericcloud-amd64-20260814-1.report.json"))
			write(t, base+".report.json", other)
		}, "", "sid/daily/20260815-2/debian-sid-generic-amd64-daily-20260815-2.json"},
		{"what a publisher is preparing", func(d string) {
			os.CopyFS(d+"/.staging-1/trixie", os.DirFS(d+"/trixie"))
		}, "", ""},
		{"what is private", func(d string) { os.CopyFS(d+"/.private/trixie", os.DirFS(d+"/trixie")) }, "", ""},
		{"a mirror's copy of latest", func(d string) { os.CopyFS(d+"/trixie/latest", os.DirFS(d+"/trixie/20260814-1")) }, "", ""},
		{"a link", func(d string) { os.Symlink("20260814-1", d+"/trixie/newest") }, "", ""},
	} {
		t.Run(row.summary, func(t *testing.T) {
			dir := tree(t, trixie)
			row.spoil(dir)
			r, err := Write(t.Context(), dir)
			if (err != nil) != (row.broken != "") || err != nil && fault.KindOf(err) != fault.Work {
				t.Fatalf("error is %v", err)
			}
			if got := strings.Join(r.Foreign, " "); got != row.foreign {
				t.Errorf("foreign: %q, want %q", got, row.foreign)
			}
			if got := strings.Join(r.Broken, " "); got != row.broken || err != nil && !strings.Contains(err.Error(), row.broken) {
				t.Errorf("broken: %q, want %q; %v", got, row.broken, err)
			}
			if len(r.Data.Images) != 1 {
				t.Errorf("%d images in the index, want 1", len(r.Data.Images))
			}
			if _, err := manifest.ReadIndex(filepath.Join(dir, IndexName)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	if _, err := Write(t.Context(), filepath.Join(t.TempDir(), "none")); fault.KindOf(err) != fault.Input {
		t.Errorf("no tree: %v", err)
	}
	dir := tree(t, trixie)
	write(t, filepath.Join(dir, "index.html"), []byte("<title>Someone's mirror</title>"))
	if _, err := Write(t.Context(), dir); fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), "debcloud did not write") {
		t.Errorf("a foreign index.html: %v", err)
	}
}

func TestRealManifests(t *testing.T) {
	shared := sharedData(t)
	dir := t.TempDir()
	for name, place := range map[string]string{
		"debian-13-genericcloud-amd64.json": "trixie/20250814-2204/debian-13-genericcloud-amd64-20250814-2204.json",
		"debian-12-genericcloud-arm64.json": "bookworm/20250210-2019/debian-12-genericcloud-arm64-20250210-2019.json",
	} {
		text, err := os.ReadFile(filepath.Join(shared, "manifests", name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, place), text)
	}
	write(t, filepath.Join(dir, "trixie/20250814-2204/debian-13-genericcloud-amd64-20250814-2204.qcow2"), []byte("four"))
	index := mustWrite(t, dir)
	if len(index.Data.Images) != 2 {
		t.Fatalf("%d images", len(index.Data.Images))
	}
	i := index.Data.Images[0]
	if i.Release != "trixie" || i.Versions["kernel"] != "6.12.41+deb13-cloud-amd64" || i.Versions["cloud-init"] != "25.1.4-1" || i.UploadType != image.Published || i.Report != nil {
		t.Errorf("trixie is indexed as %+v", i)
	}
	if len(i.Files) != 3 || !i.Files[0].Missing || i.Files[2].Missing || i.Files[2].Size != 4 || !strings.HasPrefix(i.Files[2].SHA512, "d76122c8") {
		t.Errorf("files are %+v", i.Files)
	}
}

func sharedData(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for !isFile(filepath.Join(dir, "go.mod")) {
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

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&fs.ModeType == 0
}
