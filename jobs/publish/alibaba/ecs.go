package alibaba

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// roleName is the role by which ECS reads the bucket. ImportImage takes no other name.
const roleName = "AliyunECSImageImportDefaultRole"

// allStates is for DescribeImages, which otherwise tells of available images alone.
const allStates = "Creating,Waiting,Available,UnAvailable,CreateFailed,Deprecated"

// States of an image.
const (
	available  = "Available"
	deprecated = "Deprecated"
	failed     = "CreateFailed"
)

// ecsImage is an image as DescribeImages has it, as far as it matters here.
type ecsImage struct {
	ImageID            string `json:"ImageId"`
	ImageName          string
	ImageFamily        string
	Description        string
	Architecture       string
	BootMode           string
	Status             string
	Progress           string
	CreationTime       string
	IsPublic           bool
	Usage              string // "instance" where a machine of the account uses it, else "none"
	Size               int    // GiB
	Features           struct{ NvmeSupport, ImdsSupport string }
	DiskDeviceMappings struct {
		DiskDeviceMapping []struct {
			SnapshotID string `json:"SnapshotId"`
			Type       string
			Encrypted  bool
		}
	}
	Tags tagSet
}

// tagSet is a list of tags in an answer.
type tagSet struct {
	Tag []struct{ TagKey, TagValue string }
}

func (t tagSet) all() map[string]string {
	tags := map[string]string{}
	for _, one := range t.Tag {
		tags[one.TagKey] = one.TagValue
	}
	return tags
}

// snapshot of the system disk, "" before there is one.
func (i *ecsImage) snapshot() string {
	for _, m := range i.DiskDeviceMappings.DiskDeviceMapping {
		if m.Type == "" || m.Type == "system" {
			return m.SnapshotID
		}
	}
	return ""
}

func (i *ecsImage) encrypted() bool {
	for _, m := range i.DiskDeviceMappings.DiskDeviceMapping {
		if m.Encrypted {
			return true
		}
	}
	return false
}

func (i *ecsImage) id() string {
	if i == nil {
		return ""
	}
	return i.ImageID
}

// ecsSnapshot is a snapshot as DescribeSnapshots has it.
type ecsSnapshot struct {
	SnapshotID     string `json:"SnapshotId"`
	SnapshotName   string
	CreationTime   string
	Status         string
	SourceDiskSize string // GiB
	Encrypted      bool
	Tags           tagSet
}

// parseTime reads the two forms in which ECS writes times. Zero: unknown.
func parseTime(text string) time.Time {
	for _, form := range []string{timeForm, "2006-01-02T15:04Z"} {
		if t, err := time.Parse(form, text); err == nil {
			return t
		}
	}
	return time.Time{}
}

// ecs calls an action in a region.
func (a *Publisher) ecs(ctx context.Context, region, action string, p params, out any) error {
	p["RegionId"] = region
	return a.client.call(ctx, a.host(region), ecsVersion, action, p, out)
}

// host is the region's endpoint: what DescribeRegions said, and before that the usual name. No signed request goes anywhere but to Alibaba.
func (a *Publisher) host(region string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if host := a.endpoints[region]; strings.HasSuffix(host, ".aliyuncs.com") && !strings.ContainsAny(host, "/?#@:") {
		return host
	}
	return "ecs." + region + ".aliyuncs.com"
}

// stsHost is STS's in the home region: the usual name is in China for everyone.
func (s settings) stsHost() string { return "sts." + s.Home + ".aliyuncs.com" }

// whoami is the answer to GetCallerIdentity.
type whoami struct{ AccountID, Arn string }

func (a *Publisher) callerIdentity(ctx context.Context) (whoami, error) {
	var who whoami
	err := a.client.call(ctx, a.settings.stsHost(), stsVersion, "GetCallerIdentity", params{}, &who)
	return who, explain(ctx, a.settings.Home, "GetCallerIdentity", err)
}

// demandAccount asks whose the credentials are and refuses another account than the target's.
func (a *Publisher) demandAccount(ctx context.Context) (whoami, error) {
	who, err := a.callerIdentity(ctx)
	if err == nil && a.settings.Account != "" && who.AccountID != a.settings.Account {
		err = fault.WithHint(fault.Inputf("the credentials are of account %s (%s) where the target names account %s", who.AccountID, who.Arn, a.settings.Account),
			"use a role or an access key of account %s, or correct the target's account", a.settings.Account)
	}
	return who, err
}

