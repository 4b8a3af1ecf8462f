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
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/runnertest"
)

// expect holds an outcome against what the rows of tests say.
func expect(t *testing.T, b *runnertest.Bed, o runnertest.Outcome, state, reason string, says ...string) {
	t.Helper()
	if o.State != state || o.Reason != reason {
		log, _ := os.ReadFile(b.Log)
		t.Errorf("%s %s, want %s %s; log:\n%s\nhost's log:\n%s", o.State, o.Reason, state, reason, o.Log, log[max(0, len(log)-3000):])
		return
	}
	for _, text := range says {
		if !strings.Contains(o.Log, text) {
			t.Errorf("the log lacks %q:\n%s", text, o.Log)
		}
	}
	nothingLeft(t, b)
}

// cancelWhen cancels a job with a cause once the call has run for a while.
func cancelWhen(r *runnertest.Runner, call string, after time.Duration, cause error) context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	r.Before = func(name string) {
		if name == call {
			time.AfterFunc(after, func() { cancel(cause) })
		}
	}
	return ctx
}

// What a job's script does, and what becomes of the job.
func TestExecutorScripts(t *testing.T) {
	b := runnertest.NewBed(t, runnertest.Options{Image: testGuest(t)})
	play := func(stages ...runnertest.Stage) runnertest.Outcome {
		return newRunner(t, b).Play(t.Context(), newJob(stages...))
	}

	t.Run("a script fails with a code of its own, after_script still runs", func(t *testing.T) {
		o := play(script("build_script", "exit 42\n"), script("step_more", "echo never\n"), script("after_script", "echo afterwards\n"))
		expect(t, b, o, "failed", "script_failure", "afterwards")
		if o.ExitCode != 42 || strings.Contains(o.Log, "never") {
			t.Error(o)
		}
	})
	t.Run("a script whose shell is killed has failed itself", func(t *testing.T) {
		o := play(script("build_script", "kill -9 $$\n"))
		expect(t, b, o, "failed", "script_failure")
		if o.ExitCode != 137 {
			t.Error(o)
		}
	})
	t.Run("an image without gitlab-runner is broken, whatever the scripts say", func(t *testing.T) {
		o := play(script("build_script", "rm /usr/local/bin/gitlab-runner\n"),
			script("upload_artifacts_on_success", "if gitlab-runner --version >/dev/null 2>&1; then true; else echo 'Missing gitlab-runner. Uploading artifacts is disabled.'; fi\n"))
		expect(t, b, o, "failed", "runner_system_failure", "the VM image is broken")
	})
	t.Run("a machine that powers itself off is no failure of the script", func(t *testing.T) {
		expect(t, b, play(script("build_script", "echo o >/proc/sysrq-trigger; sleep 1000\n")), "failed", "runner_system_failure", "powered itself off")
	})
	t.Run("an agent that is killed ends the stage", func(t *testing.T) {
		expect(t, b, play(script("build_script", "kill -9 $(pidof debcloud); sleep 1000\n")), "failed", "runner_system_failure", "build_script was cut off")
	})
	t.Run("a console that is flooded stays small and harms nobody", func(t *testing.T) {
		o := play(script("build_script", "n=0; while [ $n -lt 60 ]; do head -c 65536 /dev/zero | tr '\\0' x >/dev/ttyS0; n=$((n+1)); done; echo flooded\n"))
		expect(t, b, o, "success", "", "flooded")
		logs, _ := filepath.Glob(filepath.Join(b.Dir, "console", "*"))
		var size int64
		for _, path := range logs {
			if info, err := os.Stat(path); err == nil {
				size = max(size, info.Size())
			}
		}
		if size == 0 || size > 1<<20 {
			t.Errorf("the largest of %d console logs has %d bytes", len(logs), size)
		}
	})
}

