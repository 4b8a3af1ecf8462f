// Package index makes a public tree findable: index.json, which programs read, and the finder, a page for people.
//
// It reads only what was published: the manifests of the tree and the reports beside them, upstream's as well as ours. The
// same tree gives the same bytes.
package index

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/dirlock"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// IndexName is the index's file, at the root of the tree.
const IndexName = "index.json"

// Result is what Write found.
type Result struct {
	*manifest.Index
	Changed bool     // false: all files had their contents already
	Foreign []string // JSON files that are no public manifests, relative to the tree
	Broken  []string // those that should be and cannot be read
}

// Write indexes the tree dir and puts the finder there. JSON files of other kinds are passed over with a warning. One that has a
// manifest's name and cannot be read as one is left out too, and Write returns an error after it has written
// everything else. Two writers of one tree wait for each other, so that none puts back what the other one took out.
func Write(ctx context.Context, dir string) (*Result, error) {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, fault.WithHint(fault.Inputf("there is no tree at %s", dir), "publish an image first: debcloud publish BUILD.json --to directory:%s", dir)
	}
	unlock, err := lock(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	r := &Result{}
	images, err := read(ctx, dir, r)
	if err != nil {
		return nil, err
	}
	r.Index = manifest.NewIndex(images)
	text, err := manifest.Marshal(r.Index)
	if err != nil {
		return nil, err
	}
	pages, err := finderFiles(r.Index)
	if err != nil {
		return nil, err
	}
	for _, p := range append(pages, page{IndexName, text}) { // the index last: it names nothing that is not there
		changed, err := p.write(dir)
		if err != nil {
			return nil, err
		}
		r.Changed = r.Changed || changed
	}
	if len(r.Broken) > 0 {
		return r, fault.WithHint(fmt.Errorf("%d of the tree's manifests cannot be read and are not in the index: %s", len(r.Broken), strings.Join(r.Broken, ", ")), "publish these images again, or remove the files")
	}
	return r, nil
}

// lock keeps other writers from a tree's index and upload documents, from before they are read until they are written. It is
// the finder's directory that is locked: no lock file stays, and publishers of the tree, who lock its root, go on.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	for {
		if err := os.MkdirAll(filepath.Join(dir, finderDir), 0o755); err != nil {
			return nil, err
		}
		f, err := dirlock.Wait(ctx, filepath.Join(dir, finderDir), func() {
			slog.InfoContext(ctx, "waiting for another writer of the index", "tree", dir)
		})
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, dirlock.ErrReplaced) {
			return nil, err
		}
	}
}

