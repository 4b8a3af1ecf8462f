package publish

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"io"
	"maps"
	"os"
	"strconv"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/internal/progress"
	"salsa.debian.org/cloud-team/debcloud/internal/raw"
	"salsa.debian.org/cloud-team/debcloud/internal/raw/sha256pair"
)

// Image is an image that passed the gates of Publish: one that was just built, or one that was published before and is
// published again as another type. Close it at the end.
type Image struct {
	Build   *manifest.Build
	Report  *manifest.Report
	Digest  manifest.Digest // of the raw image
	Base    string          // DIR/NAME, the prefix of the files beside the image's document
	Version image.Version
	Type    image.UploadType

	path   string   // of the raw image, or of the tar.xz that holds it
	packed bool     // path is a tar.xz
	file   *os.File // the raw image, once it was opened
}

// Name returns the image's public name, without extension.
func (i *Image) Name() string {
	info := i.Build.Data.Info
	return image.PublicName(info.ReleaseID, info.Vendor, info.Arch, i.Type, info.Version)
}

// Family names what successors are counted in: releases and dailies of a cell are two families.
func (i *Image) Family() string {
	info := i.Build.Data.Info
	return holding.Family(info.Release, info.Vendor, info.Arch, i.Type)
}

// Directory returns the place of the image's version in the public tree, with slashes.
func (i *Image) Directory() string {
	info := i.Build.Data.Info
	return image.PublicDirectory(info.Release, i.Type, info.Version)
}

// Size returns the raw image's size in bytes.
func (i *Image) Size() int64 { return i.Build.Data.Image.Size }

// Open returns the raw image, holes and all; it stays the Image's, who closes it. An image that lies in a tar.xz is
// unpacked first, into a file without a name. The error for one of another size than its document says is of kind fault.Input.
// What is read this way is not compared with the digest: Copy and Send do that.
func (i *Image) Open(ctx context.Context) (*os.File, error) {
	if i.file != nil {
		return i.file, nil
	}
	open := os.Open
	if i.packed {
		open = func(path string) (*os.File, error) { return i.unpack(ctx, path) }
	}
	if _, err := os.Stat(i.path); err != nil {
		return nil, fault.Inputf("the image cannot be read: %w", err)
	}
	f, err := open(i.path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != i.Size() {
		err = fault.Inputf("image %s has %d bytes where its build document says %d: it was truncated or altered; build it again", i.path, info.Size(), i.Size())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	i.file = f
	return f, nil
}

// Close closes the raw image.
func (i *Image) Close() error {
	if i.file == nil {
		return nil
	}
	f := i.file
	i.file = nil
	return f.Close()
}

// Copy reads the image once and gives it to every sink, each in a goroutine of its own, with a progress line named after what
// is done. The error for an image that is not its documents' is of kind fault.Input. Sinks may be
// closed by then, so what they wrote is made visible only after Copy returned without an error.
func (i *Image) Copy(ctx context.Context, doing string, sinks ...raw.Sink) error {
	return i.copy(ctx, doing, append([]raw.Sink{i.check()}, sinks...))
}

// CopyHashed is Copy, and hashes what one more sink writes, with the SHA-256 that it returns. That takes little longer than to
// compare the image with its documents.
func (i *Image) CopyHashed(ctx context.Context, doing string, hashed func(io.Writer) raw.Sink, sinks ...raw.Sink) ([]byte, error) {
	want, stream := i.Build.Metadata.Fingerprint(), sha256pair.NewStream()
	if want == "" || stream == nil {
		h := sha256.New()
		err := i.Copy(ctx, doing, append(sinks, hashed(h))...)
		return h.Sum(nil), err
	}
	f := raw.NewFingerprint(i.Size())
	err := i.copy(ctx, doing, append(sinks, i.demand(f, want, raw.NewHashed(f, stream, hashed))))
	sum := stream.Sum()
	return sum[:], err
}

func (i *Image) copy(ctx context.Context, doing string, sinks []raw.Sink) error {
	f, err := i.Open(ctx)
	if err != nil {
		return err
	}
	extents, size, err := raw.Map(f)
	if err != nil {
		return err
	}
	task := progress.Start(ctx, doing+" "+i.Name(), size, true)
	defer task.Abort()
	if err := raw.Copy(ctx, f, extents, size, task.Add, sinks...); err != nil {
		return err
	}
	task.Done()
	return nil
}

// Send reads the image once and hands every block that is not all zeros to put; u.Check and u.Done are Send's own. The
// error for an image that is not its documents' is of kind fault.Input; blocks were sent by then, so the caller completes
// what they became only after Send returned without an error. A progress line tells the throughput.
func (i *Image) Send(ctx context.Context, doing string, u raw.Upload, put func(context.Context, raw.Block) error) (raw.Sent, error) {
	f, err := i.Open(ctx)
	if err != nil {
		return raw.Sent{}, err
	}
	task := progress.Start(ctx, doing+" "+i.Name(), i.Size(), true)
	defer task.Abort()
	u.Done = task.Add
	want := i.Build.Metadata.Fingerprint()
	if u.BlockSize%raw.SumBlock != 0 {
		want = ""
	}
	if want == "" {
		u.Check = i.check()
	}
	sent, err := raw.Send(ctx, f, u, put)
	if err == nil && want != "" {
		err = manifest.DemandSame(i.path, want, manifest.FormatFingerprint(sent.Fingerprint[:]))
	}
	if err != nil {
		return sent, err
	}
	task.Done()
	return sent, nil
}

// check is a sink that compares an image with its documents, when it was read to its end. The fingerprint costs what the image's
// data cost, the digest also what its holes do, so the digest is computed only where the document has no fingerprint.
func (i *Image) check() raw.Sink {
	if want := i.Build.Metadata.Fingerprint(); want != "" {
		f := raw.NewFingerprint(i.Size())
		return i.demand(f, want, f)
	}
	h := sha512.New()
	return &closing{raw.Digest{Hash: h}, func() error {
		return manifest.DemandSame(i.path, i.Digest.String(), manifest.Digest(h.Sum(nil)).String())
	}}
}

// demand is sink, which makes the fingerprint f, and fails at its end where that is not the wanted one.
func (i *Image) demand(f *raw.Fingerprint, want string, sink raw.Sink) raw.Sink {
	return &closing{sink, func() error {
		if err := sink.Close(); err != nil {
			return err
		}
		return manifest.DemandSame(i.path, want, manifest.FormatFingerprint(f.Sum()))
	}}
}

// closing is a sink with another Close.
type closing struct {
	raw.Sink
	close func() error
}

func (c *closing) Close() error { return c.close() }

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

// CloudUpload describes what a cloud has of the image in one region, "" where the cloud has it everywhere. ref is the cloud's own
// identifier, family what leads to the newest image there (family, parameter, gallery definition), "" where there is none.
// Digest and size are those of the raw image. No provider's word but cloud.debian.org stands in upstream's field: the domain does.
func (i *Image) CloudUpload(provider, region, ref, family string) manifest.Upload {
	domain := manifest.ProviderDomain(provider)
	u := i.Upload(domain, ref, "internal", i.Digest, i.Size())
	u.Metadata.UID = manifest.NewUID("Upload", domain, region, ref, i.Digest.Hex())
	u.Metadata.Labels[manifest.LabelProvider] = domain
	if region != "" {
		u.Metadata.Labels[manifest.LabelRegion] = region
		if provider == "aws" {
			u.Metadata.Labels[manifest.LabelAWSRegion] = region
		}
	}
	if family != "" {
		u.Data.FamilyRef = &family
	}
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
