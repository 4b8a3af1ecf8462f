package boot

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const directoryPrefix = "debcloud-boot-"

// directory makes a directory in parent ("": the system's for temporary files) and keeps it for this process by a lock, which the
// kernel drops with the process; remove takes it away. Those that killed processes left there are removed first.
func directory(parent string) (dir string, remove func(), err error) {
	if parent == "" {
		parent = os.TempDir()
	}
	sweep(parent)
	for range 10 {
		if dir, err = os.MkdirTemp(parent, directoryPrefix); err != nil {
			return "", nil, err
		}
		if f := lock(dir); f != nil {
			return dir, func() { _ = os.RemoveAll(dir); _ = f.Close() }, nil
		}
	}
	return "", nil, fmt.Errorf("directories in %s are taken away as soon as they are made", parent)
}

func sweep(parent string) {
	found, _ := filepath.Glob(filepath.Join(parent, directoryPrefix+"*"))
	for _, dir := range found {
		if f := lock(dir); f != nil {
			_ = os.RemoveAll(dir)
			_ = f.Close()
		}
	}
}

// lock returns nil where another process has the directory, or has just taken it away.
func lock(dir string) *os.File {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	mine, err1 := f.Stat()
	there, err2 := os.Stat(dir)
	if err != nil || err1 != nil || err2 != nil || !os.SameFile(mine, there) {
		_ = f.Close()
		return nil
	}
	return f
}
