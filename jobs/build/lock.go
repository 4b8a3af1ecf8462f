package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// lock makes the work directory and keeps it for this process; one that a killed build left behind is emptied. The kernel
// drops the lock with the process. The function that it returns takes the directory away.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	for range 10 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f, err := lockOnce(dir)
		if err == nil {
			return func() { os.RemoveAll(dir); f.Close() }, emptyDirectory(dir)
		}
		if !errors.Is(err, errReplaced) {
			return nil, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("work directory %s is replaced again and again", dir)
}

// errReplaced means that between the opening and the locking of the directory another build took it away.
var errReplaced = errors.New("replaced")

func lockOnce(dir string) (*os.File, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fault.Inputf("the work directory cannot be made: %w", err)
	}
	f, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errReplaced
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fault.WithHint(fault.Inputf("the same image is being built in %s just now", filepath.Dir(dir)),
			"wait for that build, or choose another --output or --version")
	}
	mine, err1 := f.Stat()
	there, err2 := os.Stat(dir)
	if err1 != nil || err2 != nil || !os.SameFile(mine, there) {
		f.Close()
		return nil, errReplaced
	}
	return f, nil
}

func emptyDirectory(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}
