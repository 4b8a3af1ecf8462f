package alibaba

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aliyun/alibabacloud-oss-go-sdk-v2/oss"
	"golang.org/x/sync/errgroup"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/regions"
)

// List implements jobs/prune's Holder: all images of the account, so that those which use a snapshot of ours keep it, our snapshots, and what
// unfinished publications left in the bucket.
func (a *Publisher) List(ctx context.Context) ([]holding.Item, error) {
	if _, err := a.demandAccount(ctx); err != nil {
		return nil, err
	}
	usable, missing, err := a.regions(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var all []holding.Item
	add := func(items []holding.Item, err error) error {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, items...)
		return err
	}
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(regions.AtOnce)
	for _, region := range usable {
		group.Go(func() error { return add(a.listRegion(inner, region)) })
	}
	group.Go(func() error { return add(a.listBucket(inner)) })
	err = group.Wait()
	slices.SortFunc(all, func(a, b holding.Item) int {
		return slices.Compare([]string{a.Region, string(a.Kind), a.Name, a.ID}, []string{b.Region, string(b.Kind), b.Name, b.ID})
	})
	return all, errors.Join(err, regions.Failure(missing, len(usable)+len(missing)))
}

func (a *Publisher) listRegion(ctx context.Context, region string) ([]holding.Item, error) {
	images, err := a.images(ctx, region, nil, nil)
	if err != nil {
		return nil, err
	}
	var items []holding.Item
	for n := range images {
		items = append(items, imageItem(region, &images[n]))
	}
	snapshots, err := a.snapshots(ctx, region, map[string]string{tagOwner: owner})
	for _, s := range snapshots {
		it := item(region, s.SnapshotID, s.Tags.all())
		it.Kind, it.State, it.Family = holding.Snapshot, holding.Current, ""
		it.Created = parseTime(s.CreationTime)
		it.Since = it.Created
		items = append(items, it)
	}
	return items, err
}

// item fills in what follows from the tags.
func item(region, id string, tags map[string]string) holding.Item {
	it := holding.Item{ID: id, Name: tags[tagName], Provider: provider, Region: region, Ours: tags[tagOwner] == owner}
	if !it.Ours {
		return it
	}
	it.UploadType, it.Version = image.UploadType(tags[manifest.LabelUploadType]), tags[manifest.LabelVersion]
	if tags[manifest.LabelRelease] != "" && tags[manifest.LabelVendor] != "" && tags[manifest.LabelArch] != "" && it.UploadType != "" {
		it.Family = holding.Family(tags[manifest.LabelRelease], tags[manifest.LabelVendor], tags[manifest.LabelArch], it.UploadType)
	}
	return it
}

// imageItem describes an image. One that was never finished, and one that is there to be copied, are what images are made of: nothing needs them once they
// are old.
func imageItem(region string, i *ecsImage) holding.Item {
	tags := i.Tags.all()
	it := item(region, i.ImageID, tags)
	it.Kind, it.Name, it.Public, it.Created = holding.Image, i.ImageName, i.IsPublic, parseTime(i.CreationTime)
	it.State, it.Since = i.state()
	if it.State == holding.Current {
		it.Since = it.Created
	}
	if it.Ours && (i.Status == failed || tags[tagSource] != "") {
		it.Kind, it.Family, it.State, it.Since = holding.Snapshot, "", holding.Current, it.Created
	}
	if i.Usage == "instance" {
		it.ReferencedBy = append(it.ReferencedBy, "a machine of the account")
	}
	for _, m := range i.DiskDeviceMappings.DiskDeviceMapping {
		if m.SnapshotID != "" {
			it.RefersTo = append(it.RefersTo, m.SnapshotID)
		}
	}
	return it
}

// state tells how the public sees an image and since when. One that nobody has seen yet is current, and its time is zero.
func (i *ecsImage) state() (holding.State, time.Time) {
	tags := i.Tags.all()
	if at := parseTime(tags[tagHidden]); !i.IsPublic && !at.IsZero() {
		return holding.Hidden, at
	}
	if i.isDeprecated() {
		return holding.Deprecated, parseTime(tags[tagDeprecated])
	}
	return holding.Current, time.Time{}
}

