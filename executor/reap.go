package executor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/admission"
	"salsa.debian.org/cloud-team/debcloud/executor/metrics"
	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/nocloud"
	"salsa.debian.org/cloud-team/debcloud/internal/vm"
)

// Reaped says what Reap found.
type Reaped struct {
	// Removed and Adopted are names of domains, Strays such whose domain was gone already.
	Removed []string `json:"removed"`
	Adopted []string `json:"adopted"`
	Strays  []string `json:"strays"`
	// Attempts are directories of Runners that were killed.
	Attempts []string `json:"attempts"`
	// Entries are shares of the host's budget that nobody held any more.
	Entries []string `json:"entries"`
	// Files are tools disks that nobody uses any more, and what killed processes left half written.
	Files []string `json:"files"`
}

// Reap removes what belongs to attempts that are over: domains by their metadata, files without a domain, notes and
// directories of Runners that were killed, shares of the budget, tools disks of versions that are gone. A job that still runs keeps everything, and its domain gets
// its share back where the ledger has lost it. What is not the executor's is not touched.
func (d *Driver) Reap(ctx context.Context) (Reaped, error) {
	var r Reaped
	if err := d.connect(ctx); err != nil {
		return r, err
	}
	all, err := d.machines(ctx)
	if err != nil {
		return r, err
	}
	var errs []error
	living := make(map[string]machine)
	kept := d.kept()
	for _, m := range all {
		if over(m, all, kept) == "" {
			living[m.Lasting.Name] = m
			continue
		}
		gone, err := d.reapMachine(ctx, m)
		errs = append(errs, err)
		if gone {
			r.Removed = append(r.Removed, m.Lasting.Name)
		}
	}
	errs = append(errs, d.reapStrays(ctx, &r), d.reapAttempts(ctx, &r), d.reapLedger(ctx, &r, living), d.reapPool(ctx, &r), d.node.SweepConsoles(d.Settings.Console.Keep))
	d.countReaped(ctx, r)
	return r, errors.Join(errs...)
}

// reapMachine removes a VM that was over when the VMs were listed, if it still is: each removal takes its time, and meanwhile a
// job may have claimed this one.
func (d *Driver) reapMachine(ctx context.Context, m machine) (gone bool, err error) {
	remove := func() (bool, error) {
		now, why, err := d.lookAgain(ctx, m.Lasting.Name)
		if err != nil || why == "" {
			return false, err
		}
		d.Log.InfoContext(ctx, "reaping a virtual machine", "domain", m.Lasting.Name, "job", now.Job, "why", why)
		err = d.remove(ctx, m.Lasting.Name)
		gone = err == nil
		return gone, err
	}
	if m.For == forPool && d.Withdraw != nil {
		err = d.Withdraw(m.Lasting.Name, remove)
		return gone, err
	}
	return remove()
}

// lookAgain says what a domain is now and why it is over, "" where it is not or is gone.
func (d *Driver) lookAgain(ctx context.Context, name string) (machine, string, error) {
	l, known, err := d.node.Look(ctx, name)
	if err != nil || !known {
		return machine{}, "", err
	}
	m := d.read(ctx, l)
	var others []machine
	if m.For == forTestbed {
		job, known, err := d.node.Look(ctx, m.Of)
		if err != nil {
			return m, "", err
		}
		if known {
			others = append(others, machine{Lasting: job})
		}
	}
	return m, over(m, others, d.kept()), nil
}

func (d *Driver) kept() bool { return d.Kept != nil && d.Kept() }

func (d *Driver) countReaped(ctx context.Context, r Reaped) {
	if d.Metrics == nil {
		return
	}
	for kind, names := range map[metrics.Kind][]string{
		metrics.Domain: r.Removed, metrics.Volume: r.Strays, metrics.Directory: r.Attempts, metrics.Entry: r.Entries,
	} {
		if len(names) > 0 {
			d.Metrics.Reaped(ctx, kind, len(names))
		}
	}
}

// over says why a domain's time is over, "" where it is not. kept: a service looks after the warm pool, also after what another one
// that was killed has booted for it.
func over(m machine, all []machine, kept bool) string {
	switch {
	case m.For == "":
		return "" // metadata that cannot be read: somebody has to look
	case !m.Deadline.IsZero() && time.Now().After(m.Deadline):
		return "its deadline has passed"
	case m.For == forPool && (kept || m.Runner.Runs()):
		return "" // the pool's, until its deadline
	case m.For == forPool:
		return "the service that kept it ready is gone" // and nobody makes it yield
	case m.For == forTestbed && !exists(all, m.Of):
		return "its job's virtual machine is gone"
	case !m.Runner.Runs():
		return "its Runner is gone"
	case attempt{Dir: m.Attempt, Runner: m.Runner}.over():
		return "Runner has ended the attempt"
	default:
		return ""
	}
}

