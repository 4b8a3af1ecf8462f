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

// BenchmarkUpload publishes to a Glance that hashes and counts, in a process of its own: by SHA-256, as what it is held against does, and by SHA-512,
// Glance's default, which takes a processor three times as long, on both sides.
func BenchmarkUpload(b *testing.B) {
	for _, hash := range []string{"sha256", "sha512"} {
		b.Run(hash, func(b *testing.B) { benchUpload(b, hash) })
	}
}

func benchUpload(b *testing.B, hash string) {
	address := publishtest.Apart(b, func() string {
		c := openstacktest.New(b, "north")
		c.Regions["north"].Discard, c.Regions["north"].Hash = true, hash
		c.Regions["north"].Put(map[string]any{"name": "cirros", "os_hash_algo": hash, "os_hash_value": "00"})
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
