// Package vmimage keeps the VM images that the executor boots: raw files in the directory of a libvirt storage pool, named by the
// digest of their content and never written to. A job's VM writes to an overlay on one.
//
// NAME.DIGEST.vmimage.json says that the image with that digest goes by NAME; the file itself is DIGEST.vmimage.raw.
// Both have the first 32 hexadecimal digits of the digest in their names. The document appears last and goes first.
package vmimage

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/atomicfile"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/hold"
	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
)

// Image is a VM image of a pool under one of its names.
type Image struct {
	Name     string    `json:"name"`
	Digest   string    `json:"digest"` // "sha512:" and hexadecimal digits, of the disk that the guest sees
	Size     int64     `json:"size"`   // of that disk, bytes
	Imported time.Time `json:"imported"`
	Source   string    `json:"source"` // name of the file that it came from

	Path     string `json:"path"`     // of the file
	Format   string `json:"format"`   // "raw", as libvirt and qemu-img call it
	FileSize int64  `json:"fileSize"` // what it takes of the pool, bytes
}

// Short is enough of the digest to tell images apart in a table.
func (i Image) Short() string { return i.hex()[:12] }

func (i Image) hex() string { return strings.TrimPrefix(i.Digest, digestPrefix) }

const (
	digestPrefix   = "sha512:"
	documentSuffix = ".vmimage.json"
	fileSuffix     = ".vmimage.raw"
	shortDigest    = 32
)

var (
	nameForm   = lazyregexp.New(`^[a-z0-9]([a-z0-9.+/_-]{0,98}[a-z0-9])?$`)
	digestForm = lazyregexp.New(`^sha512:[0-9a-f]{128}$`)
)

func demandName(name string) error {
	if !nameForm.MatchString(name) || strings.Contains(name, "..") {
		return fault.Inputf("%q is no name for a VM image: lower-case letters, digits, and . + / _ - between them", name)
	}
	return nil
}

func filePath(pool, digest string) string {
	return filepath.Join(pool, strings.TrimPrefix(digest, digestPrefix)[:shortDigest]+fileSuffix)
}

func documentPath(pool, name, digest string) string {
	name = strings.ReplaceAll(name, "/", "%2F")
	return filepath.Join(pool, name+"."+strings.TrimPrefix(digest, digestPrefix)[:shortDigest]+documentSuffix)
}

// List returns the images of a pool by name, of each name the newest first. A pool that does not exist has none. What is no
// document of an image, or one without its file, is left out.
func List(pool string) ([]Image, error) {
	pool, err := filepath.Abs(pool)
	if err != nil {
		return nil, err
	}
	paths, err := filepath.Glob(filepath.Join(escape(pool), "*"+documentSuffix))
	if err != nil {
		return nil, err
	}
	images := []Image{}
	for _, path := range paths {
		i, err := read(pool, path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // pruned at this moment, or half of one
		}
		if err != nil {
			return nil, err
		}
		images = append(images, i)
	}
	slices.SortFunc(images, func(a, b Image) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), b.Imported.Compare(a.Imported), strings.Compare(a.Digest, b.Digest))
	})
	return images, nil
}

// escape makes a path a pattern that matches it alone.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

func read(pool, path string) (Image, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Image{}, err
	}
	var i Image
	if err := json.Unmarshal(text, &i); err != nil || !digestForm.MatchString(i.Digest) || demandName(i.Name) != nil || documentPath(pool, i.Name, i.Digest) != path {
		return Image{}, fault.WithHint(fault.Inputf("%s does not describe the VM image that it is named after", path), "remove it and import the image again")
	}
	i.Path, i.Format = filePath(pool, i.Digest), "raw"
	var st unix.Stat_t
	if err := unix.Stat(i.Path, &st); err != nil {
		return Image{}, err
	}
	if st.Size != i.Size {
		return Image{}, fault.WithHint(fault.Inputf("VM image %s has %d bytes where its document says %d", i.Path, st.Size, i.Size), "remove both and import the image again")
	}
	i.FileSize = st.Blocks * 512
	return i, nil
}

