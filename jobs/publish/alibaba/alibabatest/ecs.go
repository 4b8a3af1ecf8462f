package alibabatest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// actions are those of ECS that the double has, with the parameters that each demands and further ones that it knows.
var actions = map[string]struct{ needs, knows []string }{
	"DescribeRegions":            {nil, []string{"RegionId"}},
	"DescribeImages":             {[]string{"RegionId"}, []string{"ImageOwnerAlias", "Status", "ImageName", "ImageId", "PageSize", "PageNumber", "DryRun", "Tag.*"}},
	"ImportImage":                {[]string{"RegionId", "DiskDeviceMapping.1.OSSBucket", "DiskDeviceMapping.1.OSSObject"}, []string{"ImageName", "Description", "Platform", "OSType", "Architecture", "BootMode", "Features.NvmeSupport", "Features.ImdsSupport", "RoleName", "ClientToken", "DiskDeviceMapping.1.Format", "DiskDeviceMapping.1.DiskImageSize", "DryRun", "Tag.*"}},
	"CopyImage":                  {[]string{"RegionId", "ImageId"}, []string{"DestinationRegionId", "DestinationImageName", "DestinationDescription", "ClientToken", "DryRun", "Tag.*"}},
	"CancelCopyImage":            {[]string{"RegionId", "ImageId"}, nil},
	"ModifyImageAttribute":       {[]string{"RegionId", "ImageId"}, []string{"Status", "ImageFamily", "BootMode", "Features.NvmeSupport", "DryRun"}},
	"ModifyImageSharePermission": {[]string{"RegionId", "ImageId"}, []string{"IsPublic", "DryRun"}},
	"DeleteImage":                {[]string{"RegionId", "ImageId"}, []string{"Force", "DryRun"}},
	"DescribeSnapshots":          {[]string{"RegionId"}, []string{"SnapshotIds", "MaxResults", "NextToken", "Tag.*"}},
	"DeleteSnapshot":             {[]string{"SnapshotId"}, []string{"RegionId", "Force"}},
	"DescribeTasks":              {[]string{"RegionId"}, []string{"TaskAction", "TaskStatus", "ResourceIds.1"}},
	"TagResources":               {[]string{"RegionId", "ResourceType", "ResourceId.1", "Tag.1.Key"}, []string{"Tag.*"}},
}

var tagForm = regexp.MustCompile(`^Tag\.(\d+)\.(Key|Value)$`)

// ecs does a call whose signature was right.
func (c *Cloud) ecs(r *http.Request, action, at string) (map[string]any, *Failure) {
	known, is := actions[action]
	if !is || r.Header.Get("x-acs-version") != "2014-05-26" {
		return nil, refuse(404, "InvalidAction.NotFound", "Specified api is not found: %s", action)
	}
	q := r.URL.Query()
	for _, name := range known.needs {
		if q.Get(name) == "" {
			return nil, refuse(400, "MissingParameter", "The input parameter %q that is mandatory for processing this request is not supplied.", name)
		}
	}
	for name, values := range q {
		tag := tagForm.MatchString(name) && slices.Contains(known.knows, "Tag.*")
		if len(values) != 1 || !tag && !slices.Contains(known.needs, name) && !slices.Contains(known.knows, name) {
			return nil, refuse(400, "UnsupportedParameter", "%s does not know the parameter %s.", action, name)
		}
	}
	region := c.regions[at]
	if region == nil || q.Get("RegionId") != at {
		return nil, refuse(404, "InvalidRegionId.NotFound", "The specified RegionId %q does not exist, or this is the endpoint of %q.", q.Get("RegionId"), at)
	}
	tags, f := tagsOf(q)
	if f != nil {
		return nil, f
	}
	call := &call{Cloud: c, q: q, at: at, region: region, tags: tags}
	switch action {
	case "DescribeRegions":
		return call.describeRegions()
	case "DescribeImages":
		return call.describeImages()
	case "ImportImage":
		return call.importImage()
	case "CopyImage":
		return call.copyImage()
	case "DescribeSnapshots":
		return call.describeSnapshots()
	case "DeleteSnapshot":
		return call.deleteSnapshot()
	case "DescribeTasks":
		return call.describeTasks()
	case "TagResources":
		return call.tagResources()
	}
	i := region.images[q.Get("ImageId")]
	if i == nil {
		return nil, refuse(404, "InvalidImageId.NotFound", "The specified ImageId does not exist.")
	}
	if q.Get("DryRun") == "true" {
		return nil, refuse(400, "DryRunOperation", "Request validation has been passed with DryRun flag set.")
	}
	switch action {
	case "CancelCopyImage":
		return call.cancel(i)
	case "ModifyImageAttribute":
		return call.modify(i)
	case "ModifyImageSharePermission":
		return call.share(i)
	}
	return call.deleteImage(i)
}

