package ext4

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
)

// entry is a name in a directory.
type entry struct {
	name  string
	inode uint32
}

// listing is a directory's content, sorted by name and without "." and "..", and the inode that its ".." names.
type listing struct {
	entries []entry
	parent  uint32
}

// Directories larger than this are taken for damage: 64 MiB hold more than a million names.
const maxDirectory = 64 << 20

// listing reads the directory at the end of trail, the inodes on the way from the root to it. A directory has one
// parent: one whose ".." names another than where it was found is damage, which also rules out a walk in circles.
func (f *FS) listing(trail []*Inode) (*listing, error) {
	i, parent := trail[len(trail)-1], trail[max(0, len(trail)-2)]
	if !i.fileMode().IsDir() {
		return nil, errNotDirectory
	}
	known, ok := f.directories.Load(i.Number)
	if !ok {
		l, err := f.readListing(i)
		if err != nil {
			return nil, fmt.Errorf("directory %d: %w", i.Number, err)
		}
		known, _ = f.directories.LoadOrStore(i.Number, l)
	}
	l := known.(*listing)
	if l.parent != parent.Number {
		return nil, damagedf("directory %d was found in directory %d and says that it is in %d", i.Number, parent.Number, l.parent)
	}
	return l, nil
}

var errNotDirectory = errors.New("not a directory")

// readListing reads a directory from its first block to its last. The hash tree, which looks like deleted entries to
// this walk, is not needed.
func (f *FS) readListing(i *Inode) (*listing, error) {
	if i.size > maxDirectory || i.size%f.blockSize != 0 {
		return nil, damagedf("it has %d bytes", i.size)
	}
	extents, err := f.extents(i)
	if err != nil {
		return nil, err
	}
	l := new(listing)
	for at := int64(0); at < i.size; at += f.blockSize {
		disk, _ := f.locate(extents, at)
		if disk == 0 {
			return nil, damagedf("it has a hole")
		}
		b, err := f.readBlock(uint64(disk / f.blockSize))
		if err != nil {
			return nil, err
		}
		if err := f.parseEntries(l, i, b); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(l.entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	for n := 1; n < len(l.entries); n++ {
		if l.entries[n].name == l.entries[n-1].name {
			return nil, damagedf("it holds %q twice", l.entries[n].name)
		}
	}
	return l, nil
}

func (f *FS) parseEntries(l *listing, i *Inode, b []byte) error {
	if err := f.verifyEntries(i, b); err != nil {
		return err
	}
	for at := 0; at < len(b); {
		if len(b)-at < 8 {
			return damagedf("an entry at byte %d of a block", at)
		}
		inode, length, name := le32(b, at), int(le16(b, at+4)), int(b[at+6])
		if f.blockSize == 65536 && (length == 0 || length == 65535) {
			length = 65536
		}
		if length < 8 || length%4 != 0 || at+length > len(b) || inode != 0 && (name == 0 || 8+name > length) {
			return damagedf("an entry of %d bytes with a name of %d at byte %d of a block", length, name, at)
		}
		if inode != 0 {
			if err := l.add(string(b[at+8:at+8+name]), inode); err != nil {
				return err
			}
		}
		at += length
	}
	return nil
}

func (l *listing) add(name string, inode uint32) error {
	switch {
	case name == ".":
	case name == "..":
		l.parent = inode
	case strings.ContainsAny(name, "/\x00"):
		return damagedf("an entry named %q", name)
	default:
		l.entries = append(l.entries, entry{name, inode})
	}
	return nil
}

// verifyEntries compares the checksum in a leaf block's last twelve bytes, which look like a deleted entry of type
// 0xde. A block without them is a node of the hash tree, whose checksum is not needed: its entries are never read.
func (f *FS) verifyEntries(i *Inode, b []byte) error {
	tail := len(b) - 12
	if !f.checksums || le32(b, tail) != 0 || le16(b, tail+4) != 12 || b[tail+7] != 0xde {
		return nil
	}
	if f.inodeChecksum(i, b[:tail]) != le32(b, tail+8) {
		return damagedf("the checksum of a block of directory %d does not match", i.Number)
	}
	return nil
}

// directory is an open directory.
type directory struct {
	info info
	rest []fs.DirEntry
}

func (d *directory) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *directory) Close() error               { return nil }
func (d *directory) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.info.name, Err: fs.ErrInvalid}
}

func (d *directory) ReadDir(n int) ([]fs.DirEntry, error) {
	if n <= 0 {
		n = len(d.rest)
	} else if len(d.rest) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.rest))
	some := d.rest[:n:n]
	d.rest = d.rest[n:]
	return some, nil
}
