// Package directory publishes images to a directory that a web server shows: Debian's public tree.
//
// What the tree promises to those who read it: a version's directory appears, and gains images, by one rename; "latest" leads to a
// directory with un-versioned names and is swapped last; files never change once they are there and are 0444; nothing
// in the tree but a directory whose name begins with a dot is ever half-made. Publishers of one tree may run side
// by side: they prepare their files at the same time and wait for each other to put them in place.
package directory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
)

// provider is what Upload documents say of the public tree, whoever's mirror of it one reads.
const provider = "cloud.debian.org"

// private holds the images of stage Private, as a tree of its own.
const private = ".private"

// Directory publishes to a tree and retires from it. It implements publish.Publisher and prune.Holder.
type Directory struct {
	// NoWait has Publish return an error of kind fault.Outside where another publisher is at work on the image or changes the tree.
	NoWait bool

	path string
	free func(path string) (int64, error) // bytes
	now  func() time.Time
}

// New returns the Directory at path, which is made by the first publication.
func New(path string) *Directory {
	return &Directory{path: path, free: freeSpace, now: time.Now}
}

// Provider returns "directory".
func (d *Directory) Provider() string { return "directory" }

// Publish implements publish.Publisher. Stage Private puts the image into the hidden tree PATH/.private; stage Public
// takes it from there where it is.
func (d *Directory) Publish(ctx context.Context, img *publish.Image, stage publish.Stage) (*publish.Publication, error) {
	p, err := d.publish(ctx, img, stage)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		err = fault.WithHint(fault.Outsidef("no space is left for %s in %s; the tree is as it was", img.Name(), d.path), "free about %s there", binary(need(img)))
	}
	return p, err
}

func (d *Directory) publish(ctx context.Context, img *publish.Image, stage publish.Stage) (*publish.Publication, error) {
	tree, err := d.open(stage)
	if err != nil {
		return nil, err
	}
	defer tree.close()
	if found, err := tree.find(ctx, img); found != nil || err != nil {
		return found, err
	}
	if found, err := d.publicAlready(img, stage); found != nil || err != nil {
		return found, err
	}
	s, err := tree.newStaging(ctx, img)
	if err != nil {
		return nil, err
	}
	defer s.remove()
	if err := d.prepare(ctx, img, stage, s); err != nil {
		return nil, err
	}
	if err := tree.lock(ctx); err != nil {
		return nil, err
	}
	defer tree.unlock()
	if found, err := tree.published(img); found != nil || err != nil {
		return found, err // another publisher was faster
	}
	if err := tree.place(img, s); err != nil {
		return nil, err
	}
	if err := tree.refreshLatest(img.Directory(), s); err != nil {
		return nil, err
	}
	p, err := tree.published(img)
	if err == nil && p == nil {
		err = fmt.Errorf("%s is not in %s after it was put there", img.Name(), tree.root)
	}
	if p != nil {
		p.Changed = true
		d.dropPrivate(img, stage)
	}
	return p, err
}