// call is one call of ECS.
type call struct {
	*Cloud
	q      url.Values
	at     string
	region *region
	tags   map[string]string
}

func tagsOf(q url.Values) (map[string]string, *Failure) {
	tags := map[string]string{}
	for name := range q {
		m := tagForm.FindStringSubmatch(name)
		if m == nil || m[2] != "Key" {
			continue
		}
		key, value := q.Get(name), q.Get("Tag."+m[1]+".Value")
		n, _ := strconv.Atoi(m[1]) // digits, by the form
		for _, text := range []string{key, value} {
			if len(text) > 128 || strings.HasPrefix(text, "acs:") || strings.HasPrefix(key, "aliyun") || strings.Contains(text, "http://") || strings.Contains(text, "https://") {
				return nil, refuse(400, "InvalidTagKey.Malformed", "The specified tag %q is not valid.", key)
			}
		}
		if n < 1 || n > 20 || key == "" {
			return nil, refuse(400, "InvalidTagCount", "tag %d", n)
		}
		tags[key] = value
	}
	return tags, nil
}

func (c *call) describeRegions() (map[string]any, *Failure) {
	var list []any
	for _, name := range c.settings.Regions {
		if c.regions[name] != nil {
			list = append(list, map[string]string{"RegionId": name, "RegionEndpoint": "ecs." + name + ".aliyuncs.com", "LocalName": name})
		}
	}
	return map[string]any{"Regions": map[string]any{"Region": list}}, nil
}

func wants(tags, wanted map[string]string) bool {
	for k, v := range wanted {
		if tags[k] != v {
			return false
		}
	}
	return true
}

func (c *call) describeImages() (map[string]any, *Failure) {
	if c.q.Get("DryRun") == "true" {
		return nil, refuse(400, "DryRunOperation", "Request validation has been passed with DryRun flag set.")
	}
	if c.q.Get("ImageOwnerAlias") != "self" {
		return nil, refuse(400, "InvalidParameter", "only own images are here")
	}
	status := strings.Split(c.q.Get("Status"), ",")
	if c.q.Get("Status") == "" {
		status = []string{"Available"}
	}
	var found []any
	for _, i := range c.region.images {
		if id := c.q.Get("ImageId"); id != "" && id != i.ID || !strings.Contains(i.Name, c.q.Get("ImageName")) {
			continue
		}
		if i.hidden > 0 {
			i.hidden--
			continue
		}
		tags := i.Tags
		if i.untagged > 0 {
			i.untagged--
			tags = nil
		}
		if !wants(tags, c.tags) {
			continue
		}
		c.age(i)
		if slices.Contains(status, i.Status) {
			found = append(found, describe(i, tags))
		}
	}
	size, _ := strconv.Atoi(c.q.Get("PageSize"))
	page, _ := strconv.Atoi(c.q.Get("PageNumber"))
	if size < 1 || size > 100 || page < 1 {
		return nil, refuse(400, "InvalidParameter", "page %q of %q", c.q.Get("PageNumber"), c.q.Get("PageSize"))
	}
	total := len(found)
	found = found[min(total, (page-1)*size):min(total, page*size)]
	return map[string]any{"TotalCount": total, "PageNumber": page, "PageSize": size, "Images": map[string]any{"Image": found}}, nil
}

