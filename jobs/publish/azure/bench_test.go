package azure

import (
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/azure/azuretest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// BenchmarkUpload publishes to a double that sums and counts its pages, in a process of its own. As in the other clouds' benches what goes
// between the two is not encrypted.
func BenchmarkUpload(b *testing.B) {
	address := publishtest.Apart(b, func() string {
		c := azuretest.New(b)
		c.Discard = true
		c.Bare(b)
		return c.URL()
	})
	f, j := newFake(b), publishtest.Journal(b) // the certificates of the two are the same
	f.target.Settings["endpoint"] = address
	publishtest.BenchUpload(b, "azure", func(img *publish.Image) error {
		p, err := New(f.target, j, f.Transport())
		if err != nil {
			return err
		}
		p.patience = patience{pause: time.Millisecond, retries: 8, arrival: time.Minute}
		_, err = p.Publish(b.Context(), img, publish.Private)
		return err
	})
}
