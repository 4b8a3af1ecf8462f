package manifest

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Build says what an image is and what is in it. It lies beside the image as NAME.build.json.
type Build struct {
	Header
	Data BuildData `json:"data"`
}

// BuildData holds upstream's fields, info and packages, and ours after them.
type BuildData struct {
	Info     BuildInfo `json:"info"`
	Packages []Package `json:"packages"`

	Classes   []string          `json:"classes,omitempty"`   // FAI classes, in the order in which they were defined
	Image     *ImageFile        `json:"image,omitempty"`     // the raw image
	Versions  map[string]string `json:"versions,omitempty"`  // "kernel": release of the kernel that boots; "cloud-init": package version
	Partition map[string]string `json:"partition,omitempty"` // PARTUUID by label of the partition
}

// BuildInfo identifies a build.
type BuildInfo struct {
	Arch          string `json:"arch"`
	BuildID       string `json:"build_id"`
	Release       string `json:"release"`
	ReleaseBaseID string `json:"release_baseid"`
	ReleaseID     string `json:"release_id"`
	Type          string `json:"type"` // build type: dev, official
	Vendor        string `json:"vendor"`
	Version       string `json:"version"`
}

// Package is an installed Debian package; Name has ":ARCH" where dpkg prints it.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// ImageFile describes a raw image. Sizes are bytes.
type ImageFile struct {
	Name      string `json:"name"`      // file name, in the document's directory
	Size      int64  `json:"size"`      // apparent size
	Allocated int64  `json:"allocated"` // bytes that are not holes
}

// ReadBuild reads NAME.build.json and checks its schema.
func ReadBuild(path string) (*Build, error) {
	b := new(Build)
	if err := read(path, "Build", b, &b.Header); err != nil {
		return nil, err
	}
	if b.Data.Image == nil {
		return nil, fault.Inputf("%s names no image", path)
	}
	if b.Data.Image.Name != filepath.Base(b.Data.Image.Name) {
		return nil, fault.Inputf("%s names the image %q, which is not a plain file name", path, b.Data.Image.Name)
	}
	if _, err := b.Metadata.Digest(); err != nil {
		return nil, err
	}
	return b, nil
}

// Base returns DIR/NAME of DIR/NAME.build.json, the prefix of everything that belongs to a build.
func Base(buildPath string) string { return strings.TrimSuffix(buildPath, ".build.json") }

// VerifyImage reads the raw image beside the Build document at buildPath and compares its size and its fingerprint with the
// document, or its digest where the document has no fingerprint: the digest of a mostly empty image of 30 GiB takes more than a
// minute. It returns the image's path. The error says in which of them they differ.
func (b *Build) VerifyImage(ctx context.Context, buildPath string) (string, error) {
	path := b.ImagePath(buildPath)
	info, err := os.Stat(path)
	if err != nil {
		return "", fault.Inputf("the image of %s cannot be read: %w", buildPath, err)
	}
	if info.Size() != b.Data.Image.Size {
		return "", fault.Inputf("image %s has %d bytes where its build document says %d: it was truncated or altered; build it again", path, info.Size(), b.Data.Image.Size)
	}
	want, got, err := b.sums(ctx, path)
	if err != nil {
		return "", err
	}
	return path, DemandSame(path, want, got)
}

// sums returns what the document says of the image's content, and what the file at path has of it.
func (b *Build) sums(ctx context.Context, path string) (want, got string, err error) {
	if want = b.Metadata.Fingerprint(); want != "" {
		got, err = fingerprintOfFile(ctx, path)
		return want, got, err
	}
	said, err := b.Metadata.Digest()
	if err != nil {
		return "", "", err
	}
	found, err := DigestOfFile(ctx, path)
	return said.String(), found.String(), err
}

// DemandSame returns the error, of kind Input, for an image whose sum is not the one that its document wants; both begin with
// the algorithm's name and a colon.
func DemandSame(path, want, got string) error {
	if got == want {
		return nil
	}
	return fault.Inputf("image %s has digest %s where its build document says %s: it was altered; build it again", path, got, want)
}

// ImagePath returns the path of the raw image beside the Build document at buildPath.
func (b *Build) ImagePath(buildPath string) string {
	return filepath.Join(filepath.Dir(buildPath), b.Data.Image.Name)
}
