package aws

import (
	"context"
	"log/slog"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

// makePublic shows the image in one region to everyone, has the parameters lead to it, and deprecates its predecessors, in this order: whoever
// follows a parameter finds an image that he can start, and nothing is deprecated before its successor is there.
func (p *publication) makePublic(ctx context.Context, region string, at placed) error {
	family, err := p.family(ctx, region)
	if err != nil {
		return err
	}
	if err := p.show(ctx, region, at); err != nil {
		return err
	}
	newest := p.newest(family)
	if err := p.setParameters(ctx, region, at.Image, newest); err != nil {
		return err
	}
	return p.deprecate(ctx, region, at.Image, newest, family)
}

// show makes snapshot and image public. The journal names the step; what is done is asked of AWS alone, as anyone may hide an image again.
func (p *publication) show(ctx context.Context, region string, at placed) error {
	_, err := journal.StandingStep(ctx, p.entry, "public "+region, func(ctx context.Context, shown placed) (bool, error) {
		i, err := p.look(ctx, region, at.Image)
		if err != nil || shown != at || i == nil || !deref(i.Public) {
			return false, explain(ctx, region, "DescribeImages", err)
		}
		return p.snapshotIsPublic(ctx, region, at.Snapshot) // hiding that was cut may have changed it alone
	}, func(ctx context.Context) (placed, error) {
		if err := p.showSnapshot(ctx, region, at.Snapshot); err != nil {
			return at, err
		}
		return at, p.showImage(ctx, region, at.Image)
	})
	return err
}

func (p *publication) showSnapshot(ctx context.Context, region, id string) error {
	public, err := p.snapshotIsPublic(ctx, region, id)
	if public || err != nil {
		return err
	}
	if err := p.unblockSnapshots(ctx, region); err != nil {
		return err
	}
	err = p.unblocked(ctx, func() error {
		_, err := p.login.in(region).ec2.ModifySnapshotAttribute(ctx, &ec2.ModifySnapshotAttributeInput{
			SnapshotId: &id, Attribute: types.SnapshotAttributeNameCreateVolumePermission,
			CreateVolumePermission: &types.CreateVolumePermissionModifications{Add: []types.CreateVolumePermission{{Group: types.PermissionGroupAll}}},
		})
		return err
	})
	if err == nil {
		p.changed.Store(true)
	}
	return explain(ctx, region, "ModifySnapshotAttribute", err)
}

func (a *Publisher) snapshotIsPublic(ctx context.Context, region, id string) (bool, error) {
	out, err := a.login.in(region).ec2.DescribeSnapshotAttribute(ctx, &ec2.DescribeSnapshotAttributeInput{SnapshotId: &id, Attribute: types.SnapshotAttributeNameCreateVolumePermission})
	if err != nil {
		return false, explain(ctx, region, "DescribeSnapshotAttribute", err)
	}
	for _, permission := range out.CreateVolumePermissions {
		if permission.Group == types.PermissionGroupAll {
			return true, nil
		}
	}
	return false, nil
}

func (p *publication) showImage(ctx context.Context, region, id string) error {
	i, err := p.look(ctx, region, id)
	if err != nil {
		return explain(ctx, region, "DescribeImages", err)
	}
	if i != nil && deref(i.Public) {
		return nil
	}
	if err := p.unblockImages(ctx, region); err != nil {
		return err
	}
	err = p.unblocked(ctx, func() error {
		_, err := p.login.in(region).ec2.ModifyImageAttribute(ctx, &ec2.ModifyImageAttributeInput{
			ImageId: &id, LaunchPermission: &types.LaunchPermissionModifications{Add: []types.LaunchPermission{{Group: types.PermissionGroupAll}}},
		})
		return err
	})
	if err != nil {
		return explain(ctx, region, "ModifyImageAttribute", err)
	}
	p.changed.Store(true)
	shown, err := p.patience.Until(ctx, p.patience.visible, func() (bool, error) {
		i, err := p.look(ctx, region, id)
		return i != nil && deref(i.Public), explain(ctx, region, "DescribeImages", err)
	})
	if err == nil && !shown {
		err = fault.Outsidef("image %s in %s was made public and AWS does not say so after %s", id, region, p.patience.visible)
	}
	return err
}

// unblocked repeats share while AWS has not everywhere taken note that the account no longer blocks it.
func (p *publication) unblocked(ctx context.Context, share func() error) error {
	var err error
	_, stopped := p.patience.Until(ctx, p.patience.visible, func() (bool, error) {
		err = share()
		return !is(err, "OperationNotPermitted"), nil
	})
	if stopped != nil {
		return stopped
	}
	return err
}

// unblockImages lifts the account's "block public access" for images in the region where it is set. AWS takes minutes to do so.
func (p *publication) unblockImages(ctx context.Context, region string) error {
	c := p.login.in(region).ec2
	free := func() (bool, error) {
		out, err := c.GetImageBlockPublicAccessState(ctx, &ec2.GetImageBlockPublicAccessStateInput{})
		if err != nil {
			return false, explain(ctx, region, "GetImageBlockPublicAccessState", err)
		}
		return deref(out.ImageBlockPublicAccessState) == "unblocked", nil
	}
	if ok, err := free(); ok || err != nil {
		return err
	}
	slog.InfoContext(ctx, "public access to images was blocked and is allowed now", "region", region, "account", p.account)
	if _, err := c.DisableImageBlockPublicAccess(ctx, &ec2.DisableImageBlockPublicAccessInput{}); err != nil {
		return explain(ctx, region, "DisableImageBlockPublicAccess", err)
	}
	p.changed.Store(true)
	ok, err := p.patience.Until(ctx, 2*p.patience.visible, free)
	if err == nil && !ok {
		err = fault.Outsidef("public access to images in %s is still blocked %s after it was allowed", region, 2*p.patience.visible)
	}
	return err
}

func (p *publication) unblockSnapshots(ctx context.Context, region string) error {
	c := p.login.in(region).ec2
	out, err := c.GetSnapshotBlockPublicAccessState(ctx, &ec2.GetSnapshotBlockPublicAccessStateInput{})
	if err != nil || out.State == types.SnapshotBlockPublicAccessStateUnblocked {
		return explain(ctx, region, "GetSnapshotBlockPublicAccessState", err)
	}
	slog.InfoContext(ctx, "public access to snapshots was blocked and is allowed now", "region", region, "account", p.account)
	if _, err := c.DisableSnapshotBlockPublicAccess(ctx, &ec2.DisableSnapshotBlockPublicAccessInput{}); err != nil {
		return explain(ctx, region, "DisableSnapshotBlockPublicAccess", err)
	}
	p.changed.Store(true)
	return nil
}

// family returns the account's images in the region that the image is counted among, itself included.
func (p *publication) family(ctx context.Context, region string) ([]types.Image, error) {
	info := p.img.Build.Data.Info
	tags := map[string]string{tagOwner: owner, manifest.LabelRelease: info.Release, manifest.LabelVendor: info.Vendor, manifest.LabelArch: info.Arch, manifest.LabelUploadType: string(p.img.Type)}
	return p.images(ctx, region, tags)
}

// images returns the account's images in the region that have the tags.
func (a *Publisher) images(ctx context.Context, region string, tags map[string]string) ([]types.Image, error) {
	in := &ec2.DescribeImagesInput{Owners: []string{"self"}, Filters: filters(tags, nil), MaxResults: aws.Int32(1000)}
	var all []types.Image
	for pages := ec2.NewDescribeImagesPaginator(a.login.in(region).ec2, in); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, explain(ctx, region, "DescribeImages", err)
		}
		all = append(all, page.Images...)
	}
	return all, nil
}

