package index

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/atomicfile"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// UploadsDir holds, in a tree, what other providers have of its images: NAME.upload-PROVIDER.json, as debcloud publish
// writes them. The versions' own directories never change, and a cloud is often later than the tree.
const UploadsDir = "uploads"

// TakeUploads copies the upload documents at paths into the tree dir, each in the place of an older one of its image and provider.
// What the tree itself published, what is private yet, and what a dry run wrote, is passed over.
func TakeUploads(ctx context.Context, dir string, paths []string) error {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return fault.Inputf("there is no tree at %s", dir)
	}
	unlock, err := lock(ctx, dir)
	if err != nil {
		return err
	}
	defer unlock()
	for _, p := range paths {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		name, err := uploadName(p)
		if errors.Is(err, errNotOurs) {
			continue
		}
		if err != nil {
			return err
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if err := writeUpload(dir, name, text); err != nil {
			return err
		}
	}
	return nil
}

var errNotOurs = errors.New("not of a cloud")

// uploadName tells under which name a tree keeps an upload document.
func uploadName(p string) (string, error) {
	b, uploads, err := readUploads(p)
	if err != nil {
		return "", err
	}
	if len(uploads) == 0 || b.Metadata.DryRun() {
		return "", errNotOurs
	}
	provider := uploads[0].Domain()
	if provider != path.Base(provider) || strings.HasPrefix(provider, ".") {
		return "", fault.Inputf("%s names the provider %q, which cannot be part of a file's name", p, provider)
	}
	return nameOf(b, uploads[0]) + ".upload-" + provider + ".json", nil
}

// nameOf is the public name of what an upload is of.
func nameOf(b *manifest.Build, u manifest.Upload) string {
	info := b.Data.Info
	return image.PublicName(info.ReleaseID, info.Vendor, info.Arch, image.UploadType(u.Metadata.Labels[manifest.LabelUploadType]), info.Version)
}

// readUploads reads one build and its public uploads at other providers than the tree.
func readUploads(p string) (*manifest.Build, []manifest.Upload, error) {
	builds, uploads, err := manifest.ReadList(p)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, fault.Inputf("no upload document at %s", p)
	}
	if err != nil {
		return nil, nil, err
	}
	if len(builds) != 1 {
		return nil, nil, fault.Inputf("%s holds %d builds where one is needed", p, len(builds))
	}
	uploads = slices.DeleteFunc(uploads, func(u manifest.Upload) bool {
		return u.Data.Provider == manifest.ProviderDomain("directory") || u.Metadata.DryRun() || u.Metadata.Private()
	})
	return &builds[0], uploads, nil
}

func writeUpload(dir, name string, text []byte) error {
	full := filepath.Join(dir, UploadsDir, name)
	if old, err := os.ReadFile(full); err == nil && bytes.Equal(old, text) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(full, text, 0o644)
}

// DropUploads takes what users no longer find at a provider out of the tree's upload documents. One that cannot be read is left as it
// is, and out of the index by Write.
func DropUploads(ctx context.Context, dir string, items []holding.Item) error {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return fault.Inputf("there is no tree at %s", dir)
	}
	unlock, err := lock(ctx, dir)
	if err != nil {
		return err
	}
	defer unlock()
	paths, err := filepath.Glob(filepath.Join(dir, UploadsDir, "*.json"))
	if err != nil {
		return err
	}
	gone := byID(items)
	for _, p := range paths {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := dropUploads(dir, p, gone); err != nil {
			return err
		}
	}
	return nil
}

func dropUploads(dir, p string, gone map[itemID][]holding.Item) error {
	b, uploads, err := readUploads(p)
	if fault.KindOf(err) == fault.Input {
		return nil
	}
	if err != nil {
		return err
	}
	left := slices.DeleteFunc(slices.Clone(uploads), func(u manifest.Upload) bool { return isAmong(u, gone) })
	switch {
	case len(left) == len(uploads):
		return nil
	case len(left) == 0:
		return os.Remove(p)
	}
	list, err := manifest.NewList(b, left)
	if err != nil {
		return err
	}
	text, err := manifest.MarshalSorted(list)
	if err != nil {
		return err
	}
	return writeUpload(dir, filepath.Base(p), text)
}

