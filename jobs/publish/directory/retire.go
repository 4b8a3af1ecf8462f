package directory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/atomicfile"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

const (
	hidden      = ".hidden"       // holds hidden images, as a tree of its own
	retiredName = ".retired.json" // what is deprecated or hidden, by name, and since when
)

// retired is an image's entry in .retired.json.
type retired struct {
	State holding.State `json:"state"`
	Since time.Time     `json:"since"`
}

// List implements prune.Holder. An image's ID is the path of its manifest in the tree, without .json.
func (d *Directory) List(ctx context.Context) ([]holding.Item, error) {
	if _, err := os.Stat(d.path); err != nil {
		return nil, fault.Inputf("there is no tree at %s: %w", d.path, err)
	}
	records, err := d.readRetired()
	if err != nil {
		return nil, err
	}
	var all []holding.Item
	seen := map[string]bool{}
	for _, root := range []string{"", private, hidden} {
		for _, pattern := range []string{"*/*/*.json", "*/*/*/*.json"} {
			paths, err := filepath.Glob(filepath.Join(escapeGlob(d.path), root, pattern))
			if err != nil {
				return nil, err
			}
			for _, p := range paths {
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				rel, err := filepath.Rel(d.path, p)
				if err != nil {
					return nil, err
				}
				it, ok := d.item(filepath.ToSlash(rel), root, records)
				if ok && !seen[it.Name] { // one that is on its way between two trees counts where the public sees it
					seen[it.Name] = true
					all = append(all, it)
				}
			}
		}
	}
	return all, nil
}

// escapeGlob keeps what a glob would read as a pattern.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}

// item reads the manifest at rel. It is false for what is none of a version's directory.
func (d *Directory) item(rel, root string, records map[string]retired) (holding.Item, bool) {
	version := path.Base(path.Dir(rel))
	v, err := image.ParseVersion(version)
	if err != nil || strings.HasSuffix(rel, ".report.json") || strings.HasPrefix(rel, ".") != (root != "") {
		return holding.Item{}, false
	}
	builds, uploads, err := manifest.ReadList(filepath.Join(d.path, filepath.FromSlash(rel)))
	if err != nil || len(builds) != 1 {
		return holding.Item{}, false
	}
	info := builds[0].Data.Info
	it := holding.Item{
		ID: strings.TrimSuffix(rel, ".json"), Name: strings.TrimSuffix(path.Base(rel), ".json"), Kind: holding.Image, Provider: "directory",
		Version: info.Version, Created: v.Time(), State: holding.Current, Since: v.Time(), Public: root == "",
		Ours: builds[0].Metadata.Annotations[manifest.AnnotationDigestHex] != "", // upstream's have only the other form
	}
	for _, u := range uploads {
		it.UploadType = image.UploadType(u.Metadata.Labels[manifest.LabelUploadType])
	}
	if it.UploadType != "" {
		it.Family = holding.Family(info.Release, info.Vendor, info.Arch, it.UploadType)
	}
	record, recorded := records[it.Name]
	switch {
	case root == hidden:
		it.State, it.Since = holding.Hidden, time.Time{}
		if recorded && record.State == holding.Hidden {
			it.Since = record.Since
		}
	case recorded && record.State == holding.Deprecated:
		it.State, it.Since = record.State, record.Since
	}
	return it, true
}

func (d *Directory) readRetired() (map[string]retired, error) {
	all := map[string]retired{}
	text, err := os.ReadFile(filepath.Join(d.path, retiredName))
	if errors.Is(err, os.ErrNotExist) {
		return all, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		return nil, fault.WithHint(fault.Inputf("%s cannot be read: %w", filepath.Join(d.path, retiredName), err), "remove it: the times begin anew then")
	}
	return all, nil
}

// record writes the state of an image, "" where it is gone. It needs the tree's lock.
func (d *Directory) record(name string, s holding.State) error {
	all, err := d.readRetired()
	if err != nil {
		return err
	}
	switch old, ok := all[name]; {
	case s == "":
		delete(all, name)
	case ok && old.State == s && !old.Since.IsZero():
		return nil
	default:
		all[name] = retired{s, d.now().UTC().Truncate(time.Second)}
	}
	text, err := manifest.Marshal(all)
	if err != nil {
		return err
	}
	path := filepath.Join(d.path, retiredName)
	return errors.Join(atomicfile.Sweep(path), atomicfile.Write(path, text, 0o644))
}

// Deprecate implements prune.Holder. Files of the tree do not change, so it is only written down.
func (d *Directory) Deprecate(ctx context.Context, it holding.Item) error {
	return d.locked(ctx, it, func() error { return d.record(it.Name, holding.Deprecated) })
}

// Hide implements prune.Holder: the image's files go to the hidden tree, to which no web server leads.
func (d *Directory) Hide(ctx context.Context, it holding.Item) error {
	return d.locked(ctx, it, func() error {
		root, rel := placeOf(it.ID)
		if root != hidden {
			if err := d.linkHidden(root, rel, it.Name); err != nil {
				return err
			}
			if err := d.withdraw(root, rel, it.Name); err != nil {
				return err
			}
		}
		return d.record(it.Name, holding.Hidden)
	})
}

