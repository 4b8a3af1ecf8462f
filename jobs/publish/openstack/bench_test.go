package openstack

import (
	"os"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/openstack/openstacktest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// BenchmarkUpload publishes to a Glance that hashes and counts, in a process of its own. Glance's hash is SHA-512, which both sides
// compute and which takes a processor three times as long as openssl's SHA-256.
func BenchmarkUpload(b *testing.B) {
	address := publishtest.Apart(b, func() string {
		c := openstacktest.New(b, "north")
		c.Regions["north"].Discard = true
		return c.URL()
	})
	f, j := newFake(b), publishtest.Journal(b)
	text, err := os.ReadFile(f.clouds)
	if err != nil {
		b.Fatal(err)
	}
	b.Setenv("OS_CLIENT_CONFIG_FILE", writeCloudsYAML(b, strings.ReplaceAll(string(text), f.URL(), address)))
	publishtest.BenchUpload(b, "genericcloud", func(img *publish.Image) error {
		p, err := New(f.target, j, nil)
		if err != nil {
			return err
		}
		p.patience = patience{pause: time.Millisecond, retries: 8, settling: 20 * time.Second}
		_, err = p.Publish(b.Context(), img, publish.Private)
		return err
	})
}
