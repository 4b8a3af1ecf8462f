package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/runnertest"
)

// realRunner names a gitlab-runner with which the cases are tried beside the played one.
const realRunner = "GITLAB_RUNNER_BIN"

// A real gitlab-runner, GitLab's part played on loopback.
func TestExecutorRealRunner(t *testing.T) {
	program := os.Getenv(realRunner)
	if program == "" {
		t.Skipf("%s names no gitlab-runner", realRunner)
	}
	b := runnertest.NewBed(t, runnertest.Options{Image: testGuest(t), Network: "user"})
	repository := bareRepository(t)
	sha, err := exec.Command("git", "-C", repository, "rev-parse", "main").Output()
	if err != nil {
		t.Fatal(err)
	}
	c := &runnertest.Coordinator{Dir: t.TempDir()}
	mux := http.NewServeMux()
	mux.Handle("/repository.git/", http.StripPrefix("/repository.git/", http.FileServer(http.Dir(repository))))
	mux.Handle("/", c)
	server := httptest.NewServer(mux)
	defer server.Close()
	c.URL = strings.Replace(server.URL, "127.0.0.1", "10.0.2.2", 1)
	startRealRunner(t, b, program, server.URL, c.URL)
	request := func(change func(*runnertest.Request)) runnertest.Request {
		r := runnertest.Request{RepoURL: c.URL + "/repository.git", Ref: "main", SHA: strings.TrimSpace(string(sha))}
		change(&r)
		return r
	}
	play := func(r runnertest.Request, then func(id int64)) runnertest.Result {
		id := c.Enqueue(r)
		if then != nil {
			then(id)
		}
		select {
		case <-c.Done(id):
		case <-time.After(15 * time.Minute):
			t.Fatalf("Runner did not finish: %+v", c.Result(id))
		}
		return c.Result(id)
	}
	first := play(request(func(r *runnertest.Request) {
		r.Script, r.AfterScript, r.Artifacts = []string{"cat file >made", "echo built >>made"}, []string{"echo afterwards"}, []string{"made"}
	}), nil)
	if first.State != "success" || !strings.Contains(first.Log, "afterwards") || c.Artifacts() != 1 {
		t.Errorf("a job with an artifact: %+v", first)
	}
	if r := play(request(func(r *runnertest.Request) { r.Script, r.Dependency = []string{"cat made"}, first.ID }), nil); r.State != "success" || !strings.Contains(r.Log, "from the repository") {
		t.Errorf("a job that needs it: %+v", r)
	}
	if r := play(request(func(r *runnertest.Request) { r.Script = []string{"exit 42"} }), nil); r.Reason != "script_failure" || r.ExitCode != 42 {
		t.Errorf("a script that fails: %+v", r)
	}
	if r := play(request(func(r *runnertest.Request) { r.Script, r.Image = []string{"true"}, "unknown" }), nil); r.State != "failed" || !strings.Contains(r.Log, "there is no VM image") {
		t.Errorf("an unknown image: %+v", r)
	}
	for _, how := range []string{"canceling", "canceled"} {
		r := play(request(func(r *runnertest.Request) {
			r.Script, r.AfterScript = []string{"echo begun; sleep 600"}, []string{"echo afterwards"}
		}), func(id int64) {
			for deadline := time.Now().Add(10 * time.Minute); !strings.Contains(c.Result(id).Log, "begun") && time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
			}
			c.Cancel(id, how)
		})
		if graceful := how == "canceling"; strings.Contains(r.Log, "afterwards") != graceful {
			t.Errorf("%s: %+v", how, r)
		}
	}
	if r := play(request(func(r *runnertest.Request) { r.Script, r.Timeout = []string{"sleep 600"}, 2*time.Minute }), nil); r.Reason != "job_execution_timeout" {
		t.Errorf("a time-out: %+v", r)
	}
	nothingLeft(t, b)
}

// startRealRunner writes its configuration and runs it until the test ends.
func startRealRunner(t *testing.T, b *runnertest.Bed, program, url, guestURL string) {
	t.Helper()
	driver, err := exec.LookPath("debcloud")
	if err != nil {
		t.Fatal(err)
	}
	call := func(name string) string {
		return fmt.Sprintf("    %s_exec = %q\n    %s_args = [\"executor\", \"--settings\", %q, %q]\n", name, driver, name, b.Settings, name)
	}
	text := fmt.Sprintf("concurrent = 1\ncheck_interval = 1\n[[runners]]\n  name = \"test\"\n  url = %q\n  clone_url = %q\n  token = \"runner-token\"\n  executor = \"custom\"\n  [runners.custom]\n", url, guestURL) +
		call("config") + call("prepare") + call("run") + call("cleanup") + "    graceful_kill_timeout = 60\n"
	path := filepath.Join(b.Dir, "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "run", "--config", path, "--working-directory", b.Dir)
	cmd.Env = append(os.Environ(), "TMPDIR="+b.Temp)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) }
	cmd.WaitDelay = 30 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
}
