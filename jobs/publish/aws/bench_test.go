package aws

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
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/aws/awstest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

const (
	benchSize = 3 << 30
	benchData = 650 << 20
)

// benchImage is 3 GiB with 650 MiB of data in pieces of some MiB, with a fingerprint as builds have it.
func benchImage(b *testing.B) (build, image string) {
	b.Helper()
	build = publishtest.Build(b, publishtest.Options{Vendor: "ec2", Size: 4 << 20})
	image = manifest.Base(build) + ".raw"
	f, err := os.OpenFile(image, os.O_RDWR|os.O_TRUNC, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(benchSize); err != nil {
		b.Fatal(err)
	}
	piece := make([]byte, 5<<20)
	for at, n := int64(0), int64(0); n < benchData; at, n = at+21<<20, n+int64(len(piece)) {
		rand.Read(piece)
		if _, err := f.WriteAt(piece, at); err != nil {
			b.Fatal(err)
		}
	}
	describe(b, build, f)
	return build, image
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

// BenchmarkUpload compares the publication of a 3 GiB image with 650 MiB of data, to a double that hashes and counts its blocks in this same process, with
// openssl sha256 over the data, and over the whole image. It also tells the peak memory of the process, the double's included.
func BenchmarkUpload(b *testing.B) {
	signIn(b)
	build, image := benchImage(b)
	a := newAccount(b, awstest.Settings{Discard: true})
	j := newJournal(b)
	data := filepath.Join(b.TempDir(), "data")
	if err := packData(image, data); err != nil {
		b.Fatal(err)
	}
	var published, hashed, whole time.Duration
	for n := 0; b.Loop(); n++ {
		img, err := publish.Open(publish.Options{BuildPath: build, Stage: publish.Private, Type: "daily"})
		if err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		a.settings.Endpoint = a.URL
		p := a.open(b, j, nil)
		p.target = fmt.Sprint("run", n)
		if _, err := p.Publish(b.Context(), img, publish.Private); err != nil {
			b.Fatal(err)
		}
		published += time.Since(start)
		img.Close()
		b.StopTimer()
		a.Reset()
		hashed += openssl(b, data)
		whole += openssl(b, image)
		b.StartTimer()
	}
	b.ReportMetric(hashed.Seconds()/published.Seconds(), "of-openssl-on-the-data")
	b.ReportMetric(whole.Seconds()/published.Seconds(), "of-openssl-on-the-image")
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err == nil {
		b.ReportMetric(float64(r.Maxrss)/1024, "MiB-peak")
	}
}

// packData writes what is not a hole in one piece.
func packData(image, data string) error {
	in, err := os.Open(image)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(data)
	if err != nil {
		return err
	}
	defer out.Close()
	extents, _, err := raw.Map(in)
	if err != nil {
		return err
	}
	buf := make([]byte, raw.Cluster)
	for _, e := range extents {
		for at := e.Offset; at < e.Offset+e.Length; at += raw.Cluster {
			n, err := in.ReadAt(buf, at)
			if n == 0 {
				return err
			}
			if _, err := out.Write(buf[:n]); err != nil {
				return err
			}
		}
	}
	return nil
}

func openssl(b *testing.B, path string) time.Duration {
	start := time.Now()
	if out, err := exec.Command("openssl", "sha256", path).CombinedOutput(); err != nil {
		b.Fatalf("openssl: %v: %s", err, out)
	}
	return time.Since(start)
}

// BenchmarkRegions compares copies to 30 regions with a copy to one, where every call takes 100 ms.
func BenchmarkRegions(b *testing.B) {
	signIn(b)
	thirty := []string{"us-east-1"}
	for i := range 30 {
		thirty = append(thirty, fmt.Sprintf("eu-west-%d", i+1))
	}
	run := func(regions []string) time.Duration {
		a := newAccount(b, awstest.Settings{Regions: regions, Latency: 100 * time.Millisecond, Pending: 1})
		start := time.Now()
		a.demand(b, publishtest.Options{}, publish.Public)
		return time.Since(start)
	}
	var one, all time.Duration
	for b.Loop() {
		one += run(thirty[:2])
		all += run(thirty)
	}
	b.ReportMetric(all.Seconds()/one.Seconds(), "times-of-one-region")
}