// age brings an image nearer to its end at each look.
func (c *call) age(i *Image) {
	if i.Status != "Creating" {
		return
	}
	if i.pending > 0 {
		i.pending--
		return
	}
	if i.fails {
		if i.Copied {
			i.Status = "CreateFailed"
		} else {
			i.given = true // the task says so, the image does not
		}
		return
	}
	i.Status = "Available"
	i.Snapshot = c.id("s")
	c.region.snapshots[i.Snapshot] = &Snapshot{ID: i.Snapshot, Size: i.Size, Created: c.now(), Tags: map[string]string{}}
}

func describe(i *Image, tags map[string]string) map[string]any {
	var disks []any
	if i.Snapshot != "" {
		disks = append(disks, map[string]any{"SnapshotId": i.Snapshot, "Type": "system", "Size": strconv.Itoa(i.Size), "Device": "/dev/xvda", "Encrypted": false})
	}
	usage := "none"
	if i.Used {
		usage = "instance"
	}
	return map[string]any{
		"ImageId": i.ID, "ImageName": i.Name, "ImageFamily": i.Family, "Description": i.Description, "Architecture": i.Architecture, "BootMode": i.BootMode, "Status": i.Status,
		"IsPublic": i.Public, "Size": i.Size, "CreationTime": i.Created.Format("2006-01-02T15:04:05Z"), "ImageOwnerAlias": "self", "IsCopied": i.Copied, "Usage": usage,
		"Features":           map[string]string{"NvmeSupport": i.Nvme, "ImdsSupport": i.Imds},
		"DiskDeviceMappings": map[string]any{"DiskDeviceMapping": disks}, "Tags": map[string]any{"Tag": tagList(tags)},
	}
}

func tagList(tags map[string]string) []any {
	list := []any{}
	for k, v := range tags {
		list = append(list, map[string]string{"TagKey": k, "TagValue": v})
	}
	return list
}

var nameForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9.:_-]{1,127}$`)

// admitName refuses names that ECS does not take, that are taken, and those beyond the quota.
func (c *call) admitName(r *region, name, description string) *Failure {
	if !nameForm.MatchString(name) || strings.HasPrefix(name, "aliyun") || strings.HasPrefix(name, "acs:") {
		return refuse(400, "InvalidImageName.Malformed", "The specified Image name is wrongly formed.")
	}
	if len(description) < 2 || len(description) > 256 || strings.HasPrefix(description, "http") {
		return refuse(400, "InvalidDescription.Malformed", "The specified Image description is wrongly formed.")
	}
	for _, i := range r.images {
		if i.Name == name {
			return refuse(400, "InvalidImageName.Duplicated", "The destination image is exist.")
		}
	}
	if c.settings.Images > 0 && len(r.images) >= c.settings.Images {
		return refuse(403, "QuotaExceed.Image", "The Image Quota exceeds.")
	}
	return nil
}

// repeated returns what an equal call with the same client token made.
func (c *call) repeated(action string) (string, *Failure) {
	token := c.q.Get("ClientToken")
	if len(token) > 64 {
		return "", refuse(400, "InvalidClientToken.Malformed", "The specified parameter clientToken is not valid.")
	}
	before, is := c.region.tokens[action+token]
	if !is || token == "" {
		return "", nil
	}
	if before.asked != c.q.Encode() {
		return "", refuse(400, "IdempotentParameterMismatch", "The request uses the same client token as a previous, but non-identical request.")
	}
	return before.id, nil
}

func (c *call) importImage() (map[string]any, *Failure) {
	q := c.q
	if id, f := c.repeated("ImportImage"); id != "" || f != nil {
		return map[string]any{"ImageId": id, "TaskId": "t-" + id, "RegionId": c.at}, f
	}
	key, arch := q.Get("DiskDeviceMapping.1.OSSObject"), q.Get("Architecture")
	switch {
	case c.settings.NoRole || q.Get("RoleName") != "AliyunECSImageImportDefaultRole":
		return nil, refuse(403, "NoSetRoletoECSServiceAcount", "ECS service account Have no right to access your OSS.please attach a role of access your oss to ECS service account.")
	case q.Get("DiskDeviceMapping.1.OSSBucket") != c.settings.Bucket || c.at != c.settings.BucketRegion:
		return nil, refuse(400, "InvalidOSSBucket.NotFound", "The specified OSS bucket does not exist in this region.")
	case !strings.HasSuffix(key, ".qcow2"):
		return nil, refuse(400, "UnsupportedSuffix.OSSObject", "The specified OSS object suffix is not supported.")
	case c.bucket.objects[key] == nil:
		return nil, refuse(400, "InvalidOSSObject.NotFound", "The specified OSS object does not exist in this region.")
	case q.Get("DryRun") == "true":
		return nil, refuse(400, "DRYRUN.SUCCESS", "This request is a dryrun request with successful result.")
	case !slices.Contains([]string{"x86_64", "arm64"}, arch):
		return nil, refuse(400, "InvalidArchitecture.Malformed", "The specified Architecture is wrongly formed.")
	case !slices.Contains([]string{"BIOS", "UEFI"}, q.Get("BootMode")):
		return nil, refuse(400, "InvalidBootMode.Malformed", `The specified parameter "BootMode" is malformed.`)
	case arch == "arm64" && q.Get("BootMode") != "UEFI":
		return nil, refuse(400, "InvalidBootMode.NotSupport", "The specified parameter BootMode is not supported for current image architecture.")
	case q.Get("Platform") != "Debian" || q.Get("OSType") != "linux":
		return nil, refuse(400, "InvalidPlatform.Malformed", "The specified Platform is wrongly formed.")
	case q.Get("DiskDeviceMapping.1.Format") != "QCOW2":
		return nil, refuse(400, "InvalidImageFormat.Malformed", "The specified Image Format is wrongly formed.")
	}
	if f := c.admitName(c.region, q.Get("ImageName"), q.Get("Description")); f != nil {
		return nil, f
	}
	disk, bytes, err := c.settings.disk(c.bucket.objects[key].Data)
	size, _ := strconv.Atoi(q.Get("DiskDeviceMapping.1.DiskImageSize"))
	if err != nil || int64(size)<<30 < bytes || size < 1 || size > 2048 {
		return nil, refuse(400, "InvalidImageSize", "%d GiB for %d bytes: %v", size, bytes, err)
	}
	i := c.add(c.region, &Image{
		Name: q.Get("ImageName"), Description: q.Get("Description"), Architecture: arch, BootMode: q.Get("BootMode"), Nvme: q.Get("Features.NvmeSupport"), Imds: q.Get("Features.ImdsSupport"),
		Size: size, Tags: c.tags, Disk: disk,
	})
	if c.settings.FailImports > 0 {
		c.settings.FailImports--
		i.fails = true
	}
	c.region.tokens["ImportImage"+q.Get("ClientToken")] = idempotent{q.Encode(), i.ID}
	return map[string]any{"ImageId": i.ID, "TaskId": "t-" + i.ID, "RegionId": c.at}, nil
}

func (c *call) add(r *region, i *Image) *Image {
	i.ID, i.Status, i.Created = c.id("m"), "Creating", c.now()
	i.pending, i.hidden, i.untagged = c.settings.Pending, c.settings.Hidden, c.settings.Untagged
	r.images[i.ID] = i
	return i
}

func (c *call) copyImage() (map[string]any, *Failure) {
	q := c.q
	if id, f := c.repeated("CopyImage"); id != "" || f != nil {
		return map[string]any{"ImageId": id}, f
	}
	from, to := c.region.images[q.Get("ImageId")], c.regions[q.Get("DestinationRegionId")]
	switch {
	case from == nil:
		return nil, refuse(404, "InvalidImageId.NotFound", "The specified ImageId does not exist.")
	case q.Get("DryRun") == "true":
		return nil, refuse(400, "DryRunOperation", "Request validation has been passed with DryRun flag set.")
	case to == nil:
		return nil, refuse(400, "DestinationRegion.NotFound", "The destination region not found.")
	case to == c.region:
		return nil, refuse(403, "IncorrectDestinationRegion", "The destination region is not equal the target region.")
	case slices.Contains(c.settings.NoCopy, q.Get("DestinationRegionId")):
		return nil, refuse(403, "RegionNotSupportCopy", "The region not support copy.")
	case from.Public:
		return nil, refuse(400, "OperationDenied.CommunityImage", "Community image does not support copy.")
	case from.Status != "Available":
		return nil, refuse(400, "IncorrectImageStatus", "The image not available.")
	}
	if c.settings.OneCopy && c.copying(from.ID) {
		return nil, refuse(400, "OperationDenied.ImageCopyConflict", "The same image cannot be copied concurrently. Please wait until the last copy is completed before performing the next operation.")
	}
	if f := c.admitName(to, q.Get("DestinationImageName"), q.Get("DestinationDescription")); f != nil {
		return nil, f
	}
	i := c.add(to, &Image{
		Name: q.Get("DestinationImageName"), Description: q.Get("DestinationDescription"), Architecture: from.Architecture, BootMode: from.BootMode, Nvme: from.Nvme, Imds: from.Imds,
		Size: from.Size, Tags: c.tags, Disk: from.Disk, Copied: true, from: from.ID,
	})
	if c.settings.Forgetful {
		i.BootMode, i.Nvme = "", ""
	}
	if c.settings.FailCopies > 0 {
		c.settings.FailCopies--
		i.fails = true
	}
	c.region.tokens["CopyImage"+q.Get("ClientToken")] = idempotent{q.Encode(), i.ID}
	return map[string]any{"ImageId": i.ID}, nil
}

func (c *call) copying(from string) bool {
	for _, r := range c.regions {
		for _, i := range r.images {
			if i.from == from && i.Status == "Creating" {
				return true
			}
		}
	}
	return false
}

func (c *call) cancel(i *Image) (map[string]any, *Failure) {
	switch {
	case !i.Copied:
		return nil, refuse(400, "ImageCreatedNotFromCopy", "The specified image is not the target image of a copy action.")
	case i.Status != "Creating":
		return nil, refuse(400, "IncorrectImageStatus", "The image has completed copy.")
	}
	delete(c.region.images, i.ID)
	return map[string]any{}, nil
}

func (c *call) modify(i *Image) (map[string]any, *Failure) {
	q := c.q
	switch status := q.Get("Status"); {
	case i.Status == "Creating":
		return nil, refuse(403, "InvalidStatus.ImageIsCreating", "The operation cannot be performed because the image is creating.")
	case status == "Deprecated" && (i.Shared || i.Public && c.settings.PublicIsShare):
		return nil, refuse(403, "ImageUseShared", "The specified image has been shared to others, please remove shared accounts first.")
	case status == "Deprecated" && i.Status != "Available":
		return nil, refuse(403, "ImageStatus.NotAvailable", "The specified image status is not available.")
	case status == "Available" && i.Status != "Deprecated":
		return nil, refuse(403, "ImageStatus.NotDeprecated", "The specified image status is not deprecated.")
	case status != "" && status != "Available" && status != "Deprecated":
		return nil, refuse(400, "InvalidParameter", "status %q", status)
	case status != "":
		i.Status = status
	}
	if family := q.Get("ImageFamily"); family != "" {
		if !nameForm.MatchString(family) {
			return nil, refuse(400, "InvalidImageFamily.Malformed", `The specified parameter "ImageFamily" is malformed.`)
		}
		i.Family = family
	}
	if mode := q.Get("BootMode"); mode != "" {
		i.BootMode = mode
	}
	if nvme := q.Get("Features.NvmeSupport"); nvme != "" {
		i.Nvme = nvme
	}
	return map[string]any{}, nil
}

func (c *call) share(i *Image) (map[string]any, *Failure) {
	public := c.q.Get("IsPublic") == "true"
	switch {
	case public && c.settings.NoAgreement:
		return nil, refuse(403, "PublicImageAgreement.NotSigned", `The current account has not signed "Community Image Terms of Service".`)
	case public && slices.Contains(c.settings.NoPublic, c.at):
		return nil, refuse(403, "CurrentRegion.NotSupportPublicImage", "Public image is not supported for current region.")
	case public && i.Public:
		return nil, refuse(403, "Image.Public", "The specified image is public image.")
	case !public && !i.Public:
		return nil, refuse(403, "Image.NotPublic", "The specified image is not public image.")
	case public && i.Status != "Available":
		return nil, refuse(403, "OperationDenied.InvalidImageStatus", "The specified image cannot be shared when it is deprecated.")
	}
	i.Public = public
	return map[string]any{}, nil
}

func (c *call) deleteImage(i *Image) (map[string]any, *Failure) {
	switch {
	case i.Public:
		return nil, refuse(403, "ImageIsPublic", "You can not delete public image, please modify it to private.")
	case i.Used && c.q.Get("Force") != "true":
		return nil, refuse(403, "ImageUsingByInstance", "The specified image has been used to create instances.")
	case i.Status == "Creating" && i.Copied:
		return nil, refuse(403, "OperationDenied.ImageCopying", "The image is being copied. Please use the CancelCopyImage API.")
	case i.Status == "Creating" && !i.given:
		return nil, refuse(403, "ImageIsImporting", "The specified Image is importing.")
	}
	delete(c.region.images, i.ID)
	return map[string]any{}, nil
}

func (c *call) describeSnapshots() (map[string]any, *Failure) {
	var ids []string
	if text := c.q.Get("SnapshotIds"); text != "" && json.Unmarshal([]byte(text), &ids) != nil {
		return nil, refuse(400, "InvalidSnapshotIds.Malformed", "%s", text)
	}
	var found []any
	for _, s := range c.region.snapshots {
		if len(ids) > 0 && !slices.Contains(ids, s.ID) || !wants(s.Tags, c.tags) {
			continue
		}
		found = append(found, map[string]any{
			"SnapshotId": s.ID, "SourceDiskSize": strconv.Itoa(s.Size), "Status": "accomplished", "Encrypted": false, "CreationTime": s.Created.Format("2006-01-02T15:04:05Z"),
			"Tags": map[string]any{"Tag": tagList(s.Tags)},
		})
	}
	return map[string]any{"Snapshots": map[string]any{"Snapshot": found}, "NextToken": ""}, nil
}

func (c *call) deleteSnapshot() (map[string]any, *Failure) {
	id := c.q.Get("SnapshotId")
	if c.region.snapshots[id] == nil {
		return nil, refuse(404, "InvalidSnapshotId.NotFound", "The specified SnapshotId does not exist.")
	}
	for _, i := range c.region.images {
		if i.Snapshot == id {
			return nil, refuse(403, "SnapshotCreatedImage", "The snapshot has been created to image.")
		}
	}
	delete(c.region.snapshots, id)
	return map[string]any{}, nil
}

func (c *call) describeTasks() (map[string]any, *Failure) {
	if status := c.q.Get("TaskStatus"); status != "" && status != "Failed" || c.q.Get("TaskAction") != "ImportImage" {
		return nil, refuse(400, "InvalidParameter", "only imports that failed are asked for here")
	}
	var found []any
	if i := c.region.images[c.q.Get("ResourceIds.1")]; i != nil && i.given {
		found = append(found, map[string]string{"TaskId": "t-" + i.ID, "TaskStatus": "Failed", "TaskAction": "ImportImage", "ResourceId": i.ID})
	}
	return map[string]any{"TaskSet": map[string]any{"Task": found}, "TotalCount": len(found)}, nil
}

func (c *call) tagResources() (map[string]any, *Failure) {
	var tags map[string]string
	id := c.q.Get("ResourceId.1")
	switch c.q.Get("ResourceType") {
	case "image":
		if i := c.region.images[id]; i != nil {
			tags = i.Tags
		}
	case "snapshot":
		if s := c.region.snapshots[id]; s != nil {
			tags = s.Tags
		}
	}
	if tags == nil {
		return nil, refuse(404, "InvalidResourceId.NotFound", "The specified ResourceIds are not found in our records.")
	}
	for k, v := range c.tags {
		tags[k] = v
	}
	if len(tags) > 20 {
		return nil, refuse(400, "InvalidTagCount", "%s", fmt.Sprint(len(tags)))
	}
	return map[string]any{}, nil
}
