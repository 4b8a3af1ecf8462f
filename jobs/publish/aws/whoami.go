package aws

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
)

// Whoami implements publish.Identifier. Rights are tried in the home region: with EC2's dry runs, and with EBS direct and SSM by asking for things
// that there cannot be. Whether a parameter may be set cannot be found out without setting one.
func (a *Publisher) Whoami(ctx context.Context) (publish.Identity, error) {
	account, principal, err := a.demandAccount(ctx)
	who := publish.Identity{Account: account, Principal: principal}
	if err != nil {
		return who, err
	}
	who.Until = a.expiry(ctx)
	of, ours, err := a.subject(ctx)
	if err != nil {
		return who, err
	}
	for _, right := range a.rights(of) {
		err := right.try(ctx, a.login.in(a.settings.Home))
		switch {
		case is(err, deniedCodes...) && right.bound && !ours:
			who.Missing = append(who.Missing, right.name+" (or it is bound to images of ours, and there is none to try it with)")
		case is(err, deniedCodes...):
			who.Missing = append(who.Missing, right.name)
		case err != nil && !is(err, heldCodes...):
			return who, fmt.Errorf("whether the credentials have the right %s could not be asked: %w", right.name, explain(ctx, a.settings.Home, right.name, err))
		}
	}
	return who, nil
}

// deniedCodes are AWS's words for a right that is not there. heldCodes are those for one that is, while what was asked for is not, or cannot be: rights are
// looked at first. All others, as for too many calls, tell nothing.
var (
	deniedCodes = []string{"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"}
	heldCodes   = []string{
		"DryRunOperation", "InvalidAMIID.NotFound", "InvalidAMIID.Unavailable", "InvalidSnapshot.NotFound", "InvalidID", "InvalidParameterValue", "InvalidRequest",
		"ResourceNotFoundException", "ValidationException", "ConflictException", "ParameterNotFound",
	}
)

// subject finds an image of ours in the home region, with a complete snapshot, to try rights with that the role may have for such things alone. ours is false
// where there is none, and the things are none, too.
func (a *Publisher) subject(ctx context.Context) (of placed, ours bool, err error) {
	nothing := placed{Image: noImage, Snapshot: noSnapshot}
	images, err := a.images(ctx, a.settings.Home, map[string]string{tagOwner: owner})
	if err != nil && !is(err, deniedCodes...) {
		return nothing, false, err
	}
	for _, i := range images {
		if i.State != types.ImageStateAvailable || snapshotOf(&i) == "" {
			continue
		}
		of := placed{Image: deref(i.ImageId), Snapshot: snapshotOf(&i)}
		out, err := a.login.in(a.settings.Home).ec2.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{of.Snapshot}})
		if err != nil && !gone(err) && !is(err, deniedCodes...) {
			return nothing, false, explain(ctx, a.settings.Home, "DescribeSnapshots", err)
		}
		if err == nil && len(out.Snapshots) == 1 && out.Snapshots[0].State == types.SnapshotStateCompleted && tagsOf(out.Snapshots[0].Tags)[tagOwner] == owner {
			return of, true, nil
		}
	}
	return nothing, false, nil
}

// expiry returns when the credentials expire, the zero time where they do not.
func (a *Publisher) expiry(ctx context.Context) time.Time {
	c, err := a.login.config.Credentials.Retrieve(ctx)
	if err != nil || !c.CanExpire {
		return time.Time{}
	}
	return c.Expires
}

// right is a call that publishing or pruning makes, tried so that it changes nothing.
type right struct {
	name  string
	bound bool // README.md's policy gives it for things of ours alone
	try   func(context.Context, *clients) error
}

// noImage, noSnapshot and noParameter are well-formed names of things that there are not.
const (
	noImage     = "ami-00000000000000000"
	noSnapshot  = "snap-00000000000000000"
	noParameter = "/debcloud/whoami"
)

