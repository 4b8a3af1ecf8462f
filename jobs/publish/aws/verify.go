package aws

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// verify compares what AWS says that it has with what it was told to make.
func (p *publication) verify(region string, i *types.Image) error {
	want := map[string]string{
		"name": p.name, "architecture": string(p.kind.arch), "boot mode": string(p.kind.boot), "virtualization type": "hvm", "root device type": "ebs",
		"root device": rootDevice, "ENA support": "true", "SR-IOV support": "simple", "IMDS support": "v2.0", "TPM support": "",
		"volume type": "gp3", "volume size": fmt.Sprint((p.img.Size() + gib - 1) / gib), "delete on termination": "true",
	}
	if p.settings.TPM {
		want["TPM support"] = string(types.TpmSupportValuesV20)
	}
	have := map[string]string{
		"name": deref(i.Name), "architecture": string(i.Architecture), "boot mode": string(i.BootMode), "virtualization type": string(i.VirtualizationType), "root device type": string(i.RootDeviceType),
		"root device": deref(i.RootDeviceName), "ENA support": fmt.Sprint(deref(i.EnaSupport)), "SR-IOV support": deref(i.SriovNetSupport), "IMDS support": string(i.ImdsSupport), "TPM support": string(i.TpmSupport),
	}
	for _, m := range i.BlockDeviceMappings {
		if m.Ebs != nil && deref(m.DeviceName) == rootDevice {
			have["volume type"], have["volume size"], have["delete on termination"] = string(m.Ebs.VolumeType), fmt.Sprint(deref(m.Ebs.VolumeSize)), fmt.Sprint(deref(m.Ebs.DeleteOnTermination))
		}
	}
	return p.compare(fmt.Sprintf("image %s in %s", deref(i.ImageId), region), want, have, tagsOf(i.Tags))
}

// compare makes one error of all that differs, nil where nothing does.
func (p *publication) compare(what string, want, have, tags map[string]string) error {
	var wrong []string
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if have[k] != want[k] && !slices.Contains(p.lenient, k) {
			wrong = append(wrong, fmt.Sprintf("%s %q where %q is needed", k, have[k], want[k]))
		}
	}
	for k, v := range p.tags() {
		if tags[k] != v && !slices.Contains(p.lenient, "tags") {
			wrong = append(wrong, fmt.Sprintf("tag %s %q where %q is needed", k, tags[k], v))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	slices.Sort(wrong)
	return fault.WithHint(fault.Inputf("%s is not what was made: %s", what, strings.Join(wrong, "; ")), "someone changed it: deregister it and run the same command again")
}

// verifySnapshot compares an image's snapshot with what it should be. The snapshot of a copy may show its tags later than the copy.
func (p *publication) verifySnapshot(ctx context.Context, region, id string) error {
	s, err := p.waitSnapshot(ctx, region, id)
	if err != nil {
		return err
	}
	if err := p.tagSnapshot(ctx, region, s); err != nil {
		return err
	}
	want := map[string]string{"volume size": fmt.Sprint((p.img.Size() + gib - 1) / gib), "encrypted": "false"}
	have := map[string]string{"volume size": fmt.Sprint(deref(s.VolumeSize)), "encrypted": fmt.Sprint(deref(s.Encrypted))}
	return p.compare(fmt.Sprintf("snapshot %s in %s", id, region), want, have, p.tags())
}

// tagSnapshot gives a copy's snapshot the tags where CopyImage did not: prune finds snapshots by them.
func (p *publication) tagSnapshot(ctx context.Context, region string, s types.Snapshot) error {
	have := tagsOf(s.Tags)
	missing := map[string]string{}
	for k, v := range p.tags() {
		if have[k] != v {
			missing[k] = v
		}
	}
	if len(missing) == 0 {
		return nil
	}
	_, err := p.login.in(region).ec2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{deref(s.SnapshotId)}, Tags: ec2Tags(missing)})
	if err == nil {
		p.changed.Store(true)
	}
	return explain(ctx, region, "CreateTags", err)
}
