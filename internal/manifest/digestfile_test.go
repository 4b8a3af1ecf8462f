package manifest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestDigestOfFile(t *testing.T) {
	const size = 5<<20 + 77
	path := filepath.Join(t.TempDir(), "disk.raw")
	whole := make([]byte, size)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 1<<20 + 13, size - 9} {
		copy(whole[at:], "nine byte")
		if _, err := f.WriteAt([]byte("nine byte"), at); err != nil {
			t.Fatal(err)
		}
	}
	want, err := DigestOf(bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	got, err := DigestOfFile(t.Context(), path)
	if err != nil || got != want {
		t.Errorf("DigestOfFile of a file with holes = %v, %v, want %v", got, err, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := DigestOfFile(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("DigestOfFile under a cancelled context returned %v", err)
	}
}

func TestVerifyImage(t *testing.T) {
	tests := []struct {
		summary string
		spoil   func(path string) error
		want    string
	}{
		{"the image as it was built", func(string) error { return nil }, ""},
		{"one byte altered", func(p string) error { return os.WriteFile(p, []byte("imagE"), 0o644) }, "digest"},
		{"truncated", func(p string) error { return os.Truncate(p, 4) }, "4 bytes where its build document says 5"},
		{"gone", os.Remove, "cannot be read"},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			dir := t.TempDir()
			digest, _ := DigestOf(bytes.NewReader([]byte("image")))
			b := &Build{Data: BuildData{Image: &ImageFile{Name: "x.raw", Size: 5}}}
			b.Metadata.SetDigest(digest)
			if err := os.WriteFile(filepath.Join(dir, "x.raw"), []byte("image"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := test.spoil(filepath.Join(dir, "x.raw")); err != nil {
				t.Fatal(err)
			}
			_, err := b.VerifyImage(t.Context(), filepath.Join(dir, "x.build.json"))
			if test.want == "" && err != nil || test.want != "" && (err == nil || !bytes.Contains([]byte(err.Error()), []byte(test.want))) {
				t.Errorf("VerifyImage = %v, want an error with %q", err, test.want)
			}
		})
	}
}
