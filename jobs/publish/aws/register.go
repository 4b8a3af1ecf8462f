package aws

import (
	"context"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/regions"
)

const rootDevice = "/dev/xvda"

// home brings the image into the home region.
func (p *publication) home(ctx context.Context) (placed, error) {
	var at placed
	err := p.patience.In(ctx, p.settings.Home, func(ctx context.Context, region string) error {
		id, err := journal.StandingStep(ctx, p.entry, "register", p.stands(region), p.register)
		if err != nil {
			return err
		}
		at, err = p.settled(ctx, region, id, "register")
		return err
	})
	return at, err
}

// register returns the image's AMI in the home region, and makes it where there is none.
func (p *publication) register(ctx context.Context) (string, error) {
	region := p.settings.Home
	if i, err := p.named(ctx, region); i != nil || err != nil {
		return imageID(i), err
	}
	snapshot, err := p.snapshot(ctx)
	if err != nil {
		return "", err
	}
	in := &ec2.RegisterImageInput{
		Name: &p.name, Description: aws.String(description(p.img)), Architecture: p.kind.arch, BootMode: p.kind.boot, VirtualizationType: aws.String("hvm"),
		RootDeviceName: aws.String(rootDevice), EnaSupport: aws.Bool(true), SriovNetSupport: aws.String("simple"), ImdsSupport: types.ImdsSupportValuesV20,
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String(rootDevice), Ebs: &types.EbsBlockDevice{
			SnapshotId: &snapshot, VolumeType: types.VolumeTypeGp3, DeleteOnTermination: aws.Bool(true),
		}}},
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeImage, Tags: ec2Tags(p.tags())}},
	}
	if p.settings.TPM {
		in.TpmSupport = types.TpmSupportValuesV20
	}
	var out *ec2.RegisterImageOutput
	err = p.soon(ctx, func() error {
		out, err = p.login.in(region).ec2.RegisterImage(ctx, in)
		return err
	})
	if is(err, "InvalidAMIName.Duplicate") {
		return p.registeredBefore(ctx, err)
	}
	if err != nil {
		return "", explain(ctx, region, "RegisterImage", err)
	}
	p.changed.Store(true)
	return deref(out.ImageId), nil
}

// registeredBefore finds the AMI that has the name, which AWS may not show for some time.
func (p *publication) registeredBefore(ctx context.Context, duplicate error) (string, error) {
	var i *types.Image
	_, err := p.patience.Until(ctx, p.patience.visible, func() (bool, error) {
		var err error
		i, err = p.named(ctx, p.settings.Home)
		return i != nil, err
	})
	if err != nil {
		return "", err
	}
	if i == nil {
		return "", explain(ctx, p.settings.Home, "RegisterImage", duplicate)
	}
	return imageID(i), nil
}

// named returns the account's image of the publication's name, nil where there is none. One that is not ours, or was made of other data,
// is an error of kind fault.Input. One that AWS failed to make is removed.
func (p *publication) named(ctx context.Context, region string) (*types.Image, error) {
	out, err := p.login.in(region).ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{
		Owners: []string{"self"}, Filters: filters(nil, map[string][]string{"name": {p.name}}),
	})
	if err != nil {
		return nil, explain(ctx, region, "DescribeImages", err)
	}
	var found *types.Image
	for i := range out.Images {
		image := &out.Images[i]
		if err := p.demandOurs(region, image); err != nil {
			return nil, err
		}
		if image.State == types.ImageStateFailed {
			if err := p.remove(ctx, region, image); err != nil {
				return nil, err
			}
			continue
		}
		if found == nil {
			found = image
		}
	}
	return found, nil
}

// demandOurs refuses an image that someone else made, or that we made of other data.
func (p *publication) demandOurs(region string, i *types.Image) error {
	tags := tagsOf(i.Tags)
	switch {
	case tags[tagOwner] != owner:
		return fault.WithHint(fault.Inputf("the name %q is taken in %s by image %s, which debcloud did not make", p.name, region, deref(i.ImageId)), "rename or remove that image, or build this one with another version")
	case tags[tagDigest] != p.img.Digest.String():
		return fault.WithHint(fault.Inputf("the name %q is taken in %s by image %s with digest %q, and this image has digest %s", p.name, region, deref(i.ImageId), tags[tagDigest], p.img.Digest),
			"a published version never changes: build this image with another version")
	}
	return nil
}

// stands tells whether an image that an earlier run made is still in the region.
func (p *publication) stands(region string) func(context.Context, string) (bool, error) {
	return func(ctx context.Context, id string) (bool, error) {
		i, err := p.look(ctx, region, id)
		if is(err, "InvalidAMIID.NotFound", "InvalidAMIID.Unavailable") {
			return false, nil
		}
		return i != nil && i.State != types.ImageStateFailed, explain(ctx, region, "DescribeImages", err)
	}
}

// look describes an image, nil where AWS answers with none. The error is AWS's own.
func (a *Publisher) look(ctx context.Context, region, id string) (*types.Image, error) {
	out, err := a.login.in(region).ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{ImageIds: []string{id}})
	if err != nil || len(out.Images) == 0 {
		return nil, err
	}
	return &out.Images[0], nil
}

