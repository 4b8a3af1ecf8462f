package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"salsa.debian.org/cloud-team/debcloud/executor"
	"salsa.debian.org/cloud-team/debcloud/executor/admission"
	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// VMs makes and unmakes them: *executor.Driver.
type VMs interface {
	BootWarm(ctx context.Context, w executor.WarmSpec) (domain string, err error)
	Warm(ctx context.Context) ([]executor.WarmVM, error)
	Healthy(ctx context.Context, domain string) error
	Discard(ctx context.Context, domain string) error
}

// Driver connects anew for each call, so that the service outlives a restart of libvirtd.
type Driver struct{ *executor.Driver }

func with[T any](n Driver, call func(*executor.Driver) (T, error)) (T, error) {
	d := n.Anew()
	defer d.Close()
	return call(d)
}

// BootWarm is executor.Driver's.
func (n Driver) BootWarm(ctx context.Context, w executor.WarmSpec) (string, error) {
	return with(n, func(d *executor.Driver) (string, error) { return d.BootWarm(ctx, w) })
}

// Warm is executor.Driver's.
func (n Driver) Warm(ctx context.Context) ([]executor.WarmVM, error) {
	return with(n, func(d *executor.Driver) ([]executor.WarmVM, error) { return d.Warm(ctx) })
}

// Healthy is executor.Driver's.
func (n Driver) Healthy(ctx context.Context, domain string) error {
	_, err := with(n, func(d *executor.Driver) (any, error) { return nil, d.Healthy(ctx, domain) })
	return err
}

// Digest is executor.Driver's.
func (n Driver) Digest(ctx context.Context, image string) (string, error) {
	return with(n, func(d *executor.Driver) (string, error) { return d.Digest(ctx, image) })
}

// Discard is executor.Driver's.
func (n Driver) Discard(ctx context.Context, domain string) error {
	_, err := with(n, func(d *executor.Driver) (any, error) { return nil, d.Discard(ctx, domain) })
	return err
}

// Keeper keeps as many VMs ready as the settings say.
type Keeper struct {
	Settings *settings.Settings
	Ledger   *admission.Ledger
	Store    *Store
	VMs      VMs
	// Digest returns that of an image of the allow-list now, "" for a file.
	Digest func(ctx context.Context, image string) (string, error)
	Log    *slog.Logger
	// Now is the clock. Nil: time.Now.
	Now func() time.Time

	boots    sync.WaitGroup
	mu       sync.Mutex
	booting  *boot
	failures map[string]failure // by image
	ended    chan struct{}      // has one element when a boot has ended
}

// boot is the VM that is just being made: one at a time, to leave the host to the jobs.
type boot struct{ cancel context.CancelCauseFunc }

// failure makes the next boot of an image wait.
type failure struct {
	count int
	until time.Time
}

// Bounds of the wait after a failed boot.
const (
	firstPause  = 10 * time.Second
	longestWait = 10 * time.Minute
)

var errYields = errors.New("a job waits for this room")

// Run keeps the pool until ctx ends, and then takes the VMs that nobody claimed away. Only one Keeper runs for a state
// directory: another's presence is an error.
func (k *Keeper) Run(ctx context.Context) error {
	lock, err := k.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	k.failures, k.ended = make(map[string]failure), make(chan struct{}, 1)
	changes, stop := watch(filepath.Join(k.Store.dir, ready), filepath.Join(k.Settings.State, "admission"))
	defer stop()
	tick := time.NewTicker(k.Settings.WarmPool.Check)
	defer tick.Stop()
	checkAll := true
	for ctx.Err() == nil {
		if err := k.pass(ctx, checkAll); err != nil && ctx.Err() == nil {
			k.Log.ErrorContext(ctx, "the warm pool is not as it should be", "error", err)
		}
		checkAll = false
		select {
		case <-tick.C:
			checkAll = true
		case <-k.ended:
		case <-changes:
			settle(ctx, changes)
		case <-ctx.Done():
		}
	}
	k.boots.Wait()
	return k.empty(context.WithoutCancel(ctx))
}

// settle waits until a burst of changes is over: each admission replaces the ledger several times.
func settle(ctx context.Context, changes <-chan struct{}) {
	select {
	case <-time.After(100 * time.Millisecond):
	case <-ctx.Done():
	}
	select {
	case <-changes:
	default:
	}
}

func (k *Keeper) lock() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(k.Store.dir, keeperLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("warm pool: %w", err)
	}
	// Whoever only asks whether a Keeper lives has the lock for a moment.
	for range 50 {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			return f, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	_ = f.Close()
	return nil, fault.Outsidef("another executor pool keeps the VMs of %s: %w", k.Store.dir, err)
}