func exists(all []machine, name string) bool {
	for _, m := range all {
		if m.Lasting.Name == name {
			return true
		}
	}
	return false
}

func (d *Driver) reapStrays(ctx context.Context, r *Reaped) error {
	strays, err := d.node.Strays(ctx, namePrefix)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range strays {
		d.Log.InfoContext(ctx, "reaping files without a virtual machine", "domain", name)
		errs = append(errs, d.remove(ctx, name))
		r.Strays = append(r.Strays, name)
	}
	return errors.Join(errs...)
}

// reapAttempts removes notes of attempts that are over, and the directories that their killed Runners could not remove:
// they hold the jobs' tokens.
func (d *Driver) reapAttempts(ctx context.Context, r *Reaped) error {
	var errs []error
	for _, a := range d.notes().all() {
		if !a.over() {
			continue
		}
		d.Log.InfoContext(ctx, "reaping an attempt whose Runner is gone", "job", a.Job, "directory", a.Dir)
		if err := errors.Join(removeAttemptDir(a.Dir), d.notes().remove(a.Dir)); err != nil {
			errs = append(errs, err)
			continue
		}
		r.Attempts = append(r.Attempts, a.Dir)
	}
	return errors.Join(errs...)
}

// reapPool removes files of the storage pool that no domain's name leads to.
func (d *Driver) reapPool(ctx context.Context, r *Reaped) error {
	pool, err := d.node.Pool(ctx)
	if err != nil {
		return err
	}
	seeds, err := nocloud.Sweep(pool)
	var disks []string
	if d.PruneTools != nil {
		var err2 error
		disks, err2 = d.PruneTools(ctx, d.node.Disks)
		err = errors.Join(err, err2)
	}
	for _, path := range append(seeds, disks...) {
		d.Log.InfoContext(ctx, "reaping a file that nobody uses", "path", path)
		r.Files = append(r.Files, path)
	}
	return err
}

// reapLedger holds the budget's ledger against the domains that there are. It gives back last: a cleanup beside it may end a VM
// between the look at it and its entry.
func (d *Driver) reapLedger(ctx context.Context, r *Reaped, living map[string]machine) error {
	l, err := d.ledger()
	if err != nil {
		return err
	}
	before, err := l.Snapshot(ctx)
	if err != nil {
		return err
	}
	known := make(map[string]bool)
	for _, e := range before.Entries {
		known[e.ID] = true
	}
	var errs []error
	for name, m := range living {
		if m.For == forTestbed || known[name] {
			continue // a sibling's is part of its job's share
		}
		adopted, err := d.adopt(ctx, l, name)
		errs = append(errs, err)
		if adopted {
			r.Adopted = append(r.Adopted, name)
		}
	}
	gone, err := l.Reclaim(ctx, d.existing)
	for _, e := range gone {
		r.Entries = append(r.Entries, e.ID)
	}
	return errors.Join(append(errs, err)...)
}

// adopt enters a VM whose share the ledger has lost, if it is still there.
func (d *Driver) adopt(ctx context.Context, l *admission.Ledger, name string) (bool, error) {
	now, known, err := d.node.Look(ctx, name)
	if err != nil || !known {
		return false, err
	}
	m := d.read(ctx, now)
	d.Log.InfoContext(ctx, "adopting a virtual machine", "domain", name, "job", m.Job)
	err = l.Adopt(ctx, m.request(d.Settings))
	return err == nil, err
}

func (d *Driver) existing(ctx context.Context) (map[string]bool, error) {
	all, err := d.node.List(ctx)
	if err != nil {
		return nil, err
	}
	found := make(map[string]bool)
	for _, l := range all {
		found[l.Name] = true
	}
	return found, nil
}

// request is what a domain holds of the host.
func (m machine) request(s *settings.Settings) admission.Request {
	var bed settings.Resources
	need := settings.Resources{VMs: 1, CPUs: m.CPUs, Memory: settings.Size(m.MemoryMiB) << 20, Disk: settings.Size(m.DiskBytes)}
	class := admission.Job
	if m.For == forPool {
		class = admission.Warm
	}
	if m.Testbed {
		bed = s.Testbed.Budget
		need.VMs, need.CPUs, need.Memory, need.Disk = need.VMs+bed.VMs, need.CPUs+bed.CPUs, need.Memory+bed.Memory, need.Disk+bed.Disk
	}
	return admission.Request{ID: m.Lasting.Name, Class: class, Need: need, Bed: bed, For: m.whose()}
}

func (m machine) whose() string {
	if m.For == forPool {
		return "the warm pool"
	}
	return fmt.Sprintf("job %d of %s", m.Job, m.Project)
}

// running tells that QEMU runs.
func (m machine) running() bool { return m.State == vm.Running }
