package awstest

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Image is an AMI as the cloud has it.
type Image struct {
	ID, Name, Description     string
	Owner, State              string // State: pending, available, failed, deregistered
	Architecture, BootMode    string
	TPM, IMDS, SRIOV          string
	ENA, Public               bool
	RootDevice, VolumeType    string
	SizeGB                    int
	DeleteOnTermination       bool
	SnapshotID                string
	SourceRegion, SourceImage string
	Created, Deprecated       time.Time
	Tags                      map[string]string
	serial, hidden, pending   int
	willFail                  string
}

// Fail has the image end in state failed, once it is no longer pending.
func (i *Image) Fail(why string) { i.willFail, i.State = why, "pending" }

var imageName = regexp.MustCompile(`^[A-Za-z0-9 ()\[\]./\-'@_]{3,128}$`)

// image finds a registered image that has come into view.
func (r *region) image(id string) (*Image, *Failure) {
	if !strings.HasPrefix(id, "ami-") {
		return nil, refuse("InvalidAMIID.Malformed", "Invalid id: \"%s\" (expecting \"ami-...\")", id)
	}
	i := r.images[id]
	if i == nil {
		return nil, refuse("InvalidAMIID.NotFound", "The image id '[%s]' does not exist", id)
	}
	if i.hidden > 0 {
		i.hidden--
		return nil, refuse("InvalidAMIID.NotFound", "The image id '[%s]' does not exist", id)
	}
	if i.State == "deregistered" {
		return nil, refuse("InvalidAMIID.Unavailable", "The image ID '%s' is no longer available", id)
	}
	return i, nil
}

// settle lets time pass for an image that is being looked at.
func (i *Image) settle() {
	if i.State != "pending" {
		return
	}
	if i.pending > 0 {
		i.pending--
		return
	}
	i.State = "available"
	if i.willFail != "" {
		i.State = "failed"
	}
}

func (c *Cloud) describeImages(r *region, p *parameters) (element, *Failure) {
	ids, owners, filters := p.list("ImageId"), p.list("Owner"), p.filters()
	p.bool("IncludeDeprecated")
	p.bool("IncludeDisabled")
	if len(ids) > 0 && p.get("MaxResults") != "" {
		p.fail(refuse("InvalidParameterCombination", "The parameter imageIds cannot be used with the parameter maxResults"))
	}
	found, f := c.findImages(r, ids, owners, filters)
	if f != nil {
		return element{}, f
	}
	shown, next := page(p, found)
	if f := p.done(); f != nil {
		return element{}, f
	}
	set := element{name: "imagesSet"}
	for _, i := range shown {
		set.kids = append(set.kids, i.describe())
	}
	return el("", optional([]element{set}, "nextToken", next)...), nil
}

func (c *Cloud) findImages(r *region, ids, owners []string, filters map[string][]string) ([]*Image, *Failure) {
	for _, id := range ids {
		if i, f := r.image(id); f != nil && (i == nil || i.State != "deregistered") {
			return nil, f
		}
	}
	var found []*Image
	for _, i := range sorted(r.images, func(a, b *Image) int { return a.serial - b.serial }) {
		if i.State == "deregistered" || len(ids) > 0 && !slices.Contains(ids, i.ID) {
			continue
		}
		mine := i.Owner == c.settings.Account
		if len(owners) > 0 && !slices.Contains(owners, i.Owner) && !(mine && slices.Contains(owners, "self")) || !mine && !i.Public {
			continue
		}
		ok, f := matches(filters, i.Tags, map[string]string{"name": i.Name, "state": i.State, "is-public": strconv.FormatBool(i.Public), "architecture": i.Architecture})
		if f != nil {
			return nil, f
		}
		if !ok {
			continue
		}
		if i.hidden > 0 {
			i.hidden--
			continue
		}
		i.settle()
		found = append(found, i)
	}
	return found, nil
}

func (i *Image) describe() element {
	ebs := el("ebs", text("snapshotId", i.SnapshotID), text("volumeSize", itoa(i.SizeGB)), flag("deleteOnTermination", i.DeleteOnTermination), text("volumeType", i.VolumeType), flag("encrypted", false))
	kids := []element{
		text("imageId", i.ID), text("imageLocation", i.Owner+"/"+i.Name), text("imageState", i.State), text("imageOwnerId", i.Owner),
		text("creationDate", stamp(i.Created)), flag("isPublic", i.Public), text("architecture", i.Architecture), text("imageType", "machine"),
		text("platformDetails", "Linux/UNIX"), text("name", i.Name), text("rootDeviceType", "ebs"), text("rootDeviceName", i.RootDevice),
		el("blockDeviceMapping", el("item", text("deviceName", i.RootDevice), ebs)), text("virtualizationType", "hvm"),
		text("hypervisor", "xen"), flag("enaSupport", i.ENA), tagSet(i.Tags),
	}
	for _, o := range [][2]string{
		{"description", i.Description}, {"bootMode", i.BootMode}, {"tpmSupport", i.TPM}, {"imdsSupport", i.IMDS}, {"sriovNetSupport", i.SRIOV},
		{"sourceImageId", i.SourceImage}, {"sourceImageRegion", i.SourceRegion},
	} {
		kids = optional(kids, o[0], o[1])
	}
	if !i.Deprecated.IsZero() {
		kids = append(kids, text("deprecationTime", stamp(i.Deprecated)))
	}
	if i.State == "failed" {
		kids = append(kids, el("stateReason", text("code", "Client.InternalError"), text("message", i.willFail)))
	}
	return el("item", kids...)
}

