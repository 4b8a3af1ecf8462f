package build

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/vmimages"
)

// openSpace opens the config space in dir, the built-in one if dir is "".
func openSpace(dir string) (fs.FS, error) {
	if dir == "" {
		return fs.Sub(vmimages.ConfigSpace, "config_space")
	}
	if info, err := os.Stat(filepath.Join(dir, "class")); err != nil || !info.IsDir() {
		return nil, fault.WithHint(fault.Inputf("%q is not a FAI config space: it has no directory class", dir),
			"give --config-space the directory that holds class, package_config and scripts")
	}
	return os.DirFS(dir), nil
}

// fingerprint tells config spaces apart by their names and contents.
func fingerprint(space fs.FS) (string, error) {
	h := sha256.New()
	err := eachFile(space, func(name string, text []byte, executable bool) error {
		fmt.Fprintf(h, "%s\x00%t\x00%d\x00", name, executable, len(text))
		h.Write(text)
		return nil
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

// copySpace writes space into dir, where FAI finds it. Hooks that only an installation onto disks needs are skipped, unless
// the space has its own: a build installs into a directory.
func copySpace(space fs.FS, dir string) error {
	err := eachFile(space, func(name string, text []byte, executable bool) error {
		return writeFile(filepath.Join(dir, name), text, executable)
	})
	if err != nil {
		return fmt.Errorf("config space: %w", err)
	}
	// Without this directory FAI counts an error, where it has nothing to do.
	if err := os.MkdirAll(filepath.Join(dir, "debconf"), 0o755); err != nil {
		return err
	}
	hook := filepath.Join(dir, "hooks/partition.LAST.sh")
	if _, err := os.Stat(hook); err == nil {
		return nil
	}
	return writeFile(hook, []byte("skiptask partition mountdisks chboot savelog\n"), true)
}

func writeFile(path string, text []byte, executable bool) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if executable {
		mode = 0o755
	}
	return os.WriteFile(path, text, mode)
}

// eachFile visits the files of space in lexical order. An embedded file has lost its mode, so what begins as a script counts as
// executable there. Links are followed.
func eachFile(space fs.FS, visit func(name string, text []byte, executable bool) error) error {
	return fs.WalkDir(space, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if d != nil && d.Name() == ".git" {
				return fs.SkipDir
			}
			return err
		}
		text, err := fs.ReadFile(space, name)
		if err != nil {
			return err
		}
		info, err := fs.Stat(space, name)
		if err != nil {
			return err
		}
		return visit(name, text, info.Mode()&0o111 != 0 || info.Mode()&0o222 == 0 && bytes.HasPrefix(text, []byte("#!")))
	})
}
