package alibaba

import (
	"bytes"
	"context"
	"net/http"
	"strings"

	"github.com/aliyun/alibabacloud-oss-go-sdk-v2/oss"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
)

// Whoami implements publish.Identifier. Rights are tried in the home region, with ECS's dry runs where an action has one, and else by asking for
// things that there cannot be.
func (a *Publisher) Whoami(ctx context.Context) (publish.Identity, error) {
	caller, err := a.demandAccount(ctx)
	who := publish.Identity{Account: caller.AccountID, Principal: caller.Arn}
	if err != nil {
		return who, err
	}
	if k, err := a.client.login.keys(ctx); err == nil {
		who.Until = k.until
	}
	for _, right := range a.rights() {
		err := right.try(ctx)
		code, _, status := answer(err)
		meaning := refusalOf(err)
		switch {
		case meaning == denied, meaning == (refusal{}) && strings.HasPrefix(right.name, "oss:") && status == http.StatusForbidden:
			who.Missing = append(who.Missing, right.name)
		case meaning == importRole:
			who.Missing = append(who.Missing, "the role "+roleName+" for ECS")
		case err != nil && (code == "" || meaning != refusal{}):
			return who, explain(ctx, a.settings.Home, right.name, err)
		}
	}
	return who, nil
}

// right is a call that publishing or pruning makes, tried so that it changes nothing.
type right struct {
	name string
	try  func(context.Context) error
}

// noImage and noSnapshot are well-formed identifiers of things that there are not.
const (
	noImage    = "m-00000000000000000000"
	noSnapshot = "s-00000000000000000000"
	noUpload   = "00000000000000000000000000000000"
	noObject   = folder + "whoami" + suffix
)

func (a *Publisher) rights() []right {
	home, bucket := a.settings.Home, &a.settings.Bucket
	key, upload := oss.Ptr(noObject), oss.Ptr(noUpload)
	dry := func(action string, p params) right {
		return right{"ecs:" + action, func(ctx context.Context) error {
			p["DryRun"] = "true"
			return a.ecs(ctx, home, action, p, nil)
		}}
	}
	ask := func(action string, p params) right {
		return right{"ecs:" + action, func(ctx context.Context) error { return a.ecs(ctx, home, action, p, nil) }}
	}
	return []right{
		ask("DescribeRegions", params{}),
		dry("DescribeImages", params{"ImageOwnerAlias": "self"}),
		ask("DescribeSnapshots", params{"MaxResults": "10"}),
		ask("DescribeTasks", params{"TaskAction": "ImportImage"}),
		dry("ImportImage", params{"ImageName": "debcloud-whoami", "RoleName": roleName, "DiskDeviceMapping.1.OSSBucket": *bucket, "DiskDeviceMapping.1.OSSObject": noObject}),
		dry("CopyImage", params{"ImageId": noImage, "DestinationRegionId": home, "DestinationImageName": "debcloud-whoami"}),
		ask("CancelCopyImage", params{"ImageId": noImage}),
		dry("ModifyImageAttribute", params{"ImageId": noImage, "Status": available}),
		dry("ModifyImageSharePermission", params{"ImageId": noImage, "IsPublic": "false"}),
		ask("TagResources", params{"ResourceType": "image", "ResourceId.1": noImage}.tags(map[string]string{tagOwner: owner})),
		dry("DeleteImage", params{"ImageId": noImage}),
		ask("DeleteSnapshot", params{"SnapshotId": noSnapshot}),
		{"oss:GetObject", func(ctx context.Context) error {
			_, err := a.head(ctx, noObject, "")
			return err
		}},
		{"oss:PutObject", func(ctx context.Context) error {
			_, err := a.oss.UploadPart(ctx, &oss.UploadPartRequest{Bucket: bucket, Key: key, UploadId: upload, PartNumber: 1, Body: bytes.NewReader([]byte{0})})
			return err
		}},
		{"oss:ListParts", func(ctx context.Context) error {
			_, err := a.oss.ListParts(ctx, &oss.ListPartsRequest{Bucket: bucket, Key: key, UploadId: upload})
			return err
		}},
		{"oss:ListMultipartUploads", func(ctx context.Context) error {
			_, err := a.oss.ListMultipartUploads(ctx, &oss.ListMultipartUploadsRequest{Bucket: bucket, Prefix: key})
			return err
		}},
		{"oss:AbortMultipartUpload", func(ctx context.Context) error {
			_, err := a.oss.AbortMultipartUpload(ctx, &oss.AbortMultipartUploadRequest{Bucket: bucket, Key: key, UploadId: upload})
			return err
		}},
		{"oss:ListObjects", func(ctx context.Context) error {
			_, err := a.oss.ListObjectsV2(ctx, &oss.ListObjectsV2Request{Bucket: bucket, Prefix: oss.Ptr(folder), MaxKeys: 1})
			return err
		}},
		{"oss:DeleteObject", func(ctx context.Context) error {
			_, err := a.oss.DeleteObject(ctx, &oss.DeleteObjectRequest{Bucket: bucket, Key: key})
			return err
		}},
	}
}