// Cancels and time-outs, as Runner does them.
func TestExecutorCancels(t *testing.T) {
	b := runnertest.NewBed(t, runnertest.Options{Image: testGuest(t)})
	job := newJob(
		script("build_script", "trap 'echo >/tmp/told' TERM; sleep 1000 & echo started; wait; sleep 1000\n"),
		script("after_script", "[ -e /tmp/told ] && echo told; pidof sleep || echo nobody sleeps\n"),
		script("upload_artifacts_on_failure", "echo uploading\n"),
	)
	t.Run("a graceful cancel ends the script and keeps the machine", func(t *testing.T) {
		r := newRunner(t, b)
		o := r.Play(cancelWhen(r, "run build_script", 10*time.Second, runnertest.ErrCanceled), job)
		expect(t, b, o, "failed", "canceled", "started", "told", "nobody sleeps", "uploading")
	})
	t.Run("an abort goes straight to cleanup", func(t *testing.T) {
		r := newRunner(t, b)
		o := r.Play(cancelWhen(r, "run build_script", 10*time.Second, runnertest.ErrAborted), job)
		expect(t, b, o, "failed", "canceled")
		if len(o.CallsOf("run after_script")) > 0 || len(o.CallsOf("cleanup")) != 1 {
			t.Error(o)
		}
	})
	t.Run("so does a time-out", func(t *testing.T) {
		r := newRunner(t, b)
		o := r.Play(cancelWhen(r, "run build_script", 10*time.Second, runnertest.ErrTimedOut), job)
		expect(t, b, o, "failed", "job_execution_timeout")
	})
	t.Run("a cleanup beside a script that goes on takes its machine away", func(t *testing.T) {
		r := newRunner(t, b)
		o := r.Play(cancelWhen(r, "run build_script", 3*time.Second, runnertest.ErrUnheard), job)
		expect(t, b, o, "failed", "canceled", "started", "build_script was cut off")
		run, cleanup := o.CallsOf("run build_script"), o.CallsOf("cleanup")
		if len(run) != 1 || run[0].Exit != 2 || len(cleanup) != 1 || cleanup[0].Exit != 0 {
			t.Errorf("the calls are %+v", o.Calls)
		}
	})
	t.Run("a cancel while the machine boots", func(t *testing.T) {
		r := newRunner(t, b)
		o := r.Play(cancelWhen(r, "prepare", 3*time.Second, runnertest.ErrAborted), job)
		expect(t, b, o, "failed", "canceled")
	})
}

