package publishtest

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
)

// Options say what image to make. Each has a default.
type Options struct {
	Vendor  string           // genericcloud
	Arch    string           // amd64
	Version string           // 20260814-1
	Type    image.UploadType // daily
	Size    int64            // bytes, 3 MiB
	Seed    byte             // images of another seed have other contents
	Suites  []string         // suites that passed beside check and boot
	Every   int64            // bytes, after each of which there is a sector of noise, too; 0: none
	Altered []int64          // bytes at which the image is not what its documents say
}

func (o Options) filled() Options {
	for _, d := range []struct {
		field *string
		value string
	}{{&o.Vendor, "genericcloud"}, {&o.Arch, "amd64"}, {&o.Version, "20260814-1"}, {(*string)(&o.Type), string(image.Daily)}} {
		if *d.field == "" {
			*d.field = d.value
		}
	}
	if o.Size == 0 {
		o.Size = 3 << 20
	}
	return o
}

// Build writes an image with text, noise and holes, its Build document and a passing report, and returns the document's path.
func Build(t testing.TB, o Options) string {
	t.Helper()
	o = o.filled()
	base := filepath.Join(tempDir(t), strings.Join([]string{"debian-trixie", o.Vendor, o.Arch, "official", o.Version}, "-"))
	writeImage(t, base+".raw", o)
	digest, fingerprint, err := manifest.SumsOfFile(t.Context(), base+".raw")
	if err != nil {
		t.Fatal(err)
	}
	alter(t, base+".raw", o.Altered)
	b := &manifest.Build{Header: manifest.Header{APIVersion: manifest.APIVersion, Kind: "Build"}}
	b.Metadata.Labels = map[string]string{
		manifest.LabelArch: o.Arch, manifest.LabelDist: "debian", manifest.LabelRelease: "trixie",
		manifest.LabelVendor: o.Vendor, manifest.LabelVersion: o.Version,
	}
	b.Metadata.UID = manifest.NewUID("Build", digest.Hex())
	b.Metadata.SetDigest(digest)
	if o.Seed%2 == 0 { // documents of older builds have none
		b.Metadata.Annotations[manifest.AnnotationFingerprint] = fingerprint
	}
	b.Data.Info = manifest.BuildInfo{
		Arch: o.Arch, BuildID: "test", Release: "trixie", ReleaseBaseID: "13", ReleaseID: "13", Type: "official", Vendor: o.Vendor, Version: o.Version,
	}
	b.Data.Packages = []manifest.Package{{Name: "cloud-init", Version: "25.1.4-1"}}
	b.Data.Image = &manifest.ImageFile{Name: filepath.Base(base) + ".raw", Size: o.Size, Allocated: o.Size / 3}
	if err := manifest.Write(base+".build.json", b); err != nil {
		t.Fatal(err)
	}
	for _, name := range append([]string{"check", "boot"}, o.Suites...) {
		s := manifest.Suite{Name: name, Started: time.Date(2026, 8, 14, 1, 0, 0, 0, time.UTC), Checks: []manifest.Check{{ID: "1-x", Name: "x", Result: manifest.Passed}}}
		if err := manifest.RecordSuite(base+".report.json", b, s); err != nil {
			t.Fatal(err)
		}
	}
	return base + ".build.json"
}

// Image is Build and publish.Open. The Image is closed with the test.
func Image(t testing.TB, o Options) *publish.Image {
	t.Helper()
	img, err := publish.Open(publish.Options{BuildPath: Build(t, o), Type: o.filled().Type})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	return img
}

// alter writes into an image what none of writeImage has.
func alter(t testing.TB, path string, at []int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, offset := range at {
		if _, err := f.WriteAt([]byte("altered"), offset); err != nil {
			t.Fatal(err)
		}
	}
}

// writeImage makes text, a hole, some noise, a hole and a last sector.
func writeImage(t testing.TB, path string, o Options) {
	t.Helper()
	size := o.Size
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	noise := make([]byte, size/8)
	random := rand.NewChaCha8([32]byte{o.Seed})
	random.Read(noise)
	for at, b := range map[int64][]byte{0: bytes.Repeat([]byte("debcloud"), int(size/16/8)), size / 2: noise, size - 512: noise[:512]} {
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	for at := int64(0); o.Every > 0 && at < size; at += o.Every {
		random.Read(noise[:512])
		if _, err := f.WriteAt(noise[:512], at); err != nil {
			t.Fatal(err)
		}
	}
}
