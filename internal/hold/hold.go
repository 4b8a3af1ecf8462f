// Package hold keeps files from being removed while somebody is about to use them: who looks for what nobody uses cannot see a
// use that only begins. Its locks end with their process, whatever it dies of.
package hold

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Keep holds a file until release is called. Many may hold it at once. A file that is removed at this moment is fs.ErrNotExist.
func Keep(ctx context.Context, path string) (release func(), err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("hold %s: %w", path, err), f.Close())
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("hold %s: %w", path, context.Cause(ctx)), f.Close())
		}
	}
	if !isStill(f, path) {
		_ = f.Close()
		return nil, &fs.PathError{Op: "hold", Path: path, Err: fs.ErrNotExist}
	}
	return func() { _ = f.Close() }, nil
}

// Free returns false where somebody holds the file, or it is gone. Else nobody can until release is called: remove it before that,
// or leave it.
func Free(path string) (release func(), ok bool) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil || !isStill(f, path) {
		_ = f.Close()
		return nil, false
	}
	return func() { _ = f.Close() }, true
}

// isStill tells whether a path leads to the open file.
func isStill(f *os.File, path string) bool {
	mine, err1 := f.Stat()
	there, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(mine, there)
}
