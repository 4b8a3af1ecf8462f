package publish

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/internal/raw"
)

// publishedImage writes an image, as a tree has it, into a tar.xz of GNU tar's making.
func publishedImage(t *testing.T, contents []byte) string {
	t.Helper()
	path, b := makeBuild(t, "official", "20260814-1", passed("check"), passed("boot"))
	dir := filepath.Dir(path)
	base := filepath.Join(dir, "debian-13-nocloud-amd64-daily-20260814-1")
	b.Metadata.SetDigest(sha512.Sum512(contents))
	b.Data.Image.Size = int64(len(contents))
	list, err := manifest.NewList(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := manifest.Write(base+".json", list); err != nil {
		t.Fatal(err)
	}
	for _, s := range []manifest.Suite{passed("check"), passed("boot")} {
		if err := manifest.RecordSuite(base+".report.json", b, s); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(filepath.Join(dir, "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at := 0; at < len(contents); at += 4096 {
		if p := contents[at:min(at+4096, len(contents))]; !bytes.Equal(p, make([]byte, len(p))) {
			f.WriteAt(p, int64(at))
		}
	}
	f.Truncate(int64(len(contents)))
	tar := exec.Command("tar", "--format=oldgnu", "-C", dir, "-ScJf", base+".tar.xz", "disk.raw")
	tar.Env = append(os.Environ(), "XZ_OPT=-0")
	if out, err := tar.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return base + ".json"
}

func someImage() []byte {
	contents := make([]byte, 5<<20+512)
	rand.NewChaCha8([32]byte{1}).Read(contents[1<<20 : 2<<20])
	copy(contents[5<<20:], "the end")
	return contents
}

func TestPublishedImageIsUnpacked(t *testing.T) {
	contents := someImage()
	path := publishedImage(t, contents)
	img, err := Open(Options{BuildPath: path, Type: "release"})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	if img.Name() != "debian-13-nocloud-amd64-20260814-1" {
		t.Errorf("its name is %s", img.Name())
	}
	blocks := map[int64][]byte{}
	sent, err := img.Send(t.Context(), "upload", raw.Upload{BlockSize: 1 << 20, Workers: 1}, func(_ context.Context, b raw.Block) error {
		blocks[b.Index] = bytes.Clone(b.Data)
		return nil
	})
	if err != nil || sent.Blocks != 2 || !bytes.Equal(blocks[1], contents[1<<20:2<<20]) || !bytes.Equal(blocks[5], contents[5<<20:]) {
		t.Errorf("%+v, %v", sent, err)
	}
	f, err := img.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if extents, _, _ := raw.Map(f); len(extents) < 2 {
		t.Errorf("the unpacked image has no holes: %v", extents)
	}
	if _, err := os.Stat(f.Name()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unpacked image has the name %s: a killed process would leave it", f.Name())
	}
}

func TestDamagedPublishedImages(t *testing.T) {
	for _, row := range []struct {
		summary string
		spoil   func(archive string)
		want    string
	}{
		{"gone", func(p string) { os.Remove(p) }, "no such file"},
		{"cut", func(p string) { os.Truncate(p, 100_000) }, "it is damaged: "},
		{"not xz", func(p string) { os.WriteFile(p, []byte("hello, this is plain text\n"), 0o644) }, "it is damaged: "},
		{"empty", func(p string) { os.WriteFile(p, nil, 0o644) }, "it is"},
	} {
		path := publishedImage(t, someImage())
		row.spoil(strings.TrimSuffix(path, ".json") + ".tar.xz")
		img, err := Open(Options{BuildPath: path, Type: "release"})
		if err != nil {
			t.Fatal(err)
		}
		defer img.Close()
		if _, err := img.Open(t.Context()); err == nil || fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v", row.summary, err)
		}
	}
}

func TestUnpackingIsCancelled(t *testing.T) {
	img, err := Open(Options{BuildPath: publishedImage(t, someImage()), Type: "release"})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	stop := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	if _, err := img.Open(ctx); !errors.Is(err, stop) {
		t.Errorf("the error is %v", err)
	}
}

func TestAnAlteredPublishedImageIsRefused(t *testing.T) {
	contents := someImage()
	path := publishedImage(t, contents)
	builds, _, err := manifest.ReadList(path)
	if err != nil {
		t.Fatal(err)
	}
	b := builds[0]
	contents[3<<20] = 1
	b.Metadata.SetDigest(sha512.Sum512(contents))
	list, err := manifest.NewList(&b, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := manifest.Write(path, list); err != nil {
		t.Fatal(err)
	}
	base := strings.TrimSuffix(path, ".json")
	for _, s := range []manifest.Suite{passed("check"), passed("boot")} {
		if err := manifest.RecordSuite(base+".report.json", &b, s); err != nil {
			t.Fatal(err)
		}
	}
	img, err := Open(Options{BuildPath: path, Type: "release"})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	_, err = img.Send(t.Context(), "upload", raw.Upload{BlockSize: 1 << 20, Workers: 2}, func(context.Context, raw.Block) error { return nil })
	if fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), "it was altered") {
		t.Errorf("the error is %v", err)
	}
}