// itemID finds Items by what upload documents know of them.
type itemID struct{ domain, id string }

func byID(items []holding.Item) map[itemID][]holding.Item {
	all := map[itemID][]holding.Item{}
	for _, it := range items {
		k := itemID{manifest.ProviderDomain(it.Provider), it.ID}
		all[k] = append(all[k], it)
	}
	return all
}

// isAmong tells whether an upload is one of the Items, which may be in every region; where a provider's references are unique in a
// region only, IDs begin with it.
func isAmong(u manifest.Upload, items map[itemID][]holding.Item) bool {
	region := u.Metadata.Labels[manifest.LabelRegion]
	for _, id := range []string{u.Data.Ref, region + "/" + u.Data.Ref, region + " " + u.Data.Ref} {
		if slices.ContainsFunc(items[itemID{u.Domain(), id}], func(it holding.Item) bool { return region == it.Region || it.Region == "" }) {
			return true
		}
	}
	return false
}

// joinUploads adds what other providers have to the images, and the images that only they have. A document about another image of the
// same name is broken.
func joinUploads(ctx context.Context, dir string, images []manifest.IndexImage, r *Result) ([]manifest.IndexImage, error) {
	paths, err := filepath.Glob(filepath.Join(dir, UploadsDir, "*.json"))
	if err != nil {
		return nil, err
	}
	byName := map[string]int{}
	for n, i := range images {
		byName[i.Name] = n
	}
	for _, p := range paths {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		rel := path.Join(UploadsDir, filepath.Base(p))
		if images, err = joinUpload(dir, rel, images, byName); err != nil {
			slog.WarnContext(ctx, "left out of the index: a broken upload document", "file", rel, "error", err)
			r.Broken = append(r.Broken, rel)
		}
	}
	for n := range images {
		slices.SortStableFunc(images[n].Uploads, func(a, b manifest.IndexUpload) int {
			return cmp.Or(cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Region, b.Region), cmp.Compare(a.Ref, b.Ref))
		})
	}
	return images, nil
}

func joinUpload(dir, rel string, images []manifest.IndexImage, byName map[string]int) ([]manifest.IndexImage, error) {
	i, err := uploadedImage(dir, rel)
	if err != nil || i == nil {
		return images, err
	}
	n, there := byName[i.Name]
	switch {
	case !there:
		byName[i.Name] = len(images)
		return append(images, *i), nil
	case images[n].Digest != i.Digest:
		return images, fmt.Errorf("it is of another image than %s, by its digest", images[n].Manifest)
	}
	images[n].Uploads = append(images[n].Uploads, i.Uploads...)
	return images, nil
}

// uploadedImage reads an image as only its upload document knows it; nil where it is nowhere.
func uploadedImage(dir, rel string) (*manifest.IndexImage, error) {
	b, uploads, err := readUploads(filepath.Join(dir, filepath.FromSlash(rel)))
	if err != nil || len(uploads) == 0 {
		return nil, err
	}
	info := b.Data.Info
	if slices.Contains([]string{info.Release, info.ReleaseID, info.Vendor, info.Arch, info.Version}, "") {
		return nil, errors.New("its build lacks release, vendor, arch or version")
	}
	i := &manifest.IndexImage{
		Name: nameOf(b, uploads[0]), Manifest: rel, UploadType: image.UploadType(uploads[0].Metadata.Labels[manifest.LabelUploadType]),
		Release: info.Release, ReleaseID: info.ReleaseID, Vendor: info.Vendor, Arch: info.Arch, Version: info.Version,
		Digest: b.Metadata.Annotations[manifest.AnnotationDigest], Files: []manifest.IndexFile{},
		Versions: versions(b), Packages: len(b.Data.Packages),
		Job: b.Metadata.Annotations[manifest.AnnotationJob], Commit: b.Metadata.Annotations[manifest.AnnotationCommit],
	}
	if v, err := image.ParseVersion(info.Version); err == nil {
		i.Date = v.Time().Format("2006-01-02")
	}
	for _, u := range uploads {
		i.Uploads = append(i.Uploads, cloudUpload(i.Arch, u))
	}
	return i, nil
}
