package google

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/internal/raw"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// envStorage names the program fake-gcs-server, a double of Cloud Storage that no one here wrote.
const envStorage = "DEBCLOUD_TEST_GCS"

// TestImageComesBack publishes images whole. What Compute Engine reads of the object is the image bit for bit, and then the object goes.
func TestImageComesBack(t *testing.T) {
	t.Setenv("GOOGLE_ID_TOKEN", fakeIDToken)
	for _, row := range []struct {
		summary string
		open    func(testing.TB) *publish.Image
	}{
		{"a small image", func(t testing.TB) *publish.Image {
			return publishtest.Image(t, publishtest.Options{Vendor: "gce", Size: 5 << 20})
		}},
		{"a real image", publishtest.RealImage},
	} {
		t.Run(row.summary+" by the fake's bucket", func(t *testing.T) {
			if row.summary == "a real image" && os.Getenv(envStorage) != "" {
				t.Skip("fake-gcs-server has it, and twice takes long")
			}
			img, f := row.open(t), newFake()
			var archive []byte
			f.bucket = func(name string) (io.ReadCloser, error) {
				archive = f.objects[name].data
				return io.NopCloser(bytes.NewReader(archive)), nil
			}
			if _, err := publisherOf(t, f).Publish(t.Context(), img, publish.Public); err != nil || len(f.objects) != 0 {
				t.Fatalf("%d objects are left: %v", len(f.objects), err)
			}
			demandImage(t, archive, img)
		})
		t.Run(row.summary+" by fake-gcs-server", func(t *testing.T) {
			img, f, s := row.open(t), newFake(), startStorage(t)
			f.bucket = s.open
			p := s.publisher(t, f)
			if _, err := p.Publish(t.Context(), img, publish.Public); err != nil {
				t.Fatal(err)
			}
			if left := s.list(t, p); len(left) != 0 {
				t.Errorf("in the bucket is left %v", left)
			}
			demandImage(t, s.archive, img)
			if again, err := p.Publish(t.Context(), img, publish.Public); err != nil || again.Changed {
				t.Errorf("once more: %+v, %v", again, err)
			}
		})
	}
}

// TestZerosAreNotSent: what was written as zeros makes the same object as a hole.
func TestZerosAreNotSent(t *testing.T) {
	t.Setenv("GOOGLE_ID_TOKEN", fakeIDToken)
	var archives [][]byte
	for _, written := range []bool{false, true} {
		build := publishtest.Build(t, publishtest.Options{Vendor: "gce", Size: 5 << 20})
		disk, err := os.OpenFile(manifest.Base(build)+".raw", os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer disk.Close()
		if written {
			if _, err := disk.WriteAt(make([]byte, 1<<20), 1<<20); err != nil {
				t.Fatal(err)
			}
		}
		if extents, _, err := raw.Map(disk); err != nil || written && !slices.Contains(extents, raw.Extent{Offset: 1 << 20, Length: 1 << 20}) {
			t.Fatalf("the file system has the data %v: %v", extents, err)
		}
		img, err := publish.Open(publish.Options{BuildPath: build, Type: "daily"})
		if err != nil {
			t.Fatal(err)
		}
		defer img.Close()
		f := newFake()
		f.bucket = func(name string) (io.ReadCloser, error) {
			archives = append(archives, f.objects[name].data)
			return io.NopCloser(bytes.NewReader(f.objects[name].data)), nil
		}
		if _, err := publisherOf(t, f).Publish(t.Context(), img, publish.Private); err != nil {
			t.Fatal(err)
		}
		demandImage(t, archives[len(archives)-1], img)
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Errorf("with holes the object has %d bytes, with zeros %d", len(archives[0]), len(archives[1]))
	}
}

// demandImage unpacks a tar.gz and compares disk.raw with an image, bit for bit; what fills up the last GiB is zeros.
func demandImage(t *testing.T, archive []byte, img *publish.Image) {
	t.Helper()
	f, err := img.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	disk := tar.NewReader(z)
	h, err := disk.Next()
	if err != nil || h.Name != "disk.raw" || h.Size != gigabytes(img.Size()) || h.Format != tar.FormatGNU {
		t.Fatalf("%+v: %v", h, err)
	}
	got, want := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); at < h.Size; at += int64(len(got)) {
		clear(want)
		if _, err := f.ReadAt(want, at); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(disk, got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("disk.raw is another one than the image within the MiB at byte %d", at)
		}
	}
	if _, err := disk.Next(); err != io.EOF {
		t.Errorf("after disk.raw: %v", err)
	}
}

// storage is a running fake-gcs-server.
type storage struct {
	address string       // http://127.0.0.1:PORT
	alive   atomic.Int64 // so many requests get there, and none after them
	cut     atomic.Bool  // one did not
	archive []byte       // what open returned last
}

// startStorage runs fake-gcs-server until the end of the test, with one empty bucket.
func startStorage(t *testing.T) *storage {
	t.Helper()
	program := os.Getenv(envStorage)
	if program == "" {
		t.Skipf("%s does not name the program fake-gcs-server: make test builds it", envStorage)
	}
	address, err := publishtest.Serve(t, func(port string) *exec.Cmd {
		c := exec.Command(program, "-scheme", "http", "-host", "127.0.0.1", "-port", port, "-backend", "memory", "-log-level", "error")
		c.Dir, c.Env = t.TempDir(), []string{}
		return c
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &storage{address: "http://" + address}
	s.alive.Store(math.MaxInt64)
	response, err := http.Post(s.address+"/storage/v1/b", "application/json", strings.NewReader(`{"name": "`+fakeBucket+`"}`))
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("make a bucket: %v %v", response, err)
	}
	response.Body.Close()
	return s
}

// publisher returns a Publisher whose bucket is there, and all else at the fake.
func (s *storage) publisher(t *testing.T, f *fake) *Publisher {
	t.Helper()
	p := publisherOf(t, f)
	p.credentials.base = s.beside(f)
	p.endpoint.storage = s.address + "/storage/v1/b/" + fakeBucket + "/o"
	p.endpoint.upload = s.address + "/upload/storage/v1/b/" + fakeBucket + "/o"
	return p
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

var errDead = errors.New("the line is dead")

func (s *storage) beside(f *fake) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if "http://"+r.URL.Host != s.address {
			return f.RoundTrip(r)
		}
		if s.alive.Add(-1) < 0 {
			s.cut.Store(true)
			return nil, errDead
		}
		return http.DefaultTransport.RoundTrip(r)
	})
}