// What prepare refuses for good, what it tries again, and how long it waits.
func TestExecutorPrepares(t *testing.T) {
	dir := runnertest.OpenDir(t)
	deaf := filepath.Join(dir, "deaf.raw")
	if err := os.WriteFile(deaf, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	late, hung, emergency := filepath.Join(dir, "late.qcow2"), filepath.Join(dir, "hung.raw"), filepath.Join(dir, "emergency.raw")
	systemd := "mkdir -p /run/systemd/system; rm -f /bin/systemctl; printf '#!/bin/sh\\n%s\\n' >/bin/systemctl; chmod 755 /bin/systemctl\n"
	runnertest.Changed(t, testGuest(t), hung, fmt.Sprintf(systemd, "sleep 1000"))
	runnertest.Changed(t, testGuest(t), emergency, fmt.Sprintf(systemd, "echo maintenance; exit 1"))
	b := runnertest.NewBed(t, runnertest.Options{More: fmt.Sprintf(`images:
  deaf: {file: %s, format: raw}
  late: {file: %s}
  hung: {file: %s, format: raw}
  emergency: {file: %s, format: raw}
default_image: late
`, deaf, late, hung, emergency)})
	settingsText, err := os.ReadFile(b.Settings)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(*runnertest.Job)) runnertest.Job {
		j := newJob(script("build_script", "echo ran\n"))
		change(&j)
		return j
	}
	for _, row := range []struct {
		summary string
		job     runnertest.Job
		says    []string
	}{
		{"an image that nobody allowed", with(func(j *runnertest.Job) { j.Image = "debian:latest" }), []string{`"debian:latest"`, "deaf, emergency, hung, late"}},
		{"more memory than is allowed", with(func(j *runnertest.Job) { j.Variables = []runnertest.Variable{{Key: "DEBCLOUD_MEMORY", Value: "1TiB"}} }), []string{"1TiB"}},
		{"less disk than the image has", with(func(j *runnertest.Job) {
			j.Image, j.Variables = "deaf", []runnertest.Variable{{Key: "DEBCLOUD_DISK", Value: "512KiB"}}
		}), []string{"512KiB of disk are less than the 1MiB of VM image deaf"}},
		{"a hostile number", with(func(j *runnertest.Job) {
			j.Variables = []runnertest.Variable{{Key: "DEBCLOUD_CPUS", Value: "1; reboot"}}
		}), []string{"1; reboot"}},
		{"siblings for a project that may have none", with(func(j *runnertest.Job) { j.Variables = []runnertest.Variable{{Key: "DEBCLOUD_SIBLINGS", Value: "1"}} }), []string{"may not start further"}},
	} {
		t.Run(row.summary+" is refused once", func(t *testing.T) {
			o := newRunner(t, b).Play(t.Context(), row.job)
			expect(t, b, o, "failed", "script_failure", row.says...)
			if len(o.CallsOf("prepare")) != 1 {
				t.Error(o)
			}
		})
	}
	t.Run("a guest that never answers is given up in time, with its console", func(t *testing.T) {
		b.Write(t, strings.Replace(string(settingsText), "boot_emulated: 5m", "boot_emulated: 10s", 1))
		defer b.Write(t, string(settingsText))
		o := newRunner(t, b).Play(t.Context(), with(func(j *runnertest.Job) { j.Image = "deaf" }))
		expect(t, b, o, "failed", "runner_system_failure", "did not answer within 10s", "the last lines of its console", "No bootable device")
		if len(o.CallsOf("prepare")) != 3 || len(o.CallsOf("cleanup")) != 3 {
			t.Error(o)
		}
	})
	for _, row := range []struct{ image, limit, says string }{
		{"hung", "30s", "its system was not up 30s later"},
		{"emergency", "5m", "its system came up in emergency mode"},
	} {
		t.Run("a system that does not come up: "+row.image, func(t *testing.T) {
			b.Write(t, strings.Replace(string(settingsText), "boot_emulated: 5m", "boot_emulated: "+row.limit, 1))
			defer b.Write(t, string(settingsText))
			r := newRunner(t, b)
			ctx, cancel := context.WithCancelCause(t.Context())
			r.Before = func(call string) {
				if call == "cleanup" { // once is enough
					cancel(runnertest.ErrAborted)
				}
			}
			o := r.Play(ctx, with(func(j *runnertest.Job) { j.Image = row.image }))
			expect(t, b, o, "failed", "canceled", row.says)
		})
	}
	t.Run("broken settings are the system's fault, and told in one sentence", func(t *testing.T) {
		b.Write(t, "imagess: {}\n")
		defer b.Write(t, string(settingsText))
		o := newRunner(t, b).Play(t.Context(), with(func(*runnertest.Job) {}))
		if o.Reason != "runner_system_failure" || !strings.Contains(o.Log, `"imagess"`) || len(o.CallsOf("config")) != 3 {
			t.Error(o)
		}
	})
	t.Run("what fails once is tried again", func(t *testing.T) {
		r := newRunner(t, b)
		prepares := 0
		r.Before = func(call string) {
			if call != "prepare" {
				return
			}
			if prepares++; prepares == 2 {
				if err := os.Link(testGuest(t), late); err != nil {
					if err := os.Symlink(testGuest(t), late); err != nil {
						t.Error(err)
					}
				}
			}
		}
		o := r.Play(t.Context(), with(func(*runnertest.Job) {}))
		expect(t, b, o, "success", "", "late.qcow2 does not exist", "ran")
		if len(o.CallsOf("prepare")) != 2 || len(o.CallsOf("cleanup")) != 2 {
			t.Error(o)
		}
	})
}

