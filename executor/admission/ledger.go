package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/atomicfile"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Ledger is the host's book of who has how much. It holds no lock and no open file between calls, so it needs no Close.
type Ledger struct {
	dir     string
	budget  settings.Resources
	options Options
}

// Open uses the ledger in the settings' state directory, which it creates, with the budget that the settings and this
// host give.
func Open(s *settings.Settings) (*Ledger, error) {
	host, err := Measure(s.Pool.Path)
	if err != nil {
		return nil, err
	}
	return New(filepath.Join(s.State, "admission"), BudgetOf(s.Budget, host), Options{Spare: spareOf(s), OnDisk: onDisk(s)})
}

// New is Open with a directory and budget of the caller's.
func New(dir string, budget settings.Resources, o Options) (*Ledger, error) {
	if o.Tell == 0 {
		o.Tell = time.Minute
	}
	if o.Poll == 0 {
		o.Poll = 5 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	l := &Ledger{dir: dir, budget: budget, options: o}
	if err := os.MkdirAll(filepath.Join(dir, ticketDir), 0o700); err != nil {
		return nil, fmt.Errorf("ledger of the executor: %w", err)
	}
	return l, nil
}

// Budget is what all VMs together may use.
func (l *Ledger) Budget() settings.Resources { return l.budget }

const (
	ledgerFile = "ledger.json"
	lockFile   = "ledger.lock"
	ticketDir  = "tickets"
	schema     = 1
)

// book is the content of the ledger's file.
type book struct {
	Schema  int      `json:"schema"`
	Next    uint64   `json:"next"` // ticket
	Entries []Entry  `json:"entries"`
	Waiting []Waiter `json:"waiting"` // in order
}

func (b *book) used() settings.Resources {
	var sum settings.Resources
	for _, e := range b.Entries {
		sum = add(sum, e.Need)
	}
	return sum
}

// entry returns the entry of that ID, nil where there is none.
func (b *book) entry(id string) *Entry {
	if i := slices.IndexFunc(b.Entries, func(e Entry) bool { return e.ID == id }); i >= 0 {
		return &b.Entries[i]
	}
	return nil
}

func (b *book) remove(id string) bool {
	before := len(b.Entries)
	b.Entries = slices.DeleteFunc(b.Entries, func(e Entry) bool { return e.ID == id })
	return len(b.Entries) < before
}

// change reads the book under the lock, lets f change it, and replaces the file where f says that it did. A process that
// is killed leaves the old file or the new one, and no lock.
func (l *Ledger) change(ctx context.Context, f func(*book) (changed bool, err error)) error {
	unlock, err := Lock(ctx, filepath.Join(l.dir, lockFile))
	if err != nil {
		return fmt.Errorf("ledger of the executor: %w", err)
	}
	defer unlock()
	b, err := l.read()
	if err != nil {
		return err
	}
	pruned := l.prune(b)
	changed, err := f(b)
	if !pruned && !changed {
		return err
	}
	return errors.Join(err, l.write(b))
}

func (l *Ledger) read() (*book, error) {
	path := filepath.Join(l.dir, ledgerFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &book{Schema: schema}, nil
	}
	b := new(book)
	if err == nil {
		err = json.Unmarshal(text, b)
	}
	if err == nil && b.Schema != schema {
		err = fmt.Errorf("schema %d, this program knows %d", b.Schema, schema)
	}
	if err != nil {
		return nil, fault.WithHint(fault.Outsidef("ledger of the executor %s: %w", path, err),
			"remove that file and run: debcloud executor reap, which enters the VMs that live")
	}
	return b, nil
}

func (l *Ledger) write(b *book) error {
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(l.dir, ledgerFile), text, 0o600); err != nil {
		return fault.Outsidef("ledger of the executor: %w", err)
	}
	return nil
}

// prune takes the dead out of the head of the queue: those behind hold nobody up.
func (l *Ledger) prune(b *book) bool {
	dead := 0
	for dead < len(b.Waiting) && !l.held(ticketName(b.Waiting[dead].Ticket)) {
		dead++
	}
	b.Waiting = slices.Delete(b.Waiting, 0, dead)
	return dead > 0
}

// Release gives back what was admitted under id. Nothing there is no error.
func (l *Ledger) Release(ctx context.Context, id string) error {
	return l.change(ctx, func(b *book) (bool, error) {
		l.tear(entryTicket(id))
		return b.remove(id), nil
	})
}

