package raw_test

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/raw"
)

// recorder puts an image together again from what it is given.
type recorder struct {
	image  []byte
	failAt int64 // offset at which Data fails, 0 for never
	closed bool
}

var errFull = errors.New("full")

func (r *recorder) Data(offset int64, p []byte) error {
	if r.failAt > 0 && offset >= r.failAt {
		return errFull
	}
	if int64(len(r.image)) != offset {
		return errors.New("a gap or an overlap")
	}
	r.image = append(r.image, p...)
	return nil
}

func (r *recorder) Hole(offset, length int64) error {
	if int64(len(r.image)) != offset {
		return errors.New("a gap or an overlap")
	}
	r.image = append(r.image, make([]byte, length)...)
	return nil
}

func (r *recorder) Close() error { r.closed = true; return nil }

// image makes a file of size bytes with the given stretches of ones.
func image(t *testing.T, size int64, data ...raw.Extent) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	for _, e := range data {
		if _, err := f.WriteAt(bytes.Repeat([]byte{1}, int(e.Length)), e.Offset); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

func nothing(int64) {}

func TestEverySinkSeesTheWholeImage(t *testing.T) {
	for _, row := range []struct {
		summary string
		size    int64
		data    []raw.Extent
	}{
		{"an empty file", 0, nil},
		{"one hole", 1 << 20, nil},
		{"data without a hole", 3<<20 + 5, []raw.Extent{{0, 3<<20 + 5}}},
		{"data at both ends", 4 << 20, []raw.Extent{{0, 4096}, {4<<20 - 4096, 4096}}},
		{"data off the clusters", 4<<20 + 100, []raw.Extent{{70 << 10, 5000}, {90 << 10, 5000}, {1 << 20, 200000}, {4 << 20, 100}}},
	} {
		t.Run(row.summary, func(t *testing.T) {
			f := image(t, row.size, row.data...)
			want, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			extents, size, err := raw.Map(f)
			if err != nil || size != row.size {
				t.Fatalf("size %d: %v", size, err)
			}
			out := image(t, 0)
			digest := sha512.New()
			a, b := &recorder{}, &recorder{}
			var done int64
			if err := raw.Copy(t.Context(), f, extents, size, func(n int64) { done += n }, a, b, raw.Digest{Hash: digest}, &raw.File{File: out}); err != nil {
				t.Fatal(err)
			}
			copied, _ := os.ReadFile(out.Name())
			sum := sha512.Sum512(want)
			if !bytes.Equal(a.image, want) || !bytes.Equal(b.image, want) || !bytes.Equal(copied, want) || !bytes.Equal(digest.Sum(nil), sum[:]) {
				t.Error("some sink saw another image")
			}
			if !a.closed || done != row.size {
				t.Errorf("closed %v, %d of %d bytes told", a.closed, done, row.size)
			}
		})
	}
}

func TestOneFailingSinkEndsTheCopy(t *testing.T) {
	f := image(t, 64<<20, raw.Extent{Offset: 0, Length: 64 << 20})
	extents, size, _ := raw.Map(f)
	good, bad := &recorder{}, &recorder{failAt: 2 << 20}
	if err := raw.Copy(t.Context(), f, extents, size, nothing, good, bad); !errors.Is(err, errFull) {
		t.Errorf("error is %v", err)
	}
	if good.closed || bad.closed {
		t.Error("a sink was told that the image is complete")
	}
}

func TestAnImageThatShrinksIsAnError(t *testing.T) {
	f := image(t, 4<<20, raw.Extent{Offset: 0, Length: 4 << 20})
	extents, size, _ := raw.Map(f)
	f.Truncate(1 << 20)
	sink := &recorder{}
	if err := raw.Copy(t.Context(), f, extents, size, nothing, sink); err == nil || !strings.Contains(err.Error(), "read the image at byte") || sink.closed {
		t.Errorf("error is %v, closed %v", err, sink.closed)
	}
}

// slow takes its time with each piece.
type slow struct{ recorder }

func (s *slow) Data(int64, []byte) error { time.Sleep(5 * time.Millisecond); return nil }

func TestCancelEndsTheCopyWithItsCause(t *testing.T) {
	f := image(t, 64<<20, raw.Extent{Offset: 0, Length: 64 << 20})
	extents, size, _ := raw.Map(f)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stopped")
	sink := &slow{}
	err := raw.Copy(ctx, f, extents, size, func(int64) { cancel(stop) }, sink, raw.Digest{Hash: sha512.New()})
	if !errors.Is(err, stop) || sink.closed {
		t.Errorf("error is %v, closed %v", err, sink.closed)
	}
}
