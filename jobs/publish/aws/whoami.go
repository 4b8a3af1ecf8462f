package aws

import (
	"context"
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
	for _, right := range a.rights() {
		err := right.try(ctx, a.login.in(a.settings.Home))
		switch {
		case is(err, "UnauthorizedOperation", "AccessDenied", "AccessDeniedException"):
			who.Missing = append(who.Missing, right.name)
		case err != nil && code(err) == "":
			return who, explain(ctx, a.settings.Home, right.name, err)
		case is(err, "RequestExpired", "AuthFailure", "ExpiredTokenException", "UnrecognizedClientException"):
			return who, explain(ctx, a.settings.Home, right.name, err)
		}
	}
	return who, nil
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
	name string
	try  func(context.Context, *clients) error
}

// noImage, noSnapshot and noParameter are well-formed names of things that there are not.
const (
	noImage     = "ami-00000000000000000"
	noSnapshot  = "snap-00000000000000000"
	noParameter = "/debcloud/whoami"
)

func (a *Publisher) rights() []right {
	dry := aws.Bool(true)
	image, snapshot := aws.String(noImage), aws.String(noSnapshot)
	rights := []right{
		{"ec2:DescribeRegions", func(ctx context.Context, c *clients) error {
			_, err := c.ec2.DescribeRegions(ctx, &ec2.DescribeRegionsInput{DryRun: dry})
			return err
		}},
		{"ec2:DescribeImages", func(ctx context.Context, c *clients) error {
			_, err := c.ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{DryRun: dry})
			return err
		}},
		{"ec2:DescribeSnapshots", func(ctx context.Context, c *clients) error {
			_, err := c.ec2.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{DryRun: dry})
			return err
		}},
		{"ec2:RegisterImage", func(ctx context.Context, c *clients) error {
			_, err := c.ec2.RegisterImage(ctx, &ec2.RegisterImageInput{DryRun: dry, Name: aws.String("debcloud-whoami"), RootDeviceName: aws.String(rootDevice),
				Architecture: types.ArchitectureValuesX8664, VirtualizationType: aws.String("hvm"),
				BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String(rootDevice), Ebs: &types.EbsBlockDevice{SnapshotId: snapshot}}}})
			return err
		}},
		{"ec2:CopyImage", func(ctx context.Context, c *clients) error {
			_, err := c.ec2.CopyImage(ctx, &ec2.CopyImageInput{DryRun: dry, Name: aws.String("debcloud-whoami"), SourceImageId: image, SourceRegion: &c.region})
			return err
		}},
		{"ec2:CreateTags", func(ctx context.Context, c *clients) error {
			_, err := c.ec2.CreateTags(ctx, &ec2.CreateTagsInput{DryRun: dry, Resources: []string{noSnapshot}, Tags: []types.Tag{{Key: aws.String(tagOwner), Value: aws.String(owner)}}})
			return err
		}},
		{"ec2:DescribeSnapshotAttribute", func(ctx context.Context, c *clients) error {
			_, err := c.ec2.DescribeSnapshotAttribute(ctx, &ec2.DescribeSnapshotAttributeInput{DryRun: dry, SnapshotId: snapshot, Attribute: types.SnapshotAttributeNameCreateVolumePermission})
			return err
		}},
		{"ec2:ModifySnapshotAttribute", func(ctx context.Context, c *clients) error {
			_, err := c.ec2.ModifySnapshotAttribute(ctx, &ec2.ModifySnapshotAttributeInput{DryRun: dry, SnapshotId: snapshot, Attribute: types.SnapshotAttributeNameCreateVolumePermission,
				CreateVolumePermission: &types.CreateVolumePermissionModifications{Add: []types.CreateVolumePermission{{Group: types.PermissionGroupAll}}}})
			return err
		}},
		{"ec2:ModifyImageAttribute", func(ctx context.Context, c *clients) error {
			_, err := c.ec2.ModifyImageAttribute(ctx, &ec2.ModifyImageAttributeInput{DryRun: dry, ImageId: image,
				LaunchPermission: &types.LaunchPermissionModifications{Add: []types.LaunchPermission{{Group: types.PermissionGroupAll}}}})
			return err
		}},
		{"ec2:EnableImageDeprecation", func(ctx context.Context, c *clients) error {
			at := a.now().Add(time.Hour).Truncate(time.Minute)
			_, err := c.ec2.EnableImageDeprecation(ctx, &ec2.EnableImageDeprecationInput{DryRun: dry, ImageId: image, DeprecateAt: &at})
			return err
		}},
		{"ec2:GetImageBlockPublicAccessState", func(ctx context.Context, c *clients) error {
			_, err := c.ec2.GetImageBlockPublicAccessState(ctx, &ec2.GetImageBlockPublicAccessStateInput{DryRun: dry})
			return err
		}},
		{"ec2:DisableImageBlockPublicAccess", func(ctx context.Context, c *clients) error {
			_, err := c.ec2.DisableImageBlockPublicAccess(ctx, &ec2.DisableImageBlockPublicAccessInput{DryRun: dry})
			return err
		}},
		{"ec2:GetSnapshotBlockPublicAccessState", func(ctx context.Context, c *clients) error {
			_, err := c.ec2.GetSnapshotBlockPublicAccessState(ctx, &ec2.GetSnapshotBlockPublicAccessStateInput{DryRun: dry})
			return err
		}},
		{"ec2:DisableSnapshotBlockPublicAccess", func(ctx context.Context, c *clients) error {
			_, err := c.ec2.DisableSnapshotBlockPublicAccess(ctx, &ec2.DisableSnapshotBlockPublicAccessInput{DryRun: dry})
			return err
		}},
		{"ec2:DeregisterImage", func(ctx context.Context, c *clients) error {
			_, err := c.ec2.DeregisterImage(ctx, &ec2.DeregisterImageInput{DryRun: dry, ImageId: image})
			return err
		}},
		{"ec2:DeleteSnapshot", func(ctx context.Context, c *clients) error {
			_, err := c.ec2.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{DryRun: dry, SnapshotId: snapshot})
			return err
		}},
		{"ebs:CompleteSnapshot", func(ctx context.Context, c *clients) error {
			_, err := c.ebs.CompleteSnapshot(ctx, &ebs.CompleteSnapshotInput{SnapshotId: snapshot, ChangedBlocksCount: aws.Int32(0)})
			return err
		}},
		{"ebs:ListSnapshotBlocks", func(ctx context.Context, c *clients) error {
			_, err := c.ebs.ListSnapshotBlocks(ctx, &ebs.ListSnapshotBlocksInput{SnapshotId: snapshot})
			return err
		}},
	}
	if a.settings.ParameterPrefix == "" {
		return rights
	}
	name := a.settings.ParameterPrefix + noParameter
	return append(rights, right{"ssm:GetParameter", func(ctx context.Context, c *clients) error {
		_, err := c.ssm.GetParameter(ctx, &ssm.GetParameterInput{Name: &name})
		return err
	}}, right{"ssm:DeleteParameter", func(ctx context.Context, c *clients) error {
		_, err := c.ssm.DeleteParameter(ctx, &ssm.DeleteParameterInput{Name: &name})
		return err
	}})
}
