package publish

import (
	"context"
	"maps"
	"strconv"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// Stage says who can see a publication.
type Stage string

const (
	Private Stage = "private" // there, complete and verified, but not shown to the public
	Public  Stage = "public"  // shown to everyone, and what "latest" leads to
)

// Publisher puts images at one place.
//
// Publish is idempotent: called again for the same image and stage it changes nothing and returns the same uploads,
// and called again after it was cut anywhere, by an error or by SIGKILL, it goes on to the same end. Nobody sees
// half a publication. Publish at stage Public does what stage Private would have done where that is missing.
//
// An error of kind fault.Input is final: the place holds another image under that name, or the image is not what its
// documents say. One of kind fault.Outside may go away by itself. After any error the place is as it was before.
// Two calls for one place, in one process or two, wait for each other where they must.
type Publisher interface {
	// Provider is the word by which commands name the place's kind, and part of NAME.upload-PROVIDER.json.
	Provider() string
	Publish(ctx context.Context, img *Image, stage Stage) (*Publication, error)
}

// Publication is what a Publisher did.
type Publication struct {
	Uploads []manifest.Upload // all that this place has of the image, also from earlier calls
	Changed bool              // false: everything was there already
	Place   string            // where a person finds it
}

// Image is a built image that passed the gates of Publish.
type Image struct {
	Build   *manifest.Build
	Report  *manifest.Report
	Digest  manifest.Digest // of the raw image; a Publisher compares it with what it reads
	Path    string          // of the raw image
	Base    string          // DIR/NAME, the prefix of the files beside it
	Version image.Version
	Type    image.UploadType
}

// Name returns the image's public name, without extension.
func (i *Image) Name() string {
	info := i.Build.Data.Info
	return image.PublicName(info.ReleaseID, info.Vendor, info.Arch, i.Type, info.Version)
}

// Directory returns the place of the image's version in the public tree, with slashes.
func (i *Image) Directory() string {
	info := i.Build.Data.Info
	return image.PublicDirectory(info.Release, i.Type, info.Version)
}

// Upload describes one published form of the image: format as in the label upload.cloud.debian.org/image-format,
// the digest and size, in bytes, of what lies at the place.
func (i *Image) Upload(provider, ref, format string, digest manifest.Digest, size int64) manifest.Upload {
	u := manifest.Upload{Data: manifest.UploadData{Provider: provider, Ref: ref}}
	u.APIVersion, u.Kind = manifest.APIVersion, "Upload"
	u.Metadata = manifest.Metadata{
		Labels:      i.labels(),
		Annotations: map[string]string{manifest.AnnotationSize: strconv.FormatInt(size, 10)},
		UID:         manifest.NewUID("Upload", provider, ref, digest.Hex()),
	}
	u.Metadata.Labels[manifest.LabelImageFormat] = format
	u.Metadata.Labels[manifest.LabelUploadType] = string(i.Type)
	for _, key := range []string{manifest.AnnotationJob, manifest.AnnotationCommit, manifest.AnnotationDryRun} {
		if v := i.Build.Metadata.Annotations[key]; v != "" {
			u.Metadata.Annotations[key] = v
		}
	}
	u.Metadata.SetDigest(digest)
	return u
}

// labels returns the build's labels, with those that consumers need put right from the build's own data.
func (i *Image) labels() map[string]string {
	info := i.Build.Data.Info
	labels := map[string]string{manifest.LabelDist: "debian"}
	maps.Copy(labels, i.Build.Metadata.Labels)
	labels[manifest.LabelArch] = info.Arch
	labels[manifest.LabelRelease] = info.Release
	labels[manifest.LabelVendor] = info.Vendor
	labels[manifest.LabelVersion] = info.Version
	return labels
}

// List returns the public manifest, as upstream writes it: the Build, then the Uploads, keys sorted, four spaces.
// The Build in it names its report, report, by a path relative to the manifest.
func (i *Image) List(uploads []manifest.Upload, report string) ([]byte, error) {
	b := *i.Build
	b.Metadata.Labels = i.labels()
	b.Metadata.Annotations = maps.Clone(b.Metadata.Annotations)
	b.Metadata.Annotations[manifest.AnnotationReport] = report
	list, err := manifest.NewList(&b, uploads)
	if err != nil {
		return nil, err
	}
	return manifest.MarshalSorted(list)
}
