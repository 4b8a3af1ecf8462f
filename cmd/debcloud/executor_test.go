package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor"
	"salsa.debian.org/cloud-team/debcloud/executor/runnertest"
)

// guestPrograms builds what goes into the test guest: this program, static, and what stands in for gitlab-runner there.
var guestPrograms = sync.OnceValues(func() (string, error) {
	program, err := exec.LookPath("debcloud")
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(filepath.Dir(program), "guest-") // testscript.Main removes it with what it has made
	if err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir, "salsa.debian.org/cloud-team/debcloud/cmd/debcloud",
		"salsa.debian.org/cloud-team/debcloud/executor/runnertest/gitlab-runner")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	return dir, build.Run()
})

// testGuest is an image with an agent of its own: this program, with the race detector, is not static and would run in no guest.
func testGuest(t testing.TB) string {
	t.Helper()
	t.Setenv(agentVariable, noAgent)
	dir, err := guestPrograms()
	if err != nil {
		t.Fatal(err)
	}
	return runnertest.Image(t, dir)
}

// newRunner plays a Runner whose driver is this program.
func newRunner(t testing.TB, b *runnertest.Bed) *runnertest.Runner {
	t.Helper()
	program, err := exec.LookPath("debcloud")
	if err != nil {
		t.Fatal(err)
	}
	return &runnertest.Runner{
		Driver: []string{program, "executor", "--settings", b.Settings},
		Dir:    b.Temp, GracefulKill: 30 * time.Second, ForceKill: 5 * time.Second, Pause: 100 * time.Millisecond,
	}
}

var nextJob int64 = 4711

func newJob(stages ...runnertest.Stage) runnertest.Job {
	nextJob++
	return runnertest.Job{ID: nextJob, Project: "cloud-team/images", ProjectID: 12, Ref: "main", Stages: stages}
}

func script(name, text string) runnertest.Stage { return runnertest.Stage{Name: name, Script: text} }

func nothingLeft(t testing.TB, b *runnertest.Bed) {
	t.Helper()
	if left := b.Left(t, executor.Namespace); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestExecutor(t *testing.T) {
	b := runnertest.NewBed(t, runnertest.Options{Image: testGuest(t)})
	r := newRunner(t, b)
	r.DiesLast = true
	o := r.Play(t.Context(), newJob(
		script("prepare_script", "echo running on $(hostname)\n"),
		script("build_script", "echo out; echo err >&2; echo kept >/tmp/file\n"),
		script("step_new", "cat /tmp/file\n"),
	))
	t.Log(o)
	for _, c := range o.Calls {
		t.Logf("%-24s exit %d after %v, CPU %v", c.Name, c.Exit, c.Took, c.CPU)
	}
	if o.State != "success" {
		b, _ := os.ReadFile(b.Log)
		t.Fatalf("%s\nhost's log: %s", o, b)
	}
	for _, text := range []string{"running on debcloud-job-", "out\n", "err\n", "kept\n"} {
		if !strings.Contains(o.Log, text) {
			t.Errorf("the log lacks %q", text)
		}
	}
	nothingLeft(t, b)

	// Runner may call cleanup where there is nothing any more, and operators may look.
	for _, args := range [][]string{{"cleanup"}, {"status"}, {"status", "-o", "json"}, {"reap"}} {
		cmd := exec.Command("debcloud", append([]string{"executor", "--settings", b.Settings}, args...)...)
		cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Join(b.Temp, "custom-executor-gone"))
		if out, err := cmd.CombinedOutput(); err != nil || args[0] == "status" && !strings.Contains(string(out), "TCG") {
			t.Errorf("%v: %v: %s", args, err, out)
		}
	}
}
