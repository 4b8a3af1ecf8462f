package openstack

import (
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"

	internal "salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
)

// Properties that only debcloud sets. One with markDigest is ours.
const (
	markDigest     = "debcloud_digest" // of the raw image, as in documents
	markFamily     = "debcloud_family"
	markType       = "debcloud_type"
	markVersion    = "debcloud_version"
	markVerified   = "debcloud_verified"      // Glance's own hash of the data, when it was found right
	markDeprecated = "debcloud_deprecated_at" // when, RFC 3339
	markHidden     = "debcloud_hidden_at"
	markReplacedBy = "debcloud_replaced_by" // the successor's name
)

// latest is the tag of the newest image of a family.
const latest = "latest"

// familyName is the tag that all versions of an image have: debian-13-genericcloud-amd64.
func familyName(img *publish.Image) string {
	info := img.Build.Data.Info
	return internal.PublicName(info.ReleaseID, info.Vendor, info.Arch, img.Type, "")
}

// identifier is the n-th that Glance may know the image by. A Glance that is given one refuses to make it twice, so an answer that was lost
// cannot lead to a second image; it never takes one again that was deleted, so there is more than one.
func identifier(project string, img *publish.Image, n int) string {
	parts := []string{"debcloud", provider, project, img.Name(), img.Digest.Hex(), string(rune('0' + n))}
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(strings.Join(parts, "/"))).String()
}

// properties are those that an image has besides its marks: what Nova reads, and what people look for (Glance's "common image
// properties", and the image metadata standard of the Sovereign Cloud Stack, scs-0102).
func (w *work) properties() map[string]string {
	info := w.img.Build.Data.Info
	names, _ := internal.NamesOf(info.Arch)
	all := map[string]string{
		"architecture": names.Machine,
		"os_type":      "linux", "os_distro": "debian", "os_version": info.ReleaseBaseID, "os_codename": info.Release,
		"os_admin_user": "debian", "image_original_user": "debian",
		"image_build_date": w.img.Version.Time().Format(time.DateOnly),
		"hw_firmware_type": w.firmware(info.Arch),
		// A disk on virtio-scsi can be trimmed; random numbers come from the host.
		"hw_disk_bus": "scsi", "hw_scsi_model": "virtio-scsi", "hw_rng_model": "virtio",
		markDigest: w.img.Digest.String(), markFamily: w.img.Family(), markType: string(w.img.Type), markVersion: w.img.Version.String(),
	}
	for key, annotation := range map[string]string{"debcloud_source_commit": manifest.AnnotationCommit, "debcloud_job_url": manifest.AnnotationJob} {
		if v := w.img.Build.Metadata.Annotations[annotation]; v != "" && len(v) <= 255 {
			all[key] = v
		}
	}
	return all
}

// firmware is what Nova starts the image with. amd64 images know both, and every host has a BIOS; the others have UEFI alone.
func (w *work) firmware(arch string) string {
	if arch == "amd64" {
		return w.settings.firmware
	}
	return "uefi"
}

// minDisk is the size of the image in GiB, rounded up: Glance then refuses smaller machines.
func minDisk(img *publish.Image) int { return int((img.Size() + 1<<30 - 1) >> 30) }

// mark reads a property of ours.
func mark(i *images.Image, name string) string {
	text, _ := i.Properties[name].(string)
	return text
}

// add sets a property, whether the image has it or not: that is what "add" does in a JSON patch (RFC 6902, 4.1).
func add(name, value string) images.Patch {
	return images.UpdateImageProperty{Op: images.AddOp, Name: name, Value: value}
}
