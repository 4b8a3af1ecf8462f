package directory

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
)

// threeVersions is a tree with two cells, one of which has three versions.
func threeVersions(t *testing.T) (*Directory, time.Time) {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "public")
	for i, version := range []string{"20260812-1", "20260813-1", "20260814-1"} {
		publishTo(t, makeBuild(t, cell{"nocloud", "amd64", version}, 1<<20, byte(i)), tree, publish.Options{})
	}
	publishTo(t, makeBuild(t, cell{"ec2", "arm64", "20260813-1"}, 1<<20, 9), tree, publish.Options{})
	d := New(tree)
	now := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	d.now = func() time.Time { return now }
	return d, now
}

func item(t *testing.T, d *Directory, version string) holding.Item {
	t.Helper()
	items, err := d.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(items, func(it holding.Item) bool { return it.Version == version && strings.Contains(it.Name, "nocloud") })
	if i < 0 {
		return holding.Item{}
	}
	return items[i]
}

// sound demands that SHA512SUMS of every version fits its files.
func sound(t *testing.T, d *Directory) {
	t.Helper()
	for _, root := range []string{"", private, hidden} {
		dirs, _ := filepath.Glob(filepath.Join(d.path, root, "trixie", "2026*"))
		for _, dir := range dirs {
			run(t, dir, "sha512sum", "--quiet", "-c", sumsName)
			held, err := readSums(dir)
			if err != nil {
				t.Fatal(err)
			}
			entries, _ := os.ReadDir(dir)
			for _, e := range entries {
				if e.Type().IsRegular() && e.Name() != sumsName && held[e.Name()] == "" {
					t.Errorf("%s is not in SHA512SUMS", e.Name())
				}
			}
		}
	}
	left, _ := filepath.Glob(filepath.Join(d.path, "*", stagingPrefix+"*"))
	more, _ := filepath.Glob(filepath.Join(d.path, stagingPrefix+"*"))
	if len(left)+len(more) > 0 {
		t.Errorf("left: %v %v", left, more)
	}
}

func TestAnImageIsRetired(t *testing.T) {
	d, now := threeVersions(t)
	latest := names(t, filepath.Join(d.path, "trixie", "latest"))
	for _, version := range []string{"20260812-1", "20260813-1"} {
		it := item(t, d, version)
		if it.State != holding.Current || !it.Public || !it.Ours || it.Family != "trixie nocloud amd64 release" || it.Created.Format("20060102-1") != version[:8]+"-1" && it.Created.IsZero() {
			t.Fatalf("%+v", it)
		}
		if err := d.Deprecate(t.Context(), it); err != nil {
			t.Fatal(err)
		}
		it = item(t, d, version)
		if it.State != holding.Deprecated || !it.Since.Equal(now) || !it.Public {
			t.Fatalf("deprecated: %+v", it)
		}
		if err := d.Hide(t.Context(), it); err != nil {
			t.Fatal(err)
		}
		sound(t, d)
		it = item(t, d, version)
		if it.State != holding.Hidden || !it.Since.Equal(now) || it.Public || !strings.HasPrefix(it.ID, hidden+"/") {
			t.Fatalf("hidden: %+v", it)
		}
		if files, _ := filepath.Glob(filepath.Join(d.path, "trixie", version, "*nocloud*")); len(files) > 0 {
			t.Errorf("the public still sees %v", files)
		}
	}
	if _, err := os.Stat(filepath.Join(d.path, "trixie", "20260812-1")); err == nil {
		t.Error("a version without images has a directory")
	}
	if got := names(t, filepath.Join(d.path, "trixie", "latest")); got != latest {
		t.Errorf("latest has changed: %s", got)
	}
	it := item(t, d, "20260813-1")
	if err := d.Delete(t.Context(), it); err != nil {
		t.Fatal(err)
	}
	sound(t, d)
	if left := item(t, d, "20260813-1"); left.ID != "" {
		t.Errorf("%+v is left", left)
	}
	if err := d.Delete(t.Context(), it); err != nil {
		t.Errorf("what is gone already: %v", err)
	}
	if _, err := os.Stat(filepath.Join(d.path, "trixie", "20260813-1", "debian-13-ec2-arm64-20260813-1.tar.xz")); err != nil {
		t.Errorf("another image of the version: %v", err)
	}
}

func TestOnlyWhatWasListedIsRetired(t *testing.T) {
	d, _ := threeVersions(t)
	it := item(t, d, "20260812-1")
	torn := filepath.Join(d.path, "."+retiredName+"1")
	if err := os.WriteFile(torn, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Deprecate(t.Context(), it); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(torn); err == nil {
		t.Errorf("what a killed writer of the record left is still there: %s", torn)
	}
	if err := d.Hide(t.Context(), it); err == nil || fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), "is deprecated by now") {
		t.Errorf("one that was retired meanwhile: %v", err)
	}
	foreign := it
	foreign.Ours = false
	if err := d.Delete(t.Context(), foreign); err == nil {
		t.Error("one that is not ours was deleted")
	}
	for _, odd := range []string{"../x", "trixie/20260812-1/other"} {
		foreign = it
		foreign.ID = odd
		if err := d.Delete(t.Context(), foreign); err == nil {
			t.Errorf("%s was deleted", odd)
		}
	}
	if err := os.WriteFile(filepath.Join(d.path, retiredName), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := d.List(t.Context()); err == nil || fault.KindOf(err) != fault.Input {
		t.Errorf("a broken record: %v", err)
	}
}

// TestHidingIsCut dies at every change of the tree and hides again.
func TestHidingIsCut(t *testing.T) {
	t.Cleanup(func() { cut = func(string) {} })
	for at := 1; ; at++ {
		d, _ := threeVersions(t)
		it := item(t, d, "20260813-1")
		if err := d.Deprecate(t.Context(), it); err != nil {
			t.Fatal(err)
		}
		it = item(t, d, "20260813-1")
		n := 0
		cut = func(string) {
			if n++; n == at {
				panic(died{})
			}
		}
		func() {
			defer func() { _ = recover().(died) }()
			err := d.Hide(t.Context(), it)
			if err != nil {
				t.Error(err)
			}
			panic(died{})
		}()
		cut = func(string) {}
		if it = item(t, d, "20260813-1"); it.State == holding.Hidden && n >= at {
			it.Since = time.Time{}
		}
		if it.ID == "" {
			t.Fatalf("cut at change %d the image is gone", at)
		}
		if err := d.Hide(t.Context(), it); err != nil {
			t.Errorf("cut at change %d: %v", at, err)
		}
		sound(t, d)
		if it = item(t, d, "20260813-1"); it.State != holding.Hidden || it.Since.IsZero() {
			t.Errorf("cut at change %d: %+v", at, it)
		}
		if n < at {
			if at < 4 {
				t.Errorf("only %d changes", n)
			}
			return
		}
	}
}