// open makes the tree's root where it is missing.
func (d *Directory) open(stage publish.Stage) (*tree, error) {
	if err := os.MkdirAll(d.path, 0o755); err != nil {
		return nil, fault.Inputf("the tree %s cannot be made: %w", d.path, err)
	}
	root := d.path
	if stage == publish.Private {
		root = filepath.Join(d.path, private)
		if err := os.Mkdir(root, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
	}
	t, err := openTree(root, stage == publish.Public)
	if err == nil {
		t.noWait = d.NoWait
	}
	return t, err
}

// find returns the image's publication where there is one, with "latest" brought up to date where a killed publisher
// had not come that far, and clears what killed publishers left.
func (t *tree) find(ctx context.Context, img *publish.Image) (*publish.Publication, error) {
	if err := t.lock(ctx); err != nil {
		return nil, err
	}
	defer t.unlock()
	t.sweep(ctx)
	found, err := t.published(img)
	if found == nil || err != nil {
		return nil, err
	}
	if right, err := t.latestIsRight(img.Directory()); right || err != nil {
		return found, err
	}
	s, err := t.makeStaging("")
	if err != nil {
		return nil, err
	}
	defer s.remove()
	return found, t.refreshLatest(img.Directory(), s)
}

// publicAlready finds an image that stage Private need not hide, as everyone can see it.
func (d *Directory) publicAlready(img *publish.Image, stage publish.Stage) (*publish.Publication, error) {
	if stage == publish.Public {
		return nil, nil
	}
	return (&tree{root: d.path}).published(img)
}

// published returns what the tree has of the image: nil where it has nothing or a file is gone, an error where it has another
// image under the same name.
func (t *tree) published(img *publish.Image) (*publish.Publication, error) {
	path := filepath.Join(t.root, img.Directory(), img.Name()+".json")
	builds, uploads, err := manifest.ReadList(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, b := range builds {
		if d, err := b.Metadata.Digest(); err != nil || d != img.Digest {
			return nil, fault.WithHint(fault.Inputf("%s is published already, with digest %s, and this image has digest %s", path, b.Metadata.Annotations[manifest.AnnotationDigest], img.Digest),
				"a published version never changes: build this image with another version")
		}
	}
	for _, u := range uploads {
		if _, err := os.Stat(filepath.Join(t.root, filepath.FromSlash(u.Data.Ref))); err != nil {
			slog.Warn("published file is gone and will be made again", "file", u.Data.Ref, "tree", t.root)
			return nil, nil
		}
	}
	return &publish.Publication{Uploads: uploads, Place: path}, nil
}

// prepare puts all files of the image into the staging directory, from the private tree where it has them.
func (d *Directory) prepare(ctx context.Context, img *publish.Image, stage publish.Stage, s *staging) error {
	if stage == publish.Public {
		if done, err := d.linkPrivate(img, s); done || err != nil {
			return err
		}
	}
	if err := d.demandSpace(img); err != nil {
		return err
	}
	return writeFiles(ctx, img, s.files)
}

// linkPrivate takes the files of stage Private by hard links.
func (d *Directory) linkPrivate(img *publish.Image, s *staging) (bool, error) {
	t, err := openTree(filepath.Join(d.path, private), false)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer t.close()
	if found, err := t.published(img); found == nil || err != nil {
		return false, err
	}
	from := filepath.Join(t.root, img.Directory())
	names, err := filesOf(from, img.Name())
	if err != nil {
		return false, err
	}
	for _, name := range names {
		if err := os.Link(filepath.Join(from, name), filepath.Join(s.files, name)); err != nil {
			return false, err
		}
	}
	sums, err := readSums(from)
	if err != nil {
		return false, err
	}
	return true, writeSums(s.files, sums.only(names), img.Version.Time())
}

// dropPrivate removes the private copy of what is public now. What cannot be removed costs only space.
func (d *Directory) dropPrivate(img *publish.Image, stage publish.Stage) {
	if stage != publish.Public {
		return
	}
	from := filepath.Join(d.path, private, img.Directory())
	names, _ := filesOf(from, img.Name())
	for _, name := range names {
		if err := os.Remove(filepath.Join(from, name)); err != nil {
			slog.Warn("private copy stays", "file", name, "error", err)
		}
	}
	if left, _ := os.ReadDir(from); len(left) == 1 { // SHA512SUMS
		os.RemoveAll(from)
	}
}

func (d *Directory) demandSpace(img *publish.Image) error {
	free, err := d.free(d.path)
	if err != nil {
		return err
	}
	if n := need(img); free < n {
		return fault.WithHint(fault.Outsidef("%s has %s free and publishing %s needs about %s", d.path, binary(free), img.Name(), binary(n)), "free some space, or publish to another file system")
	}
	return nil
}

// need estimates the bytes that a publication occupies: the data once as it is, and twice compressed, which measured 0.25 to
// 0.4 of it; 0.5 leaves room.
func need(img *publish.Image) int64 {
	data := img.Build.Data.Image.Allocated
	if !hasDiskFormats(img) {
		return data/2 + 16<<20
	}
	return data*2 + 16<<20
}

func freeSpace(path string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, fmt.Errorf("ask for the free space of %s: %w", path, err)
	}
	return int64(s.Bavail) * s.Bsize, nil
}

func binary(n int64) string { return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30)) }
