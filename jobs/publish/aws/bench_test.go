package aws

import (
	"fmt"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/aws/awstest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// BenchmarkUpload compares the publication of a 3 GiB image with 650 MiB of data, to a double that hashes and counts its blocks in this same process, with
// openssl sha256 over the data, and over the whole image. It also tells the peak memory of the process, the double's included.
func BenchmarkUpload(b *testing.B) {
	signIn(b)
	build, data := publishtest.BenchImage(b, "ec2")
	a := newAccount(b, awstest.Settings{Discard: true})
	j := newJournal(b)
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
		hashed += publishtest.OpenSSL(b, data)
		whole += publishtest.OpenSSL(b, manifest.Base(build)+".raw")
		b.StartTimer()
	}
	b.ReportMetric(hashed.Seconds()/published.Seconds(), "of-openssl-on-the-data")
	b.ReportMetric(whole.Seconds()/published.Seconds(), "of-openssl-on-the-image")
	publishtest.ReportPeak(b)
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
