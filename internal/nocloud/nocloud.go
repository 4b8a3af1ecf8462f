// Package nocloud writes seed disks for cloud-init's datasource NoCloud.
package nocloud

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
)

// Write writes files, by name, as a disk for NoCloud (cloud-init documentation, "NoCloud", source 2): ISO 9660 with Rock
// Ridge names, because cloud-init looks for lower case, labelled CIDATA. The disk at path must not exist; it is not
// left behind when something fails.
func Write(path string, files map[string]string) error {
	workspace, err := os.MkdirTemp(filepath.Dir(path), workspacePrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(workspace)
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(workspace, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	if err := writeISO(path, workspace, "CIDATA"); err != nil {
		os.Remove(path)
		return fmt.Errorf("write the seed disk %s: %w", path, err)
	}
	return nil
}

const workspacePrefix = "seed-"

// Sweep removes what killed processes left in dir while they wrote seed disks there, and returns the paths. None takes an hour.
func Sweep(dir string) ([]string, error) {
	found, err := filepath.Glob(filepath.Join(dir, workspacePrefix+"*"))
	if err != nil {
		return nil, err
	}
	var removed []string
	var errs []error
	for _, path := range found {
		info, err := os.Lstat(path)
		random := strings.TrimPrefix(filepath.Base(path), workspacePrefix)
		if err != nil || !info.IsDir() || strings.Trim(random, "0123456789") != "" || time.Since(info.ModTime()) < time.Hour {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, path)
	}
	return removed, errors.Join(errs...)
}

func writeISO(path, tree, label string) error {
	const size = 1 << 20
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	fs, err := iso9660.Create(file.New(f, false), size, 0, 2048, tree)
	if err != nil {
		return err
	}
	padded := fmt.Sprintf("%-32s", label) // ECMA-119, 8.4.7: filled with spaces; the library fills with zeros
	if err := fs.Finalize(iso9660.FinalizeOptions{RockRidge: true, VolumeIdentifier: padded}); err != nil {
		return err
	}
	return f.Close()
}
