// Package runnertest plays GitLab Runner's part towards a driver of its custom executor: the calls in their order, the
// environment, retries, signals and time limits, as Runner 19.3 does it; and GitLab's part towards a real Runner.
package runnertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Runner plays one GitLab Runner.
type Runner struct {
	// Driver is the command line of the driver; the name of the call is appended.
	Driver []string
	// Dir is where attempts get their directories. Empty: os.TempDir().
	Dir string
	// Env is added to this process's environment.
	Env []string
	// GracefulKill is between SIGTERM and SIGKILL, ForceKill between SIGKILL and giving up.
	GracefulKill, ForceKill time.Duration
	// Pause is between the attempts to prepare.
	Pause time.Duration
	// DiesLast tells that it is killed when its last call of the driver has returned: it removes no directory.
	DiesLast bool
	// Before is called before each call of the driver. Nil: nothing.
	Before func(call string) `json:"-"`
}

// Variable is one variable of a job.
type Variable struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Public bool   `json:"public"`
}

// Job is what GitLab gives to Runner.
type Job struct {
	ID        int64
	Project   string // full path
	ProjectID int64
	Ref       string
	Protected bool
	Image     string
	Timeout   time.Duration // 0: an hour
	Variables []Variable
	// Stages are the scripts, in the order of running, after_script and what follows it included.
	Stages []Stage
}

// Stage is one script of a job.
type Stage struct {
	Name, Script string
}

// Call is one call of the driver that was made.
type Call struct {
	Name   string // "config", "prepare", "run build_script", "cleanup"
	Exit   int    // -1: ended by a signal
	Output string
	Took   time.Duration
	CPU    time.Duration
}

// Outcome is what became of a job.
type Outcome struct {
	// State is "success" or "failed".
	State string
	// Reason is "", "script_failure", "runner_system_failure", "job_execution_timeout" or "canceled".
	Reason string
	// ExitCode is the script's, as Runner tells GitLab.
	ExitCode int
	Calls    []Call
	// Log is the job's log.
	Log string
}

func (o Outcome) String() string {
	return fmt.Sprintf("%s %s exit code %d, %d calls; log:\n%s", o.State, o.Reason, o.ExitCode, len(o.Calls), o.Log)
}

// CallsOf returns the calls with the name.
func (o Outcome) CallsOf(name string) []Call {
	var found []Call
	for _, c := range o.Calls {
		if c.Name == name {
			found = append(found, c)
		}
	}
	return found
}

// Causes with which to cancel the context of Play.
var (
	// ErrCanceled is a graceful cancel: the running script alone is ended, after_script and what follows still run.
	ErrCanceled = errors.New("canceling")
	// ErrAborted is a cancel that goes straight to cleanup.
	ErrAborted = errors.New("canceled")
	// ErrTimedOut is the job's time-out: straight to cleanup.
	ErrTimedOut = errors.New("job_execution_timeout")
	// ErrKilled is a SIGKILL of Runner: nothing more is called, no process is ended and the directory stays.
	ErrKilled = errors.New("runner was killed")
	// ErrUnheard is a cancel that the running call does not hear of in time: cleanup is called beside it. Play returns when both have
	// ended, and the call is noted last.
	ErrUnheard = errors.New("canceled, and not heard")
)

// play is one job that is being played.
type play struct {
	*Runner
	job     Job
	dir     string // of the attempt
	jobEnv  map[string]string
	outcome Outcome
	beside  func() // waits for the call that cleanup was called beside

	mu  sync.Mutex
	log bytes.Buffer
}