func (k *Keeper) now() time.Time {
	if k.Now != nil {
		return k.Now()
	}
	return time.Now()
}

// pass makes the pool what it should be, as far as that can be done at once. checkAll asks every VM's agent too.
func (k *Keeper) pass(ctx context.Context, checkAll bool) error {
	if err := k.tidy(ctx); err != nil {
		return err
	}
	waits, err := k.yield(ctx)
	if err != nil {
		return err
	}
	wanted, err := k.wanted(ctx)
	if err != nil {
		return err // what is not known to be unwanted stays
	}
	err = k.retire(ctx, wanted, checkAll)
	if waits {
		return err
	}
	return errors.Join(err, k.refill(ctx, wanted))
}

// tidy removes records without a domain, and domains that nobody knows of: what killed processes leave.
func (k *Keeper) tidy(ctx context.Context) error {
	// The order matters: a claimer moves the record first and changes the domain's metadata after that.
	abandoned := make(map[string]bool)
	for _, r := range k.Store.records(claimed) {
		if k.Store.abandoned(r.Name) {
			abandoned[r.Name] = true
		}
	}
	before := k.Store.records(ready)
	booting := k.isBooting()
	unclaimed, err := k.unclaimed(ctx)
	if err != nil {
		return err
	}
	for _, r := range before {
		if !unclaimed[r.Name] {
			k.drop(ctx, r.Name)
		}
	}
	known := make(map[string]bool)
	for _, r := range k.Store.records(claimed) {
		known[r.Name] = !abandoned[r.Name]
	}
	for _, r := range k.Store.records(ready) {
		known[r.Name] = true
	}
	var errs []error
	for name := range abandoned {
		if !unclaimed[name] { // it is its job's, or gone with it
			k.Store.forget(name)
		}
	}
	for name := range unclaimed {
		if !known[name] && !booting && !k.isBooting() { // else it may be that one
			k.Log.WarnContext(ctx, "removing a VM that somebody was killed with", "domain", name)
			errs = append(errs, k.remove(ctx, name))
		}
	}
	return errors.Join(errs...)
}

// unclaimed names the domains whose metadata say that they are nobody's.
func (k *Keeper) unclaimed(ctx context.Context) (map[string]bool, error) {
	all, err := k.VMs.Warm(ctx)
	found := make(map[string]bool)
	for _, v := range all {
		found[v.Domain] = true
	}
	return found, err
}

// drop forgets a ready VM that is gone, if nobody claimed it meanwhile.
func (k *Keeper) drop(ctx context.Context, name string) {
	if lock, err := k.Store.take(name); err == nil && lock != nil {
		k.Log.WarnContext(ctx, "a ready VM is gone", "domain", name)
		k.Store.forget(name)
		_ = lock.Close()
	}
}

func (k *Keeper) remove(ctx context.Context, name string) error {
	if err := k.VMs.Discard(ctx, name); err != nil {
		return fmt.Errorf("warm VM %s stays: %w", name, err)
	}
	k.Store.forget(name)
	return nil
}

// wanted says how many of which kind there should be. It is an error where an image cannot be found.
func (k *Keeper) wanted(ctx context.Context) (map[Kind]int, error) {
	wanted := make(map[Kind]int)
	for _, w := range k.Settings.WarmPool.VMs {
		digest, err := k.Digest(ctx, w.Image)
		if err != nil {
			return nil, err
		}
		machine, err := k.Settings.MachineFor("", w.Image, settings.Machine{})
		if err != nil {
			return nil, err
		}
		wanted[Kind{Image: w.Image, Digest: digest, Class: w.Refs, Machine: machine}] += w.Count
	}
	return wanted, nil
}

