package boot

import (
	"fmt"
	"os"
	"path/filepath"

	"salsa.debian.org/cloud-team/debcloud/internal/dirlock"
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
		if f, err := dirlock.Try(dir); err == nil {
			return dir, func() { _ = os.RemoveAll(dir); _ = f.Close() }, nil
		}
	}
	return "", nil, fmt.Errorf("directories in %s are taken away as soon as they are made", parent)
}

func sweep(parent string) {
	found, _ := filepath.Glob(filepath.Join(parent, directoryPrefix+"*"))
	for _, dir := range found {
		if f, err := dirlock.Try(dir); err == nil {
			_ = os.RemoveAll(dir)
			_ = f.Close()
		}
	}
}
