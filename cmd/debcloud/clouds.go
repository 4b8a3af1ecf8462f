//go:build clouds

package main

import (
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/alibaba"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/aws"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/azure"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/google"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/openstack"
)

func init() {
	type (
		t = target.Target
		j = *journal.Journal
		p = publish.Publisher
	)
	publishers["alibaba"] = func(t t, j j) (p, error) { return alibaba.New(t, j, nil) }
	publishers["aws"] = func(t t, j j) (p, error) { return aws.New(t, j, nil) }
	publishers["azure"] = func(t t, j j) (p, error) { return azure.New(t, j, nil) }
	publishers["google"] = func(t t, j j) (p, error) { return google.New(t, j, nil) }
	publishers["openstack"] = func(t t, j j) (p, error) { return openstack.New(t, j, nil) }
}

// becomeClouds is not reached: this program has all constructors.
func becomeClouds() error { return fault.Inputf("this program has no publisher of that provider") }
