package azure

import (
	"fmt"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	internal "salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
)

// Tags that only debcloud sets. What has tagDigest is ours.
const (
	tagDigest     = "debcloud-digest" // of the raw image, as in documents
	tagName       = "debcloud-name"
	tagFamily     = "debcloud-family"
	tagType       = "debcloud-type"
	tagVersion    = "debcloud-version"
	tagUploaded   = "debcloud-uploaded" // of a disk: all its pages are there
	tagMaker      = "debcloud-maker"    // of a disk that is not complete: what the journal of its maker has
	tagDeprecated = "debcloud-deprecated-at"
	tagHidden     = "debcloud-hidden-at"
	tagReplacedBy = "debcloud-replaced-by"  // version of the successor
	tagUnseen     = "debcloud-never-public" // of a version that was retired before it was public
)

// definitionName is the family's image definition: debian-13-azure-amd64, debian-13-azure-amd64-daily.
func definitionName(img *publish.Image) string {
	info := img.Build.Data.Info
	return internal.PublicName(info.ReleaseID, info.Vendor, info.Arch, img.Type, "")
}

// versionName is the version as three integers, which is all that a gallery takes: 20260814-1 is 0.20260814.1.
func versionName(version string) string { return "0." + strings.Replace(version, "-", ".", 1) }

// diskName is that of the disk through which an image comes, at most 80 characters.
func diskName(img *publish.Image) string { return img.Name() + "-" + img.Digest.Hex()[:8] }

// architecture is Azure's name of a Debian architecture.
func architecture(debian string) (armcompute.Architecture, error) {
	switch debian {
	case "amd64":
		return armcompute.ArchitectureX64, nil
	case "arm64":
		return armcompute.ArchitectureArm64, nil
	}
	return "", fault.Inputf("Azure has no machines of architecture %q", debian)
}

// tags are those of everything that is made of the image.
func tags(img *publish.Image) map[string]*string {
	all := map[string]*string{
		tagDigest: ref(img.Digest.String()), tagName: ref(img.Name()), tagFamily: ref(img.Family()), tagType: ref(string(img.Type)), tagVersion: ref(img.Version.String()),
	}
	for key, annotation := range map[string]string{"debcloud-source-commit": manifest.AnnotationCommit, "debcloud-job-url": manifest.AnnotationJob} {
		if v := img.Build.Metadata.Annotations[annotation]; v != "" && len(v) <= 256 {
			all[key] = &v
		}
	}
	return all
}

// wantedDefinition is the image definition that a family needs.
func wantedDefinition(img *publish.Image, location string) (armcompute.GalleryImage, error) {
	arch, err := architecture(img.Build.Data.Info.Arch)
	if err != nil {
		return armcompute.GalleryImage{}, err
	}
	info := img.Build.Data.Info
	offer := "debian-" + info.ReleaseID
	if img.Type != internal.Published {
		offer += "-" + string(img.Type)
	}
	return armcompute.GalleryImage{
		Location: &location,
		Tags:     map[string]*string{tagFamily: ref(img.Family())},
		Properties: &armcompute.GalleryImageProperties{
			Identifier:       &armcompute.GalleryImageIdentifier{Publisher: ref("Debian"), Offer: &offer, SKU: ref(info.Vendor + "-" + info.Arch)},
			OSState:          ref(armcompute.OperatingSystemStateTypesGeneralized),
			OSType:           ref(armcompute.OperatingSystemTypesLinux),
			Architecture:     &arch,
			HyperVGeneration: ref(armcompute.HyperVGenerationV2),
			Description:      ref(fmt.Sprintf("Debian %s (%s) for Azure, %s", info.ReleaseID, info.Release, info.Arch)),
			Features: []*armcompute.GalleryImageFeature{
				{Name: ref("DiskControllerTypes"), Value: ref("SCSI, NVMe")},
				{Name: ref("IsAcceleratedNetworkSupported"), Value: ref("True")},
			},
		},
	}, nil
}

// demandDefinition refuses a definition in which our versions would not start.
func demandDefinition(name string, have, want *armcompute.GalleryImageProperties) error {
	var wrong []string
	for _, c := range []struct {
		what       string
		have, want string
	}{
		{"architecture", string(deref(have.Architecture)), string(deref(want.Architecture))},
		{"Hyper-V generation", string(deref(have.HyperVGeneration)), string(deref(want.HyperVGeneration))},
		{"state of the system", string(deref(have.OSState)), string(deref(want.OSState))},
		{"system", string(deref(have.OSType)), string(deref(want.OSType))},
	} {
		if !strings.EqualFold(c.have, c.want) {
			wrong = append(wrong, fmt.Sprintf("%s %s instead of %s", c.what, c.have, c.want))
		}
	}
	nvme := slices.ContainsFunc(have.Features, func(f *armcompute.GalleryImageFeature) bool {
		return deref(f.Name) == "DiskControllerTypes" && strings.Contains(deref(f.Value), "NVMe")
	})
	if !nvme {
		wrong = append(wrong, "no NVMe among the feature DiskControllerTypes")
	}
	if len(wrong) == 0 {
		return nil
	}
	return fault.WithHint(fault.Inputf("image definition %s has %s", name, strings.Join(wrong, ", ")), "most of this cannot be changed: delete the definition where it has no versions, else publish to another gallery")
}
