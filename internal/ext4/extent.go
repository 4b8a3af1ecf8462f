package ext4

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"sort"
)

// extent is a run of blocks of a file. Blocks that no extent covers are a hole.
type extent struct {
	logical uint32 // first block in the file
	count   uint32
	start   uint64 // first block on the disk, 0 for blocks that were reserved and never written: they read as zeros
}

const extentMagic = 0xf30a

// extents flattens an inode's extent tree. Each extent must begin after the one before it, so a tree that
// names a block twice ends with an error instead of a long walk.
func (f *FS) extents(i *Inode) ([]extent, error) {
	switch {
	case i.flags&flagEncrypted != 0:
		return nil, fmt.Errorf("%w: inode %d is encrypted", ErrUnsupported, i.Number)
	case i.flags&flagInlineData != 0:
		return nil, fmt.Errorf("%w: inode %d has its data inline", ErrUnsupported, i.Number)
	case i.flags&flagExtents == 0:
		return nil, fmt.Errorf("%w: inode %d has a block map in place of extents", ErrUnsupported, i.Number)
	}
	w := extentWalk{f: f, inode: i}
	if err := w.node(i.block[:], int(le16(i.block[:], 6))); err != nil {
		return nil, fmt.Errorf("inode %d: %w", i.Number, err)
	}
	return w.found, nil
}

type extentWalk struct {
	f     *FS
	inode *Inode
	found []extent
	next  uint64 // the first logical block that the next extent may have
}

// node reads one node of the tree, which must be depth levels above the extents.
func (w *extentWalk) node(b []byte, depth int) error {
	entries, capacity := int(le16(b, 2)), (len(b)-12)/12
	if le16(b, 0) != extentMagic || int(le16(b, 6)) != depth || depth > 5 || entries > capacity {
		return damagedf("an extent node with magic %#04x, depth %d, %d entries where %d fit", le16(b, 0), le16(b, 6), entries, capacity)
	}
	for n := range entries {
		e := b[12+12*n:][:12]
		var err error
		if depth == 0 {
			err = w.leaf(e)
		} else {
			err = w.child(uint64(le32(e, 4))|uint64(le16(e, 8))<<32, depth-1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *extentWalk) child(block uint64, depth int) error {
	b, err := w.f.readBlock(block)
	if err != nil {
		return err
	}
	if w.f.checksums {
		tail := 12 + 12*int(le16(b, 4)) // after eh_max entries
		if tail+4 > len(b) || w.f.inodeChecksum(w.inode, b[:tail]) != le32(b, tail) {
			return damagedf("the checksum of extent block %d does not match", block)
		}
	}
	if le16(b, 2) == 0 {
		return damagedf("extent block %d has no entries", block)
	}
	return w.node(b, depth)
}

func (w *extentWalk) leaf(e []byte) error {
	x := extent{logical: le32(e, 0), count: uint32(le16(e, 4)), start: uint64(le32(e, 8)) | uint64(le16(e, 6))<<32}
	unwritten := x.count > 32768
	if unwritten {
		x.count -= 32768
	}
	if x.count == 0 || uint64(x.logical) < w.next || x.start == 0 || x.start+uint64(x.count) > w.f.blocks {
		return damagedf("an extent of %d blocks at block %d of the file, %d of the disk", x.count, x.logical, x.start)
	}
	if unwritten {
		x.start = 0
	}
	w.next = uint64(x.logical) + uint64(x.count)
	w.found = append(w.found, x)
	return nil
}

// inodeChecksum is the checksum of a block that belongs to i.
func (f *FS) inodeChecksum(i *Inode, b []byte) uint32 {
	var owner [8]byte
	binary.LittleEndian.PutUint32(owner[:], i.Number)
	binary.LittleEndian.PutUint32(owner[4:], i.generation)
	return checksum(f.seed, owner[:], b)
}

// file is an open regular file.
type file struct {
	info    info
	f       *FS
	extents []extent
	at      int64
}

var (
	_ fs.File     = (*file)(nil)
	_ io.ReaderAt = (*file)(nil)
	_ io.Seeker   = (*file)(nil)
)

func (x *file) Stat() (fs.FileInfo, error) { return x.info, nil }
func (x *file) Close() error               { return nil }

func (x *file) Read(p []byte) (int, error) {
	n, err := x.ReadAt(p, x.at)
	x.at += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (x *file) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += x.at
	case io.SeekEnd:
		offset += x.info.size
	}
	if offset < 0 {
		return 0, fs.ErrInvalid
	}
	x.at = offset
	return offset, nil
}

func (x *file) ReadAt(p []byte, at int64) (int, error) {
	if at < 0 {
		return 0, fs.ErrInvalid
	}
	done := 0
	for done < len(p) && at < x.info.size {
		want := min(int64(len(p)-done), x.info.size-at)
		disk, run := x.f.locate(x.extents, at)
		part := p[done : done+int(min(want, run))]
		if disk == 0 {
			clear(part)
		} else if _, err := x.f.r.ReadAt(part, disk); err != nil {
			return done, fmt.Errorf("read %s: %w", x.info.name, err)
		}
		done += len(part)
		at += int64(len(part))
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// locate returns where byte at of a file is on the disk, 0 in a hole, and how many bytes from there lie together.
func (f *FS) locate(extents []extent, at int64) (disk, run int64) {
	block, within := at/f.blockSize, at%f.blockSize
	n := sort.Search(len(extents), func(n int) bool { return int64(extents[n].logical)+int64(extents[n].count) > block })
	if n == len(extents) {
		return 0, 1<<62 - at
	}
	x := extents[n]
	if block < int64(x.logical) {
		return 0, int64(x.logical)*f.blockSize - at
	}
	run = (int64(x.logical)+int64(x.count))*f.blockSize - at
	if x.start == 0 {
		return 0, run
	}
	return (int64(x.start)+block-int64(x.logical))*f.blockSize + within, run
}
