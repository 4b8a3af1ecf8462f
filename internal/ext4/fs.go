package ext4

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

var (
	_ fs.ReadLinkFS = (*FS)(nil)
	_ fs.ReadDirFS  = (*FS)(nil)
	_ fs.StatFS     = (*FS)(nil)
	_ fs.ReadFileFS = (*FS)(nil)
)

// Links followed in one path before it is taken for a loop; the kernel's limit.
const maxLinks = 40

// Open opens a file or directory. Links are followed as inside a chroot: an absolute one begins at this root, and
// none leads out of it.
func (f *FS) Open(name string) (fs.File, error) {
	trail, err := f.find(name, true)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	i := trail[len(trail)-1]
	about := info{path.Base(name), i}
	if i.fileMode().IsDir() {
		list, err := f.list(trail)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return &directory{about, list}, nil
	}
	if !i.fileMode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("neither a file nor a directory")}
	}
	extents, err := f.extents(i)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &file{info: about, f: f, extents: extents}, nil
}

// ReadFile reads a whole file. One of more than 64 MiB is an error: Open it instead.
func (f *FS) ReadFile(name string) ([]byte, error) {
	opened, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	x, ok := opened.(*file)
	if !ok || x.info.size > 64<<20 {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("a directory, or too large to hold in memory")}
	}
	b := make([]byte, x.info.size)
	if n, err := x.ReadAt(b, 0); n < len(b) {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return b, nil
}

// ReadDir lists a directory, sorted by name.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	trail, err := f.find(name, true)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	list, err := f.list(trail)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	return list, nil
}

// Stat follows links.
func (f *FS) Stat(name string) (fs.FileInfo, error) { return f.stat("stat", name, true) }

// Lstat does not follow a link that name itself is.
func (f *FS) Lstat(name string) (fs.FileInfo, error) { return f.stat("lstat", name, false) }

func (f *FS) stat(op, name string, follow bool) (fs.FileInfo, error) {
	trail, err := f.find(name, follow)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return info{path.Base(name), trail[len(trail)-1]}, nil
}

// ReadLink returns where a link points, as it stands.
func (f *FS) ReadLink(name string) (string, error) {
	trail, err := f.find(name, false)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	target, err := f.target(trail[len(trail)-1])
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return target, nil
}

func (f *FS) list(trail []*Inode) ([]fs.DirEntry, error) {
	l, err := f.listing(trail)
	if err != nil {
		return nil, err
	}
	list := make([]fs.DirEntry, len(l.entries))
	for n, e := range l.entries {
		i, err := f.inode(e.inode)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
		list[n] = fs.FileInfoToDirEntry(info{e.name, i})
	}
	return list, nil
}

// target returns a link's text: in the inode where it fits there, else in the first block.
func (f *FS) target(i *Inode) (string, error) {
	if i.fileMode().Type() != fs.ModeSymlink {
		return "", fs.ErrInvalid
	}
	if i.size == 0 || i.size >= f.blockSize {
		return "", damagedf("link %d has %d bytes", i.Number, i.size)
	}
	if i.flags&flagExtents == 0 && i.size < int64(len(i.block)) {
		return string(i.block[:i.size]), nil
	}
	extents, err := f.extents(i)
	if err != nil {
		return "", err
	}
	b := make([]byte, i.size)
	x := file{info: info{"link", i}, f: f, extents: extents}
	if n, err := x.ReadAt(b, 0); err != nil && !(errors.Is(err, io.EOF) && n == len(b)) {
		return "", err
	}
	return string(b), nil
}

// find looks up a path of the kind that package fs uses, without a leading slash; names need not be UTF-8. It returns
// the inodes on the way from the root to it.
func (f *FS) find(name string, follow bool) ([]*Inode, error) {
	if !valid(name) {
		return nil, fs.ErrInvalid
	}
	root, err := f.inode(rootInode)
	if err != nil {
		return nil, err
	}
	trail := []*Inode{root}
	rest, links := strings.Split(name, "/"), 0
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			trail = trail[:max(1, len(trail)-1)]
			continue
		}
		next, err := f.lookup(trail, part)
		if err != nil {
			return nil, err
		}
		if next.fileMode().Type() != fs.ModeSymlink || len(rest) == 0 && !follow {
			trail = append(trail, next)
			continue
		}
		if links++; links > maxLinks {
			return nil, errors.New("too many levels of symbolic links")
		}
		target, err := f.target(next)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(target, "/") {
			trail = trail[:1]
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return trail, nil
}

// valid is fs.ValidPath for names of any bytes.
func valid(name string) bool {
	if name == "." {
		return true
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

// lookup finds name in the directory at the end of trail. A path through something else does not exist.
func (f *FS) lookup(trail []*Inode, name string) (*Inode, error) {
	l, err := f.listing(trail)
	if errors.Is(err, errNotDirectory) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	n, ok := slices.BinarySearchFunc(l.entries, name, func(e entry, name string) int { return strings.Compare(e.name, name) })
	if !ok {
		return nil, fs.ErrNotExist
	}
	return f.inode(l.entries[n].inode)
}
