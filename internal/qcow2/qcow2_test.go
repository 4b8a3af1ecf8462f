package qcow2_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/qcow2"
	"salsa.debian.org/cloud-team/debcloud/internal/raw"
)

// part is a stretch of a test image.
type part struct {
	kind   string // hole, zero, text, noise
	length int64
}

func writeImage(t testing.TB, path string, parts []part) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	noise := rand.NewChaCha8([32]byte{1})
	var at int64
	for i, p := range parts {
		b := make([]byte, p.length)
		switch p.kind {
		case "noise":
			noise.Read(b)
		case "text":
			copy(b, bytes.Repeat([]byte(fmt.Sprintf("line %d of a text that packs well\n", i)), int(p.length)/30+1))
		}
		if p.kind != "hole" {
			if _, err := f.WriteAt(b, at); err != nil {
				t.Fatal(err)
			}
		}
		at += p.length
	}
	if err := f.Truncate(at); err != nil {
		t.Fatal(err)
	}
}

// convert makes out of the raw image in, in so many threads.
func convert(t testing.TB, in, out string, threads int) {
	t.Helper()
	f, err := os.Open(in)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	extents, size, err := raw.Map(f)
	if err != nil {
		t.Fatal(err)
	}
	o, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	w := qcow2.NewWriter(o, size, threads)
	defer w.Abort()
	if err := raw.Copy(context.Background(), f, extents, size, func(int64) {}, w); err != nil {
		t.Fatal(err)
	}
}

// stream makes out of the raw image in, without compression. It returns the size that the stream promised.
func stream(t testing.TB, in, out string) int64 {
	t.Helper()
	f, err := os.Open(in)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	extents, size, err := raw.Map(f)
	if err != nil {
		t.Fatal(err)
	}
	s, err := qcow2.NewStream(f, size, extents)
	if err != nil {
		t.Fatal(err)
	}
	o, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	// Pieces that begin and end anywhere.
	if _, err := io.CopyBuffer(struct{ io.Writer }{o}, struct{ io.Reader }{io.NewSectionReader(s, 0, s.Size())}, make([]byte, 100_003)); err != nil {
		t.Fatal(err)
	}
	return s.Size()
}

func TestQEMUReadsTheSameDisk(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed: apt install qemu-utils")
	}
	const k, m = 1 << 10, 1 << 20
	for _, row := range []struct {
		summary string
		parts   []part
	}{
		{"a disk of one sector", []part{{"text", 512}}},
		{"an empty disk is only tables", []part{{"hole", 64 * m}}},
		{"zeros that are no hole take no room either", []part{{"zero", 8 * m}}},
		{"text packs into shared host clusters", []part{{"text", 16 * m}}},
		{"noise is stored as it is", []part{{"noise", 8 * m}}},
		{"packed and plain clusters take turns", []part{{"text", 200 * k}, {"noise", 130 * k}, {"text", 64 * k}, {"noise", 64 * k}, {"hole", 3 * m}, {"noise", 40 * k}, {"text", 24 * k}}},
		{"a cluster nearly full of noise packs to almost a cluster", []part{{"noise", 63 * k}, {"zero", k}, {"noise", 62 * k}, {"text", 2 * k}, {"noise", 61 * k}, {"zero", 3 * k}}},
		{"the last cluster is not whole", []part{{"noise", m}, {"text", 17*k + 512}}},
		{"a hole at the end that is not a whole cluster", []part{{"text", m}, {"hole", 5*k + 512}}},
		{"a size that is no whole sector is rounded up", []part{{"text", 100*k + 7}}},
		{"more than one level-1 entry, first and last in use", []part{{"text", m}, {"hole", 1100 * m}, {"noise", 100 * k}}},
	} {
		t.Run(row.summary, func(t *testing.T) {
			dir := t.TempDir()
			in, out, again := filepath.Join(dir, "in.raw"), filepath.Join(dir, "out.qcow2"), filepath.Join(dir, "again.qcow2")
			writeImage(t, in, row.parts)
			convert(t, in, out, 3)
			qemu(t, "check", "-f", "qcow2", out)
			qemu(t, "compare", "-f", "raw", "-F", "qcow2", in, out)
			convert(t, in, again, 1)
			promised := stream(t, in, filepath.Join(dir, "stream.qcow2"))
			qemu(t, "check", "-f", "qcow2", filepath.Join(dir, "stream.qcow2"))
			qemu(t, "compare", "-f", "raw", "-F", "qcow2", in, filepath.Join(dir, "stream.qcow2"))
			if info, err := os.Stat(filepath.Join(dir, "stream.qcow2")); err != nil || info.Size() != promised {
				t.Errorf("the stream promised %d bytes and gave %d", promised, info.Size())
			}
			a, _ := os.ReadFile(out)
			b, _ := os.ReadFile(again)
			if !bytes.Equal(a, b) {
				t.Error("one thread and three wrote different bytes")
			}
		})
	}
}

func qemu(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
		t.Errorf("qemu-img %v: %v\n%s", args, err, out)
	}
}

func TestAFullDiskEndsTheConversion(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("there is no /dev/full here")
	}
	defer full.Close()
	w := qcow2.NewWriter(full, 64<<20, 2)
	defer w.Abort()
	var dataErr error
	for at := int64(0); at < 64<<20 && dataErr == nil; at += 1 << 20 {
		dataErr = w.Data(at, bytes.Repeat([]byte("text"), 1<<18))
	}
	if closeErr := w.Close(); closeErr == nil {
		t.Error("Close reports no error though nothing could be written")
	}
}

func TestStreamRefusesExtentsThatDoNotFit(t *testing.T) {
	const c = raw.Cluster
	for summary, extents := range map[string][]raw.Extent{
		"behind the disk's end":        {{Offset: 3 * c, Length: 2 * c}},
		"falling":                      {{Offset: 2 * c, Length: c}, {Offset: 0, Length: c}},
		"overlapping":                  {{Offset: 0, Length: 2 * c}, {Offset: c, Length: c}},
		"within a cluster":             {{Offset: 512, Length: c}},
		"a part of a cluster":          {{Offset: 0, Length: 512}},
		"an extent that holds nothing": {{Offset: 0, Length: 0}},
	} {
		if _, err := qcow2.NewStream(bytes.NewReader(make([]byte, 4*c)), 4*c, extents); err == nil {
			t.Errorf("%s: no error", summary)
		}
	}
}

func TestStreamOfAnImageThatShrank(t *testing.T) {
	s, err := qcow2.NewStream(bytes.NewReader(make([]byte, 1<<20)), 2<<20, []raw.Extent{{Offset: 0, Length: 2 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(io.NewSectionReader(s, 0, s.Size())); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("reading to the end says %v", err)
	}
}