func (a *Publisher) rights(of placed) []right {
	dry := aws.Bool(true)
	image, snapshot := &of.Image, &of.Snapshot
	tags := ec2Tags(map[string]string{tagOwner: owner})
	made := func(kinds ...types.ResourceType) (all []types.TagSpecification) {
		for _, kind := range kinds {
			all = append(all, types.TagSpecification{ResourceType: kind, Tags: tags})
		}
		return all
	}
	rights := []right{
		{"ec2:DescribeRegions", false, func(ctx context.Context, c *clients) error {
			_, err := c.ec2.DescribeRegions(ctx, &ec2.DescribeRegionsInput{DryRun: dry})
			return err
		}},
		{"ec2:DescribeImages", false, func(ctx context.Context, c *clients) error {
			_, err := c.ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{DryRun: dry})
			return err
		}},
		{"ec2:DescribeSnapshots", false, func(ctx context.Context, c *clients) error {
			_, err := c.ec2.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{DryRun: dry})
			return err
		}},
		{"ec2:RegisterImage", true, func(ctx context.Context, c *clients) error {
			_, err := c.ec2.RegisterImage(ctx, &ec2.RegisterImageInput{DryRun: dry, Name: aws.String("debcloud-whoami"), RootDeviceName: aws.String(rootDevice),
				Architecture: types.ArchitectureValuesX8664, VirtualizationType: aws.String("hvm"), TagSpecifications: made(types.ResourceTypeImage),
				BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String(rootDevice), Ebs: &types.EbsBlockDevice{SnapshotId: snapshot}}}})
			return err
		}},
		{"ec2:CopyImage", true, func(ctx context.Context, c *clients) error {
			_, err := c.ec2.CopyImage(ctx, &ec2.CopyImageInput{DryRun: dry, Name: aws.String("debcloud-whoami"), SourceImageId: image, SourceRegion: &c.region,
				TagSpecifications: made(types.ResourceTypeImage, types.ResourceTypeSnapshot)})
			return err
		}},
		{"ec2:CreateTags", true, func(ctx context.Context, c *clients) error {
			_, err := c.ec2.CreateTags(ctx, &ec2.CreateTagsInput{DryRun: dry, Resources: []string{*image}, Tags: tags})
			return err
		}},
		{"ec2:DescribeSnapshotAttribute", false, func(ctx context.Context, c *clients) error {
			_, err := c.ec2.DescribeSnapshotAttribute(ctx, &ec2.DescribeSnapshotAttributeInput{DryRun: dry, SnapshotId: snapshot, Attribute: types.SnapshotAttributeNameCreateVolumePermission})
			return err
		}},
		{"ec2:ModifySnapshotAttribute", true, func(ctx context.Context, c *clients) error {
			_, err := c.ec2.ModifySnapshotAttribute(ctx, &ec2.ModifySnapshotAttributeInput{DryRun: dry, SnapshotId: snapshot, Attribute: types.SnapshotAttributeNameCreateVolumePermission,
				CreateVolumePermission: &types.CreateVolumePermissionModifications{Add: []types.CreateVolumePermission{{Group: types.PermissionGroupAll}}}})
			return err
		}},
		{"ec2:ModifyImageAttribute", true, func(ctx context.Context, c *clients) error {
			_, err := c.ec2.ModifyImageAttribute(ctx, &ec2.ModifyImageAttributeInput{DryRun: dry, ImageId: image,
				LaunchPermission: &types.LaunchPermissionModifications{Add: []types.LaunchPermission{{Group: types.PermissionGroupAll}}}})
			return err
		}},
		{"ec2:EnableImageDeprecation", true, func(ctx context.Context, c *clients) error {
			at := a.now().Add(time.Hour).Truncate(time.Minute)
			_, err := c.ec2.EnableImageDeprecation(ctx, &ec2.EnableImageDeprecationInput{DryRun: dry, ImageId: image, DeprecateAt: &at})
			return err
		}},
		{"ec2:GetImageBlockPublicAccessState", false, func(ctx context.Context, c *clients) error {
			_, err := c.ec2.GetImageBlockPublicAccessState(ctx, &ec2.GetImageBlockPublicAccessStateInput{DryRun: dry})
			return err
		}},
		{"ec2:DisableImageBlockPublicAccess", false, func(ctx context.Context, c *clients) error {
			_, err := c.ec2.DisableImageBlockPublicAccess(ctx, &ec2.DisableImageBlockPublicAccessInput{DryRun: dry})
			return err
		}},
		{"ec2:GetSnapshotBlockPublicAccessState", false, func(ctx context.Context, c *clients) error {
			_, err := c.ec2.GetSnapshotBlockPublicAccessState(ctx, &ec2.GetSnapshotBlockPublicAccessStateInput{DryRun: dry})
			return err
		}},
		{"ec2:DisableSnapshotBlockPublicAccess", false, func(ctx context.Context, c *clients) error {
			_, err := c.ec2.DisableSnapshotBlockPublicAccess(ctx, &ec2.DisableSnapshotBlockPublicAccessInput{DryRun: dry})
			return err
		}},
		{"ec2:DeregisterImage", true, func(ctx context.Context, c *clients) error {
			_, err := c.ec2.DeregisterImage(ctx, &ec2.DeregisterImageInput{DryRun: dry, ImageId: image})
			return err
		}},
		{"ec2:DeleteSnapshot", true, func(ctx context.Context, c *clients) error {
			_, err := c.ec2.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{DryRun: dry, SnapshotId: snapshot})
			return err
		}},
		{"ebs:CompleteSnapshot", true, func(ctx context.Context, c *clients) error {
			_, err := c.ebs.CompleteSnapshot(ctx, &ebs.CompleteSnapshotInput{SnapshotId: snapshot, ChangedBlocksCount: aws.Int32(0)})
			return err
		}},
		{"ebs:ListSnapshotBlocks", true, func(ctx context.Context, c *clients) error {
			_, err := c.ebs.ListSnapshotBlocks(ctx, &ebs.ListSnapshotBlocksInput{SnapshotId: snapshot})
			return err
		}},
	}
	if a.settings.ParameterPrefix == "" {
		return rights
	}
	name := a.settings.ParameterPrefix + noParameter
	return append(rights, right{"ssm:GetParameter", false, func(ctx context.Context, c *clients) error {
		_, err := c.ssm.GetParameter(ctx, &ssm.GetParameterInput{Name: &name})
		return err
	}}, right{"ssm:DeleteParameter", false, func(ctx context.Context, c *clients) error {
		_, err := c.ssm.DeleteParameter(ctx, &ssm.DeleteParameterInput{Name: &name})
		return err
	}})
}
