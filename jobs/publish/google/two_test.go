package google

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// before does something before the first request of each named kind gets to a fake.
func before(f *fake, do map[string]func()) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		kind := kindOf(r)
		if first := do[kind]; first != nil {
			delete(do, kind)
			first()
		}
		return f.RoundTrip(r)
	})
}

func kindOf(r *http.Request) string {
	upload, object := strings.HasPrefix(r.URL.Path, "/upload/"), strings.HasPrefix(r.URL.Path, "/storage/")
	content := r.Header.Get("Content-Range")
	switch {
	case upload && r.Method == http.MethodPost:
		return "begin the upload"
	case upload && content != "" && !strings.HasSuffix(content, "/*"):
		return "end the upload"
	case object && r.Method == http.MethodDelete:
		return "delete the object"
	case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/images"):
		return "make the image"
	}
	return ""
}

// TestTwoJournals: two publishers of one image that share no journal, as on two machines. Wherever they meet, neither takes away what the
// other one needs, and the image is the one that a single publisher makes.
func TestTwoJournals(t *testing.T) {
	t.Setenv("GOOGLE_ID_TOKEN", fakeIDToken)
	alone := newFake()
	if _, err := published(t, publisherOf(t, alone), "20260815-1", publish.Public); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		summary string
		meets   string // what the second one is about to do when the first one runs
		stops   string // what the first one then waits before, "": it runs to its end
		frees   string // what the second one is about to do when the first one goes on, "": it has ended
	}{
		{"the object is there before the second upload begins", "begin the upload", "make the image", ""},
		{"the object is gone again before the second upload begins", "begin the upload", "", ""},
		{"the object is there before the second upload ends", "end the upload", "make the image", ""},
		{"the image is there before the second upload ends", "end the upload", "delete the object", ""},
		{"the object is gone before the second image is made", "end the upload", "delete the object", "make the image"},
		{"all is done before the second upload ends", "end the upload", "", ""},
		{"both make the image", "make the image", "make the image", "delete the object"},
	} {
		for _, sourceFirst := range []bool{false, true} {
			t.Run(row.summary, func(t *testing.T) {
				f := newFake()
				f.sourceFirst = sourceFirst
				stopped, free, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
				first, second := publisherOf(t, f), publisherOf(t, f)
				img := publishtest.Image(t, publishtest.Options{Vendor: "gce", Version: "20260815-1"})
				first.credentials.base = before(f, map[string]func(){row.stops: func() {
					if row.stops != "" {
						close(stopped)
						<-free
					}
				}})
				run := func() {
					go func() {
						_, err := first.Publish(t.Context(), img, publish.Public)
						ended <- err
					}()
					select {
					case <-stopped:
					case err := <-ended:
						ended <- err
					}
				}
				goOn := sync.OnceFunc(func() {
					close(free)
					err := <-ended
					ended <- err
				})
				steps := map[string]func(){row.meets: run}
				if row.frees != "" {
					steps[row.frees] = goOn
				}
				second.credentials.base = before(f, steps)
				if _, err := published(t, second, "20260815-1", publish.Public); err != nil {
					t.Errorf("the second one: %v", err)
				}
				goOn() // where it has not yet
				if err := <-ended; err != nil {
					t.Errorf("the first one: %v", err)
				}
				if got := f.Dump(); got != alone.Dump() {
					t.Errorf("the project has\n%sand not\n%s", got, alone.Dump())
				}
				if again, err := published(t, second, "20260815-1", publish.Public); err != nil || again.Changed {
					t.Errorf("once more: %+v, %v", again, err)
				}
			})
		}
	}
}

// TestObjectOfAnother: an object that someone else put under the name, while this publisher sent its own, stays.
func TestObjectOfAnother(t *testing.T) {
	t.Setenv("GOOGLE_ID_TOKEN", fakeIDToken)
	f := newFake()
	var packed []byte
	f.bucket = func(name string) (io.ReadCloser, error) {
		packed = f.objects[name].data
		return io.NopCloser(bytes.NewReader(packed)), nil
	}
	if _, err := published(t, publisherOf(t, f), "20260815-1", publish.Private); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		summary string
		mark    string
		kind    fault.Kind
		want    string
		again   bool // whether the same command works then
	}{
		{"ours, by another packer", "yes", fault.Outside, "another publisher is at work on debian-13-gce-amd64-daily-20260815-1", true},
		{"not ours", "", fault.Input, "is not ours", false},
	} {
		t.Run(row.summary, func(t *testing.T) {
			f := newFake()
			p := publisherOf(t, f)
			name := ""
			p.credentials.base = before(f, map[string]func(){"end the upload": func() {
				for _, s := range f.sessions {
					name = s.object.Name
				}
				o := storageObject{Name: name, Metadata: map[string]string{markLabel: row.mark}}
				f.objects[name] = &fakeObject{storageObject: o, data: repacked(t, packed)}
			}})
			_, err := published(t, p, "20260815-1", publish.Private)
			if err == nil || fault.KindOf(err) != row.kind || !strings.Contains(err.Error(), row.want) || fault.HintOf(err) == "" {
				t.Errorf("kind %v, hint %q: %v", fault.KindOf(err), fault.HintOf(err), err)
			}
			if f.objects[name] == nil {
				t.Error("the other one's object is deleted")
			}
			if _, err := published(t, p, "20260815-1", publish.Private); (err == nil) != row.again {
				t.Errorf("again: %v", err)
			}
		})
	}
}

// repacked packs the same archive otherwise.
func repacked(t *testing.T, packed []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := io.Copy(w, z); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestSpoiledObject: an object that did not arrive as it was sent is deleted, and nothing that another one put in its place.
func TestSpoiledObject(t *testing.T) {
	t.Setenv("GOOGLE_ID_TOKEN", fakeIDToken)
	for _, replaced := range []bool{false, true} {
		f := newFake()
		f.spoil = true
		p := publisherOf(t, f)
		p.credentials.base = before(f, map[string]func(){"delete the object": func() {
			for _, o := range f.objects {
				if replaced {
					o.Generation++
				}
			}
		}})
		_, err := published(t, p, "20260815-1", publish.Private)
		if err == nil || fault.KindOf(err) != fault.Outside || !strings.Contains(err.Error(), "arrived with") {
			t.Errorf("replaced %v: %v", replaced, err)
		}
		if len(f.objects) != 0 != replaced {
			t.Errorf("replaced %v: %d objects are left", replaced, len(f.objects))
		}
	}
}
