package main

import (
	"strings"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/executor"
	"salsa.debian.org/cloud-team/debcloud/executor/admission"
)

// TestStatusSaysWhyJobsWait: the budget may have room where the host's disk has none.
func TestStatusSaysWhyJobsWait(t *testing.T) {
	waiters := []admission.Waiter{{Request: admission.Request{For: "job 1 of a/b"}}, {Request: admission.Request{For: "job 2 of a/b"}}}
	for _, row := range []struct {
		ledger admission.Snapshot
		want   string
	}{
		{admission.Snapshot{Waiting: waiters, Lacks: "the host itself is short of disk"}, "2 jobs wait; guests run on TCG\nwaits: job 1 of a/b: the host itself is short of disk\nwaits: job 2 of a/b\n"},
		{admission.Snapshot{Waiting: waiters[:1]}, "1 jobs wait; guests run on TCG\nwaits: job 1 of a/b\n"},
		{admission.Snapshot{}, "0 jobs wait; guests run on TCG\n"},
	} {
		var out strings.Builder
		if printStatus(&out, executor.Status{Ledger: row.ledger, Accelerator: "TCG"}); !strings.HasSuffix(out.String(), row.want) {
			t.Errorf("got  %q\nwant %q", out.String(), row.want)
		}
	}
}