// newest tells whether no public image of the family has a later version.
func (p *publication) newest(family []types.Image) bool {
	for _, i := range family {
		if v, ok := versionOf(i); ok && deref(i.Public) && later(v, p.img.Version) {
			return false
		}
	}
	return true
}

func versionOf(i types.Image) (image.Version, bool) {
	v, err := image.ParseVersion(tagsOf(i.Tags)[manifest.LabelVersion])
	return v, err == nil
}

func later(a, b image.Version) bool {
	return a.Date > b.Date || a.Date == b.Date && a.Number > b.Number
}

// deprecate marks the public images of the family that are older than this one, and this one where there is a newer one. AWS marks public images itself,
// two years after they were made: an earlier time than that is what counts.
func (p *publication) deprecate(ctx context.Context, region, id string, newest bool, family []types.Image) error {
	if !newest {
		i, err := p.look(ctx, region, id)
		if err != nil || i == nil {
			return explain(ctx, region, "DescribeImages", err)
		}
		if err := p.mark(ctx, region, *i); err != nil {
			return err
		}
	}
	for _, i := range family {
		if v, ok := versionOf(i); ok && deref(i.Public) && later(p.img.Version, v) {
			if err := p.mark(ctx, region, i); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *publication) mark(ctx context.Context, region string, i types.Image) error {
	marked, err := p.deprecateImage(ctx, region, i)
	if marked {
		p.changed.Store(true)
	}
	return err
}

// deprecateImage has AWS mark the image from now on, and tells whether it was not marked before. AWS refuses times that have passed.
func (a *Publisher) deprecateImage(ctx context.Context, region string, i types.Image) (bool, error) {
	at := a.now().Add(2 * time.Minute).Truncate(time.Minute)
	if t := deprecatedAt(i); !t.IsZero() && !t.After(at) {
		return false, nil
	}
	_, err := a.login.in(region).ec2.EnableImageDeprecation(ctx, &ec2.EnableImageDeprecationInput{ImageId: i.ImageId, DeprecateAt: &at})
	return err == nil, explain(ctx, region, "EnableImageDeprecation", err)
}

// deprecatedAt returns when AWS marks the image, the zero time for never.
func deprecatedAt(i types.Image) time.Time {
	t, _ := time.Parse(time.RFC3339, deref(i.DeprecationTime))
	return t
}
