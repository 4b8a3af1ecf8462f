package aws

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"golang.org/x/sync/errgroup"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/regions"
)

// List implements jobs/prune's Holder: all images of the account, so that those which use a snapshot of ours keep it, and our snapshots.
func (a *Publisher) List(ctx context.Context) ([]holding.Item, error) {
	if _, _, err := a.demandAccount(ctx); err != nil {
		return nil, err
	}
	usable, failed, err := a.regions(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var all []holding.Item
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(regions.AtOnce)
	for _, region := range usable {
		group.Go(func() error {
			items, err := a.listRegion(ctx, region)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, items...)
			return err
		})
	}
	err = group.Wait()
	slices.SortFunc(all, func(a, b holding.Item) int {
		return slices.Compare([]string{a.Region, string(a.Kind), a.Name, a.ID}, []string{b.Region, string(b.Kind), b.Name, b.ID})
	})
	return all, errors.Join(err, regions.Failure(failed, len(usable)+len(failed)))
}

func (a *Publisher) listRegion(ctx context.Context, region string) ([]holding.Item, error) {
	images, err := a.images(ctx, region, nil)
	if err != nil {
		return nil, err
	}
	latest, err := a.latest(ctx, region, images)
	if err != nil {
		return nil, err
	}
	var items []holding.Item
	for _, i := range images {
		it := a.item(region, deref(i.ImageId), deref(i.Name), tagsOf(i.Tags))
		it.Kind, it.Public, it.ReferencedBy = holding.Image, deref(i.Public), latest[it.ID]
		it.Created, _ = time.Parse(time.RFC3339, deref(i.CreationDate))
		it.State, it.Since = a.state(i, it.Created)
		for _, m := range i.BlockDeviceMappings {
			if m.Ebs != nil && m.Ebs.SnapshotId != nil {
				it.RefersTo = append(it.RefersTo, *m.Ebs.SnapshotId)
			}
		}
		items = append(items, it)
	}
	snapshots, err := a.ownSnapshots(ctx, region)
	return append(items, snapshots...), err
}

func (a *Publisher) ownSnapshots(ctx context.Context, region string) ([]holding.Item, error) {
	in := &ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"}, Filters: filters(map[string]string{tagOwner: owner}, nil), MaxResults: aws.Int32(1000)}
	var items []holding.Item
	for pages := ec2.NewDescribeSnapshotsPaginator(a.login.in(region).ec2, in); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, explain(ctx, region, "DescribeSnapshots", err)
		}
		for _, s := range page.Snapshots {
			tags := tagsOf(s.Tags)
			it := a.item(region, deref(s.SnapshotId), tags[tagName], tags)
			it.Kind, it.State, it.Family = holding.Snapshot, holding.Current, ""
			it.Created, it.Since = deref(s.StartTime), deref(s.StartTime)
			items = append(items, it)
		}
	}
	return items, nil
}

// item fills in what follows from the tags.
func (a *Publisher) item(region, id, name string, tags map[string]string) holding.Item {
	it := holding.Item{ID: id, Name: name, Provider: provider, Region: region, Ours: tags[tagOwner] == owner}
	if !it.Ours {
		return it
	}
	it.UploadType, it.Version = image.UploadType(tags[manifest.LabelUploadType]), tags[manifest.LabelVersion]
	if tags[manifest.LabelRelease] != "" && tags[manifest.LabelVendor] != "" && tags[manifest.LabelArch] != "" && it.UploadType != "" {
		it.Family = holding.Family(tags[manifest.LabelRelease], tags[manifest.LabelVendor], tags[manifest.LabelArch], it.UploadType)
	}
	return it
}

// state tells how the public sees an image and since when. One that nobody has seen yet is current.
func (a *Publisher) state(i types.Image, created time.Time) (holding.State, time.Time) {
	hidden, err := time.Parse(time.RFC3339, tagsOf(i.Tags)[tagHidden])
	if !deref(i.Public) && err == nil {
		return holding.Hidden, hidden
	}
	if at := deprecatedAt(i); !at.IsZero() && !at.After(a.now().Add(2*time.Minute)) {
		return holding.Deprecated, at
	}
	return holding.Current, created
}

// latest finds the images that the region's "latest" parameters name, with the names of the parameters.
func (a *Publisher) latest(ctx context.Context, region string, images []types.Image) (map[string][]string, error) {
	named := map[string][]string{}
	if a.settings.ParameterPrefix == "" {
		return named, nil
	}
	asked := map[string]bool{}
	for _, i := range images {
		for _, name := range a.parametersOf(tagsOf(i.Tags), "latest") {
			if asked[name] {
				continue
			}
			asked[name] = true
			id, err := a.parameter(ctx, region, name)
			if err != nil {
				return nil, err
			}
			if id != "" {
				named[id] = append(named[id], "parameter "+name)
			}
		}
	}
	return named, nil
}

// parametersOf returns the names of the parameters that an image with the tags may have, of a version or of "latest".
func (a *Publisher) parametersOf(tags map[string]string, version string) []string {
	kind, arch := tags[manifest.LabelUploadType], tags[manifest.LabelArch]
	if a.settings.ParameterPrefix == "" || tags[tagOwner] != owner || kind == "" || kind == string(image.Dev) {
		return nil
	}
	var names []string
	for _, release := range slices.Compact([]string{tags[manifest.LabelRelease], tags[tagReleaseID]}) {
		names = append(names, parameterPath(a.settings.ParameterPrefix, kind, release, version, arch))
	}
	return names
}

