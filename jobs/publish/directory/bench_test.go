package directory

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
)

// BenchmarkPublish publishes the image of DEBCLOUD_TEST_IMAGE, or one of 256 MiB with 64 MiB of data that compress to about a third, as a
// daily and as a release. It also tells the peak memory of the process and of its largest
// child.
func BenchmarkPublish(b *testing.B) {
	build := os.Getenv("DEBCLOUD_TEST_IMAGE")
	if build == "" {
		build = makeBuild(b, trixie, 256<<20, 1)
	}
	for _, t := range []image.UploadType{image.Daily, image.Published} {
		b.Run(string(t), func(b *testing.B) {
			doc, err := manifest.ReadBuild(build)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(doc.Data.Image.Allocated)
			for b.Loop() {
				if _, err := publish.Publish(b.Context(), publish.Options{BuildPath: build, To: New(b.TempDir()), Type: t}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(peak(unix.RUSAGE_SELF), "MiB-peak")
			b.ReportMetric(peak(unix.RUSAGE_CHILDREN), "MiB-child-peak")
		})
	}
}

// peak returns the largest resident set so far, in MiB.
func peak(who int) float64 {
	var r unix.Rusage
	if err := unix.Getrusage(who, &r); err != nil {
		return 0
	}
	return float64(r.Maxrss) / 1024
}