// open is what images.insert does with an object. It demands that the server has of it what was sent.
func (s *storage) open(name string) (io.ReadCloser, error) {
	var o struct {
		storageObject
		MD5 string `json:"md5Hash"`
	}
	text, err := s.get("/storage/v1/b/" + fakeBucket + "/o/" + url.PathEscape(name))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &o); err != nil {
		return nil, err
	}
	if s.archive, err = s.get("/download/storage/v1/b/" + fakeBucket + "/o/" + url.PathEscape(name) + "?alt=media"); err != nil {
		return nil, err
	}
	sum := md5.Sum(s.archive)
	crc := binary.BigEndian.AppendUint32(nil, crc32.Checksum(s.archive, crc32.MakeTable(crc32.Castagnoli)))
	if o.MD5 != base64.StdEncoding.EncodeToString(sum[:]) || o.CRC32C != base64.StdEncoding.EncodeToString(crc) || int64(o.Size) != int64(len(s.archive)) {
		return nil, fmt.Errorf("the checksums of %+v are not those of the %d bytes that it has", o, len(s.archive))
	}
	if o.Metadata[markLabel] != "yes" || o.Metadata["debcloud-digest"] == "" || o.ContentType != "application/gzip" {
		return nil, fmt.Errorf("the object is %+v", o)
	}
	return io.NopCloser(bytes.NewReader(s.archive)), nil
}

func (s *storage) get(path string) ([]byte, error) {
	response, err := http.Get(s.address + path)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fs.ErrNotExist
	}
	return io.ReadAll(response.Body)
}

// list is what pruning sees in the bucket.
func (s *storage) list(t *testing.T, p *Publisher) (all []holding.Item) {
	t.Helper()
	items, err := p.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		if it.Kind == holding.Object {
			all = append(all, it)
		}
	}
	return all
}

// TestBucketAfterDeath cuts an upload to fake-gcs-server at each of its requests. What is left then is no object at all, or a whole one
// of ours that pruning would delete, and the next run goes on from there.
func TestBucketAfterDeath(t *testing.T) {
	t.Setenv("GOOGLE_ID_TOKEN", fakeIDToken)
	s := startStorage(t)
	for at := int64(1); ; at++ {
		f := newFake()
		f.bucket = s.open
		p := s.publisher(t, f)
		p.chunk = 256 << 10
		img := publishtest.Image(t, publishtest.Options{Vendor: "gce", Size: 5 << 20})
		s.cut.Store(false)
		s.alive.Store(at - 1)
		_, err := p.Publish(t.Context(), img, publish.Private)
		reached := s.cut.Load()
		if (err != nil) != reached {
			t.Fatalf("cut at request %d: %v", at, err)
		}
		s.alive.Store(math.MaxInt64)
		for _, left := range s.list(t, p) {
			if _, err := s.open(left.Name); err != nil {
				t.Errorf("cut at request %d: %v", at, err)
			}
			demandImage(t, s.archive, img)
			if !left.Ours || left.Created.IsZero() {
				t.Errorf("cut at request %d: pruning sees %+v", at, left)
			}
		}
		if _, err := p.Publish(t.Context(), img, publish.Private); err != nil {
			t.Fatalf("cut at request %d and resumed: %v", at, err)
		}
		demandImage(t, s.archive, img)
		if left := s.list(t, p); len(left) != 0 {
			t.Errorf("cut at request %d and resumed: in the bucket is left %v", at, left)
		}
		if !reached {
			if at < 5 {
				t.Errorf("a publication is only %d requests to the bucket", at)
			}
			return
		}
	}
}

// TestBucketPrune deletes an object on fake-gcs-server that a publication left, once and once more, and nobody else's.
func TestBucketPrune(t *testing.T) {
	t.Setenv("GOOGLE_ID_TOKEN", fakeIDToken)
	f, s := newFake(), startStorage(t)
	f.fails["insert"] = "INTERNAL" // so that the object stays
	f.bucket = s.open
	p := s.publisher(t, f)
	if _, err := published(t, p, "20260815-1", publish.Private); err == nil {
		t.Fatal("an image was made")
	}
	theirs, err := http.Post(s.address+"/upload/storage/v1/b/"+fakeBucket+"/o?uploadType=media&name=theirs.tar.gz", "application/gzip", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	theirs.Body.Close()
	left := s.list(t, p)
	if len(left) != 1 || !left[0].Ours || left[0].Created.IsZero() {
		t.Fatalf("pruning sees %+v", left)
	}
	for range 2 {
		if err := p.Delete(t.Context(), left[0]); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Delete(t.Context(), holding.Item{Name: "theirs.tar.gz", Kind: holding.Object}); err == nil || !strings.Contains(err.Error(), "is not ours") {
		t.Errorf("someone else's object: %v", err)
	}
	if _, err := s.get("/storage/v1/b/" + fakeBucket + "/o/theirs.tar.gz"); err != nil || len(s.list(t, p)) != 0 {
		t.Errorf("someone else's object: %v; ours: %v", err, s.list(t, p))
	}
}
