// Package pool keeps VMs that stand ready, booted and with their agent awake, so that a job need not wait for a boot.
//
// Each ready VM has a record, a file in the state directory. Whoever moves the record out of the directory "ready" has
// the VM: a job that claims it, or the Keeper that takes it away. So nobody gets a VM that another got, whichever process
// is killed when. What a killed process leaves between two steps, the Keeper finds by the domains' own metadata.
package pool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/admission"
	"salsa.debian.org/cloud-team/debcloud/executor/settings"
)

// Kind is what makes two VMs interchangeable.
type Kind struct {
	Image string `json:"image"` // name in the allow-list
	// Digest is that of the disk image, "" for a file.
	Digest string `json:"digest,omitempty"`
	// Class is the ref class whose network it is plugged into.
	Class   string           `json:"class"`
	Machine settings.Machine `json:"machine"`
}

// Record is one ready VM.
type Record struct {
	// Name is the domain's.
	Name string `json:"name"`
	Kind
	Booted time.Time `json:"booted"`
}

// Claimer is a job that would rather not boot.
type Claimer struct {
	Kind
	// More is what it needs beside the VM itself: the share of its test bed.
	More settings.Resources
	// For says in words whose the VM is from now on.
	For string
}

// Store is the directory of records.
type Store struct{ dir string }

// Open uses the settings' state directory.
func Open(s *settings.Settings) (*Store, error) {
	p := &Store{filepath.Join(s.State, "pool")}
	for _, sub := range []string{ready, claimed} {
		if err := os.MkdirAll(filepath.Join(p.dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("warm pool: %w", err)
		}
	}
	return p, nil
}

// The places of a record.
const (
	ready   = "ready"
	claimed = "claimed"
)

func (p *Store) path(place, name string) string {
	return filepath.Join(p.dir, place, name+".json")
}

// Claim takes a VM of that kind out of the pool, and makes its share of the host the job's. It returns false where none
// stands ready. The claim holds as long as this process lives or until the domain's metadata say whose it is.
func (p *Store) Claim(ctx context.Context, l *admission.Ledger, c Claimer) (name string, ok bool, err error) {
	for _, r := range p.records(ready) {
		if r.Kind != c.Kind {
			continue
		}
		lock, err := p.take(r.Name)
		if err != nil {
			return "", false, err
		}
		if lock == nil {
			continue // another was faster
		}
		if err := l.Rename(ctx, r.Name, c.request(r)); err != nil {
			return "", false, errors.Join(err, p.putBack(r.Name, lock))
		}
		keepOpen(lock)
		return r.Name, true, nil
	}
	return "", false, nil
}

func (c Claimer) request(r Record) admission.Request {
	need := need(r.Machine)
	need.VMs, need.CPUs = need.VMs+c.More.VMs, need.CPUs+c.More.CPUs
	need.Memory, need.Disk = need.Memory+c.More.Memory, need.Disk+c.More.Disk
	return admission.Request{ID: r.Name, Class: admission.Job, Need: need, Bed: c.More, For: c.For}
}

func need(m settings.Machine) settings.Resources {
	return settings.Resources{VMs: 1, CPUs: m.CPUs, Memory: m.Memory, Disk: m.Disk}
}

// take moves a ready record to the claimed ones and locks it: the lock tells the Keeper that the claimer lives. It
// returns nil where another did.
//
// It locks before it moves, so a claimed record whose lock is free has nobody behind it.
func (p *Store) take(name string) (*os.File, error) {
	f, err := os.OpenFile(p.path(ready, name), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("warm pool: %w", err)
	}
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		_ = f.Close()
		return nil, nil
	}
	err = os.Rename(p.path(ready, name), p.path(claimed, name))
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return nil, fmt.Errorf("warm pool: %w", err)
}

func (p *Store) putBack(name string, lock *os.File) error {
	err := os.Rename(p.path(claimed, name), p.path(ready, name))
	return errors.Join(err, lock.Close())
}

// Withdraw calls remove for a VM that nobody shall claim meanwhile: one that stands ready, one whose claimer died, or one without
// a record. It does not call it where a claimer lives. The VM stands ready again if it did and remove says that it is not gone.
func (p *Store) Withdraw(name string, remove func() (gone bool, err error)) error {
	lock, err := p.take(name)
	if err != nil {
		return err
	}
	wasReady := lock != nil
	if !wasReady {
		if lock = p.orphan(name); lock == nil && p.has(name) {
			return nil
		}
	}
	if lock != nil {
		defer lock.Close()
	}
	gone, err := remove()
	switch {
	case gone:
		p.forget(name)
	case wasReady && err == nil:
		return p.putBack(name, lock)
	}
	return err
}

// orphan locks a claimed record whose claimer is dead or done; nil where there is none.
func (p *Store) orphan(name string) *os.File {
	f, err := os.OpenFile(p.path(claimed, name), os.O_RDWR, 0)
	if err != nil {
		return nil
	}
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		_ = f.Close()
		return nil
	}
	return f
}

// has tells whether there is a record, also of one that moves there or back at this moment.
func (p *Store) has(name string) bool {
	for _, place := range []string{ready, claimed, ready} {
		if _, err := os.Lstat(p.path(place, name)); err == nil {
			return true
		}
	}
	return false
}

// held keeps claims locked until the process ends: a file that nobody refers to is closed by the garbage collector.
var held []*os.File

func keepOpen(f *os.File) { held = append(held, f) }

// put makes a VM claimable.
func (p *Store) put(r Record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	temporary := filepath.Join(p.dir, r.Name+".new")
	if err := os.WriteFile(temporary, text, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, p.path(ready, r.Name))
}

// records returns what stands in a place, oldest first. A record that vanishes meanwhile, or is broken, is left out.
func (p *Store) records(place string) []Record {
	found, _ := os.ReadDir(filepath.Join(p.dir, place))
	var all []Record
	for _, f := range found {
		var r Record
		text, err := os.ReadFile(filepath.Join(p.dir, place, f.Name()))
		if err == nil && json.Unmarshal(text, &r) == nil && r.Name+".json" == f.Name() {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b Record) int {
		if c := a.Booted.Compare(b.Booted); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all
}

// abandoned tells that a claimed record's claimer is dead or done.
func (p *Store) abandoned(name string) bool {
	f := p.orphan(name)
	if f == nil {
		return false
	}
	_ = f.Close()
	return true
}

// forget removes a claimed record.
func (p *Store) forget(name string) { _ = os.Remove(p.path(claimed, name)) }

// Kept tells whether a Keeper lives. Without one nobody looks after ready VMs.
func (p *Store) Kept() bool {
	f, err := os.OpenFile(filepath.Join(p.dir, keeperLock), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) != nil
}

const keeperLock = "keeper.lock"
