package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
)

// smallImage is a file system of a few hundred KiB in use, with an extent tree and a directory of several blocks.
func smallImage(t testing.TB, options ...string) []byte {
	dir := t.TempDir()
	var many []byte
	for n := range 200 {
		many = append(append(many, bytes.Repeat([]byte{byte(n + 1)}, 1024)...), make([]byte, 1024)...)
		write(t, dir, "d/name-"+strings.Repeat("x", n), []byte("content"))
	}
	write(t, dir, "many", many)
	if err := os.Symlink(strings.Repeat("l", 100), dir+"/link"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(makeImage(t, dir, "4m", append(options, "-b", "1024")...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// readAll reads whatever can be reached.
func readAll(b []byte) error {
	f, err := New(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	var bad []error
	err = fs.WalkDir(f, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			bad = append(bad, err)
			return nil
		}
		if d.Type() == fs.ModeSymlink {
			_, err = f.ReadLink(name)
		} else if d.Type().IsRegular() {
			var x fs.File
			if x, err = f.Open(name); err == nil {
				_, err = io.CopyN(io.Discard, x, 64<<20)
			}
		}
		if err != nil && err != io.EOF {
			bad = append(bad, err)
		}
		return nil
	})
	return errors.Join(append(bad, err)...)
}

// Whatever bits flip, the reader ends, and soon; and with checksums it says of every flip in metadata that the file
// system is damaged.
func TestBitFlips(t *testing.T) {
	for _, options := range [][]string{{"-O", "metadata_csum"}, {"-O", "^metadata_csum,^64bit"}} {
		b := smallImage(t, options...)
		if err := readAll(b); err != nil {
			t.Fatal(err)
		}
		var used []int
		for at, c := range b {
			if c != 0 {
				used = append(used, at)
			}
		}
		random := rand.New(rand.NewPCG(1, 2))
		found := 0
		for range 400 {
			at, old := used[random.IntN(len(used))], byte(0)
			if random.IntN(3) == 0 {
				at = min(at+random.IntN(16), len(b)-1)
			}
			old, b[at] = b[at], b[at]^byte(1<<random.IntN(8))
			start := time.Now()
			if err := readAll(b); err != nil {
				found++
			}
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("%v: a flip in byte %d took %s", options, at, d)
			}
			b[at] = old
		}
		t.Logf("%v: %d of 400 flips were noticed", options, found)
	}
}

// One damage of each kind is named.
func TestDamageIsNamed(t *testing.T) {
	sound := smallImage(t, "-O", "metadata_csum")
	f, err := New(bytes.NewReader(sound), int64(len(sound)))
	if err != nil {
		t.Fatal(err)
	}
	inode := func(name string) (int, *Inode) {
		i, err := f.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		n := i.Sys().(*Inode)
		group, index := (n.Number-1)/f.inodesPerGroup, (n.Number-1)%f.inodesPerGroup
		return int(int64(f.inodeTables[group])*f.blockSize + int64(index)*f.inodeSize), n
	}
	manyAt, many := inode("many")
	_, d := inode("d")
	extents, err := f.extents(d)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		summary string
		at      int
		want    string
	}{
		{"superblock", 1024 + 0x10, "the superblock's checksum does not match"},
		{"magic", 1024 + 0x38, "where ext4 has 0xef53"},
		{"group descriptor", 2048 + 8, "the checksum of group descriptor 0 does not match"},
		{"inode", manyAt + 4, "the checksum of inode"},
		{"extent block", int(le32(many.block[:], 16)) * 1024, "the checksum of extent block"},
		{"directory", int(extents[1].start) * 1024, "the checksum of a block of directory"},
	} {
		b := bytes.Clone(sound)
		b[row.at] ^= 4
		if err := readAll(b); err == nil || !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %q", row.summary, err, row.want)
		}
	}
}

// A journal that holds what is not yet in its place makes the rest untrue.
func TestRefusesWhatItCannotRead(t *testing.T) {
	b := smallImage(t, "-O", "^metadata_csum")
	b[1024+0x60] |= incompatRecover
	if err := readAll(b); !errors.Is(err, ErrUnsupported) {
		t.Errorf("journal to replay: %v", err)
	}
	if err := readAll(make([]byte, 1<<20)); err == nil || !errors.Is(err, ErrDamaged) {
		t.Errorf("zeros: %v", err)
	}
	if err := readAll(make([]byte, 100)); err == nil {
		t.Error("100 bytes were taken for a file system")
	}
}

// Without the rule that a directory has one parent this walk would not end.
func TestDirectoryInsideItself(t *testing.T) {
	b := smallImage(t, "-O", "^metadata_csum")
	f, err := New(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	i, _ := f.Lstat("d")
	trail, _ := f.find("d", true)
	extents, _ := f.extents(trail[1])
	block := b[extents[0].start*1024:][:1024]
	binary.LittleEndian.PutUint32(block[24:], i.Sys().(*Inode).Number) // the entry after "." and ".."
	if err := readAll(b); err == nil || !strings.Contains(err.Error(), "says that it is in") {
		t.Errorf("got %v", err)
	}
}

// Times after 2038 have two more bits, which mkfs.ext4 1.47.0 does not write and the kernel does.
func TestTimesAfter2038(t *testing.T) {
	f := &FS{blockSize: 1024}
	b := make([]byte, 256)
	b[0], b[1], b[0x1a], b[0x80] = 0xa4, 0x81, 1, 32
	want := time.Date(2100, 1, 2, 3, 4, 5, 6, time.UTC)
	binary.LittleEndian.PutUint32(b[0x10:], uint32(want.Unix()))
	binary.LittleEndian.PutUint32(b[0x88:], uint32((want.Unix()-int64(int32(want.Unix())))>>32)|6<<2)
	i, err := f.parseInode(12, b)
	if err != nil || !i.modified.Equal(want) {
		t.Errorf("got %v, %v", i, err)
	}
}
