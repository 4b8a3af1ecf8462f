// Package sparsetar writes a tar archive that holds one sparse file, as `tar --format=oldgnu -S` does and Go's
// archive/tar cannot. GNU tar, bsdtar, Python's tarfile and Google's image import read it.
//
// The format is in the GNU tar manual, "Old GNU Format": a map of the data in the header, then the data without holes.
package sparsetar

import (
	"fmt"
	"io"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/raw"
)

const (
	block         = 512
	record        = 20 * block // tar pads archives to this, GNU tar's default
	inHeader      = 4          // entries of the map in the header
	inExtension   = 21         // and in each extension block
	entrySize     = 24
	numberSize    = 12
	mapOffset     = 386
	extendedAt    = 482
	realSizeAt    = 483
	extensionMore = 504
)

// Writer is a raw.Sink that writes the archive.
type Writer struct {
	w       io.Writer
	extents []raw.Extent
	written int64 // bytes of the archive
}

// NewWriter writes the headers of an archive of one file. extents, of the image that the Writer will be given, are what it stores: outside of them
// the image has nothing but zeros. size is the image's; mode is 0644, the owner root.
func NewWriter(w io.Writer, name string, extents []raw.Extent, size int64, modified time.Time) (*Writer, error) {
	if len(name) >= 100 {
		return nil, fmt.Errorf("name %q is too long for a tar header", name)
	}
	t := &Writer{w: w, extents: extents}
	entries := extents
	if n := len(extents); n == 0 || extents[n-1].Offset+extents[n-1].Length < size {
		entries = append(extents[:n:n], raw.Extent{Offset: size}) // a hole at the end is told by an empty entry
	}
	return t, t.write(headers(name, entries, size, modified))
}

func headers(name string, entries []raw.Extent, size int64, modified time.Time) []byte {
	var stored int64
	for _, e := range entries {
		stored += e.Length
	}
	h := make([]byte, block)
	copy(h, name)
	putNumber(h[100:108], 0o644)
	putNumber(h[108:116], 0)
	putNumber(h[116:124], 0)
	putNumber(h[124:136], stored)
	putNumber(h[136:148], max(0, modified.Unix()))
	h[156] = 'S'
	copy(h[257:], "ustar  \x00")
	copy(h[265:], "root")
	copy(h[297:], "root")
	entries = putEntries(h[mapOffset:], entries, inHeader)
	if len(entries) > 0 {
		h[extendedAt] = 1
	}
	putNumber(h[realSizeAt:realSizeAt+numberSize], size)
	putChecksum(h)
	for len(entries) > 0 {
		x := make([]byte, block)
		entries = putEntries(x, entries, inExtension)
		if len(entries) > 0 {
			x[extensionMore] = 1
		}
		h = append(h, x...)
	}
	return h
}

// putEntries writes up to n entries and returns the rest.
func putEntries(b []byte, entries []raw.Extent, n int) []raw.Extent {
	n = min(n, len(entries))
	for i, e := range entries[:n] {
		at := b[i*entrySize:]
		putNumber(at[:numberSize], e.Offset)
		putNumber(at[numberSize:entrySize], e.Length)
	}
	return entries[n:]
}

// putNumber writes n in octal, or in base 256 where it has too many digits, as from 8 GiB on.
func putNumber(field []byte, n int64) {
	digits := len(field) - 1
	if n < 1<<(3*digits) {
		copy(field, fmt.Sprintf("%0*o", digits, n))
		return
	}
	for i := len(field) - 1; i > 0; i-- {
		field[i] = byte(n)
		n >>= 8
	}
	field[0] = 0x80
}

func putChecksum(h []byte) {
	copy(h[148:156], "        ")
	var sum int
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

func (t *Writer) write(p []byte) error {
	n, err := t.w.Write(p)
	t.written += int64(n)
	return err
}

// Data writes what of p the map announced. The rest must be zeros, as which holes are read.
func (t *Writer) Data(offset int64, p []byte) error {
	for len(p) > 0 {
		for len(t.extents) > 0 && t.extents[0].Offset+t.extents[0].Length <= offset {
			t.extents = t.extents[1:]
		}
		n, write := int64(len(p)), t.zeros
		if len(t.extents) > 0 && offset >= t.extents[0].Offset {
			n, write = min(n, t.extents[0].Offset+t.extents[0].Length-offset), t.store
		} else if len(t.extents) > 0 {
			n = min(n, t.extents[0].Offset-offset)
		}
		if err := write(offset, p[:n]); err != nil {
			return err
		}
		offset, p = offset+n, p[n:]
	}
	return nil
}

func (t *Writer) store(_ int64, p []byte) error { return t.write(p) }

func (t *Writer) zeros(offset int64, p []byte) error {
	return raw.Clusters(offset, p, func(offset int64, cluster []byte) error {
		if !raw.Zero(cluster) {
			return fmt.Errorf("data at byte %d is not in the archive's map", offset)
		}
		return nil
	})
}

// Hole writes nothing: the map tells it.
func (t *Writer) Hole(int64, int64) error { return nil }

// Close pads the archive to a whole record, the end mark of two zero blocks included. It leaves the underlying writer open.
func (t *Writer) Close() error {
	end := (t.written+block-1)/block*block + 2*block
	end = (end + record - 1) / record * record
	return t.write(make([]byte, end-t.written))
}