// Reclaim releases the entries whose VM is gone, and returns them; what killed processes had begun to write goes too. list
// names the VMs that exist; it is called after the entries were read, without the lock. An entry that a living process holds
// until its VM exists is left alone, and so is one that was let go after list was called.
func (l *Ledger) Reclaim(ctx context.Context, list func(context.Context) (map[string]bool, error)) ([]Entry, error) {
	var loose []Entry
	err := l.change(ctx, func(b *book) (bool, error) {
		for _, e := range b.Entries {
			if !l.held(entryTicket(e.ID)) {
				loose = append(loose, e)
			}
		}
		return false, nil
	})
	if err != nil {
		return nil, err
	}
	exists, err := list(ctx)
	if err != nil {
		return nil, err
	}
	var gone []Entry
	err = l.change(ctx, func(b *book) (bool, error) {
		for _, e := range loose {
			now := b.entry(e.ID)
			// The same name may have been given back and admitted anew meanwhile.
			if exists[e.ID] || now == nil || !now.Since.Equal(e.Since) || l.held(entryTicket(e.ID)) {
				continue
			}
			b.remove(e.ID)
			gone = append(gone, e)
		}
		l.sweepTickets()
		return len(gone) > 0, atomicfile.Sweep(filepath.Join(l.dir, ledgerFile))
	})
	return gone, err
}

// Adopt enters a VM that lives without an entry. It is entered also over the budget, so that new ones wait for it.
func (l *Ledger) Adopt(ctx context.Context, r Request) error {
	return l.change(ctx, func(b *book) (bool, error) {
		if b.entry(r.ID) != nil {
			return false, nil
		}
		b.Entries = append(b.Entries, Entry{Request: r, Since: l.options.Now()})
		return true, nil
	})
}

// Rename makes the entry of one VM another's, as when a job claims a warm one: what it needs stays within what was
// admitted.
func (l *Ledger) Rename(ctx context.Context, id string, to Request) error {
	return l.change(ctx, func(b *book) (bool, error) {
		e := b.entry(id)
		if e == nil {
			return false, fault.Outsidef("ledger of the executor: there is no entry %q to rename", id)
		}
		if more := lacking(to.Need, e.Need); more != "" && len(b.Waiting) > 0 {
			return false, fault.Outsidef("ledger of the executor: %s cannot become %s while others wait: %s", id, to.ID, more)
		}
		if lacks := lacking(to.Need, add(e.Need, subtract(l.budget, b.used()))); lacks != "" {
			return false, fault.Outsidef("ledger of the executor: %s cannot become %s: %s", id, to.ID, lacks)
		}
		if to.ID != id && b.entry(to.ID) != nil {
			return false, fault.Outsidef("ledger of the executor: %q is there already", to.ID)
		}
		l.tear(entryTicket(id))
		e.Request = to
		return true, nil
	})
}

// ReserveWithin takes a sibling's need out of what was admitted under id.
func (l *Ledger) ReserveWithin(ctx context.Context, id, sibling string, share, need settings.Resources) error {
	return l.change(ctx, func(b *book) (bool, error) {
		e := b.entry(id)
		if e == nil {
			return false, fault.Outsidef("ledger of the executor: %q was not admitted", id)
		}
		if _, ok := e.Siblings[sibling]; ok {
			return false, fault.Inputf("there is a sibling VM %q already", sibling)
		}
		free := share
		for _, s := range e.Siblings {
			free = subtract(free, s.Resources)
		}
		if lacks := lacking(need, free); lacks != "" {
			return false, fault.Inputf("the test bed of this job has no room for VM %q: %s", sibling, lacks)
		}
		if e.Siblings == nil {
			e.Siblings = make(map[string]Sibling)
		}
		e.Siblings[sibling] = Sibling{need, l.options.Now()}
		return true, nil
	})
}

// ReleaseWithin gives it back. Nothing there is no error.
func (l *Ledger) ReleaseWithin(ctx context.Context, id, sibling string) error {
	return l.change(ctx, func(b *book) (bool, error) {
		e := b.entry(id)
		if e == nil || e.Siblings == nil {
			return false, nil
		}
		_, ok := e.Siblings[sibling]
		delete(e.Siblings, sibling)
		return ok, nil
	})
}

// Snapshot is the ledger at one moment.
type Snapshot struct {
	Budget  settings.Resources `json:"budget"`
	Used    settings.Resources `json:"used"`
	Free    settings.Resources `json:"free"`
	Entries []Entry            `json:"entries"`
	Waiting []Waiter           `json:"waiting"`
	// Lacks says what there is too little of for the first that waits, in the budget or on the host.
	Lacks string `json:"lacks,omitempty"`
}

// Snapshot reads the ledger. Only the living wait in it.
func (l *Ledger) Snapshot(ctx context.Context) (Snapshot, error) {
	var s Snapshot
	spare, err := l.spare(ctx)
	if err != nil {
		return s, err
	}
	err = l.change(ctx, func(b *book) (bool, error) {
		b.Waiting = slices.DeleteFunc(b.Waiting, func(w Waiter) bool { return !l.held(ticketName(w.Ticket)) })
		used := b.used()
		s = Snapshot{Budget: l.budget, Used: used, Free: subtract(l.budget, used), Entries: b.Entries, Waiting: b.Waiting}
		if len(b.Waiting) > 0 {
			s.Lacks = l.lacks(b, b.Waiting[0].Need, spare)
		}
		return false, nil
	})
	return s, err
}