// retire removes ready VMs that are too many, too old, of an image that has changed, or not well.
func (k *Keeper) retire(ctx context.Context, wanted map[Kind]int, checkAll bool) error {
	have := make(map[Kind]int)
	var errs []error
	for _, r := range k.Store.records(ready) {
		why := ""
		switch {
		case have[r.Kind] >= wanted[r.Kind]:
			why = "it is not wanted any more"
		case k.now().Sub(r.Booted) > k.Settings.WarmPool.MaxAge:
			why = "it is too old"
		case checkAll:
			if err := k.check(ctx, r.Name); err != nil {
				why = "it is not well: " + err.Error()
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if why == "" {
			have[r.Kind]++
			continue
		}
		_, err := k.takeAway(ctx, r, why)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (k *Keeper) check(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, k.Settings.Agent.Connect)
	defer cancel()
	return k.VMs.Healthy(ctx, name)
}

// takeAway removes a ready VM; false where a job was faster.
func (k *Keeper) takeAway(ctx context.Context, r Record, why string) (bool, error) {
	lock, err := k.Store.take(r.Name)
	if err != nil || lock == nil {
		return false, err
	}
	defer lock.Close()
	k.Log.InfoContext(ctx, "a ready VM goes", "domain", r.Name, "image", r.Image, "why", why)
	return true, k.remove(ctx, r.Name)
}

// yield makes room for the job that waits longest: a VM that is being booted goes first, then ready ones, oldest first,
// as long as that helps. It reports whether anybody waits.
func (k *Keeper) yield(ctx context.Context) (bool, error) {
	for {
		s, err := k.Ledger.Snapshot(ctx)
		if err != nil {
			return false, err
		}
		if len(s.Waiting) == 0 {
			return false, nil
		}
		if k.cancelBoot(errYields) {
			k.boots.Wait()
			continue
		}
		records := k.Store.records(ready)
		if len(records) == 0 || s.Lacks == "" {
			return true, nil
		}
		if _, err := k.takeAway(ctx, records[0], errYields.Error()); err != nil {
			return true, err
		}
	}
}

// refill begins to boot one VM that is missing.
func (k *Keeper) refill(ctx context.Context, wanted map[Kind]int) error {
	if k.isBooting() || ctx.Err() != nil {
		return nil
	}
	have := make(map[Kind]int)
	for _, r := range k.Store.records(ready) {
		have[r.Kind]++
	}
	for kind, count := range wanted {
		if have[kind] < count && !k.now().Before(k.failureOf(kind.Image).until) {
			k.begin(ctx, kind)
			return nil
		}
	}
	return nil
}

// begin boots a VM beside.
func (k *Keeper) begin(ctx context.Context, kind Kind) {
	ctx, cancel := context.WithCancelCause(ctx)
	k.mu.Lock()
	k.booting = &boot{cancel}
	k.mu.Unlock()
	k.boots.Go(func() {
		defer cancel(nil)
		booted, err := k.boot(ctx, kind)
		k.finish(ctx, kind, booted, err)
	})
}

// boot returns false where the host has no room for a VM that nobody has asked for.
func (k *Keeper) boot(ctx context.Context, kind Kind) (bool, error) {
	begun := k.now()
	name, err := k.VMs.BootWarm(ctx, executor.WarmSpec{Image: kind.Image, Class: kind.Class, Deadline: begun.Add(k.Settings.WarmPool.MaxAge + time.Hour)})
	if err != nil || name == "" {
		return false, err
	}
	if err := context.Cause(ctx); err != nil {
		return false, errors.Join(err, k.VMs.Discard(context.WithoutCancel(ctx), name))
	}
	k.Log.InfoContext(ctx, "a VM stands ready", "domain", name, "image", kind.Image, "class", kind.Class, "seconds", k.now().Sub(begun).Seconds())
	return true, k.Store.put(Record{Name: name, Kind: kind, Booted: k.now()})
}

// finish notes how a boot ended.
func (k *Keeper) finish(ctx context.Context, kind Kind, booted bool, err error) {
	cause := context.Cause(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.booting = nil
	switch {
	case err == nil:
		delete(k.failures, kind.Image)
	case cause == nil: // nobody asked for its end
		f := k.failures[kind.Image]
		f.until = k.now().Add(min(firstPause<<min(f.count, 10), longestWait))
		f.count++
		k.failures[kind.Image] = f
		k.Log.ErrorContext(ctx, "a VM for the warm pool does not boot", "image", kind.Image, "next", f.until, "error", err)
	}
	if !booted && err == nil {
		return // until the ledger changes
	}
	select {
	case k.ended <- struct{}{}:
	default:
	}
}

func (k *Keeper) failureOf(image string) failure {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.failures[image]
}

// isBooting tells whether a VM is being made.
func (k *Keeper) isBooting() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.booting != nil
}

func (k *Keeper) cancelBoot(cause error) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.booting == nil {
		return false
	}
	k.booting.cancel(cause)
	return true
}

// empty takes the ready VMs away when the service ends: without a Keeper nobody makes them yield.
func (k *Keeper) empty(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var errs []error
	for _, r := range k.Store.records(ready) {
		_, err := k.takeAway(ctx, r, "the pool is closed")
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// watch sends when something in the directories changed. Where the kernel watches no more files for us, the Keeper sees
// it at its next check.
func watch(dirs ...string) (<-chan struct{}, func()) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, func() {}
	}
	for _, d := range dirs {
		_ = w.Add(d)
	}
	c := make(chan struct{}, 1)
	go func() {
		for range w.Events {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}()
	go func() {
		for range w.Errors { // a lost event is made up for by the next check
		}
	}()
	return c, func() { _ = w.Close() }
}
