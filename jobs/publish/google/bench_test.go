package google

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/sparsetar"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// BenchmarkUpload publishes to a bucket that hashes and counts, in a process of its own; Compute Engine is the fake.
func BenchmarkUpload(b *testing.B) {
	b.Setenv("GOOGLE_ID_TOKEN", fakeIDToken)
	address := publishtest.Apart(b, func() string { return httptest.NewServer(&counter{}).URL })
	f := newFake()
	f.bucket = func(string) (io.ReadCloser, error) { // an image as large as the one that was sent
		var archive bytes.Buffer
		z := gzip.NewWriter(&archive)
		w, err := sparsetar.NewWriter(z, "disk.raw", nil, 3<<30, time.Time{})
		if err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
		return io.NopCloser(&archive), z.Close()
	}
	p := publisherOf(b, f)
	s := &storage{address: address}
	s.alive.Store(1 << 40)
	p.credentials.base = s.beside(f)
	p.endpoint.storage, p.endpoint.upload = address+"/o", address+"/upload"
	publishtest.BenchUpload(b, "gce", func(img *publish.Image) error {
		_, err := p.Publish(b.Context(), img, publish.Private)
		return err
	})
}

// counter is a bucket that keeps no object, and of the one upload at a time its size and checksum.
type counter struct {
	mu    sync.Mutex
	size  int64
	sum   hash.Hash32
	about storageObject
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case r.Method == http.MethodPost:
		c.about, c.size, c.sum = storageObject{}, 0, crc32.New(crc32.MakeTable(crc32.Castagnoli))
		_ = json.NewDecoder(r.Body).Decode(&c.about) // the fake tries what is sent
		w.Header().Set("Location", "http://"+r.Host+"/session")
	case r.Method == http.MethodPut:
		n, err := io.Copy(c.sum, r.Body)
		if c.size += n; err != nil {
			return
		}
		if strings.HasSuffix(r.Header.Get("Content-Range"), "/*") {
			w.Header().Set("Range", fmt.Sprintf("bytes=0-%d", c.size-1))
			w.WriteHeader(http.StatusPermanentRedirect)
			return
		}
		c.about.Size, c.about.CRC32C = number(c.size), base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, c.sum.Sum32()))
		reply(w, c.about)
	default:
		refuse(w, http.StatusNotFound, "notFound", "nothing is kept")
	}
}