// regionsThere asks for the regions of Alibaba Cloud and keeps their endpoints.
func (a *Publisher) regionsThere(ctx context.Context) ([]string, error) {
	var out struct {
		Regions struct {
			Region []struct {
				RegionID       string `json:"RegionId"`
				RegionEndpoint string
			}
		}
	}
	if err := a.ecs(ctx, a.settings.Home, "DescribeRegions", params{}, &out); err != nil {
		return nil, explain(ctx, a.settings.Home, "DescribeRegions", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var names []string
	for _, r := range out.Regions.Region {
		names = append(names, r.RegionID)
		a.endpoints[r.RegionID] = r.RegionEndpoint
	}
	return names, nil
}

// images returns the account's own images in a region that have the tags and the other properties. ImageOwnerAlias "self" tells of
// published ones, too.
func (a *Publisher) images(ctx context.Context, region string, tags map[string]string, also params) ([]ecsImage, error) {
	var all []ecsImage
	for page := 1; ; page++ {
		p := params{"ImageOwnerAlias": "self", "Status": allStates, "PageSize": "100", "PageNumber": strconv.Itoa(page)}.tags(tags)
		for k, v := range also {
			p[k] = v
		}
		var out struct {
			TotalCount int
			Images     struct{ Image []ecsImage }
		}
		if err := a.ecs(ctx, region, "DescribeImages", p, &out); err != nil {
			return nil, explain(ctx, region, "DescribeImages", err)
		}
		all = append(all, out.Images.Image...)
		if len(out.Images.Image) == 0 || len(all) >= out.TotalCount {
			return all, nil
		}
	}
}

// look describes an image, nil where the region does not show it (any more, or yet).
func (a *Publisher) look(ctx context.Context, region, id string) (*ecsImage, error) {
	found, err := a.images(ctx, region, nil, params{"ImageId": id})
	for i := range found {
		if found[i].ImageID == id {
			return &found[i], nil
		}
	}
	return nil, err
}

// snapshots returns the account's snapshots that have the tags or the IDs.
func (a *Publisher) snapshots(ctx context.Context, region string, tags map[string]string, ids ...string) ([]ecsSnapshot, error) {
	var all []ecsSnapshot
	for next := ""; ; {
		p := params{"MaxResults": "100", "NextToken": next}.tags(tags)
		if len(ids) > 0 {
			list, err := json.Marshal(ids)
			if err != nil {
				return nil, err
			}
			p["SnapshotIds"] = string(list)
		}
		var out struct {
			NextToken string
			Snapshots struct{ Snapshot []ecsSnapshot }
		}
		if err := a.ecs(ctx, region, "DescribeSnapshots", p, &out); err != nil {
			return nil, explain(ctx, region, "DescribeSnapshots", err)
		}
		all = append(all, out.Snapshots.Snapshot...)
		if next = out.NextToken; next == "" {
			return all, nil
		}
	}
}

// importFailed tells whether the task that imports an image gave up.
func (a *Publisher) importFailed(ctx context.Context, region, id string) (bool, error) {
	var out struct {
		TaskSet struct {
			Task []struct{ TaskID, TaskStatus string }
		}
	}
	err := a.ecs(ctx, region, "DescribeTasks", params{"TaskAction": "ImportImage", "ResourceIds.1": id, "TaskStatus": "Failed"}, &out)
	return len(out.TaskSet.Task) > 0, explain(ctx, region, "DescribeTasks", err)
}

// modify changes attributes of an image. Doing so twice is no error.
func (a *Publisher) modify(ctx context.Context, region, id string, p params) error {
	p["ImageId"] = id
	return a.ecs(ctx, region, "ModifyImageAttribute", p, nil)
}

// share publishes an image as a community image, or takes that back. Doing so twice is no error.
func (a *Publisher) share(ctx context.Context, region, id string, public bool) error {
	err := a.ecs(ctx, region, "ModifyImageSharePermission", params{"ImageId": id, "IsPublic": strconv.FormatBool(public)}, nil)
	if public && is(err, "Image.Public") || !public && is(err, "Image.NotPublic") {
		return nil
	}
	return explain(ctx, region, "ModifyImageSharePermission", err)
}

// tag sets tags of an image or a snapshot.
func (a *Publisher) tag(ctx context.Context, region, kind, id string, tags map[string]string) error {
	err := a.ecs(ctx, region, "TagResources", params{"ResourceType": kind, "ResourceId.1": id}.tags(tags), nil)
	return explain(ctx, region, "TagResources", err)
}

// gone are the codes by which ECS says that something is not there.
func gone(err error) bool { return is(err, "InvalidImageId.NotFound", "InvalidSnapshotId.NotFound") }

// deleteImage deletes an image, which may be gone already; one that is being copied is not copied any further. Its snapshot stays.
func (a *Publisher) deleteImage(ctx context.Context, region, id string) error {
	err := a.ecs(ctx, region, "DeleteImage", params{"ImageId": id}, nil)
	if is(err, "OperationDenied.ImageCopying") {
		err = a.ecs(ctx, region, "CancelCopyImage", params{"ImageId": id}, nil)
	}
	if gone(err) {
		return nil
	}
	return explain(ctx, region, "DeleteImage", err)
}

// deleteSnapshot deletes a snapshot, which may be gone already.
func (a *Publisher) deleteSnapshot(ctx context.Context, region, id string) error {
	if id == "" {
		return nil
	}
	err := a.ecs(ctx, region, "DeleteSnapshot", params{"SnapshotId": id}, nil)
	if gone(err) {
		return nil
	}
	return explain(ctx, region, "DeleteSnapshot", err)
}

func (i *ecsImage) String() string {
	return fmt.Sprintf("image %s (%s)", i.ImageID, cmp.Or(i.ImageName, "without a name"))
}
