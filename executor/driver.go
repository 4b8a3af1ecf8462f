// Package executor is a driver for GitLab Runner's custom executor: one throwaway libvirt VM a job.
//
// Runner calls config, prepare, run once a stage, and cleanup, each a process of its own: what one has to know of another
// stands in the metadata of the job's domain. A timer calls reap, which removes what killed processes have left.
package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/admission"
	"salsa.debian.org/cloud-team/debcloud/executor/metrics"
	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/vm"
)

// Driver is one call of the driver, and what the calls of operators share with it.
type Driver struct {
	Settings *settings.Settings
	// Environment is Runner's. The zero value where an operator calls.
	Environment Environment
	// Stdout and Stderr are the job's log.
	Stdout, Stderr io.Writer
	// Log is the host's: details go there, and never into the job's log.
	Log *slog.Logger
	// Version of this program.
	Version string

	// Tools makes the tools disk of the host's programs, if there is none yet, and returns its path. Nil: the image has
	// its own agent and gitlab-runner.
	Tools func(ctx context.Context) (path string, err error)
	// PruneTools removes the tools disks of other versions that are no VM's, and returns their paths; inUse lists all VMs' disks.
	// Nil: nobody does.
	PruneTools func(ctx context.Context, inUse func(context.Context) ([]string, error)) ([]string, error)
	// Imported returns the image that was imported into the pool under a name, or that with the digest.
	Imported func(ctx context.Context, pool, name, digest string) (Base, error)
	// WriteSeed writes a disk that makes a plain image start the agent.
	WriteSeed func(path, hostname string) error
	// Claim takes a booted VM from the warm pool. Nil: there is none.
	Claim func(ctx context.Context, want Want) (domain string, ok bool, err error)
	// Withdraw calls remove for a VM of the warm pool, in whose time no job can claim it, and does not where a job has it. What
	// remove says is gone has left the pool. Nil: there is no pool.
	Withdraw func(domain string, remove func() (gone bool, err error)) error
	// Kept tells whether a service looks after the warm pool. Nil: none does.
	Kept func() bool
	// Metrics count what happens. Nil: nobody does.
	Metrics *metrics.Recorder

	node *vm.Node
	held []func() // end holds of files, until letGo
}

// Base is a disk image: the backing file of overlays.
type Base struct {
	Path, Format, Digest string
}

// Want is what a VM of the warm pool has to be like.
type Want struct {
	Image   string // name in the settings
	Class   string // whose network it is plugged into
	Machine settings.Machine
	Testbed bool
	Digest  string // of the disk image; "" for a file
	For     string // whose it will be, in words
}

// connect opens the libvirt of the settings once.
func (d *Driver) connect(ctx context.Context) error {
	if d.node != nil {
		return nil
	}
	s := d.Settings
	node, err := vm.Connect(ctx, vm.NodeOptions{
		URI: s.Libvirt.URI, Pool: s.Pool.Name, PoolDir: s.Pool.Path, RunDir: s.Run, LogDir: s.Console.Dir,
		Namespace: Namespace, Emulated: s.Libvirt.Accelerator == "tcg",
	})
	d.node = node
	return err
}

// Close ends the connection to libvirt.
func (d *Driver) Close() {
	d.letGo()
	if d.node != nil {
		d.node.Close()
		d.node = nil
	}
}

func (d *Driver) notes() notes { return notes{filepath.Join(d.Settings.State, "attempts")} }

func (d *Driver) ledger() (*admission.Ledger, error) { return admission.Open(d.Settings) }

// say writes one line into the job's log.
func (d *Driver) say(format string, args ...any) {
	fmt.Fprintf(d.Stderr, "debcloud: "+format+"\n", args...)
}

// machine is one of the executor's domains with what its metadata say.
type machine struct {
	vm.Lasting
	Mark
}

// machines lists the executor's domains. One whose metadata cannot be read is listed as nobody's: it is ours by its namespace.
func (d *Driver) machines(ctx context.Context) ([]machine, error) {
	all, err := d.node.List(ctx)
	if err != nil {
		return nil, err
	}
	var found []machine
	for _, l := range all {
		found = append(found, d.read(ctx, l))
	}
	return found, nil
}

func (d *Driver) read(ctx context.Context, l vm.Lasting) machine {
	m, err := parseMark(l.Metadata)
	if err != nil {
		d.Log.WarnContext(ctx, "metadata of a virtual machine cannot be read", "domain", l.Name, "error", err)
		m = Mark{} // half of them would lead to wrong ends
	}
	return machine{l, m}
}

// own is the VM of this attempt.
func (d *Driver) own(ctx context.Context) (machine, error) {
	if err := d.connect(ctx); err != nil {
		return machine{}, err
	}
	all, err := d.machines(ctx)
	if err != nil {
		return machine{}, err
	}
	for _, m := range all {
		if m.For == forJob && m.Attempt == d.Environment.TempDir {
			return m, nil
		}
	}
	return machine{}, fault.Outsidef("the virtual machine of this job is gone")
}

// remove takes a VM away with everything that belongs to it, its siblings first, and gives its share of the host back.
func (d *Driver) remove(ctx context.Context, name string) error {
	ctx = context.WithoutCancel(ctx)
	if err := d.node.Remove(ctx, name); err != nil {
		return err
	}
	return d.release(ctx, name)
}

// release gives a VM's share of the host back.
func (d *Driver) release(ctx context.Context, name string) error {
	l, err := d.ledger()
	if err != nil {
		return err
	}
	return l.Release(context.WithoutCancel(ctx), name)
}

// whileRunnerLives ends the context when the Runner that called is gone: a killed Runner does not tell its drivers.
func (d *Driver) whileRunnerLives(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	caller := runner()
	go func() {
		for caller.Runs() {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
		}
		cancel(errRunnerGone)
	}()
	return ctx, func() { cancel(nil) }
}

var errRunnerGone = errors.New("gitlab-runner is gone")

// ScriptFailure says that a job's script itself ended other than with success.
type ScriptFailure struct{ Code int }

func (e *ScriptFailure) Error() string {
	return fmt.Sprintf("the script ended with exit code %d", e.Code)
}

// refusal is an error of prepare that stays however often it is tried: the job asks for what it cannot have.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

// ExitCode is what tells Runner how a call ended: whose fault it was and whether it may try again.
func (e Environment) ExitCode(err error) int {
	if err == nil {
		return 0
	}
	_, script := errors.AsType[*ScriptFailure](err)
	_, final := errors.AsType[refusal](err)
	if script || final {
		return orElse(e.BuildFailure, 1)
	}
	return orElse(e.SystemFailure, 2)
}

func orElse[T comparable](value, otherwise T) T {
	var none T
	if value == none {
		return otherwise
	}
	return value
}
