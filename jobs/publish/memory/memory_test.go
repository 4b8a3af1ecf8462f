package memory

import (
	"slices"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

type account struct{ *Cloud }

func (a account) Publisher(_ testing.TB, line *publishtest.Line, j *journal.Journal) publish.Publisher {
	return New(a.Cloud, target.Target{Name: "memory", Provider: provider, Regions: []string{"north", "south", "west"}}, j, line.Call)
}

func (a account) Dump(testing.TB) string { return a.Cloud.Dump() }

func (a account) Secrets() []string { return nil }

// Lose removes the newest image of the region west.
func (a account) Lose(testing.TB) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := a.list()
	slices.Reverse(all)
	i := slices.IndexFunc(all, func(t thing) bool { return t.Kind == holding.Image && t.Region == "west" })
	return i >= 0 && a.delete(all[i].ID) == nil
}

func TestPublisher(t *testing.T) {
	publishtest.Run(t, publishtest.Provider{
		Name: provider, Vendor: "genericcloud",
		Cloud: func(testing.TB) publishtest.Cloud { return account{NewCloud()} },
	})
}
