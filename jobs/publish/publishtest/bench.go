package publishtest

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/internal/raw"
)

const (
	benchSize = 3 << 30
	benchData = 650 << 20
)

// BenchImage makes the Build document of a vendor's image of 3 GiB that has 650 MiB of data in pieces of some MiB, and a file with the data alone.
func BenchImage(b *testing.B, vendor string) (build, data string) {
	b.Helper()
	build, data = Build(b, Options{Vendor: vendor, Size: 4 << 20}), filepath.Join(b.TempDir(), "data")
	f, err := os.OpenFile(manifest.Base(build)+".raw", os.O_RDWR|os.O_TRUNC, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	all, err := os.Create(data)
	if err != nil {
		b.Fatal(err)
	}
	defer all.Close()
	if err := f.Truncate(benchSize); err != nil {
		b.Fatal(err)
	}
	piece := make([]byte, 5<<20)
	for at, n := int64(0), int64(0); n < benchData; at, n = at+21<<20, n+int64(len(piece)) {
		rand.Read(piece)
		if _, err := f.WriteAt(piece, at); err != nil {
			b.Fatal(err)
		}
		if _, err := all.Write(piece); err != nil {
			b.Fatal(err)
		}
	}
	describe(b, build, f)
	return build, data
}

// describe puts the image's size, digest and fingerprint into its documents.
func describe(b *testing.B, build string, f *os.File) {
	doc, err := manifest.ReadBuild(build)
	if err != nil {
		b.Fatal(err)
	}
	extents, size, err := raw.Map(f)
	if err != nil {
		b.Fatal(err)
	}
	fingerprint := raw.NewFingerprint(size)
	if err := raw.Copy(b.Context(), f, extents, size, func(int64) {}, fingerprint); err != nil {
		b.Fatal(err)
	}
	digest, err := manifest.DigestOfFile(b.Context(), f.Name())
	if err != nil {
		b.Fatal(err)
	}
	doc.Metadata.SetDigest(digest)
	doc.Metadata.Annotations[manifest.AnnotationFingerprint] = fmt.Sprintf("sha256:%x", fingerprint.Sum())
	doc.Data.Image.Size = size
	if err := manifest.Write(build, doc); err != nil {
		b.Fatal(err)
	}
	report, err := manifest.ReadReport(manifest.Base(build) + ".report.json")
	if err != nil {
		b.Fatal(err)
	}
	report.Metadata.SetDigest(digest)
	if err := manifest.Write(manifest.Base(build)+".report.json", report); err != nil {
		b.Fatal(err)
	}
}

// OpenSSL returns how long openssl sha256 takes over a file, which is what an upload is held against.
func OpenSSL(b *testing.B, path string) time.Duration {
	b.Helper()
	start := time.Now()
	if out, err := exec.Command("openssl", "sha256", path).CombinedOutput(); err != nil {
		b.Fatalf("openssl: %v: %s", err, out)
	}
	return time.Since(start)
}

// ReportPeak reports the peak memory of the process in MiB, a double's in it included.
func ReportPeak(b *testing.B) {
	b.Helper()
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(r.Maxrss)/1024, "MiB-peak")
}