// Play takes a job from config to cleanup. Cancel ctx with one of the causes above.
func (r *Runner) Play(ctx context.Context, job Job) Outcome {
	p := &play{Runner: r, job: job}
	p.outcome.State, p.outcome.Reason = "failed", "runner_system_failure"
	if job.Timeout == 0 {
		p.job.Timeout = time.Hour
	}
	ctx, cancel := context.WithTimeoutCause(ctx, p.job.Timeout, ErrTimedOut)
	defer cancel()
	if p.prepare(ctx) {
		p.stages(ctx)
		p.cleanup(ctx)
	}
	if p.beside != nil {
		p.beside()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.outcome.Log = p.log.String()
	return p.outcome
}

// attempts is how often Runner tries to prepare.
const attempts = 3

// prepare calls config and prepare, at most three times, and cleanup after each failure.
func (p *play) prepare(ctx context.Context) bool {
	for n := range attempts {
		if err := p.newAttempt(); err != nil {
			p.write([]byte(err.Error()))
			return false
		}
		exit := p.configure(ctx)
		if exit == 0 {
			exit = p.call(ctx, nil, "prepare")
		}
		if exit == 0 {
			return true
		}
		p.cleanup(ctx)
		switch {
		case ctx.Err() != nil:
			p.outcome.Reason = reason(ctx)
			return false
		case exit == 1:
			p.outcome.Reason = "script_failure"
			return false
		}
		if n+1 < attempts {
			time.Sleep(p.Pause)
		}
	}
	return false
}

func reason(ctx context.Context) string {
	if cause := context.Cause(ctx); errors.Is(cause, ErrTimedOut) {
		return ErrTimedOut.Error()
	}
	return "canceled"
}

func (p *play) newAttempt() error {
	var err error
	p.jobEnv = nil
	if p.dir, err = os.MkdirTemp(p.Dir, "custom-executor"); err != nil {
		return err
	}
	return os.WriteFile(p.response(), p.job.response(), 0o600)
}

func (p *play) response() string { return filepath.Join(p.dir, "response.json") }

// response is the job as GitLab sends it.
func (j Job) response() []byte {
	v := map[string]any{
		"id": j.ID, "token": "job-token",
		"job_info":    map[string]any{"name": "test job", "stage": "test", "project_id": j.ProjectID, "project_name": filepath.Base(j.Project)},
		"git_info":    map[string]any{"repo_url": "https://gitlab-ci-token:job-token@gitlab.example/" + j.Project + ".git", "ref": j.Ref, "protected": j.Protected},
		"runner_info": map[string]any{"timeout": int(j.Timeout.Seconds())},
		"variables":   j.Variables,
	}
	if j.Image != "" {
		v["image"] = map[string]any{"name": j.Image}
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// configure reads what the driver says on standard output, and nothing else.
func (p *play) configure(ctx context.Context) int {
	var out bytes.Buffer
	exit := p.call(ctx, &out, "config")
	if exit != 0 {
		return exit
	}
	var c struct {
		JobEnv map[string]string `json:"job_env"`
	}
	if err := json.Unmarshal(out.Bytes(), &c); out.Len() > 0 && err != nil {
		p.write(fmt.Appendf(nil, "config said no JSON: %v: %q\n", err, out.Bytes()))
		return 2
	}
	p.jobEnv = c.JobEnv
	return 0
}

// stages runs the scripts. After a failure or a graceful cancel those before after_script are skipped.
func (p *play) stages(ctx context.Context) {
	p.outcome.State, p.outcome.Reason = "success", ""
	for _, s := range p.job.Stages {
		late := s.Name == "after_script" || strings.HasPrefix(s.Name, "archive_cache") || strings.HasPrefix(s.Name, "upload_artifacts") || s.Name == "cleanup_file_variables"
		canceling := errors.Is(context.Cause(ctx), ErrCanceled)
		if ctx.Err() != nil && !(canceling && late) || p.outcome.State == "failed" && (!late || p.outcome.Reason == "runner_system_failure") {
			continue
		}
		own := ctx
		if canceling {
			own = context.WithoutCancel(ctx)
		}
		p.stage(own, s)
	}
	if ctx.Err() != nil {
		p.outcome.State, p.outcome.Reason = "failed", reason(ctx)
	}
}

func (p *play) stage(ctx context.Context, s Stage) {
	dir, err := os.MkdirTemp(p.dir, "script")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "script."), []byte(s.Script), 0o700)
	}
	if err != nil {
		p.write([]byte(err.Error()))
		p.outcome.State, p.outcome.Reason = "failed", "runner_system_failure"
		return
	}
	_ = os.Remove(p.exitCodeFile())
	switch exit := p.call(ctx, nil, "run", filepath.Join(dir, "script."), s.Name); {
	case ctx.Err() != nil || exit == 0:
	case exit == 1 && s.Name != "after_script":
		p.outcome.State, p.outcome.Reason, p.outcome.ExitCode = "failed", "script_failure", p.exitCode()
	case exit != 1:
		p.outcome.State, p.outcome.Reason = "failed", "runner_system_failure"
	}
}