// listBucket tells of objects and unfinished uploads under debcloud's own folder.
func (a *Publisher) listBucket(ctx context.Context) ([]holding.Item, error) {
	var items []holding.Item
	add := func(key, id string, created time.Time) {
		if strings.HasSuffix(key, suffix) {
			items = append(items, holding.Item{ID: id, Name: key, Kind: holding.Object, Provider: provider, Region: a.settings.Home, Created: created, State: holding.Current, Since: created, Ours: true})
		}
	}
	in := &oss.ListObjectsV2Request{Bucket: &a.settings.Bucket, Prefix: oss.Ptr(folder)}
	for pages := a.oss.NewListObjectsV2Paginator(in); pages.HasNext(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, a.explainStore(ctx, "ListObjectsV2", err)
		}
		for _, o := range page.Contents {
			add(deref(o.Key), a.objectID(deref(o.Key)), deref(o.LastModified))
		}
	}
	unfinished, err := a.uploads(ctx, folder)
	for _, u := range unfinished {
		add(u.Key, a.objectID(u.Key)+uploadQuery+u.ID, u.at)
	}
	return items, err
}

// uploadQuery is what the identifier of an unfinished upload has behind the object's.
const uploadQuery = "?uploadId="

func (a *Publisher) objectID(key string) string { return "oss://" + a.settings.Bucket + "/" + key }

// present describes an image of ours that is still there, nil where it is gone. One that is not ours, or in another state than expected, is refused.
func (a *Publisher) present(ctx context.Context, it holding.Item, states ...holding.State) (*ecsImage, error) {
	i, err := a.look(ctx, it.Region, it.ID)
	if i == nil || err != nil {
		return nil, err
	}
	if i.Tags.all()[tagOwner] != owner {
		return nil, fault.Inputf("%s in %s is not ours and stays as it is", i, it.Region)
	}
	if state, _ := i.state(); !slices.Contains(append(states, it.State), state) {
		return nil, fault.WithHint(fault.Outsidef("%s in %s is %s by now where %s was expected", i, it.Region, state, it.State), "run debcloud prune again: it makes a new plan")
	}
	return i, nil
}

// Deprecate implements Holder. ECS has no field for a successor.
func (a *Publisher) Deprecate(ctx context.Context, it holding.Item) error {
	i, err := a.present(ctx, it, holding.Deprecated)
	if i == nil || err != nil {
		return err
	}
	_, err = a.deprecateImage(ctx, it.Region, i)
	return err
}

// Hide implements Holder: the image is no community image any more. The tag with the time is set first, and says nothing while the image is public.
func (a *Publisher) Hide(ctx context.Context, it holding.Item) error {
	i, err := a.present(ctx, it, holding.Hidden)
	if i == nil || err != nil {
		return err
	}
	if state, _ := i.state(); state == holding.Hidden {
		return nil
	}
	if err := a.tag(ctx, it.Region, "image", it.ID, map[string]string{tagHidden: now()}); err != nil {
		return err
	}
	if !i.IsPublic {
		return nil
	}
	return a.share(ctx, it.Region, it.ID, false)
}

// Delete implements Holder. ECS deletes no community image (ImageIsPublic), so one is unpublished first.
func (a *Publisher) Delete(ctx context.Context, it holding.Item) error {
	switch {
	case it.Kind == holding.Object:
		return a.deleteFromBucket(ctx, it)
	case strings.HasPrefix(it.ID, "s-"):
		return a.deleteOurSnapshot(ctx, it)
	}
	i, err := a.present(ctx, it)
	if i == nil || err != nil {
		return err
	}
	if i.IsPublic {
		if err := a.share(ctx, it.Region, it.ID, false); err != nil {
			return err
		}
	}
	err = a.deleteImage(ctx, it.Region, it.ID)
	if is(err, "ImageUsingByInstance", "ImageUseShared", "ImageIsExporting") {
		return fault.Inputf("%s in %s is used and stays: %w", i, it.Region, err)
	}
	return err
}

func (a *Publisher) deleteFromBucket(ctx context.Context, it holding.Item) error {
	if !strings.HasPrefix(it.Name, folder) || !strings.HasSuffix(it.Name, suffix) {
		return fault.Inputf("object %q in bucket %s is not ours and stays as it is", it.Name, a.settings.Bucket)
	}
	if _, id, unfinished := strings.Cut(it.ID, uploadQuery); unfinished {
		return a.abort(ctx, it.Name, id)
	}
	return a.deleteObject(ctx, it.Name)
}

func (a *Publisher) deleteOurSnapshot(ctx context.Context, it holding.Item) error {
	found, err := a.snapshots(ctx, it.Region, nil, it.ID)
	if len(found) == 0 || err != nil {
		return err
	}
	if found[0].Tags.all()[tagOwner] != owner {
		return fault.Inputf("snapshot %s in %s is not ours and stays as it is", it.ID, it.Region)
	}
	err = a.deleteSnapshot(ctx, it.Region, it.ID)
	if is(err, "SnapshotCreatedImage", "SnapshotCreatedDisk") {
		return fault.Inputf("snapshot %s in %s is used by an image or a disk and stays: %w", it.ID, it.Region, err)
	}
	return err
}
