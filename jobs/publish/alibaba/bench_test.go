package alibaba

import (
	"testing"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/alibaba/alibabatest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// BenchmarkUpload publishes to a double that sums and counts its parts, in a process of its own.
func BenchmarkUpload(b *testing.B) {
	s := alibabatest.Settings{Regions: []string{singapore}, Discard: true}
	address := publishtest.Apart(b, func() string { return newAccount(b, s).URL() })
	a, j := newAccount(b, s), publishtest.Journal(b)
	publishtest.BenchUpload(b, "", func(img *publish.Image) error {
		p := a.open(b, j, alibabatest.Transport(address))
		p.part = usualPart
		_, err := p.Publish(b.Context(), img, publish.Private)
		return err
	})
}
