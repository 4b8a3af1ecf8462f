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
	"slices"

	"github.com/google/renameio/v2"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// Options say what to publish, and where.
type Options struct {
	BuildPath string           // NAME.build.json; the image and its report lie beside it
	To        Publisher        //
	Type      image.UploadType // "" means dev for a dev build and daily for an official one
	Stage     Stage            // "" means Public
	DryRun    bool             // the documents are a dry run's; without it such are refused, with it all others
}

// Result is what Publish did.
type Result struct {
	*Publication
	Name       string // public name of the image
	UploadPath string // NAME.upload-PROVIDER.json, beside the build
}

// suites that must have passed before anyone may see an image.
var suites = []string{"check", "boot"}

// Publish reads the build, demands a passing report on the same digest, has o.To publish the image, and writes
// the Upload documents beside the build. A refused image is an error of kind fault.Input.
func Publish(ctx context.Context, o Options) (*Result, error) {
	img, err := open(o)
	if err != nil {
		return nil, err
	}
	stage, err := parseStage(o.Stage)
	if err != nil {
		return nil, err
	}
	publication, err := o.To.Publish(ctx, img, stage)
	if err != nil {
		return nil, fmt.Errorf("publish %s: %w", img.Name(), err)
	}
	path := img.Base + ".upload-" + o.To.Provider() + ".json"
	text, err := img.List(publication.Uploads, img.Name()+".report.json")
	if err != nil {
		return nil, err
	}
	if err := writeChanged(path, text); err != nil {
		return nil, err
	}
	return &Result{Publication: publication, Name: img.Name(), UploadPath: path}, nil
}

// open reads the documents of a build and refuses an image that may not be published.
func open(o Options) (*Image, error) {
	buildPath := o.BuildPath
	b, err := manifest.ReadBuild(buildPath)
	if err != nil {
		return nil, err
	}
	t, err := uploadType(b, o.Type)
	if err != nil {
		return nil, err
	}
	version, err := image.ParseVersion(b.Data.Info.Version)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be published: %w", buildPath, err)
	}
	digest, err := b.Metadata.Digest()
	if err != nil {
		return nil, err
	}
	base := manifest.Base(buildPath)
	report, err := passingReport(base+".report.json", buildPath, digest)
	if err != nil {
		return nil, err
	}
	if err := demandDryRun(o, b, report); err != nil {
		return nil, err
	}
	return &Image{Build: b, Report: report, Digest: digest, Path: b.ImagePath(buildPath), Base: base, Version: version, Type: t}, nil
}

func passingReport(path, buildPath string, digest manifest.Digest) (*manifest.Report, error) {
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
	return renameio.WriteFile(path, text, 0o644)
}
