package aws

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
)

// machine says how AWS calls an architecture, and how its machines boot.
type machine struct {
	arch types.ArchitectureValues
	boot types.BootModeValues
}

// machines holds the architectures that AWS has. Images for arm64 boot by UEFI only (EC2 user guide, "Boot modes").
var machines = map[string]machine{
	"amd64": {types.ArchitectureValuesX8664, types.BootModeValuesUefiPreferred},
	"arm64": {types.ArchitectureValuesArm64, types.BootModeValuesUefi},
}

// Keys of tags on images and snapshots, beside the labels of Upload documents. tagOwner marks what debcloud made.
const (
	tagName      = "Name"
	tagOwner     = "cloud.debian.org/made-by"
	tagDigest    = manifest.AnnotationDigest
	tagReleaseID = "debian.org/release-id"
	tagHidden    = "cloud.debian.org/hidden" // when the public lost sight of it, RFC 3339
	owner        = "debcloud"
)

// amiName is what users know the image by: debian-13-amd64-20250814-2204, as images for EC2 need not say that they are. Those that were
// made for another vendor do say so.
func amiName(img *publish.Image) string {
	info := img.Build.Data.Info
	name := image.PublicName(info.ReleaseID, info.Vendor, info.Arch, img.Type, info.Version)
	if info.Vendor == "ec2" {
		return strings.Replace(name, "-ec2-", "-", 1)
	}
	return name
}

// description is what a person reads in the console.
func description(img *publish.Image) string {
	info := img.Build.Data.Info
	return "Debian " + info.ReleaseID + " (" + info.Release + ") " + info.Arch + " " + string(img.Type) + " " + info.Version
}

// tags are the same on the image and on its snapshot, in all regions.
func (p *publication) tags() map[string]string {
	info := p.img.Build.Data.Info
	return map[string]string{
		tagName: p.name, tagOwner: owner, tagDigest: p.img.Digest.String(), tagReleaseID: info.ReleaseID,
		manifest.LabelDist: "debian", manifest.LabelRelease: info.Release, manifest.LabelVendor: info.Vendor, manifest.LabelArch: info.Arch,
		manifest.LabelVersion: info.Version, manifest.LabelUploadType: string(p.img.Type),
	}
}

func ec2Tags(tags map[string]string) []types.Tag {
	var out []types.Tag
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		v := tags[k]
		out = append(out, types.Tag{Key: &k, Value: &v})
	}
	return out
}

func ebsTags(tags map[string]string) []ebstypes.Tag {
	var out []ebstypes.Tag
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		v := tags[k]
		out = append(out, ebstypes.Tag{Key: &k, Value: &v})
	}
	return out
}

func tagsOf(tags []types.Tag) map[string]string {
	out := map[string]string{}
	for _, t := range tags {
		out[deref(t.Key)] = deref(t.Value)
	}
	return out
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// filter asks for what has all the tags and one of the values of each property.
func filters(tags map[string]string, properties map[string][]string) []types.Filter {
	var out []types.Filter
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		name := "tag:" + k
		out = append(out, types.Filter{Name: &name, Values: []string{tags[k]}})
	}
	for _, k := range slices.Sorted(maps.Keys(properties)) {
		out = append(out, types.Filter{Name: &k, Values: properties[k]})
	}
	return out
}

// token is a client token that follows from the image and from what it is for, so that a repeated call makes nothing again.
func (p *publication) token(what ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(append([]string{p.account, p.name, p.img.Digest.Hex()}, what...), "\x00")))
	return hex.EncodeToString(sum[:])
}
