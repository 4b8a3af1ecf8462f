package directory

import (
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
)

const sumsName = "SHA512SUMS"

// sums are the hexadecimal SHA-512 digests of the files of a directory, by name.
type sums map[string]string

// readSums reads the SHA512SUMS of dir, in the form of sha512sum.
func readSums(dir string) (sums, error) {
	text, err := os.ReadFile(filepath.Join(dir, sumsName))
	if err != nil {
		return nil, err
	}
	s := sums{}
	for line := range strings.Lines(string(text)) {
		digest, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if !ok || len(digest) != 128 {
			return nil, fmt.Errorf("%s has the line %q, which sha512sum would not write", filepath.Join(dir, sumsName), line)
		}
		s[name] = digest
	}
	return s, nil
}

func (s sums) with(more sums) sums {
	all := sums{}
	maps.Copy(all, s)
	maps.Copy(all, more)
	return all
}

func (s sums) only(names []string) sums {
	some := sums{}
	for _, name := range names {
		some[name] = s[name]
	}
	return some
}

func (s sums) text() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s)) {
		fmt.Fprintf(&b, "%s  %s\n", s[name], name)
	}
	return b.String()
}

func writeSums(dir string, s sums, modified time.Time) error {
	return writeFile(filepath.Join(dir, sumsName), []byte(s.text()), modified)
}

// writeFile makes a published file: synced, 0444, with the time that is the same in every run.
func writeFile(name string, text []byte, modified time.Time) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(text); err != nil {
		f.Close()
		return err
	}
	return seal(f, modified)
}

// seal ends the writing of a published file.
func seal(f *os.File, modified time.Time) error {
	if err := f.Chmod(0o444); err != nil {
		f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Chtimes(f.Name(), modified, modified)
}

// versionTime is the time of the files of the version's directory rel.
func versionTime(rel string) time.Time {
	v, err := image.ParseVersion(path.Base(filepath.ToSlash(rel)))
	if err != nil {
		return time.Unix(0, 0)
	}
	return v.Time()
}
