package vmimage

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/hold"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// writeRaw writes a disk of 1 MiB, most of it a hole.
func writeRaw(t *testing.T, path string, fill byte) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = f.WriteAt(bytes.Repeat([]byte{fill}, 70_000), 200_000)
	if err := errors.Join(err, f.Truncate(1<<20)); err != nil {
		t.Fatal(err)
	}
}

// writeBuild writes a Build document beside a raw image.
func writeBuild(t *testing.T, path string) {
	t.Helper()
	raw := strings.TrimSuffix(path, ".build.json") + ".raw"
	digest, err := manifest.DigestOfFile(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	b := &manifest.Build{Header: manifest.Header{APIVersion: manifest.APIVersion, Kind: "Build"}}
	b.Metadata.SetDigest(digest)
	b.Data.Image = &manifest.ImageFile{Name: filepath.Base(raw), Size: 1 << 20}
	if err := manifest.Write(path, b); err != nil {
		t.Fatal(err)
	}
}

func qemu(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "qemu-img", args...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %q: %v: %s", args, err, out)
	}
}

func mustImport(t *testing.T, pool, source, name string) Image {
	t.Helper()
	i, err := Import(t.Context(), pool, source, name)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// Whatever an image comes in, it is the same image.
func TestImport(t *testing.T) {
	dir := t.TempDir()
	pool := filepath.Join(dir, "pool")
	raw, packed, document := filepath.Join(dir, "a.raw"), filepath.Join(dir, "a.qcow2"), filepath.Join(dir, "a.build.json")
	writeRaw(t, raw, 7)
	writeBuild(t, document)
	qemu(t, "convert", "-c", "-O", "qcow2", raw, packed)
	want, _ := os.ReadFile(raw)
	var first Image
	for n, source := range []string{raw, document, packed} {
		i := mustImport(t, pool, source, "runner")
		if n == 0 {
			first = i
		}
		got, err := os.ReadFile(i.Path)
		if err != nil || !bytes.Equal(got, want) || i.Digest != first.Digest || i.Path != first.Path || i.Size != 1<<20 || i.Format != "raw" || i.FileSize > 300_000 {
			t.Errorf("%s: %+v, %v", source, i, err)
		}
		if info, _ := os.Stat(i.Path); info.Mode() != 0o444 {
			t.Errorf("%s: mode %v", source, info.Mode())
		}
	}
	images, err := List(pool)
	if err != nil || len(images) != 1 || images[0].Name != "runner" || images[0].Source != "a.qcow2" {
		t.Errorf("%+v, %v", images, err)
	}
	if left, _ := filepath.Glob(filepath.Join(pool, partialPrefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestImportRefuses(t *testing.T) {
	dir := t.TempDir()
	pool := filepath.Join(dir, "pool")
	raw, overlay, document := filepath.Join(dir, "a.raw"), filepath.Join(dir, "b.qcow2"), filepath.Join(dir, "a.build.json")
	writeRaw(t, raw, 7)
	writeBuild(t, document)
	writeRaw(t, raw, 8)
	qemu(t, "create", "-q", "-f", "qcow2", "-F", "raw", "-b", raw, overlay)
	for _, row := range []struct{ summary, source, name, says string }{
		{"an image that others can change", overlay, "runner", "stands on"},
		{"an image that was altered", document, "runner", "it was altered"},
		{"a directory", dir, "runner", "is not an image"},
		{"nothing", filepath.Join(dir, "none"), "runner", "is not an image"},
		{"a name that leads elsewhere", raw, "../runner", "no name"},
		{"a name in capitals", raw, "Runner", "no name"},
	} {
		_, err := Import(t.Context(), pool, row.source, row.name)
		if fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v", row.summary, err)
		}
	}
	if images, err := List(pool); err != nil || len(images) != 0 {
		t.Errorf("%+v, %v", images, err)
	}
	left, _ := filepath.Glob(filepath.Join(pool, "*"))
	if len(left) != 1 || filepath.Base(left[0]) != ".vmimage.lock" {
		t.Errorf("left behind: %q", left)
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.raw"), filepath.Join(dir, "b.raw")
	writeRaw(t, a, 1)
	writeRaw(t, b, 2)
	pool := filepath.Join(dir, "a [pool]*")
	old := mustImport(t, pool, a, "debian/13")
	time.Sleep(2 * time.Millisecond)
	newer := mustImport(t, pool, b, "debian/13")
	if got, err := Find(pool, "debian/13"); err != nil || got != newer {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := FindDigest(pool, old.Digest); err != nil || got != old {
		t.Errorf("%+v, %v", got, err)
	}
	time.Sleep(2 * time.Millisecond)
	if _, err := Import(t.Context(), pool, a, "debian/13"); err != nil {
		t.Error(err)
	}
	if got, err := Find(pool, "debian/13"); err != nil || got.Digest != old.Digest {
		t.Errorf("an image imported again is not the newest: %+v, %v", got, err)
	}
	_, err := Find(pool, "fedora")
	if fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), `["debian/13"]`) {
		t.Errorf("%v", err)
	}
	if _, err := Find(filepath.Join(dir, "none"), "x"); fault.KindOf(err) != fault.Input {
		t.Errorf("%v", err)
	}
	if err := errors.Join(os.Chmod(newer.Path, 0o644), os.Truncate(newer.Path, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := List(pool); fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), newer.Path) {
		t.Errorf("a truncated image: %v", err)
	}
}

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	pool := filepath.Join(dir, "pool")
	var images []Image
	for n := range 5 {
		path := filepath.Join(dir, "x.raw")
		writeRaw(t, path, byte(n+1))
		images = append(images, mustImport(t, pool, path, "runner"))
		if n == 0 {
			mustImport(t, pool, path, "other")
		}
		time.Sleep(2 * time.Millisecond)
	}
	qemu(t, "create", "-q", "-f", "qcow2", "-F", "raw", "-b", images[1].Path, filepath.Join(pool, "job-1.qcow2"))
	torn := filepath.Join(pool, "."+filepath.Base(documentPath(pool, "runner", images[0].Digest))+"1")
	if err := errors.Join(os.Mkdir(filepath.Join(pool, partialPrefix+"1"), 0o755), os.WriteFile(torn, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := Prune(t.Context(), pool, 0, nil); fault.KindOf(err) != fault.Input {
		t.Errorf("%v", err)
	}
	// Of the old ones, somebody is about to use one, and another gets a disk on the third while we look.
	release, err := hold.Keep(t.Context(), images[2].Path)
	if err != nil {
		t.Fatal(err)
	}
	pinned := func(i Image) bool {
		if i.Digest == images[3].Digest {
			qemu(t, "create", "-q", "-f", "qcow2", "-F", "raw", "-b", images[3].Path, filepath.Join(pool, "job-2.qcow2"))
		}
		return false
	}
	if removed, err := Prune(t.Context(), pool, 1, pinned); err != nil || len(removed) != 1 || removed[0].Digest != images[0].Digest {
		t.Errorf("%+v, %v", removed, err)
	}
	release()
	if err := os.Remove(filepath.Join(pool, "job-2.qcow2")); err != nil {
		t.Fatal(err)
	}

	removed, err := Prune(t.Context(), pool, 1, func(Image) bool { return false })
	if err != nil || len(removed) != 2 {
		t.Errorf("%+v, %v", removed, err)
	}
	for n, there := range []bool{true, true, false, false, true} { // other's, a job's, the newest
		if _, err := os.Stat(images[n].Path); (err == nil) != there {
			t.Errorf("image %d: %v", n, err)
		}
	}
	left, err := List(pool)
	if err != nil || len(left) != 3 {
		t.Errorf("%+v, %v", left, err)
	}
	for _, path := range []string{filepath.Join(pool, partialPrefix+"1"), torn} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("what a killed import left is still there: %s", path)
		}
	}
}

func TestImportIsCancelled(t *testing.T) {
	dir := t.TempDir()
	raw := filepath.Join(dir, "a.raw")
	writeRaw(t, raw, 7)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	cancel(cause)
	if _, err := Import(ctx, filepath.Join(dir, "pool"), raw, "runner"); !errors.Is(err, cause) && !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, "pool", "*vmimage.[rj]*"))
	if len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
