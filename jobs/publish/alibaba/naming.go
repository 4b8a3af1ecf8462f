package alibaba

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
)

// machine says how ECS calls an architecture, and how its machines boot: those of arm64 by UEFI only (ImportImage, "BootMode").
type machine struct{ arch, boot string }

func (s settings) machineOf(arch string) (machine, bool) {
	switch arch {
	case "amd64":
		return machine{"x86_64", s.BootMode}, true
	case "arm64":
		return machine{"arm64", "UEFI"}, true
	}
	return machine{}, false
}

// Keys of tags on images and snapshots, beside the labels of Upload documents. tagOwner marks what debcloud made. ECS takes 20 tags of 128 bytes.
const (
	tagOwner      = "cloud.debian.org/made-by"
	tagDigest     = manifest.AnnotationDigest
	tagName       = "cloud.debian.org/name"       // of the image, also on its snapshot and on a source
	tagSource     = "cloud.debian.org/source"     // "yes" on an image that is there to be copied and nothing else
	tagDeprecated = "cloud.debian.org/deprecated" // when, RFC 3339: ECS keeps no time
	tagHidden     = "cloud.debian.org/hidden"     // when the public lost sight of it, RFC 3339
	owner         = "debcloud"
)

// folder begins the keys of all objects.
const folder = "debcloud/"

// suffix ends the keys of objects; ImportImage refuses others by UnsupportedSuffix.OSSObject.
const suffix = ".qcow2"

// object is the key of what an image is imported from. It has part of the digest, so that what an unfinished publication of another image left
// is never taken for this one's.
func (p *publication) object() string {
	return folder + p.name + "-" + p.img.Digest.Hex()[:16] + suffix
}

// source is the name of the image that copies are made of where the published one cannot be copied any more.
func (p *publication) source() string { return p.name + "-source" }

// familyName is what users name the newest image by: debian-13-genericcloud-amd64.
func familyName(img *publish.Image) string {
	info := img.Build.Data.Info
	return image.PublicName(info.ReleaseID, info.Vendor, info.Arch, img.Type, "")
}

// description is what a person reads in the console. It must not begin with an address.
func description(img *publish.Image) string {
	info := img.Build.Data.Info
	return "Debian " + info.ReleaseID + " (" + info.Release + ") " + info.Arch + " " + string(img.Type) + " " + info.Version
}

// tags of the image called name, and of its snapshot, in all regions. A source has no family that prune could count it in.
func (p *publication) tags(name string) map[string]string {
	tags := map[string]string{tagOwner: owner, tagDigest: p.img.Digest.String(), tagName: p.name}
	if name != p.name {
		tags[tagSource] = "yes"
		return tags
	}
	info := p.img.Build.Data.Info
	tags[manifest.LabelDist], tags[manifest.LabelRelease], tags[manifest.LabelVendor], tags[manifest.LabelArch] = "debian", info.Release, info.Vendor, info.Arch
	tags[manifest.LabelVersion], tags[manifest.LabelUploadType] = info.Version, string(p.img.Type)
	return tags
}

// token is a client token that follows from the image and from what it is for, so that a repeated call makes nothing again.
func (p *publication) token(what ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(append([]string{p.account, p.name, p.img.Digest.Hex()}, what...), "\x00")))
	return hex.EncodeToString(sum[:]) // 64 characters, the most that ECS takes
}

// gigabytes is the size of the image in GiB, rounded up.
func gigabytes(img *publish.Image) int64 { return (img.Size() + 1<<30 - 1) >> 30 }
