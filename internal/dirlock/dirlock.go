// Package dirlock keeps directories for one process by a lock that the kernel drops with it, so that what a killed process left is
// told from what is in use.
package dirlock

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/pause"
)

var (
	// ErrTaken means that another process, or this one, has the directory.
	ErrTaken = errors.New("in use")
	// ErrReplaced means that its holder took the directory away between the opening and the locking.
	ErrReplaced = errors.New("replaced")
)

// Try locks a directory without waiting: flock(2). Closing the file gives it back; remove the directory before that. The error is
// ErrTaken, ErrReplaced, or that of opening or locking the directory.
func Try(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrReplaced
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
			return nil, ErrTaken
		}
		return nil, err
	}
	mine, err1 := f.Stat()
	there, err2 := os.Stat(dir)
	if err1 != nil || err2 != nil || !os.SameFile(mine, there) {
		_ = f.Close()
		return nil, ErrReplaced
	}
	return f, nil
}

// Wait is Try that waits for another holder; taken is called once, before it does.
func Wait(ctx context.Context, dir string, taken func()) (*os.File, error) {
	for first := true; ; first = false {
		f, err := Try(dir)
		if !errors.Is(err, ErrTaken) {
			return f, err
		}
		if first {
			taken()
		}
		if err := pause.For(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
}
