package main

import (
	"sync"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/runnertest"
	"salsa.debian.org/cloud-team/debcloud/internal/guest"
)

// Jobs that do their worst end in time, leave nothing, and do no harm to one that runs beside them.
func TestExecutorHostileGuests(t *testing.T) {
	b := runnertest.NewBed(t, runnertest.Options{Image: testGuest(t)})
	hostile := func(text string) runnertest.Job {
		return newJob(script("build_script", text), script("after_script", "echo after all\n"))
	}
	rows := []struct {
		summary       string
		job           runnertest.Job
		timeout       time.Duration // so long after the script began; 0: it ends by itself
		state, reason string        // reason "": whichever way its kernel lets it end
		says          []string
	}{
		{
			summary: "it fills its disk", job: hostile("dd if=/dev/zero of=/fill bs=1M 2>&1 || echo it is full\n"),
			state: "success", says: []string{"No space left on device", "it is full", "after all"},
		},
		{
			summary: "it forks without end", job: hostile("echo forking; bomb() { bomb | bomb & bomb; }; bomb\n"), timeout: 30 * time.Second,
			state: "failed", reason: "job_execution_timeout", says: []string{"forking"},
		},
		{
			summary: "it uses up its memory", job: hostile("echo eating; mkdir /eat; mount -t tmpfs -o size=90% eat /eat; dd if=/dev/zero of=/eat/all bs=1M; tail /dev/zero\n"),
			timeout: 30 * time.Second, state: "failed", says: []string{"eating"},
		},
		{
			summary: "its agent answers garbage",
			job:     hostile("port=/dev/virtio-ports/" + guest.AgentPort + "\necho talking\nkill -9 $(pidof debcloud); dd if=/dev/urandom bs=64k >$port; sleep 1000\n"),
			timeout: 4 * time.Minute, state: "failed", reason: "runner_system_failure", says: []string{"talking", "was cut off"},
		},
		{
			summary: "one beside them", job: newJob(script("build_script", "n=0; while [ $n -lt 80 ]; do sleep 0.5; n=$((n+1)); done; echo unharmed\n")),
			state: "success", says: []string{"unharmed"},
		},
	}
	outcomes := make([]runnertest.Outcome, len(rows))
	var all sync.WaitGroup
	for i, row := range rows {
		all.Go(func() {
			r, ctx := newRunner(t, b), t.Context()
			if row.timeout > 0 {
				ctx = cancelWhen(r, "run build_script", row.timeout, runnertest.ErrTimedOut)
			}
			outcomes[i] = r.Play(ctx, row.job)
		})
	}
	all.Wait()
	for i, row := range rows {
		t.Run(row.summary, func(t *testing.T) {
			o := outcomes[i]
			if row.reason == "" {
				row.reason = o.Reason
			}
			expect(t, b, o, row.state, row.reason, row.says...)
		})
	}
}
