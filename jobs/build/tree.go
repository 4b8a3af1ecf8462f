package build

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// traces are what FAI and the build's own scripts leave in a tree.
var traces = []string{
	"var/log/fai", "var/lib/fai", "var/log/install_packages.list", "usr/sbin/policy-rc.d",
	"etc/apt/apt.conf.d/00debcloud", "etc/dpkg/dpkg.cfg.d/00debcloud",
}

// tidy takes FAI's own traces out of the tree and leaves empty what the running system fills: whatever the config space is, they
// are not part of an image.
func tidy(tree string) error {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range traces {
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	for _, dir := range []string{"dev", "proc", "run", "sys", "tmp"} {
		entries, err := fs.ReadDir(root.FS(), dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if err := root.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