func (c *Cloud) registerImage(r *region, p *parameters) (element, *Failure) {
	i := &Image{
		Name: p.need("Name"), Description: p.get("Description"), Architecture: p.oneOf("Architecture", "i386", "x86_64", "arm64"),
		BootMode: p.oneOf("BootMode", "legacy-bios", "uefi", "uefi-preferred"), TPM: p.oneOf("TpmSupport", "v2.0"),
		IMDS: p.oneOf("ImdsSupport", "v2.0"), SRIOV: p.oneOf("SriovNetSupport", "simple"), ENA: p.bool("EnaSupport"),
		RootDevice: p.need("RootDeviceName"), Owner: c.settings.Account, Tags: p.specifications("image")["image"],
	}
	kind := p.oneOf("VirtualizationType", "hvm", "paravirtual")
	const m = "BlockDeviceMapping.1."
	device := p.get(m + "DeviceName")
	i.SnapshotID, i.VolumeType, i.SizeGB = p.need(m+"Ebs.SnapshotId"), p.oneOf(m+"Ebs.VolumeType", "gp2", "gp3", "io1", "io2", "standard"), p.int(m+"Ebs.VolumeSize")
	i.DeleteOnTermination = p.get(m+"Ebs.DeleteOnTermination") != "false"
	if f := p.done(); f != nil {
		return element{}, f
	}
	if f := i.demandLegal(kind, device); f != nil {
		return element{}, f
	}
	for _, other := range r.images {
		if other.Name == i.Name && other.State != "deregistered" && other.Owner == i.Owner {
			return element{}, refuse("InvalidAMIName.Duplicate", "AMI name %s is already in use by AMI %s", i.Name, other.ID)
		}
	}
	s, f := r.snapshot(i.SnapshotID)
	if f != nil {
		return element{}, f
	}
	if s.State != "completed" {
		return element{}, refuse("InvalidParameterValue", "Snapshot %s is not in completed state", s.ID)
	}
	if i.SizeGB == 0 {
		i.SizeGB = s.SizeGB
	}
	if i.SizeGB < s.SizeGB {
		return element{}, refuse("InvalidBlockDeviceMapping", "Volume of size %dGB is smaller than snapshot '%s', expect size >= %dGB", i.SizeGB, s.ID, s.SizeGB)
	}
	c.addImage(r, i)
	return el("", text("imageId", i.ID)), nil
}

// demandLegal refuses what does not go together.
func (i *Image) demandLegal(kind, device string) *Failure {
	switch {
	case !imageName.MatchString(i.Name):
		return refuse("InvalidAMIName.Malformed", "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, '(', ')', '.', '-', '/' and '_'")
	case kind != "hvm":
		return refuse("InvalidParameterCombination", "Enhanced networking and UEFI need virtualization type hvm")
	case i.Architecture == "":
		return refuse("InvalidParameterCombination", "the double wants the architecture, which defaults to i386")
	case i.Architecture == "arm64" && i.BootMode != "uefi" && i.BootMode != "":
		return refuse("InvalidParameterCombination", "Boot mode %s is not supported with architecture arm64", i.BootMode)
	case i.TPM != "" && i.BootMode != "uefi":
		return refuse("InvalidParameterCombination", "TpmSupport requires boot mode uefi")
	case device != i.RootDevice:
		return refuse("InvalidBlockDeviceMapping", "The block device mapping has no root device %s", i.RootDevice)
	}
	return nil
}

func (c *Cloud) addImage(r *region, i *Image) {
	i.ID, i.State, i.Created, i.serial = newID("ami"), "pending", c.settings.Now(), c.next()
	i.hidden, i.pending = c.settings.Hidden, c.settings.Pending
	if i.Tags == nil {
		i.Tags = map[string]string{}
	}
	r.images[i.ID] = i
}

