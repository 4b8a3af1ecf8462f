package publishtest

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
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
	digest, fingerprint, err := manifest.SumsOfFile(b.Context(), f.Name())
	if err != nil {
		b.Fatal(err)
	}
	doc.Metadata.SetDigest(digest)
	doc.Metadata.Annotations[manifest.AnnotationFingerprint] = fingerprint
	doc.Data.Image.Size = benchSize
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

// BenchUpload publishes the image of BenchImage again and again, and compares that with openssl sha256 over its data: the time that it takes,
// and the CPU time of this process, which others on the machine do not change much. It also tells the peak memory.
func BenchUpload(b *testing.B, vendor string, upload func(img *publish.Image) error) {
	b.Helper()
	build, data := BenchImage(b, vendor)
	var took, cpu, opensslTook, opensslCPU time.Duration
	for n := 0; b.Loop(); n++ {
		img, err := publish.Open(publish.Options{BuildPath: build, Stage: publish.Private, Type: "daily"})
		if err != nil {
			b.Fatal(err)
		}
		// The double keeps what it has, so each time it is another version.
		img.Version = image.Version{Date: "20260814", Number: n + 1}
		img.Build.Data.Info.Version = img.Version.String()
		start, before := time.Now(), usage(b)
		if err := upload(img); err != nil {
			b.Fatal(err)
		}
		took += time.Since(start)
		cpu += usage(b) - before
		img.Close()
		b.StopTimer()
		start = time.Now()
		c := exec.Command("openssl", "sha256", data)
		if out, err := c.CombinedOutput(); err != nil {
			b.Fatalf("openssl: %v: %s", err, out)
		}
		opensslTook += time.Since(start)
		opensslCPU += c.ProcessState.UserTime() + c.ProcessState.SystemTime()
		b.StartTimer()
	}
	b.ReportMetric(opensslTook.Seconds()/took.Seconds(), "of-openssl")
	b.ReportMetric(cpu.Seconds()/opensslCPU.Seconds(), "times-its-CPU")
	b.ReportMetric(float64(self(b).Maxrss)/1024, "MiB-peak")
}

// usage is the CPU time of this process so far.
func usage(b *testing.B) time.Duration {
	r := self(b)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func self(b *testing.B) (r unix.Rusage) {
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return r
}

const envApart = "DEBCLOUD_BENCH_DOUBLE"

// Apart runs a double in a process of its own until the end of the bench, so that its work and memory are not taken for the publisher's:
// the process is this program once more, up to this call. serve starts the double and returns its address.
func Apart(b *testing.B, serve func() (address string)) (address string) {
	b.Helper()
	if os.Getenv(envApart) != "" {
		fmt.Printf("\n%s %s\n", envApart, serve())
		_, _ = io.Copy(io.Discard, os.Stdin) // until the other one ends
		os.Exit(0)
	}
	c := exec.Command(os.Args[0], "-test.run", "^$", "-test.bench", "^"+b.Name()+"$", "-test.benchtime", "1x")
	c.Env = append(os.Environ(), envApart+"=1")
	until, err := c.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	said, err := c.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		until.Close()
		_ = c.Wait() // how it ended is of no interest
	})
	for lines := bufio.NewScanner(said); lines.Scan(); {
		if address, ok := strings.CutPrefix(lines.Text(), envApart+" "); ok {
			return address
		}
	}
	b.Fatal("the double did not start")
	return ""
}
