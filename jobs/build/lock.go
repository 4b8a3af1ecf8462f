package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/dirlock"
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
		if !errors.Is(err, dirlock.ErrReplaced) {
			return nil, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("work directory %s is replaced again and again", dir)
}

func lockOnce(dir string) (*os.File, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fault.Inputf("the work directory cannot be made: %w", err)
	}
	f, err := dirlock.Try(dir)
	if errors.Is(err, dirlock.ErrTaken) {
		return nil, fault.WithHint(fault.Inputf("the same image is being built in %s just now", filepath.Dir(dir)),
			"wait for that build, or choose another --output or --version")
	}
	return f, err
}

func emptyDirectory(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}
