package aws

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/aws/awstest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// policyOfREADME is the one that README.md gives the role.
func policyOfREADME(t *testing.T) *awstest.Policy {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.Split(string(text), "```json\n")[1:] {
		document, _, _ := strings.Cut(part, "```")
		if !strings.Contains(document, `"Sid"`) {
			continue
		}
		p, err := awstest.ParsePolicy([]byte(document))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	t.Fatal("README.md has no policy")
	return nil
}

// made are the actions of all calls so far that IAM decides on.
func (a *account) made() []string {
	var all []string
	for _, c := range a.Calls() {
		if c.Service != "sts" { // GetCallerIdentity is everyone's, and the trust policy has the other one
			all = append(all, c.Service+":"+c.Action)
		}
	}
	if puts, _ := a.Blocks(); puts > 0 {
		all = append(all, "ebs:PutSnapshotBlock")
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// TestPolicyOfREADME publishes and prunes with the rights that README.md asks for: there is none too few and none too many.
func TestPolicyOfREADME(t *testing.T) {
	signIn(t)
	policy := policyOfREADME(t)
	a := newAccount(t, awstest.Settings{Regions: twoRegions, Pending: 1, Hidden: 1, Policy: policy})
	for _, region := range twoRegions {
		a.Block(region, "block-new-sharing", "block-all-sharing")
	}
	failed := false
	a.After(func(c awstest.Call) { // a copy that AWS gives up is removed and made again
		if images := a.Images("eu-west-1"); c.Action == "CopyImage" && !failed && len(images) > 0 {
			failed = true
			a.ChangeImage("eu-west-1", images[0].ID, func(i *awstest.Image) { i.Fail("internal error") })
		}
	})
	for n, version := range []string{"20260814-1", "20260815-1"} {
		a.demand(t, publishtest.Options{Version: version, Seed: byte(n)}, publish.Public)
	}
	p := a.open(t, nil, nil)
	for _, kind := range []string{"image", "snapshot"} {
		for _, region := range twoRegions {
			it := items(t, p)[kind+" 20260814-1 "+region]
			if kind == "image" {
				if err := p.Hide(t.Context(), it); err != nil {
					t.Fatal(err)
				}
				it.State = holding.Hidden
			}
			if err := p.Delete(t.Context(), it); err != nil {
				t.Fatal(err)
			}
		}
	}
	if calls := a.made(); !slices.Equal(calls, policy.Actions()) {
		t.Errorf("publishing and pruning make the calls\n%s\nand the policy allows\n%s", strings.Join(calls, "\n"), strings.Join(policy.Actions(), "\n"))
	}
	before := a.Dump(t)
	if who, err := p.Whoami(t.Context()); err != nil || len(who.Missing) != 0 || a.Dump(t) != before {
		t.Errorf("whoami says %+v, %v, or changed something", who, err)
	}
	if calls := slices.DeleteFunc(a.made(), func(c string) bool { return slices.Contains(policy.Actions(), c) }); len(calls) != 0 {
		t.Errorf("whoami tries %q, which nothing needs", calls)
	}
}

// TestPolicyLeavesOthersAlone: with the rights that README.md asks for nothing that debcloud did not make can be taken for ours, published or removed.
func TestPolicyLeavesOthersAlone(t *testing.T) {
	signIn(t)
	a := newAccount(t, awstest.Settings{Policy: policyOfREADME(t)})
	theirs := a.AddImage("us-east-1", awstest.Image{Name: "handmade", Tags: map[string]string{}, Created: time.Now(), RootDevice: rootDevice})
	c, ctx := a.open(t, nil, nil).login.in("us-east-1").ec2, t.Context()
	tags := ec2Tags(map[string]string{tagOwner: owner})
	specified := []types.TagSpecification{{ResourceType: types.ResourceTypeImage, Tags: tags}, {ResourceType: types.ResourceTypeSnapshot, Tags: tags}}
	register := func(tags []types.TagSpecification) error {
		_, err := c.RegisterImage(ctx, &ec2.RegisterImageInput{Name: aws.String("debian"), RootDeviceName: aws.String(rootDevice), Architecture: types.ArchitectureValuesX8664, TagSpecifications: tags,
			VirtualizationType:  aws.String("hvm"),
			BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String(rootDevice), Ebs: &types.EbsBlockDevice{SnapshotId: &theirs.SnapshotID}}}})
		return err
	}
	for what, do := range map[string]func() error{
		"tag an image": func() error {
			_, err := c.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{theirs.ID}, Tags: tags})
			return err
		},
		"tag a snapshot": func() error {
			_, err := c.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{theirs.SnapshotID}, Tags: tags})
			return err
		},
		"register a snapshot":              func() error { return register(specified[:1]) },
		"register a snapshot without tags": func() error { return register(nil) },
		"copy an image": func() error {
			_, err := c.CopyImage(ctx, &ec2.CopyImageInput{Name: aws.String("debian"), SourceImageId: &theirs.ID, SourceRegion: aws.String("us-east-1"), TagSpecifications: specified})
			return err
		},
		"remove an image": func() error {
			_, err := c.DeregisterImage(ctx, &ec2.DeregisterImageInput{ImageId: &theirs.ID})
			return err
		},
		"remove a snapshot": func() error {
			_, err := c.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: &theirs.SnapshotID})
			return err
		},
	} {
		if err := do(); !is(err, "UnauthorizedOperation") {
			t.Errorf("%s: %v", what, err)
		}
	}
	who, err := a.open(t, nil, nil).Whoami(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, missing := range who.Missing {
		if !strings.HasSuffix(missing, "and there is none to try it with)") {
			t.Errorf("before there is an image of ours, %s is told as missing", missing)
		}
	}
}
