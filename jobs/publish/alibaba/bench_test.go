package alibaba

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
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/alibaba/alibabatest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

const (
	benchSize = 3 << 30
	benchData = 650 << 20
)

// benchImage is 3 GiB with 650 MiB of data in pieces of some MiB, with a fingerprint as builds have it, and the data alone in one file.
func benchImage(b *testing.B) (build, data string) {
	b.Helper()
	build = publishtest.Build(b, publishtest.Options{Size: 4 << 20})
	f, err := os.OpenFile(manifest.Base(build)+".raw", os.O_RDWR|os.O_TRUNC, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(benchSize); err != nil {
		b.Fatal(err)
	}
	data = filepath.Join(b.TempDir(), "data")
	all, err := os.Create(data)
	if err != nil {
		b.Fatal(err)
	}
	defer all.Close()
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

// BenchmarkUpload compares the publication of a 3 GiB image with 650 MiB of data, to a double that sums and counts its parts in this same process, with
// openssl sha256 over the data. It also tells the peak memory of the process, the double's included.
func BenchmarkUpload(b *testing.B) {
	build, data := benchImage(b)
	a := newAccount(b, alibabatest.Settings{Regions: []string{singapore}, Discard: true})
	j := newJournal(b)
	var published, hashed time.Duration
	for n := 0; b.Loop(); n++ {
		img, err := publish.Open(publish.Options{BuildPath: build, Stage: publish.Private, Type: "daily"})
		if err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		p := a.open(b, j, nil)
		p.target, p.part = fmt.Sprint("run", n), 16<<20
		if _, err := p.Publish(b.Context(), img, publish.Private); err != nil {
			b.Fatal(err)
		}
		published += time.Since(start)
		img.Close()
		b.StopTimer()
		a.Reset()
		start = time.Now()
		if out, err := exec.Command("openssl", "sha256", data).CombinedOutput(); err != nil {
			b.Fatalf("openssl: %v: %s", err, out)
		}
		hashed += time.Since(start)
		b.StartTimer()
	}
	b.ReportMetric(hashed.Seconds()/published.Seconds(), "of-openssl-on-the-data")
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err == nil {
		b.ReportMetric(float64(r.Maxrss)/1024, "MiB-peak")
	}
}
