package alibaba

import (
	"fmt"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/alibaba/alibabatest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// BenchmarkUpload compares the publication of a 3 GiB image with 650 MiB of data, to a double that sums and counts its parts in this same process, with
// openssl sha256 over the data. It also tells the peak memory of the process, the double's included.
func BenchmarkUpload(b *testing.B) {
	build, data := publishtest.BenchImage(b, "")
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
		hashed += publishtest.OpenSSL(b, data)
		b.StartTimer()
	}
	b.ReportMetric(hashed.Seconds()/published.Seconds(), "of-openssl-on-the-data")
	publishtest.ReportPeak(b)
}