// settled waits until the image is available, compares it with what it should be, and returns it. made names the step that made it, which is
// forgotten where AWS failed to finish it, so that a retry makes it anew.
func (p *publication) settled(ctx context.Context, region, id, made string) (placed, error) {
	var last *types.Image
	done, err := p.patience.Until(ctx, p.patience.pending, func() (bool, error) {
		err := p.soon(ctx, func() error {
			var err error
			last, err = p.look(ctx, region, id)
			return err
		})
		return last != nil && last.State != types.ImageStatePending, explain(ctx, region, "DescribeImages", err)
	})
	switch {
	case err != nil:
		return placed{}, err
	case !done:
		return placed{}, fault.Outsidef("image %s in %s is still pending after %s", id, region, p.patience.pending)
	case last.State == types.ImageStateFailed:
		return placed{}, p.failed(ctx, region, last, made)
	case last.State != types.ImageStateAvailable:
		return placed{}, fault.WithHint(fault.Inputf("image %s in %s is in state %q where available was expected", id, region, last.State), "someone changed it: enable or restore it, or deregister it and run the same command again")
	}
	if err := p.verify(region, last); err != nil {
		return placed{}, err
	}
	at := placed{id, snapshotOf(last)}
	if at.Snapshot == "" && slices.Contains(p.lenient, "root device") {
		return at, nil
	}
	return at, p.verifySnapshot(ctx, region, at.Snapshot)
}

// failed removes an image that AWS gave up.
func (p *publication) failed(ctx context.Context, region string, i *types.Image, made string) error {
	why := ""
	if i.StateReason != nil {
		why = deref(i.StateReason.Message)
	}
	if err := p.remove(ctx, region, i); err != nil {
		return err
	}
	if err := p.entry.Forget(ctx, made); err != nil {
		return err
	}
	return fault.WithHint(fault.Outsidef("AWS failed to make image %s in %s: %s", imageID(i), region, shorten(why)), "run the same command again: it is made anew")
}

// remove deregisters an image of ours that never was usable, and deletes the snapshot of a copy. The home region's snapshot stays: it is whole.
func (p *publication) remove(ctx context.Context, region string, i *types.Image) error {
	if _, err := p.login.in(region).ec2.DeregisterImage(ctx, &ec2.DeregisterImageInput{ImageId: i.ImageId}); err != nil && !gone(err) {
		return explain(ctx, region, "DeregisterImage", err)
	}
	p.changed.Store(true)
	snapshot := snapshotOf(i)
	if region == p.settings.Home || snapshot == "" {
		return nil
	}
	if _, err := p.login.in(region).ec2.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: &snapshot}); err != nil && !gone(err) {
		return explain(ctx, region, "DeleteSnapshot", err)
	}
	return nil
}

// gone tells whether what should be removed is removed already.
func gone(err error) bool {
	return is(err, "InvalidAMIID.NotFound", "InvalidAMIID.Unavailable", "InvalidSnapshot.NotFound")
}

func imageID(i *types.Image) string {
	if i == nil {
		return ""
	}
	return deref(i.ImageId)
}

// snapshotOf returns the snapshot of the root device.
func snapshotOf(i *types.Image) string {
	for _, m := range i.BlockDeviceMappings {
		if m.Ebs != nil && deref(m.DeviceName) == deref(i.RootDeviceName) {
			return deref(m.Ebs.SnapshotId)
		}
	}
	return ""
}

// copy brings the image into another region.
func (p *publication) copy(ctx context.Context, home placed, region string) (placed, error) {
	name := "copy " + region
	id, err := journal.StandingStep(ctx, p.entry, name, p.stands(region), func(ctx context.Context) (string, error) { return p.makeCopy(ctx, home, region) })
	if err != nil {
		return placed{}, err
	}
	at, err := p.settled(ctx, region, id, name)
	if err != nil {
		return placed{}, err
	}
	return at, regions.Arrived(ctx, p.entry, region, id)
}

// makeCopy returns the image's AMI in the region, and has AWS copy it where there is none. The token makes AWS return the copy that an earlier run
// began, even where AWS does not show it yet; one that AWS gave up leads to another token.
func (p *publication) makeCopy(ctx context.Context, home placed, region string) (string, error) {
	if i, err := p.named(ctx, region); i != nil || err != nil {
		return imageID(i), err
	}
	dead := []string{"copy", region, home.Image}
	for range 10 {
		id, err := p.copyImage(ctx, home, region, p.token(dead...))
		if err != nil {
			return "", err
		}
		var i *types.Image
		err = p.soon(ctx, func() error {
			i, err = p.look(ctx, region, id)
			return err
		})
		if err != nil && !gone(err) {
			return "", explain(ctx, region, "DescribeImages", err)
		}
		if i != nil && i.State != types.ImageStateFailed {
			return id, nil
		}
		if i != nil {
			if err := p.remove(ctx, region, i); err != nil {
				return "", err
			}
		}
		dead = append(dead, id)
	}
	return "", fmt.Errorf("copy %s to %s: AWS keeps returning copies that are gone", p.name, region)
}

func (p *publication) copyImage(ctx context.Context, home placed, region, token string) (string, error) {
	tags := ec2Tags(p.tags())
	in := &ec2.CopyImageInput{
		Name: &p.name, Description: aws.String(description(p.img)), SourceImageId: &home.Image, SourceRegion: &p.settings.Home, ClientToken: &token,
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeImage, Tags: tags}, {ResourceType: types.ResourceTypeSnapshot, Tags: tags}},
	}
	var out *ec2.CopyImageOutput
	err := p.soon(ctx, func() error { // the region may not know the source yet
		var err error
		out, err = p.login.in(region).ec2.CopyImage(ctx, in)
		return err
	})
	if err != nil {
		return "", explain(ctx, region, "CopyImage", err)
	}
	p.changed.Store(true)
	return deref(out.ImageId), nil
}
