package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/runnertest"
	"salsa.debian.org/cloud-team/debcloud/internal/process"
)

// TestLongExecutorSeed runs a job in the image of the other tests: a plain genericcloud, which knows nothing of the agent and has no git.
func TestLongExecutorSeed(t *testing.T) {
	if !longTests() {
		t.Skip("it boots a whole cloud image: run make test-long")
	}
	built := os.Getenv("DEBCLOUD_TEST_IMAGE")
	if built == "" {
		t.Skip("DEBCLOUD_TEST_IMAGE is not set: run make test-long")
	}
	r := newImportedImage(t, runnertest.Options{Network: "user", More: "images: {plain: {seed: nocloud}}\n"}, "plain", built)
	r.bed.Replace(t, "boot_emulated: 5m", "boot_emulated: 20m") // beside others a whole cloud image takes longer than the tests' guest
	job := runnerJob(
		script("prepare_script", "echo user $(id -u) on $(hostname), $(cat /etc/hostname), $(getent hosts $(hostname))\n"),
		script("get_sources", `command -v gitlab-runner; command -v git || echo no git
since() { systemctl show -p ActiveEnterTimestampMonotonic --value $1; }
echo agent $(since debcloud-agent.service), cloud-init $(since cloud-init.target)
[ $(since debcloud-agent.service) -lt $(since cloud-init.target) ] && echo the agent came first
cloud-init status; systemctl is-system-running; systemctl --failed --no-legend
ip -4 -o route show default
`),
		script("build_script", "exit 42\n"),
		script("after_script", "echo afterwards\n"),
	)
	job.Image = "plain"
	o := r.runner.Play(t.Context(), job)
	t.Log(o)
	for _, c := range o.Calls {
		t.Logf("%-24s exit %d after %v", c.Name, c.Exit, c.Took.Round(100*time.Millisecond))
	}
	expect(t, r.bed, o, "failed", "script_failure", "VM image plain has no git", fmt.Sprintf("user 0 on debcloud-job-%d-", job.ID),
		"/debcloud/tools/gitlab-runner\nno git\n", "the agent came first", "status: done\nrunning\ndefault via 10.0.2.2", "afterwards")
	if o.ExitCode != 42 {
		t.Errorf("exit code %d, want 42", o.ExitCode)
	}
}

// An image that gets a seed may lack git.
func TestExecutorWithoutGit(t *testing.T) {
	path := filepath.Join(runnertest.OpenDir(t), "bare.raw")
	runnertest.Changed(t, testGuest(t), path, "rm -f /usr/bin/git\n")
	b := runnertest.NewBed(t, runnertest.Options{More: fmt.Sprintf("images: {plain: {file: %s, format: raw, seed: nocloud}}\n", path)})
	job := newJob(script("build_script", "command -v git || echo ran without\n"))
	expect(t, b, newRunner(t, b).Play(t.Context(), job), "success", "", "VM image plain has no git", "ran without")
}

// The reaper takes the seed of a job all of whose processes were killed.
func TestExecutorSeedReaped(t *testing.T) {
	b := runnertest.NewBed(t, runnertest.Options{More: fmt.Sprintf("images: {tiny: {file: %s, seed: nocloud}}\n", testGuest(t))})
	seeds := func() []string {
		found, _ := filepath.Glob(filepath.Join(b.Pool, "debcloud-job-*.seed.img"))
		return found
	}
	o := playAndKill(t, b, func(t *testing.T, runner int) {
		for len(qemusOf(b)) == 0 {
			if !process.Of(runner).Runs() {
				t.Error("the job ended before its virtual machine ran")
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		_ = syscall.Kill(runner, syscall.SIGSTOP) // it calls no cleanup
		for _, pid := range driversOf(b) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		_ = syscall.Kill(runner, syscall.SIGKILL)
	})
	if o != nil || len(seeds()) != 1 {
		t.Fatalf("want a killed job's seed, have %q; the job: %v", seeds(), o)
	}
	reap(t, b)
	nothingLeft(t, b)
}