// Delete implements prune.Holder.
func (d *Directory) Delete(ctx context.Context, it holding.Item) error {
	return d.locked(ctx, it, func() error {
		root, rel := placeOf(it.ID)
		if err := d.withdraw(root, rel, it.Name); err != nil {
			return err
		}
		return d.record(it.Name, "")
	})
}

// placeOf takes an ID apart: "", .private or .hidden, and the version's directory in that tree.
func placeOf(id string) (root, rel string) {
	rel = path.Dir(id)
	if first, rest, ok := strings.Cut(rel, "/"); ok && strings.HasPrefix(first, ".") {
		return first, rest
	}
	return "", rel
}

// locked calls do while nobody else changes the tree, if the Item is still as it was listed.
func (d *Directory) locked(ctx context.Context, it holding.Item, do func() error) error {
	if !it.Ours || it.Name == "" || !strings.HasSuffix(it.ID, "/"+it.Name) {
		return fault.Inputf("%s is not an image of ours", it.ID)
	}
	t, err := openTree(d.path, true)
	if err != nil {
		return err
	}
	defer t.close()
	if err := t.lock(ctx); err != nil {
		return err
	}
	defer t.unlock()
	t.sweep(ctx)
	if err := d.demandState(it); err != nil {
		return err
	}
	return do()
}

// demandState refuses an image that someone else retired meanwhile. One that is gone is none of those.
func (d *Directory) demandState(it holding.Item) error {
	records, err := d.readRetired()
	if err != nil {
		return err
	}
	root, _ := placeOf(it.ID)
	if _, err := os.Stat(filepath.Join(d.path, filepath.FromSlash(it.ID)+".json")); err != nil {
		return nil
	}
	if now, ok := d.item(it.ID+".json", root, records); ok && now.State != it.State {
		return fault.Inputf("%s is %s by now, and was %s when it was listed", it.ID, now.State, it.State)
	}
	return nil
}

// linkHidden puts an image of the version's directory rel into the hidden tree, too.
func (d *Directory) linkHidden(root, rel, name string) error {
	from := filepath.Join(d.path, root, filepath.FromSlash(rel))
	names, err := filesOf(from, name)
	if err != nil || len(names) == 0 {
		return err
	}
	sums, err := readSums(from)
	if err != nil {
		return err
	}
	t, s, err := d.stageIn(hidden)
	if err != nil {
		return err
	}
	defer t.close()
	defer s.remove()
	for _, n := range names {
		if err := os.Link(filepath.Join(from, n), filepath.Join(s.files, n)); err != nil {
			return err
		}
	}
	if err := writeSums(s.files, sums.only(names), versionTime(rel)); err != nil {
		return err
	}
	full, err := t.assemble(filepath.FromSlash(rel), s)
	if err != nil {
		return err
	}
	return t.swapIn(full, filepath.FromSlash(rel), s)
}

// stageIn opens one of the trees and a staging directory in it. It needs the public tree's lock.
func (d *Directory) stageIn(root string) (*tree, *staging, error) {
	if err := os.MkdirAll(filepath.Join(d.path, root), 0o700); err != nil {
		return nil, nil, err
	}
	t, err := openTree(filepath.Join(d.path, root), root == "")
	if err != nil {
		return nil, nil, err
	}
	s, err := t.makeStaging("")
	if err != nil {
		t.close()
		return nil, nil, err
	}
	return t, s, nil
}

// withdraw takes an image out of the version's directory rel by one rename, and "latest" along.
func (d *Directory) withdraw(root, rel, name string) error {
	from := filepath.Join(d.path, root, filepath.FromSlash(rel))
	names, err := filesOf(from, name)
	if err != nil || len(names) == 0 {
		return err
	}
	t, s, err := d.stageIn(root)
	if err != nil {
		return err
	}
	defer t.close()
	defer s.remove()
	if err := t.without(filepath.FromSlash(rel), names, s); err != nil {
		return err
	}
	return t.refreshLatest(filepath.FromSlash(rel), s)
}

// without replaces the version's directory rel by one that lacks the named files, or removes it where nothing is left.
func (t *tree) without(rel string, names []string, s *staging) error {
	from := filepath.Join(t.root, rel)
	held, err := readSums(from)
	if err != nil {
		return err
	}
	left := sums{}
	for name, digest := range held {
		if !slices.Contains(names, name) {
			left[name] = digest
		}
	}
	if len(left) == 0 {
		cut("before the removal of " + rel)
		if err := os.Rename(from, filepath.Join(s.path, "removed")); err != nil {
			return fmt.Errorf("remove %s: %w", rel, err)
		}
		return syncDir(filepath.Dir(from))
	}
	full, err := s.directory("version")
	if err != nil {
		return err
	}
	if err := linkAll(from, full, held.only(names)); err != nil {
		return err
	}
	if err := writeSums(full, left, versionTime(rel)); err != nil {
		return err
	}
	if t.latest {
		if err := t.addView(full, rel, left); err != nil {
			return err
		}
	}
	return t.swapIn(full, rel, s)
}