// Find returns the newest image of a name. An unknown name is an Input error that lists those that there are.
func Find(pool, name string) (Image, error) {
	images, err := List(pool)
	if err != nil {
		return Image{}, err
	}
	var names []string
	for _, i := range images {
		if i.Name == name {
			return i, nil
		}
		if !slices.Contains(names, i.Name) {
			names = append(names, i.Name)
		}
	}
	others := ""
	if len(names) > 0 {
		others = fmt.Sprintf(", only %q", names)
	}
	err = fault.Inputf("the pool %s has no VM image %q%s", pool, name, others)
	return Image{}, fault.WithHint(err, "debcloud executor image import --name %s IMAGE", name)
}

// FindDigest returns the image with a digest ("sha512:" and hexadecimal digits), under any of its names.
func FindDigest(pool, digest string) (Image, error) {
	images, err := List(pool)
	if err != nil {
		return Image{}, err
	}
	at := slices.IndexFunc(images, func(i Image) bool { return i.Digest == digest })
	if at < 0 {
		return Image{}, fault.Inputf("the pool %s has no VM image with the digest %s", pool, digest)
	}
	return images[at], nil
}

// lock waits for the pool's lock, which imports and prunes take, as long as ctx lasts. The kernel lets go of it when the process
// ends.
func lock(ctx context.Context, pool string) (func(), error) {
	f, err := os.OpenFile(filepath.Join(pool, ".vmimage.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fault.Inputf("pool of VM images: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock the pool %s: %w", pool, err), f.Close())
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("the pool %s is locked by another import or prune: %w", pool, context.Cause(ctx)), f.Close())
		}
	}
}

// Prune removes of each name all but the newest keep images, and returns what it removed. Pinned images stay, and those that a VM has
// its disk on or that are held (internal/hold) for one that is about to. A file goes with the last document that names it.
func Prune(ctx context.Context, pool string, keep int, pinned func(Image) bool) ([]Image, error) {
	if keep < 1 {
		return nil, fault.Inputf("to keep %d VM images of each name would remove those that jobs get: keep at least 1", keep)
	}
	unlock, err := lock(ctx, pool)
	if err != nil {
		return nil, err
	}
	defer unlock()
	images, err := List(pool)
	if err != nil {
		return nil, err
	}
	old := map[Image]bool{}
	newer := map[string]int{}
	for _, i := range images {
		newer[i.Name]++
		if newer[i.Name] > keep && !pinned(i) {
			old[i] = true
		}
	}
	free, release := nobodys(old)
	defer release()
	used, err := usedFiles(ctx, pool) // after that: who held an image until now has his disk on it
	if err != nil {
		return nil, err
	}
	removed := []Image{}
	kept := map[string]bool{} // by name of the file
	for _, i := range images {
		file := filepath.Base(i.Path)
		if !old[i] || !free[i.Path] || used[file] {
			kept[file] = true
			continue
		}
		if err := context.Cause(ctx); err != nil {
			return removed, err
		}
		if err := os.Remove(documentPath(pool, i.Name, i.Digest)); err != nil {
			return removed, err
		}
		removed = append(removed, i)
	}
	return removed, sweep(pool, kept)
}

// nobodys tells which files are held by nobody, and keeps them so until release is called.
func nobodys(images map[Image]bool) (free map[string]bool, release func()) {
	free = map[string]bool{}
	var releases []func()
	for i := range images {
		if free[i.Path] {
			continue // by another name
		}
		if release, ok := hold.Free(i.Path); ok {
			free[i.Path] = true
			releases = append(releases, release)
		}
	}
	return free, func() {
		for _, release := range releases {
			release()
		}
	}
}

// sweep removes image files without a document, and what killed imports left.
func sweep(pool string, kept map[string]bool) error {
	paths, err := filepath.Glob(filepath.Join(escape(pool), "*"+fileSuffix))
	if err != nil {
		return err
	}
	partial, err := filepath.Glob(filepath.Join(escape(pool), partialPrefix+"*"))
	if err != nil {
		return err
	}
	torn, err := filepath.Glob(filepath.Join(escape(pool), ".*"+documentSuffix+"[0-9]*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range slices.Concat(paths, partial, torn) {
		if !kept[filepath.Base(path)] {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}

func write(pool string, i Image) error {
	text, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.WriteMode(documentPath(pool, i.Name, i.Digest), append(text, '\n'), 0o644)
}
