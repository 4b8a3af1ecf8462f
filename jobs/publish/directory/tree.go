package directory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/dirlock"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
)

const stagingPrefix = ".staging-"

// tree is an open public tree. Its lock is an flock on the root directory itself, so that no lock file stays.
type tree struct {
	root   string
	latest bool // keeps "latest"
	noWait bool // for another publisher
	dir    *os.File
}

func openTree(root string, latest bool) (*tree, error) {
	dir, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	return &tree{root: root, latest: latest, dir: dir}, nil
}

func (t *tree) close() { t.dir.Close() }

// lock waits until no other publisher changes the tree, or stops.
func (t *tree) lock(ctx context.Context) error {
	for waited := false; ; waited = true {
		err := unix.Flock(int(t.dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("lock %s: %w", t.root, err)
		}
		if t.noWait {
			return fault.WithHint(fault.Outsidef("another publisher changes the tree %s just now", t.root), "run the same command again, or without --no-wait")
		}
		if !waited {
			slog.InfoContext(ctx, "waiting for another publisher", "tree", t.root)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (t *tree) unlock() { _ = unix.Flock(int(t.dir.Fd()), unix.LOCK_UN) }

// staging is a hidden directory on the tree's file system. It is flocked while its maker lives, so that a later run
// can tell what a killed one left.
type staging struct {
	path  string
	files string // directory of the new files, all of which go into the version's directory
	lock  *os.File
}

// newStaging makes the staging directory of an image. It has the image's name in its own.
func (t *tree) newStaging(ctx context.Context, img *publish.Image) (*staging, error) {
	if err := t.lock(ctx); err != nil {
		return nil, err
	}
	defer t.unlock()
	if t.noWait && t.staged(img.Name()) {
		return nil, fault.WithHint(fault.Outsidef("another publisher is at work on %s for %s", img.Name(), t.root), "wait until it is done, or run the same command without --no-wait")
	}
	return t.makeStaging(img.Name() + "-")
}

// staged tells whether a living publisher has a staging directory for the image of that name. It needs the tree's lock.
func (t *tree) staged(name string) bool {
	found, _ := filepath.Glob(filepath.Join(escapeGlob(t.root), stagingPrefix+name+"-*"))
	return slices.ContainsFunc(found, func(path string) bool {
		f, err := dirlock.Try(path)
		if err == nil {
			_ = f.Close()
		}
		return errors.Is(err, dirlock.ErrTaken)
	})
}

// makeStaging needs the tree's lock: before the directory is flocked it looks like a left one.
func (t *tree) makeStaging(name string) (*staging, error) {
	path, err := os.MkdirTemp(t.root, stagingPrefix+name)
	if err != nil {
		return nil, fault.Inputf("%s cannot be written: %w", t.root, err)
	}
	s := &staging{path: path, files: filepath.Join(path, "files")}
	if s.lock, err = os.Open(path); err == nil {
		err = unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		err = os.Mkdir(s.files, 0o755)
	}
	if err != nil {
		os.RemoveAll(path)
		return nil, err
	}
	return s, nil
}

func (s *staging) remove() {
	if err := os.RemoveAll(s.path); err != nil {
		slog.Warn("staging directory stays until the next publication", "path", s.path, "error", err)
	}
	s.lock.Close()
}

// directory makes a new empty directory within the staging directory.
func (s *staging) directory(name string) (string, error) {
	path, err := os.MkdirTemp(s.path, name+"-")
	if err != nil {
		return "", err
	}
	return path, os.Chmod(path, 0o755)
}

// sweep removes staging directories whose makers are gone. It needs the tree's lock.
func (t *tree) sweep(ctx context.Context) {
	left, _ := filepath.Glob(filepath.Join(t.root, stagingPrefix+"*"))
	for _, path := range left {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			slog.InfoContext(ctx, "removing what a killed publisher left", "path", path)
			if err := os.RemoveAll(path); err != nil {
				slog.WarnContext(ctx, "staging directory stays", "path", path, "error", err)
			}
		}
		f.Close()
	}
}

// cut is called between any two changes to the tree; tests kill the process there.
var cut = func(string) {}

// place puts the staged files into the version's directory.
func (t *tree) place(img *publish.Image, s *staging) error {
	full, err := t.assemble(img.Directory(), s)
	if err != nil {
		return err
	}
	return t.swapIn(full, img.Directory(), s)
}

// assemble makes, in the staging directory, the whole of a version's directory: hard links to what is published, the
// staged files, one SHA512SUMS of both, and, where it is the newest version, the un-versioned names.
func (t *tree) assemble(version string, s *staging) (string, error) {
	full, err := s.directory("version")
	if err != nil {
		return "", err
	}
	published := filepath.Join(t.root, version)
	sums, err := readSums(published)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	fresh, err := readSums(s.files)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if err := linkAll(published, full, fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if err := linkAll(s.files, full, nil); err != nil {
		return "", err
	}
	merged := sums.with(fresh)
	if err := writeSums(full, merged, versionTime(version)); err != nil {
		return "", err
	}
	if t.latest {
		err = t.addView(full, version, merged)
	}
	return full, err
}

// linkAll hard-links the regular files of from, but for SHA512SUMS and those in except, into to.
func linkAll(from, to string, except sums) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, skip := except[e.Name()]; skip || !e.Type().IsRegular() || e.Name() == sumsName {
			continue
		}
		if err := os.Link(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// swapIn puts the directory full at the place rel of the tree, by one rename. What was there before goes to the staging directory.
func (t *tree) swapIn(full, rel string, s *staging) error {
	if err := syncDir(full); err != nil {
		return err
	}
	target := filepath.Join(t.root, rel)
	cut("before " + rel)
	if _, err := os.Lstat(target); err == nil {
		err := unix.Renameat2(unix.AT_FDCWD, full, unix.AT_FDCWD, target, unix.RENAME_EXCHANGE)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
			return fault.WithHint(fault.Inputf("the file system of %s cannot exchange two directories in one step: %w", t.root, err), "use a local file system, for example ext4, xfs or btrfs")
		}
		if err != nil {
			return fmt.Errorf("put %s in place: %w", rel, err)
		}
	} else if err := t.rename(full, rel, s); err != nil {
		return fmt.Errorf("put %s in place: %w", rel, err)
	}
	cut("after " + rel)
	return syncDir(filepath.Dir(target))
}

// rename moves full to rel. Directories of rel that are missing come with it, in the same one rename.
func (t *tree) rename(full, rel string, s *staging) error {
	parts := strings.Split(filepath.Clean(rel), string(filepath.Separator))
	have := t.root
	for len(parts) > 1 {
		if _, err := os.Stat(filepath.Join(have, parts[0])); err != nil {
			break
		}
		have, parts = filepath.Join(have, parts[0]), parts[1:]
	}
	if len(parts) > 1 {
		parents, err := s.directory("parents")
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Join(parents, filepath.Join(parts[1:len(parts)-1]...)), 0o755); err != nil {
			return err
		}
		if err := os.Rename(full, filepath.Join(parents, filepath.Join(parts[1:]...))); err != nil {
			return err
		}
		full = parents
	}
	return os.Rename(full, filepath.Join(have, parts[0]))
}

// filesOf returns the names of the files of one image in a version's directory.
func filesOf(dir, name string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() && strings.HasPrefix(e.Name(), name+".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
