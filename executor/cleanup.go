package executor

import (
	"context"
	"errors"
)

// Cleanup removes what belongs to this attempt, however far it came. It may be called twice, and beside a stage that
// still runs: that loses its VM.
func (d *Driver) Cleanup(ctx context.Context) error {
	if err := d.connect(ctx); err != nil {
		return err
	}
	err := d.removeAttempt(ctx, d.Environment.TempDir)
	if a, ok := d.notes().read(d.Environment.TempDir); ok {
		return d.finish(ctx, a, err)
	}
	return err
}

// finish counts how an attempt ended, and ends its note, unless something of it could not be removed.
func (d *Driver) finish(ctx context.Context, a attempt, failed error) error {
	if a.Result != "" && d.Metrics != nil {
		d.Metrics.JobFinished(ctx, a.Result)
	}
	if failed != nil {
		a.Result = "" // it is counted
		return errors.Join(failed, d.notes().write(a))
	}
	// Runner removes its directory after this call. Should it be killed before, nobody would know of it any more, and it
	// holds the job's token.
	return errors.Join(removeAttemptDir(a.Dir), d.notes().remove(a.Dir))
}

// removeAttempt removes the domains of an attempt, siblings first, and what it holds of the host's budget.
func (d *Driver) removeAttempt(ctx context.Context, dir string) error {
	all, err := d.machines(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, what := range []string{forTestbed, forJob} {
		for _, m := range all {
			if m.For != what || m.Attempt != dir {
				continue
			}
			d.Log.InfoContext(ctx, "removing a job's virtual machine", "domain", m.Lasting.Name, "job", m.Job, "for", m.For)
			errs = append(errs, d.remove(ctx, m.Lasting.Name))
		}
	}
	// A prepare that was killed before its domain was defined holds a share all the same.
	if a, ok := d.notes().read(dir); ok && errors.Join(errs...) == nil {
		errs = append(errs, d.remove(ctx, a.domainName()))
	}
	return errors.Join(errs...)
}
