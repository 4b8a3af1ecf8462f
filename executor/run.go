package executor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/metrics"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/guest"
	"salsa.debian.org/cloud-team/debcloud/internal/vm"
)

// Run executes a script of Runner's in the job's VM. A script that ended by itself, other than with success, is a
// *ScriptFailure; every other error is the system's. When ctx ends, the script's processes are ended and the VM stays: Runner
// runs further stages in it after a graceful cancel.
func (d *Driver) Run(ctx context.Context, script, stage string) error {
	err := d.run(ctx, script, stage)
	d.note(resultOf(ctx, err))
	return err
}

func (d *Driver) run(ctx context.Context, script, stage string) error {
	ctx, stop := d.whileRunnerLives(ctx)
	defer stop()
	f, err := os.Open(script)
	if err != nil {
		return fault.Outsidef("stage %s has no script: %w", stage, err)
	}
	defer f.Close()
	m, err := d.own(ctx)
	if err != nil {
		return err
	}
	s, err := d.agent(ctx, m.Lasting.Name, m.Secret, d.connectLimit())
	if err != nil {
		return err
	}
	defer s.Close()
	return d.execute(ctx, s, m, f, stage)
}

func (d *Driver) connectLimit() time.Duration { return d.Settings.Agent.Connect }

// grace is between SIGTERM and SIGKILL for a script. Runner's own patience is minutes.
const grace = 10 * time.Second

func (d *Driver) execute(ctx context.Context, s *guest.SSH, m machine, script io.Reader, stage string) error {
	name := m.Lasting.Name
	alive, stop := d.watchPulse(ctx, s, name)
	defer stop()
	var env []string
	if m.Testbed {
		away, err := d.offerTestbed(ctx, s, m)
		if err != nil {
			return d.diagnose(ctx, name, err)
		}
		defer away()
		env = append(env, vm.TestbedVariable+"="+guestSocket)
	}
	stdout, stderr, heard := d.listen(stage)
	begun := time.Now()
	err := s.Exec(alive, guest.Command{
		Args: []string{"bash"}, Stdin: script, Grace: grace, Env: env,
		Stdout: stdout, Stderr: stderr,
	})
	d.Log.DebugContext(ctx, "a stage has ended", "domain", name, "job", m.Job, "stage", stage, "seconds", time.Since(begun).Seconds(), "error", err)
	exit, own := errors.AsType[*guest.ExitError](err)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case (err == nil || own) && heard():
		return fault.WithHint(fault.Outsidef("the VM image is broken: stage %s did not find gitlab-runner in it", stage), "a job that removes it from the PATH breaks its own machine")
	case err == nil:
		return nil
	case own:
		return d.scriptFailed(exit.Code)
	default:
		return d.diagnose(ctx, name, fmt.Errorf("stage %s was cut off: %w", stage, err))
	}
}

// scriptFailed hands the exit code to Runner.
func (d *Driver) scriptFailed(code int) error {
	if path := d.Environment.ExitCodeFile; path != "" {
		if err := os.WriteFile(path, fmt.Appendf(nil, "%d\n", code), 0o600); err != nil {
			return fault.Outsidef("the script ended with exit code %d, which Runner cannot be told: %w", code, err)
		}
	}
	return &ScriptFailure{Code: code}
}

// note keeps the worst result of the attempt's calls for the metrics.
func (d *Driver) note(result metrics.Result) {
	if a, ok := d.notes().read(d.Environment.TempDir); ok && worse(a.Result, result) != a.Result {
		a.Result = worse(a.Result, result)
		if err := d.notes().write(a); err != nil {
			d.Log.Warn("the result of a call cannot be noted", "error", err)
		}
	}
}

const (
	pulseEvery = 15 * time.Second
	pulseWait  = 20 * time.Second
	// pulseLimit is long, because a guest that is busy may be slow: a full disk or a fork bomb is not the end of a VM yet.
	pulseLimit = 2 * time.Minute
)

// watchPulse ends the context when the agent does not answer any more: a virtio-serial port does not end when the guest
// has closed it. Where QEMU knows that it has, that is the end; else the agent gets pulseLimit.
func (d *Driver) watchPulse(ctx context.Context, s *guest.SSH, name string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		heard := time.Now()
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pulseEvery):
			}
			limited, stop := context.WithTimeout(ctx, pulseWait)
			err := s.Ping(limited)
			stop()
			if err == nil {
				heard = time.Now()
				continue
			}
			on, lookErr := d.node.ChannelConnected(ctx, name, guest.AgentPort)
			if closed := lookErr == nil && !on; (closed || time.Since(heard) > pulseLimit) && ctx.Err() == nil {
				cancel(fmt.Errorf("the agent has not answered for %v: %w", time.Since(heard).Round(time.Second), err))
				_ = s.Close()
				return
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

// listen returns the outputs of a stage, each with an ear of its own: both are written at once. heard is for their end.
func (d *Driver) listen(stage string) (stdout, stderr io.Writer, heard func() bool) {
	out, errs := &ear{stage: stage}, &ear{stage: stage}
	return io.MultiWriter(d.Stdout, out), io.MultiWriter(d.Stderr, errs), func() bool { return out.heard || errs.heard }
}

// ear listens for what Runner's scripts say instead of failing when there is no gitlab-runner in the guest. It does not
// listen to what the job's author wrote.
type ear struct {
	stage string
	last  []byte
	heard bool
}

var missingRunner = []byte("Missing gitlab-runner.")

func (e *ear) Write(p []byte) (int, error) {
	if e.heard || authored(e.stage) {
		return len(p), nil
	}
	text := append(e.last, p...)
	e.heard = bytes.Contains(text, missingRunner)
	e.last = bytes.Clone(text[max(0, len(text)-len(missingRunner)):])
	return len(p), nil
}

// authored tells the stages whose script is the job's own.
func authored(stage string) bool {
	return slices.Contains([]string{"build_script", "after_script"}, stage) || strings.HasPrefix(stage, "step_")
}