func (p *play) exitCodeFile() string { return filepath.Join(p.dir, "exit_code") }

func (p *play) exitCode() int {
	code := 1
	if b, err := os.ReadFile(p.exitCodeFile()); err == nil {
		_, _ = fmt.Sscan(string(b), &code)
	}
	return code
}

// cleanup ignores the result, as Runner does, and removes the attempt's directory afterwards.
func (p *play) cleanup(ctx context.Context) {
	if errors.Is(context.Cause(ctx), ErrKilled) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Hour)
	defer cancel()
	p.call(ctx, nil, "cleanup")
	if !p.DiesLast {
		_ = os.RemoveAll(p.dir)
	}
}

// call runs the driver once and returns its exit code, -1 where a signal ended it.
func (p *play) call(ctx context.Context, stdout io.Writer, args ...string) int {
	name := args[0]
	if name == "run" {
		name += " " + args[2]
	}
	if p.Before != nil {
		p.Before(name)
	}
	if ctx.Err() != nil {
		return -1
	}
	var own bytes.Buffer
	output := io.MultiWriter(&own, writer(p.write))
	if stdout == nil {
		stdout = output
	}
	cmd := exec.Command(p.Driver[0], append(p.Driver[1:len(p.Driver):len(p.Driver)], args...)...)
	cmd.Env = p.environment()
	cmd.Dir = p.dir
	cmd.Stdout, cmd.Stderr = stdout, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	begun := time.Now()
	exit, done := p.wait(ctx, cmd)
	note := func(exit int) {
		c := Call{Name: name, Exit: exit, Output: own.String(), Took: time.Since(begun)}
		if s := cmd.ProcessState; s != nil {
			c.CPU = s.UserTime() + s.SystemTime()
		}
		p.outcome.Calls = append(p.outcome.Calls, c)
	}
	if done != nil {
		p.beside = func() { <-done; note(cmd.ProcessState.ExitCode()) }
		return exit
	}
	note(exit)
	return exit
}

// wait returns the exit code of a call, or, of one that goes on, what is closed when it ends.
func (p *play) wait(ctx context.Context, cmd *exec.Cmd) (exit int, goesOn <-chan struct{}) {
	if err := cmd.Start(); err != nil {
		p.write([]byte(err.Error()))
		return -1, nil
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	select {
	case <-done:
		return cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, ErrKilled):
		return -1, nil
	case errors.Is(cause, ErrUnheard):
		return -1, done
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-done:
		return cmd.ProcessState.ExitCode(), nil
	case <-time.After(p.GracefulKill):
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	select {
	case <-done:
	case <-time.After(p.ForceKill):
	}
	return -1, nil
}

// environment is that of a call: Runner's own, what it says to every driver, what config's job_env said, the job's variables.
func (p *play) environment() []string {
	env := append(os.Environ(), p.Env...)
	env = append(env,
		"TMPDIR="+p.dir, "BUILD_FAILURE_EXIT_CODE=1", "SYSTEM_FAILURE_EXIT_CODE=2",
		"BUILD_EXIT_CODE_FILE="+p.exitCodeFile(), "JOB_RESPONSE_FILE="+p.response())
	for key, value := range p.jobEnv {
		env = append(env, key+"="+value)
	}
	for _, v := range p.job.Variables {
		env = append(env, "CUSTOM_ENV_"+v.Key+"="+v.Value)
	}
	if p.job.Image != "" {
		env = append(env, "CUSTOM_ENV_CI_JOB_IMAGE="+p.job.Image)
	}
	return append(env, "CUSTOM_ENV_CI_JOB_SERVICES=")
}

func (p *play) write(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log.Write(b)
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}
