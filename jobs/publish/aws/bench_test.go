package aws

import (
	"fmt"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/aws/awstest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// BenchmarkUpload publishes to a double that hashes and counts its blocks, in a process of its own.
func BenchmarkUpload(b *testing.B) {
	signIn(b)
	endpoint := publishtest.Apart(b, func() string { return newAccount(b, awstest.Settings{Discard: true}).URL })
	a := &account{settings: settings{Account: testAccount, Regions: []string{"us-east-1"}, Endpoint: endpoint}}
	j := publishtest.Journal(b)
	publishtest.BenchUpload(b, "ec2", func(img *publish.Image) error {
		p := a.open(b, j, nil)
		p.between = between
		_, err := p.Publish(b.Context(), img, publish.Private)
		return err
	})
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
