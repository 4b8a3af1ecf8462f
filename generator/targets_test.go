package generator

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
)

func TestTargets(t *testing.T) {
	c, err := parse("c.yaml", []byte(small+`  matches:
  - {matchVendors: [ec2], op: EnableUpload}
  - {matchVendors: [azure]}
targets:
- {name: aws-china, provider: aws, partition: aws-cn, account: '123456789012', regions: [cn-north-1], vendors: [ec2], cloudTest: true, settings: {role: $ROLE}}
- {name: mine, provider: openstack}
retention:
  daily: {keep: 14, hideAfterDays: 7, deleteAfterDays: 30}
  orphanDays: 2
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []target.Target{
		{Name: "aws-china", Provider: "aws", Partition: "aws-cn", Account: "123456789012", Regions: []string{"cn-north-1"}, Vendors: []string{"ec2"}, CloudTest: true, Settings: map[string]string{"role": "$ROLE"}},
		{Name: "mine", Provider: "openstack"},
	}
	if got := c.Targets(); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if _, err := c.Target("aws-chine"); err == nil || !strings.Contains(err.Error(), "aws-china") {
		t.Errorf("a target that is not there: %v", err)
	}
	day := 24 * time.Hour
	policy := holding.Policy{Types: map[image.UploadType]holding.Retention{image.Daily: {Keep: 14, HideAfter: 7 * day, DeleteAfter: 30 * day}}, Orphans: 2 * day}
	if got := c.Retention(); !reflect.DeepEqual(got, policy) {
		t.Errorf("%+v, want %+v", got, policy)
	}
	plan, err := c.Plan(image.Dev, Selection{})
	if err != nil {
		t.Fatal(err)
	}
	for _, cell := range plan.Data.Cells {
		if got := len(cell.Suites) == 1 && cell.Suites[0] == "boot-aws"; got != (cell.Vendor == "ec2") {
			t.Errorf("%s needs %v", cell.Vendor, cell.Suites)
		}
	}
}

func TestBadTargets(t *testing.T) {
	for _, row := range []struct{ summary, more, want string }{
		{"no provider", "targets: [{name: aws}]", `targets[0]: key "provider" is missing`},
		{"twice", "targets: [{name: a, provider: aws}, {name: a, provider: azure}]", `targets[1]: target "a" is declared twice`},
		{"an unknown vendor", "targets: [{name: a, provider: aws, vendors: [ec3]}]", `vendor "ec3" is not declared`},
		{"a secret's place", "targets: [{name: a, provider: aws, password: x}]", `unknown key "password"`},
		{"a setting that is no text", "targets: [{name: a, provider: aws, settings: {tls: true}}]", "targets[0].settings.tls: true is true, false or null where a string is needed"},
		{"keep nothing", "retention: {orphanDays: 2, daily: {keep: 0, hideAfterDays: 1, deleteAfterDays: 1}}", `retention.daily.keep: "0" is no whole number from 1`},
		{"delete at once", "retention: {orphanDays: 2, daily: {keep: 1, hideAfterDays: 1, deleteAfterDays: 0}}", `retention.daily.deleteAfterDays: "0" is no whole number from 1`},
		{"an unknown type", "retention: {orphanDays: 2, weekly: {keep: 1, hideAfterDays: 1, deleteAfterDays: 1}}", `unknown key "weekly"`},
	} {
		_, err := parse("c.yaml", []byte(small+row.more+"\n"))
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v", row.summary, err)
		}
	}
}

// TestBuiltInTargets: the team's own matrix names targets for the vendors whose images it uploads.
func TestBuiltInTargets(t *testing.T) {
	c, err := Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	plan, err := c.Plan(image.Daily, Selection{})
	if err != nil {
		t.Fatal(err)
	}
	for _, cell := range plan.Data.Cells {
		taken := false
		for _, t := range c.Targets() {
			taken = taken || t.Takes(cell.Vendor)
		}
		if cell.Upload && !taken {
			t.Errorf("%s is uploaded, and no target takes it", cell.Vendor)
		}
	}
	for _, kind := range []image.UploadType{image.Dev, image.Daily, image.Published} {
		if c.Retention().Types[kind].Keep == 0 {
			t.Errorf("nothing says how long a %s is kept", kind)
		}
	}
}