func (c *Cloud) copyImage(r *region, p *parameters) (element, *Failure) {
	id, from, name, token := p.need("SourceImageId"), p.need("SourceRegion"), p.need("Name"), p.get("ClientToken")
	description, copyTags, tags := p.get("Description"), p.bool("CopyImageTags"), p.specifications("image", "snapshot")
	if f := p.done(); f != nil {
		return element{}, f
	}
	if !slices.Contains(c.settings.Regions, from) {
		return element{}, refuse("InvalidParameterValue", "Invalid region provided: '%s'", from)
	}
	asked := strings.Join([]string{id, from, name, description, fmt.Sprint(tags)}, "|")
	if earlier, ok := r.tokens["CopyImage/"+token]; ok && token != "" {
		if earlier.asked != asked {
			return element{}, refuse("IdempotentParameterMismatch", "The client token was used with other parameters")
		}
		return el("", text("imageId", earlier.id)), nil
	}
	source, f := c.region(from).image(id)
	if f != nil {
		return element{}, f
	}
	if source.State != "available" {
		return element{}, refuse("InvalidAMIID.Unavailable", "The image ID '%s' is not available", id)
	}
	if !imageName.MatchString(name) {
		return element{}, refuse("InvalidAMIName.Malformed", "AMI names must be between 3 and 128 characters long")
	}
	if f := c.demandSnapshotQuota(r); f != nil {
		return element{}, f
	}
	copied := *source
	copied.Name, copied.Description, copied.Public, copied.Deprecated = name, description, false, time.Time{}
	copied.SourceImage, copied.SourceRegion, copied.Owner, copied.Tags = id, from, c.settings.Account, tags["image"]
	if copyTags {
		copied.Tags = maps.Clone(source.Tags)
		maps.Copy(copied.Tags, tags["image"])
	}
	of := c.region(from).snapshots[source.SnapshotID]
	s := &Snapshot{SizeGB: of.SizeGB, Tags: tags["snapshot"], blocks: of.blocks, Description: "Copied for DestinationAmi from SourceAmi " + id}
	c.addSnapshot(r, s)
	copied.SnapshotID, s.pending = s.ID, c.settings.Pending
	s.completed = true
	c.addImage(r, &copied)
	r.tokens["CopyImage/"+token] = idempotent{asked, copied.ID}
	return el("", text("imageId", copied.ID)), nil
}

func (c *Cloud) deregisterImage(r *region, p *parameters) (element, *Failure) {
	id := p.need("ImageId")
	if f := p.done(); f != nil {
		return element{}, f
	}
	i, f := r.image(id)
	if f != nil {
		return element{}, f
	}
	i.State = "deregistered"
	return done(), nil
}

func (c *Cloud) modifyImageAttribute(r *region, p *parameters) (element, *Failure) {
	id, add, remove := p.need("ImageId"), p.get("LaunchPermission.Add.1.Group"), p.get("LaunchPermission.Remove.1.Group")
	if f := p.done(); f != nil {
		return element{}, f
	}
	i, f := r.image(id)
	switch {
	case f != nil:
		return element{}, f
	case add+remove != "all":
		return element{}, refuse("InvalidParameterCombination", "No attributes specified.")
	case i.Owner != c.settings.Account:
		return element{}, refuse("AuthFailure", "Not authorized for image:%s", id)
	case i.State != "available":
		return element{}, refuse("InvalidAMIID.Unavailable", "The image ID '%s' is not available", id)
	case remove == "all":
		i.Public = false
		return done(), nil
	case r.imageBlock != "unblocked" || r.unblocking > 0:
		return element{}, refuse("OperationNotPermitted", "You can't publicly share this image because block public access for AMIs is enabled for this account.")
	}
	public := 0
	for _, other := range r.images {
		if other.Public && other.State == "available" && other.Owner == i.Owner && other != i {
			public++
		}
	}
	if limit := c.settings.PublicImages; limit > 0 && public >= limit && !i.Public {
		return element{}, refuse("ResourceLimitExceeded", "You have exceeded the maximum number of public images: %d", limit)
	}
	i.Public = true
	if i.Deprecated.IsZero() {
		i.Deprecated = i.Created.AddDate(2, 0, 0)
	}
	return done(), nil
}

func (c *Cloud) enableImageDeprecation(r *region, p *parameters) (element, *Failure) {
	id, text := p.need("ImageId"), p.need("DeprecateAt")
	if f := p.done(); f != nil {
		return element{}, f
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return element{}, refuse("InvalidParameterValue", "Value (%s) for parameter DeprecateAt is invalid.", text)
	}
	i, f := r.image(id)
	now := c.settings.Now()
	switch {
	case f != nil:
		return element{}, f
	case i.State != "available":
		return element{}, refuse("InvalidAMIID.Unavailable", "The image ID '%s' is not available", id)
	case at.Before(now):
		return element{}, refuse("InvalidParameter", "The deprecation date %s is in the past", text)
	case i.Public && at.After(i.Created.AddDate(2, 0, 0)), at.After(now.AddDate(10, 0, 0)):
		return element{}, refuse("InvalidParameter", "The deprecation date %s is too far in the future", text)
	}
	i.Deprecated = at.Truncate(time.Minute)
	return done(), nil
}

func (c *Cloud) disableImageDeprecation(r *region, p *parameters) (element, *Failure) {
	id := p.need("ImageId")
	if f := p.done(); f != nil {
		return element{}, f
	}
	i, f := r.image(id)
	if f != nil {
		return element{}, f
	}
	i.Deprecated = time.Time{}
	return done(), nil
}
