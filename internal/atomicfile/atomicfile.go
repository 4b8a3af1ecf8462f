// Package atomicfile replaces files whole: a reader sees the old one or the new one, and so does who comes after a crash.
package atomicfile

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
)

// Write replaces the file at path by one with that text. An existing file keeps its permissions, a new one gets perm less the
// umask. The text waits for its name beside the file, as .NAME and digits: renameio's own choice, $TMPDIR where that is on the same
// file system, costs two more files to find out, and what a killed writer left there nobody would look for.
func Write(path string, text []byte, perm fs.FileMode) error {
	return renameio.WriteFile(path, text, perm, renameio.WithTempDir(filepath.Dir(path)))
}

// WriteMode is Write, but a new file gets perm whatever the umask.
func WriteMode(path string, text []byte, perm fs.FileMode) error {
	return renameio.WriteFile(path, text, perm, renameio.WithTempDir(filepath.Dir(path)), renameio.IgnoreUmask())
}

// Sweep removes what killed writers of the file at path have left beside it. The caller holds a lock that all its writers take.
func Sweep(path string) error {
	dir, name := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean(dir))
	for _, e := range entries {
		if IsLeft(e.Name(), name) {
			if gone := os.Remove(filepath.Join(dir, e.Name())); gone != nil && err == nil {
				err = gone
			}
		}
	}
	return err
}

// IsLeft tells whether an entry of a directory is what a writer has under way for the file name beside it, or had when it was killed.
func IsLeft(entry, name string) bool {
	digits, ok := strings.CutPrefix(entry, "."+name)
	return ok && digits != "" && strings.Trim(digits, "0123456789") == ""
}