// A job whose VM gets no address in time begins all the same, and its log tells.
func TestExecutorOffline(t *testing.T) {
	path := filepath.Join(runnertest.OpenDir(t), "mute.raw")
	runnertest.Changed(t, testGuest(t), path, "rm -f /etc/udhcpc.sh\n") // which takes what DHCP gives
	b := runnertest.NewBed(t, runnertest.Options{Network: "user", More: fmt.Sprintf("images: {tiny: {file: %s, format: raw}}\n", path)})
	b.Replace(t, "connect: 1m", "connect: 5s")
	o := newRunner(t, b).Play(t.Context(), newJob(script("build_script", "ip route | grep default || echo ran without\n")))
	expect(t, b, o, "success", "", "has no network 5s after its system was up", "ran without")
}

// A job that clones over HTTP, hands an artifact up and another one down, and fills a cache, through QEMU's own network; the next job, in another
// VM, finds the cache.
func TestExecutorNetwork(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	late := filepath.Join(runnertest.OpenDir(t), "late.raw") // its network comes after its agent: prepare has to wait
	runnertest.Changed(t, testGuest(t), late, "ip link set eth0 down; (sleep 5; ip link set eth0 up) >/dev/null 2>&1 &\n")
	b := runnertest.NewBed(t, runnertest.Options{Network: "user", More: fmt.Sprintf("images: {tiny: {file: %s, format: raw}}\n", late)})
	repository := bareRepository(t)
	store := &runnertest.Coordinator{Dir: t.TempDir()}
	mux := http.NewServeMux()
	mux.Handle("/repository.git/", http.StripPrefix("/repository.git/", http.FileServer(http.Dir(repository))))
	mux.Handle("/api/v4/jobs/", store)
	mux.Handle("/cache/", runnertest.CacheStore{Dir: t.TempDir()})
	server := httptest.NewServer(mux)
	defer server.Close()
	url := strings.Replace(server.URL, "127.0.0.1", "10.0.2.2", 1) // how QEMU's network calls the host's loopback
	transfer := "gitlab-runner artifacts-%s --url " + url + " --token secret --id 1 --path made\n"
	cache := "gitlab-runner cache-%s --url " + url + "/cache/key --file /cache/cloud-team/images/key/cache.zip --path downloads\n"
	r := newRunner(t, b)
	o := r.Play(t.Context(), newJob(
		script("get_sources", "cd /builds && git clone -q "+url+"/repository.git source && git -C source log --oneline\n"),
		script("build_script", "cd /builds/source && cat file >made && echo built >>made && mkdir downloads && echo fetched >downloads/package\n"),
		script("archive_cache", "cd /builds/source && "+fmt.Sprintf(cache, "archiver")),
		script("upload_artifacts_on_success", "cd /builds/source && "+fmt.Sprintf(transfer, "uploader")),
		script("download_artifacts", "cd /builds && rm -f source/made && "+fmt.Sprintf(transfer, "downloader")+"cat made\n"),
	))
	expect(t, b, o, "success", "", "first commit", "from the repository\nbuilt\n")
	if n := store.Artifacts(); n != 1 {
		t.Errorf("%d artifacts were stored", n)
	}
	o = r.Play(t.Context(), newJob(
		script("restore_cache", "mkdir /builds/source && cd /builds/source && test ! -e /cache/cloud-team && "+fmt.Sprintf(cache, "extractor")),
		script("build_script", "cat /builds/source/downloads/package\n"),
	))
	expect(t, b, o, "success", "", "fetched")
}

// bareRepository makes a repository that a plain HTTP server can serve.
func bareRepository(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	text := `set -eu
export HOME=$PWD GIT_CONFIG_NOSYSTEM=1
git init -q -b main work
cd work
echo 'from the repository' >file
git add file
git -c user.name=Test -c user.email=test@example.org commit -q -m 'first commit'
git clone -q --bare . ../repository.git
cd ../repository.git
git update-server-info
`
	cmd := exec.Command("sh", "-c", text)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return filepath.Join(dir, "repository.git")
}
