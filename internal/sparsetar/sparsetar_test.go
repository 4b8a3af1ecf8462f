package sparsetar_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/raw"
	"salsa.debian.org/cloud-team/debcloud/internal/sparsetar"
)

// writeImage makes a file of size bytes with text at each of the given extents.
func writeImage(t *testing.T, path string, size int64, data []raw.Extent) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, e := range data {
		if _, err := f.WriteAt(bytes.Repeat([]byte{byte(e.Offset>>16) | 1}, int(e.Length)), e.Offset); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

func archive(t *testing.T, in, out string) {
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
	w, err := sparsetar.NewWriter(o, "disk.raw", extents, size, time.Date(2026, 8, 14, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Copy(context.Background(), f, extents, size, func(int64) {}, w); err != nil {
		t.Fatal(err)
	}
}

// every returns n extents of one cluster each, with a hole of the same length after each.
func every(n int64) []raw.Extent {
	var extents []raw.Extent
	for i := range n {
		extents = append(extents, raw.Extent{Offset: 2 * i * raw.Cluster, Length: raw.Cluster})
	}
	return extents
}

func TestEveryTarReadsTheSameDisk(t *testing.T) {
	const m = 1 << 20
	for _, row := range []struct {
		summary string
		size    int64
		data    []raw.Extent
	}{
		{"nothing but a hole", 16 * m, nil},
		{"no hole at all", m, []raw.Extent{{Offset: 0, Length: m}}},
		{"the map fits the header", 16 * m, every(3)},
		{"the map fills the header to the last entry", 16 * m, every(4)},
		{"the map needs one extension block", 16 * m, every(9)},
		{"the map fills an extension block to the last entry", 16 * m, every(24)},
		{"the map needs many extension blocks", 64 * m, every(300)},
		{"data ends off a block", 3*m + 100, []raw.Extent{{Offset: 3 * m, Length: 100}}},
		{"a hole ends off a block", 3*m + 100, every(2)},
		{"offsets of 8 GiB and more have too many octal digits", 10 << 30, []raw.Extent{{Offset: 0, Length: m}, {Offset: 9 << 30, Length: m}}},
	} {
		t.Run(row.summary, func(t *testing.T) {
			dir := t.TempDir()
			in, out := filepath.Join(dir, "in.raw"), filepath.Join(dir, "out.tar")
			writeImage(t, in, row.size, row.data)
			archive(t, in, out)
			checkGNU(t, in, out)
			if row.size > 1<<30 {
				return // the others' holes are written out in full
			}
			checkReader(t, in, "bsdtar", "-xOf", out)
			checkReader(t, in, "tar", "-xOf", out)
			checkReader(t, in, "python3", "-c", "import sys,tarfile,shutil\nshutil.copyfileobj(tarfile.open(sys.argv[1]).extractfile('disk.raw'), sys.stdout.buffer)", out)
			checkGo(t, in, out)
		})
	}
}

// checkGNU extracts with GNU tar: same bytes, still sparse.
func checkGNU(t *testing.T, in, out string) {
	t.Helper()
	dir := t.TempDir()
	if text, err := exec.Command("tar", "-xf", out, "-C", dir).CombinedOutput(); err != nil || len(text) > 0 {
		t.Fatalf("tar: %v\n%s", err, text)
	}
	got := filepath.Join(dir, "disk.raw")
	compareData(t, in, got)
	if a, b := allocated(t, in), allocated(t, got); b > a+raw.Cluster {
		t.Errorf("extracted disk occupies %d bytes where the image occupied %d", b, a)
	}
}

// compareData compares sizes, and bytes wherever one of the two files has any.
func compareData(t *testing.T, a, b string) {
	t.Helper()
	var files [2]*os.File
	var sizes [2]int64
	var extents []raw.Extent
	for i, path := range []string{a, b} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		found, size, err := raw.Map(f)
		if err != nil {
			t.Fatal(err)
		}
		files[i], sizes[i], extents = f, size, append(extents, found...)
	}
	if sizes[0] != sizes[1] {
		t.Errorf("%s has %d bytes, %s %d", a, sizes[0], b, sizes[1])
	}
	for _, e := range extents {
		x, y := make([]byte, e.Length), make([]byte, e.Length)
		files[0].ReadAt(x, e.Offset)
		files[1].ReadAt(y, e.Offset)
		if !bytes.Equal(x, y) {
			t.Errorf("%s and %s differ within the %d bytes at %d", a, b, e.Length, e.Offset)
		}
	}
}

func allocated(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

// checkReader compares what a program prints with the image.
func checkReader(t *testing.T, in, program string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Logf("%s is not installed, so its reading is not tested", program)
		return
	}
	want, err := os.ReadFile(in)
	if err != nil {
		t.Fatal(err)
	}
	// A buffer that grows is slow under the race detector, and bsdtar leaves holes in a file.
	got := bytes.NewBuffer(make([]byte, 0, len(want)+bytes.MinRead))
	c := exec.Command(program, args...)
	c.Stdout = got
	if err := c.Run(); err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%s reads another disk: %d bytes, want %d", program, got.Len(), len(want))
	}
}

func checkGo(t *testing.T, in, out string) {
	t.Helper()
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := tar.NewReader(f)
	h, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	want, _ := os.ReadFile(in)
	got := make([]byte, h.Size)
	if _, err := io.ReadFull(r, got); err != nil {
		t.Fatal(err)
	}
	if h.Name != "disk.raw" || h.Mode != 0o644 || !bytes.Equal(got, want) {
		t.Errorf("archive/tar reads %q, mode %o, %d bytes", h.Name, h.Mode, len(got))
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("after the one file: %v, want the end", err)
	}
}

// TestDataOutsideTheMapIsRefused: nothing is lost, and zeros that lie there are a hole.
func TestDataOutsideTheMapIsRefused(t *testing.T) {
	for _, row := range []struct {
		summary string
		at      int // of the one byte that is not zero, from the map's end on
		refused bool
	}{
		{"only zeros", -1, false},
		{"the first byte", 0, true},
		{"a byte in the middle", 2*raw.Cluster + 7, true},
		{"the last byte before what the map has next", 3*raw.Cluster - 1, true},
		{"the first byte that the map has again", 3 * raw.Cluster, false},
		{"the last byte of the image", 5*raw.Cluster - 1, true},
	} {
		var out bytes.Buffer
		w, err := sparsetar.NewWriter(&out, "disk.raw", []raw.Extent{{Offset: 0, Length: raw.Cluster}, {Offset: 4 * raw.Cluster, Length: raw.Cluster}}, 6*raw.Cluster, time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		head := out.Len()
		image := make([]byte, 6*raw.Cluster)
		image[0] = 1
		if row.at >= 0 {
			image[raw.Cluster+row.at] = 2
		}
		if err := w.Data(0, image); (err != nil) != row.refused {
			t.Errorf("%s: %v", row.summary, err)
		}
		stored := slices.Concat(image[:raw.Cluster], image[4*raw.Cluster:5*raw.Cluster])
		if !row.refused && !bytes.Equal(out.Bytes()[head:], stored) {
			t.Errorf("%s: %d bytes are stored, and not the map's %d", row.summary, out.Len()-head, len(stored))
		}
	}
}
