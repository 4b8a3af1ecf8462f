package azure

import (
	"bytes"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestQEMUReadsTheVHD holds the footer against the one that qemu-img writes, and has qemu-img read a VHD with ours.
func TestQEMUReadsTheVHD(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed: apt install qemu-utils")
	}
	for _, size := range []int64{20 * mib, 21 * mib, 504 * mib, 2048 * mib, 3 << 30, 30 << 30, 130 << 30} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			dir := t.TempDir()
			raw, theirs, ours := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "theirs.vhd"), filepath.Join(dir, "ours.vhd")
			writeSparse(t, raw, size, nil)
			qemu(t, "convert", "-f", "raw", "-O", "vpc", "-o", "subformat=fixed,force_size=on", raw, theirs)
			f := footer(size, sha512.Sum512([]byte("image")), time.Date(2026, 8, 14, 0, 0, 0, 0, time.UTC))
			writeSparse(t, ours, size, f)
			qemu(t, "compare", "-f", "vpc", "-F", "vpc", ours, theirs)
			var info struct {
				VirtualSize int64 `json:"virtual-size"`
			}
			out, err := exec.Command("qemu-img", "info", "-f", "vpc", "--output=json", ours).Output()
			if err != nil || json.Unmarshal(out, &info) != nil || info.VirtualSize != size {
				t.Errorf("qemu-img sees a disk of %d bytes: %v", info.VirtualSize, err)
			}
			want := lastSector(t, theirs)
			// Time, geometry (which QEMU sets to the largest, so that it does not count), checksum and identifier differ.
			for _, part := range []struct {
				name     string
				from, to int
			}{{"cookie to data offset", 0, 24}, {"creator to sizes", 28, 56}, {"type", 60, 64}, {"state and reserved", 84, 512}} {
				if !bytes.Equal(f[part.from:part.to], want[part.from:part.to]) {
					t.Errorf("%s is %x, qemu-img writes %x", part.name, f[part.from:part.to], want[part.from:part.to])
				}
			}
			if got := checksum(want); !bytes.Equal(want[64:68], []byte{byte(got >> 24), byte(got >> 16), byte(got >> 8), byte(got)}) {
				t.Errorf("the checksum of qemu-img's footer is %x, counted here %x", want[64:68], got)
			}
		})
	}
}

// TestGeometry holds the geometry against qemu-img's, which computes it where force_size is off, from the size that it can express.
func TestGeometry(t *testing.T) {
	for _, row := range []struct {
		summary   string
		size      int64
		cylinders uint16
		heads     uint8
		sectors   uint8
	}{
		{"small disks have 17 sectors a track", 20 * mib, 602, 4, 17},
		{"then 31", 200 * mib, 825, 16, 31},
		{"then 63", 3 << 30, 6241, 16, 63},
		{"and at last 255", 130 << 30, 65535, 16, 255},
	} {
		c, h, s := geometry(row.size)
		if c != row.cylinders || h != row.heads || s != row.sectors {
			t.Errorf("%s: %d bytes are %d/%d/%d, want %d/%d/%d", row.summary, row.size, c, h, s, row.cylinders, row.heads, row.sectors)
		}
	}
}

func TestSizeOfTheVHD(t *testing.T) {
	for size, want := range map[int64]int64{1: 20 * mib, 20 * mib: 20 * mib, 20*mib + 1: 21 * mib, 30 << 30: 30 << 30, 3<<30 + 512: 3<<30 + mib} {
		if got := vhdSize(size); got != want {
			t.Errorf("an image of %d bytes becomes a disk of %d, want %d", size, got, want)
		}
	}
}

func writeSparse(t *testing.T, path string, size int64, end []byte) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(end, size); err != nil {
		t.Fatal(err)
	}
}

func lastSector(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, footerSize)
	if _, err := f.ReadAt(b, info.Size()-footerSize); err != nil {
		t.Fatal(err)
	}
	return b
}

func qemu(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
		t.Errorf("qemu-img %v: %v\n%s", args, err, out)
	}
}
