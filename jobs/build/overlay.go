package build

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
)

// overlaid is a config space with files of another one on top.
type overlaid struct{ top, bottom fs.FS }

func (o overlaid) Open(name string) (fs.File, error) {
	f, err := o.top.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return o.bottom.Open(name)
	}
	return f, err
}

// ReadDir merges directories.
func (o overlaid) ReadDir(name string) ([]fs.DirEntry, error) {
	above, err := fs.ReadDir(o.top, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	below, belowErr := fs.ReadDir(o.bottom, name)
	if belowErr != nil && (err != nil || !errors.Is(belowErr, fs.ErrNotExist)) {
		return nil, belowErr
	}
	all := above
	for _, e := range below {
		if !slices.ContainsFunc(above, func(a fs.DirEntry) bool { return a.Name() == e.Name() }) {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return all, nil
}
