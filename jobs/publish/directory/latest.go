package directory

import (
	"cmp"
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
)

// "latest" is a link to VERSION/unversioned in the directory of the newest version, which holds, under un-versioned names, relative links to
// the newest image of every release, vendor and arch. One that the newest version does not have yet
// keeps its older image there, so that a day on which half of the builds failed takes nothing away (Debian bug 1042367).
const (
	latestName = "latest"
	viewName   = "unversioned"
)

// view is what "latest" shows: for each un-versioned name, the target relative to the versions' parent, and its digest.
type view map[string]struct{ target, digest string }

// add shows every file of a version's directory.
func (v view) add(version string, s sums) {
	for name, digest := range s {
		if plain, ok := unversioned(name, version); ok {
			v[plain] = struct{ target, digest string }{version + "/" + name, digest}
		}
	}
}

// drop takes out the files of one image, so that none of an older version stays beside a newer one's.
func (v view) drop(stem string) {
	for name := range v {
		if strings.HasPrefix(name, stem+".") {
			delete(v, name)
		}
	}
}

// unversioned takes "-VERSION" out of debian-13-nocloud-amd64-VERSION.raw.
func unversioned(name, version string) (string, bool) {
	stem, ext, ok := strings.Cut(name, "-"+version+".")
	return stem + "." + ext, ok
}

func (v view) sums() sums {
	s := sums{}
	for name, file := range v {
		s[name] = file.digest
	}
	return s
}

// versions returns the published versions beside rel, oldest first, with what each holds; replace stands in for rel's own.
func (t *tree) versions(rel string, replace sums) ([]string, map[string]sums, error) {
	parent := filepath.Join(t.root, filepath.Dir(rel))
	entries, err := os.ReadDir(parent)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, err
	}
	held := map[string]sums{}
	for _, e := range entries {
		if _, err := image.ParseVersion(e.Name()); err != nil || !e.IsDir() {
			continue
		}
		if held[e.Name()], err = readSums(filepath.Join(parent, e.Name())); err != nil {
			delete(held, e.Name()) // not of this program's making
		}
	}
	if replace != nil {
		held[filepath.Base(rel)] = replace
	}
	names := make([]string, 0, len(held))
	for name := range held {
		names = append(names, name)
	}
	slices.SortFunc(names, compareVersions)
	return names, held, nil
}

func compareVersions(a, b string) int {
	x, _ := image.ParseVersion(a) // the caller parsed both
	y, _ := image.ParseVersion(b)
	return cmp.Or(cmp.Compare(x.Date, y.Date), cmp.Compare(x.Number, y.Number))
}

// view computes what "latest" has to show, and the newest version.
func (t *tree) view(rel string, replace sums) (view, string, error) {
	names, held, err := t.versions(rel, replace)
	if err != nil || len(names) == 0 {
		return nil, "", err
	}
	v := view{}
	for _, version := range names {
		for name := range held[version] {
			if plain, ok := unversioned(name, version); ok && strings.HasSuffix(plain, ".json") && !strings.HasSuffix(plain, ".report.json") {
				v.drop(strings.TrimSuffix(plain, ".json"))
			}
		}
		v.add(version, held[version])
	}
	return v, names[len(names)-1], nil
}

// addView writes the un-versioned names into the directory full, which will be the version's rel, if that is the newest.
// In an older version that was the newest once, they go.
func (t *tree) addView(full, rel string, held sums) error {
	v, newest, err := t.view(rel, held)
	if err != nil || newest != filepath.Base(rel) {
		return err
	}
	dir := filepath.Join(full, viewName)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for name, file := range v {
		if err := os.Symlink(linkTarget(file.target, newest), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := writeSums(dir, v.sums(), versionTime(rel)); err != nil {
		return err
	}
	return syncDir(dir)
}

// linkTarget makes VERSION/NAME relative to NEWEST/unversioned.
func linkTarget(target, newest string) string {
	if name, ok := strings.CutPrefix(target, newest+"/"); ok {
		return path.Join("..", name)
	}
	return path.Join("..", "..", target)
}

// latestIsRight tells whether refreshLatest would change nothing.
func (t *tree) latestIsRight(rel string) (bool, error) {
	if !t.latest {
		return true, nil
	}
	want, newest, err := t.view(rel, nil)
	if err != nil || newest == "" {
		return err == nil, err
	}
	parent := filepath.Join(t.root, filepath.Dir(rel))
	target, _ := os.Readlink(filepath.Join(parent, latestName))
	return target == path.Join(newest, viewName) && want.isAt(filepath.Join(parent, newest, viewName), newest), nil
}

// refreshLatest makes "latest" show the newest images beside the version's directory rel.
func (t *tree) refreshLatest(rel string, s *staging) error {
	if right, err := t.latestIsRight(rel); right || err != nil {
		return err
	}
	want, newest, err := t.view(rel, nil)
	if err != nil {
		return err
	}
	parent := filepath.Dir(rel)
	if !want.isAt(filepath.Join(t.root, parent, newest, viewName), newest) {
		if err := t.rebuild(filepath.Join(parent, newest), s); err != nil {
			return err
		}
	}
	return t.pointLatest(parent, path.Join(newest, viewName), s)
}

// rebuild makes the version's directory rel anew, with a fresh view and no new files.
func (t *tree) rebuild(rel string, s *staging) error {
	none, err := s.directory("none")
	if err != nil {
		return err
	}
	full, err := t.assemble(rel, &staging{path: s.path, files: none})
	if err != nil {
		return err
	}
	return t.swapIn(full, rel, s)
}

// isAt tells whether dir shows exactly v.
func (v view) isAt(dir, newest string) bool {
	text, err := os.ReadFile(filepath.Join(dir, sumsName))
	if err != nil || string(text) != v.sums().text() {
		return false
	}
	for name, file := range v {
		if target, err := os.Readlink(filepath.Join(dir, name)); err != nil || target != linkTarget(file.target, newest) {
			return false
		}
	}
	return true
}

// pointLatest swaps the link by one rename.
func (t *tree) pointLatest(parent, target string, s *staging) error {
	link := filepath.Join(t.root, parent, latestName)
	if old, err := os.Readlink(link); err == nil && old == target {
		return nil
	}
	fresh := filepath.Join(s.path, latestName)
	if err := os.Symlink(target, fresh); err != nil {
		return err
	}
	cut("before latest")
	if err := os.Rename(fresh, link); err != nil {
		return err
	}
	cut("after latest")
	return syncDir(filepath.Dir(link))
}
