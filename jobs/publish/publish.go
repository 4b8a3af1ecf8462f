// Package publish puts a tested image where its users get it.
//
// It holds what all places share: the gates that an image has to pass, the Publisher that each place implements, and the
// documents that tell what was published. The places are packages below it.
package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/atomicfile"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
)

// Options say what to publish, and where.
type Options struct {
	BuildPath string           // NAME.build.json, or NAME.json of a published image; the image and its report lie beside it
	To        Publisher        //
	Target    target.Target    // that To stands for: whose images it takes, and whether it asks for a report
	Plan      *manifest.Plan   // of All: the cells that must be there before any becomes public; nil asks for none
	Type      image.UploadType // "" means dev for a dev build and daily for an official one
	Stage     Stage            // "" means Public
	Suites    []string         // further suites of the report that must have passed before stage Public
	Documents string           // directory of NAME.upload-PROVIDER.json; "" means beside BuildPath
	DryRun    bool             // the documents are a dry run's; without it such are refused, with it all others
}

// Result is what Publish did.
type Result struct {
	*Publication
	Name       string // public name of the image
	UploadPath string // NAME.upload-PROVIDER.json
}

// suites that must have passed before anyone may see an image.
var suites = []string{"check", "boot"}

// Publish reads the build, demands a passing report on the same digest, has o.To publish the image, and writes
// the Upload documents. A refused image is an error of kind fault.Input. Where the Publisher returned both a Publication and an
// error, some regions failed: the documents tell of the others, and Publish returns both, too, the error of kind fault.Outside,
// whatever is wrong with those regions. Documents of stage Private say so, until those of stage Public take their place.
func Publish(ctx context.Context, o Options) (*Result, error) {
	stage, err := parseStage(o.Stage)
	if err != nil {
		return nil, err
	}
	img, err := Open(o)
	if err != nil {
		return nil, err
	}
	defer img.Close()
	publication, failed := o.To.Publish(ctx, img, stage)
	if failed != nil {
		failed = fmt.Errorf("publish %s: %w", img.Name(), failed)
	}
	if publication == nil || failed != nil && len(publication.Uploads) == 0 {
		return nil, failed
	}
	if failed != nil {
		failed = &fault.Error{Kind: fault.Outside, Err: failed}
	}
	if stage == Private {
		for i := range publication.Uploads {
			publication.Uploads[i].Metadata.SetPrivate()
		}
	}
	path, err := img.writeUploads(o, publication.Uploads)
	if err != nil {
		return nil, errors.Join(failed, err)
	}
	return &Result{Publication: publication, Name: img.Name(), UploadPath: path}, failed
}

// writeUploads writes NAME.upload-PROVIDER.json and returns its path.
func (i *Image) writeUploads(o Options, uploads []manifest.Upload) (string, error) {
	path := i.Base + ".upload-" + o.To.Provider() + ".json"
	if o.Documents != "" {
		path = filepath.Join(o.Documents, filepath.Base(path))
		if err := os.MkdirAll(o.Documents, 0o755); err != nil {
			return "", err
		}
	}
	text, err := i.List(uploads, i.Name()+".report.json")
	if err != nil {
		return "", err
	}
	return path, writeChanged(path, text)
}

// Open reads the documents of an image and refuses one that may not be published. Close the Image at the end.
func Open(o Options) (*Image, error) {
	img, err := read(o.BuildPath)
	if err != nil {
		return nil, err
	}
	if img.Type, err = uploadType(img.Build, o.Type); err != nil {
		return nil, err
	}
	if img.Version, err = image.ParseVersion(img.Build.Data.Info.Version); err != nil {
		return nil, fmt.Errorf("%s cannot be published: %w", o.BuildPath, err)
	}
	if img.Digest, err = img.Build.Metadata.Digest(); err != nil {
		return nil, err
	}
	demanded := suites
	if o.Stage != Private {
		demanded = slices.Concat(suites, o.Suites)
	}
	if img.Report, err = passingReport(img.Base+".report.json", o.BuildPath, img.Digest, demanded); err != nil {
		return nil, err
	}
	return img, demandDryRun(o, img.Build, img.Report)
}

// read reads the document at path, a Build or the List of an image that was published before.
func read(path string) (*Image, error) {
	if !strings.HasSuffix(path, ".build.json") && isList(path) {
		return readPublished(path)
	}
	b, err := manifest.ReadBuild(path)
	if err != nil {
		return nil, err
	}
	return &Image{Build: b, Base: manifest.Base(path), path: b.ImagePath(path)}, nil
}

func passingReport(path, buildPath string, digest manifest.Digest, suites []string) (*manifest.Report, error) {
	report, err := manifest.ReadReport(path)
	if err == nil {
		err = report.DemandPassed(digest, suites...)
	}
	if err != nil {
		return nil, fault.WithHint(fault.Inputf("%s has no passing report: %w", buildPath, err),
			"run debcloud check %s and debcloud boot %s; an image is published only after both passed", buildPath, buildPath)
	}
	return report, nil
}

// demandDryRun keeps a dry run and real publications apart: neither takes the other's documents.
func demandDryRun(o Options, b *manifest.Build, r *manifest.Report) error {
	switch {
	case !o.DryRun && (b.Metadata.DryRun() || r.Metadata.DryRun()):
		return fault.WithHint(fault.Inputf("%s is of a dry run: there is no image to publish", o.BuildPath), "build, check and boot it without DEBCLOUD_DRY_RUN")
	case o.DryRun && !(b.Metadata.DryRun() && r.Metadata.DryRun()):
		return fault.Inputf("%s is of a real build: a dry run publishes only what a dry run made", o.BuildPath)
	}
	return nil
}

// uploadType fills in the default and refuses what is not known, and a dev build under any other type.
func uploadType(b *manifest.Build, t image.UploadType) (image.UploadType, error) {
	dev := b.Data.Info.Type == "dev"
	switch {
	case t == "" && dev:
		return image.Dev, nil
	case t == "":
		return image.Daily, nil
	case !slices.Contains([]image.UploadType{image.Dev, image.Daily, image.Published}, t):
		return "", fault.Inputf("upload type %q is none of dev, daily, release", t)
	case dev && t != image.Dev:
		return "", fault.WithHint(fault.Inputf("a build of type dev cannot be published as %s", t), "build it with type official")
	}
	return t, nil
}

func parseStage(s Stage) (Stage, error) {
	switch s {
	case "", Public:
		return Public, nil
	case Private:
		return Private, nil
	}
	return "", fault.Inputf("stage %q is neither private nor public", s)
}

// writeChanged leaves a file alone that holds text already, so that running again changes nothing.
func writeChanged(path string, text []byte) error {
	old, err := os.ReadFile(path)
	if err == nil && bytes.Equal(old, text) {
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return atomicfile.Write(path, text, 0o644)
}