// read finds every manifest of the tree. It follows no links and enters no directory whose name begins with a dot.
func read(ctx context.Context, dir string, r *Result) ([]manifest.IndexImage, error) {
	images := []manifest.IndexImage{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case e.IsDir() && path != dir && skipped(dir, path):
			return fs.SkipDir
		case !e.Type().IsRegular() || filepath.Ext(path) != ".json" || strings.HasSuffix(path, ".report.json") || path == filepath.Join(dir, IndexName):
			return nil
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		found, err := readManifest(dir, filepath.ToSlash(rel))
		if err != nil {
			r.skip(ctx, filepath.ToSlash(rel), path, err)
			return nil
		}
		images = append(images, *found)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if images, err = joinUploads(ctx, dir, images, r); err != nil {
		return nil, err
	}
	slices.SortFunc(images, compare)
	markLatest(images)
	return images, nil
}

// skipped are directories with no publications of their own: hidden ones, the finder's, that of the uploads, and "latest" where a mirror made a
// directory of the link.
func skipped(dir, path string) bool {
	name := filepath.Base(path)
	return strings.HasPrefix(name, ".") || name == "latest" || path == filepath.Join(dir, finderDir) || path == filepath.Join(dir, UploadsDir)
}

// skip tells a broken manifest, which has a manifest's name or says that it is a List, from a foreign file.
func (r *Result) skip(ctx context.Context, rel, path string, err error) {
	text, _ := os.ReadFile(path)
	var h manifest.Header
	known := json.Unmarshal(text, &h) == nil
	if h.Kind == "List" || !known && strings.HasPrefix(filepath.Base(path), "debian-") {
		slog.WarnContext(ctx, "left out of the index: a broken manifest", "file", rel, "error", err)
		r.Broken = append(r.Broken, rel)
		return
	}
	slog.WarnContext(ctx, "left out of the index: not a public manifest", "file", rel, "error", err)
	r.Foreign = append(r.Foreign, rel)
}

func readManifest(dir, rel string) (*manifest.IndexImage, error) {
	builds, uploads, err := manifest.ReadList(filepath.Join(dir, filepath.FromSlash(rel)))
	if err != nil {
		return nil, err
	}
	if len(builds) != 1 {
		return nil, fmt.Errorf("it holds %d builds where one is needed", len(builds))
	}
	b := builds[0]
	info := b.Data.Info
	if slices.Contains([]string{info.Release, info.ReleaseID, info.Vendor, info.Arch, info.Version}, "") {
		return nil, errors.New("its build lacks release, vendor, arch or version")
	}
	i := &manifest.IndexImage{
		Name: strings.TrimSuffix(path.Base(rel), ".json"), Manifest: rel,
		Release: info.Release, ReleaseID: info.ReleaseID, Vendor: info.Vendor, Arch: info.Arch, Version: info.Version,
		UploadType: typeOf(rel, uploads),
		Digest:     b.Metadata.Annotations[manifest.AnnotationDigest],
		Versions:   versions(&b), Packages: len(b.Data.Packages),
		Job: b.Metadata.Annotations[manifest.AnnotationJob], Commit: b.Metadata.Annotations[manifest.AnnotationCommit],
	}
	if v, err := image.ParseVersion(info.Version); err == nil {
		i.Date = v.Time().Format("2006-01-02")
	}
	if err := addUploads(i, dir, uploads); err != nil {
		return nil, err
	}
	return i, addReport(i, dir)
}

// typeOf reads the upload type from the uploads' labels, else from the directory.
func typeOf(rel string, uploads []manifest.Upload) image.UploadType {
	for _, u := range uploads {
		if t := u.Metadata.Labels[manifest.LabelUploadType]; t != "" {
			return image.UploadType(t)
		}
	}
	for _, t := range []image.UploadType{image.Daily, image.Dev} {
		if slices.Contains(strings.Split(path.Dir(rel), "/"), string(t)) {
			return t
		}
	}
	return image.Published
}

// versions takes what the build says, and looks at the packages for what it does not say, as upstream's builds.
func versions(b *manifest.Build) map[string]string {
	v := map[string]string{}
	for _, key := range []string{"kernel", "cloud-init"} {
		if said := b.Data.Versions[key]; said != "" {
			v[key] = said
		}
	}
	for _, p := range b.Data.Packages {
		name, _, _ := strings.Cut(p.Name, ":")
		switch kernel, ok := strings.CutPrefix(name, "linux-image-"); {
		case name == "cloud-init" && v["cloud-init"] == "":
			v["cloud-init"] = p.Version
		case ok && v["kernel"] == "" && kernel != "" && kernel[0] >= '0' && kernel[0] <= '9':
			v["kernel"] = kernel
		}
	}
	return v
}

// addUploads lists as files what lies beside the manifest, wherever the tree was copied to, and the rest as it is.
func addUploads(i *manifest.IndexImage, dir string, uploads []manifest.Upload) error {
	i.Files = []manifest.IndexFile{}
	for _, u := range uploads {
		format := u.Metadata.Labels[manifest.LabelImageFormat]
		if u.Data.Provider != "cloud.debian.org" {
			i.Uploads = append(i.Uploads, cloudUpload(i.Arch, u))
			continue
		}
		digest, err := u.Metadata.Digest()
		if err != nil {
			return err
		}
		f := manifest.IndexFile{Format: format, Path: path.Join(path.Dir(i.Manifest), path.Base(u.Data.Ref)), SHA512: digest.Hex()}
		f.Size, _ = strconv.ParseInt(u.Metadata.Annotations[manifest.AnnotationSize], 10, 64)
		if info, err := os.Stat(filepath.Join(dir, filepath.FromSlash(f.Path))); err == nil {
			f.Size = info.Size()
		} else {
			f.Missing = true
			slog.Warn("a published file is not in the tree", "file", f.Path)
		}
		i.Files = append(i.Files, f)
	}
	return nil
}

// addReport sums up the report beside the manifest, where there is one on this image.
func addReport(i *manifest.IndexImage, dir string) error {
	rel := strings.TrimSuffix(i.Manifest, ".json") + ".report.json"
	full := filepath.Join(dir, filepath.FromSlash(rel))
	if _, err := os.Stat(full); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	report, err := manifest.ReadReport(full)
	if err != nil {
		return err
	}
	if got := report.Metadata.Annotations[manifest.AnnotationDigest]; got != i.Digest {
		return fmt.Errorf("%s is on another image, with digest %s", rel, got)
	}
	sum := &manifest.IndexReport{Path: rel, Boots: []manifest.IndexBoot{}, Logs: []string{}}
	logs := []string{".check.xml", ".boot.xml", ".build.log"}
	for _, s := range report.Data.Suites {
		for _, c := range s.Checks {
			switch c.Result {
			case manifest.Passed:
				sum.Passed++
			case manifest.Skipped:
				sum.Skipped++
			default:
				sum.Failed++
			}
		}
		for _, b := range s.Boots {
			sum.Boots = append(sum.Boots, manifest.IndexBoot{Firmware: b.Firmware, Accelerator: b.Accelerator, SSH: b.Times.SSH, Total: b.Times.Total})
			logs = append(logs, ".console-"+b.Firmware+".log")
		}
	}
	for _, ext := range logs {
		if _, err := os.Stat(strings.TrimSuffix(full, ".report.json") + ext); err == nil {
			sum.Logs = append(sum.Logs, strings.TrimSuffix(rel, ".report.json")+ext)
		}
	}
	i.Report = sum
	return nil
}

func compare(a, b manifest.IndexImage) int {
	return cmp.Or(
		cmp.Compare(typeRank(a.UploadType), typeRank(b.UploadType)),
		cmp.Compare(releaseNumber(b), releaseNumber(a)),
		cmp.Compare(a.Release, b.Release),
		compareVersions(b.Version, a.Version),
		cmp.Compare(a.Vendor, b.Vendor),
		cmp.Compare(a.Arch, b.Arch),
		cmp.Compare(a.Manifest, b.Manifest),
	)
}

// releaseNumber is the number before any "-backports"; sid, which has none, comes after all.
func releaseNumber(i manifest.IndexImage) int {
	digits, _, _ := strings.Cut(i.ReleaseID, "-")
	if n, err := strconv.Atoi(digits); err == nil {
		return n
	}
	return -1
}

func typeRank(t image.UploadType) int {
	return slices.Index([]image.UploadType{image.Published, image.Daily, image.Dev}, t)
}

func compareVersions(a, b string) int {
	x, errX := image.ParseVersion(a)
	y, errY := image.ParseVersion(b)
	if errX != nil || errY != nil {
		return cmp.Compare(a, b)
	}
	return cmp.Or(cmp.Compare(x.Date, y.Date), cmp.Compare(x.Number, y.Number))
}

// markLatest marks the first of each cell and upload type; images are sorted.
func markLatest(images []manifest.IndexImage) {
	type key struct {
		release, vendor, arch string
		t                     image.UploadType
	}
	seen := map[key]bool{}
	for n := range images {
		i := &images[n]
		k := key{i.Release, i.Vendor, i.Arch, i.UploadType}
		i.Latest = !seen[k]
		seen[k] = true
	}
}