// present describes an image of ours that is still there, nil where it is gone. One that is not ours, or in another state than expected, is refused.
func (a *Publisher) present(ctx context.Context, it holding.Item, states ...holding.State) (*types.Image, error) {
	i, err := a.look(ctx, it.Region, it.ID)
	if err != nil && !gone(err) {
		return nil, explain(ctx, it.Region, "DescribeImages", err)
	}
	if i == nil {
		return nil, nil
	}
	if tagsOf(i.Tags)[tagOwner] != owner {
		return nil, fault.Inputf("image %s (%s) in %s is not ours and stays as it is", it.ID, deref(i.Name), it.Region)
	}
	if state, _ := a.state(*i, time.Time{}); !slices.Contains(append(states, it.State), state) {
		return nil, fault.WithHint(fault.Outsidef("image %s (%s) in %s is %s by now where %s was expected", it.ID, deref(i.Name), it.Region, state, it.State), "run debcloud prune again: it makes a new plan")
	}
	return i, nil
}

// Deprecate implements Holder. AWS has no field for a successor.
func (a *Publisher) Deprecate(ctx context.Context, it holding.Item) error {
	i, err := a.present(ctx, it, holding.Deprecated)
	if i == nil || err != nil {
		return err
	}
	_, err = a.deprecateImage(ctx, it.Region, *i)
	return err
}

// Hide implements Holder: the image and its snapshot are private again. The snapshot is first, as the image alone tells the state: a run that was cut is
// gone on with until both are. The tag with the time says nothing while the image is public.
func (a *Publisher) Hide(ctx context.Context, it holding.Item) error {
	i, err := a.present(ctx, it, holding.Hidden)
	if i == nil || err != nil {
		return err
	}
	if err := a.hideSnapshot(ctx, it.Region, snapshotOf(i)); err != nil {
		return err
	}
	c := a.login.in(it.Region).ec2
	if state, _ := a.state(*i, time.Time{}); state != holding.Hidden {
		tag := ec2Tags(map[string]string{tagHidden: a.now().UTC().Format(time.RFC3339)})
		if _, err := c.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{it.ID}, Tags: tag}); err != nil {
			return explain(ctx, it.Region, "CreateTags", err)
		}
		_, err := c.ModifyImageAttribute(ctx, &ec2.ModifyImageAttributeInput{
			ImageId: &it.ID, LaunchPermission: &types.LaunchPermissionModifications{Remove: []types.LaunchPermission{{Group: types.PermissionGroupAll}}},
		})
		if err != nil {
			return explain(ctx, it.Region, "ModifyImageAttribute", err)
		}
	}
	return nil
}

func (a *Publisher) hideSnapshot(ctx context.Context, region, id string) error {
	if id == "" {
		return nil
	}
	_, err := a.login.in(region).ec2.ModifySnapshotAttribute(ctx, &ec2.ModifySnapshotAttributeInput{
		SnapshotId: &id, Attribute: types.SnapshotAttributeNameCreateVolumePermission,
		CreateVolumePermission: &types.CreateVolumePermissionModifications{Remove: []types.CreateVolumePermission{{Group: types.PermissionGroupAll}}},
	})
	if gone(err) {
		return nil
	}
	return explain(ctx, region, "ModifySnapshotAttribute", err)
}

// Delete implements Holder. The parameters of an image's version go before the image, so that none leads nowhere; an image that "latest" leads to stays.
func (a *Publisher) Delete(ctx context.Context, it holding.Item) error {
	if it.Kind == holding.Snapshot {
		return a.deleteSnapshot(ctx, it)
	}
	i, err := a.present(ctx, it)
	if i == nil || err != nil {
		return err
	}
	tags := tagsOf(i.Tags)
	for _, name := range a.parametersOf(tags, "latest") {
		if id, err := a.parameter(ctx, it.Region, name); err != nil {
			return err
		} else if id == it.ID {
			return fault.Inputf("image %s (%s) in %s is what parameter %s names and stays", it.ID, it.Name, it.Region, name)
		}
	}
	for _, name := range a.parametersOf(tags, tags[manifest.LabelVersion]) {
		if err := a.deleteParameter(ctx, it.Region, name, it.ID); err != nil {
			return err
		}
	}
	_, err = a.login.in(it.Region).ec2.DeregisterImage(ctx, &ec2.DeregisterImageInput{ImageId: &it.ID})
	if gone(err) {
		return nil
	}
	return explain(ctx, it.Region, "DeregisterImage", err)
}

// deleteParameter removes a parameter that names the image.
func (a *Publisher) deleteParameter(ctx context.Context, region, name, id string) error {
	if have, err := a.parameter(ctx, region, name); err != nil || have != id {
		return err
	}
	_, err := a.login.in(region).ssm.DeleteParameter(ctx, &ssm.DeleteParameterInput{Name: &name})
	if is(err, "ParameterNotFound") {
		return nil
	}
	return explain(ctx, region, "DeleteParameter", err)
}

func (a *Publisher) deleteSnapshot(ctx context.Context, it holding.Item) error {
	c := a.login.in(it.Region).ec2
	out, err := c.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{it.ID}})
	if gone(err) {
		return nil
	}
	if err != nil {
		return explain(ctx, it.Region, "DescribeSnapshots", err)
	}
	if len(out.Snapshots) == 0 {
		return nil
	}
	if tagsOf(out.Snapshots[0].Tags)[tagOwner] != owner {
		return fault.Inputf("snapshot %s in %s is not ours and stays as it is", it.ID, it.Region)
	}
	_, err = c.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: &it.ID})
	switch {
	case gone(err):
		return nil
	case is(err, "InvalidSnapshot.InUse"):
		return fault.Inputf("snapshot %s in %s is used by an image and stays: %s", it.ID, it.Region, strings.TrimSpace(err.Error()))
	}
	return explain(ctx, it.Region, "DeleteSnapshot", err)
}
