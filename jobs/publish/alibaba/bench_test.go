package alibaba

import (
	"testing"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/alibaba/alibabatest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// BenchmarkUpload publishes to a double that sums and counts its parts. It runs in this same process, whose certificate it has.
func BenchmarkUpload(b *testing.B) {
	a := newAccount(b, alibabatest.Settings{Regions: []string{singapore}, Discard: true})
	j := publishtest.Journal(b)
	publishtest.BenchUpload(b, "", func(img *publish.Image) error {
		p := a.open(b, j, nil)
		p.part = 16 << 20
		_, err := p.Publish(b.Context(), img, publish.Private)
		return err
	})
}
