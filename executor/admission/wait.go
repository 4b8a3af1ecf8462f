package admission

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Admit returns when there is room for r, which is then entered under r.ID, or when ctx ends. tell (nil: nobody) is
// called when r has to wait and once in a while after that. Whoever asked first is served first.
//
// An ID that was admitted before, with the same need, is admitted at once. The error is bad input (ErrTooLarge in its
// chain) where r will never fit; where ctx has ended it is ctx's cause.
func (l *Ledger) Admit(ctx context.Context, r Request, tell func(Position)) (*Grant, error) {
	if err := l.refuse(r); err != nil {
		return nil, err
	}
	w, grant, err := l.enqueue(ctx, r)
	if err != nil || grant != nil {
		return grant, err
	}
	grant, err = w.wait(ctx, tell)
	if err != nil {
		return nil, errors.Join(err, w.leave(ctx))
	}
	return grant, nil
}

// Try is Admit for who would rather not wait: it returns nil where r does not fit now, and where anybody waits.
func (l *Ledger) Try(ctx context.Context, r Request) (*Grant, error) {
	if err := l.refuse(r); err != nil {
		return nil, err
	}
	spare, err := l.spare(ctx)
	if err != nil {
		return nil, err
	}
	var grant *Grant
	err = l.change(ctx, func(b *book) (bool, error) {
		if len(b.Waiting) > 0 || b.entry(r.ID) != nil || l.lacks(b, r.Need, spare) != "" {
			return false, nil
		}
		grant, err = l.enter(b, r, 0)
		return grant != nil, err
	})
	return grant, err
}

// waiting is one Admit in the queue.
type waiting struct {
	l *Ledger
	Waiter
	ticket *os.File
}

// enqueue takes the last place in the queue, or returns the grant of one who was admitted before.
func (l *Ledger) enqueue(ctx context.Context, r Request) (*waiting, *Grant, error) {
	w := &waiting{l: l, Waiter: Waiter{Request: r, Since: l.options.Now()}}
	var grant *Grant
	err := l.change(ctx, func(b *book) (bool, error) {
		var err error
		if e := b.entry(r.ID); e != nil {
			grant, err = l.resume(e, r)
			return false, err
		}
		if slices.ContainsFunc(b.Waiting, func(w Waiter) bool { return w.ID == r.ID }) {
			return false, fault.Outsidef("%s waits for room on this host already", r.ID)
		}
		w.Ticket = b.Next
		if w.ticket, err = l.draw(ticketName(w.Ticket)); err != nil {
			return false, err
		}
		b.Next++
		b.Waiting = append(b.Waiting, w.Waiter)
		return true, nil
	})
	if err != nil && w.ticket != nil {
		_ = w.ticket.Close()
	}
	return w, grant, err
}

// resume gives an earlier grant again.
func (l *Ledger) resume(e *Entry, r Request) (*Grant, error) {
	if e.Need != r.Need {
		return nil, fault.Outsidef("%s was admitted with %s already, and asks for %s", r.ID, Describe(e.Need), Describe(r.Need))
	}
	ticket, err := l.draw(entryTicket(r.ID))
	if err != nil {
		return nil, fault.Outsidef("%s was admitted for another process: %w", r.ID, err)
	}
	return &Grant{ticket: ticket}, nil
}

// enter makes an entry of a request.
func (l *Ledger) enter(b *book, r Request, waited time.Duration) (*Grant, error) {
	ticket, err := l.draw(entryTicket(r.ID))
	if err != nil {
		return nil, err
	}
	b.Entries = append(b.Entries, Entry{Request: r, Since: l.options.Now()})
	return &Grant{ticket: ticket, Waited: waited}, nil
}

// wait looks whenever the ledger changes, and now and then without.
func (w *waiting) wait(ctx context.Context, tell func(Position)) (*Grant, error) {
	changes, stop := watch(w.l.dir)
	defer stop()
	poll := time.NewTicker(w.l.options.Poll)
	defer poll.Stop()
	var told time.Time
	for {
		grant, position, err := w.look(ctx)
		if err != nil || grant != nil {
			return grant, err
		}
		if now := w.Since.Add(position.Waited); tell != nil && (told.IsZero() || now.Sub(told) >= w.l.options.Tell) {
			told = now
			tell(position)
		}
		select {
		case <-changes:
		case <-poll.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for room on this host: %w", context.Cause(ctx))
		}
	}
}

// look enters the request where it is first in line and fits.
func (w *waiting) look(ctx context.Context) (*Grant, Position, error) {
	spare, err := w.l.spare(ctx)
	if err != nil {
		return nil, Position{}, err
	}
	var grant *Grant
	p := Position{Waited: w.l.options.Now().Sub(w.Since)}
	err = w.l.change(ctx, func(b *book) (bool, error) {
		p.Free = subtract(w.l.budget, b.used())
		p.Ahead = slices.IndexFunc(b.Waiting, func(other Waiter) bool { return other.Ticket == w.Ticket })
		if p.Ahead < 0 {
			return false, fault.Outsidef("%s lost its place in the queue of this host", w.ID)
		}
		if p.Ahead > 0 {
			return false, nil
		}
		if p.Lacks = w.l.lacks(b, w.Need, spare); p.Lacks != "" {
			return false, nil
		}
		var err error
		if grant, err = w.l.enter(b, w.Request, p.Waited); err != nil {
			return false, err
		}
		b.Waiting = slices.Delete(b.Waiting, 0, 1)
		w.dropTicket()
		return true, nil
	})
	if err != nil && grant != nil { // the file was not written
		grant.Done()
		grant = nil
	}
	return grant, p, err
}

func (w *waiting) dropTicket() {
	w.l.tear(ticketName(w.Ticket))
	_ = w.ticket.Close()
}

// leave gives up the place, also when ctx has ended. Where even that fails, the closed ticket does.
func (w *waiting) leave(ctx context.Context) error {
	defer w.dropTicket()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return w.l.change(ctx, func(b *book) (bool, error) {
		before := len(b.Waiting)
		b.Waiting = slices.DeleteFunc(b.Waiting, func(other Waiter) bool { return other.Ticket == w.Ticket })
		return len(b.Waiting) < before, nil
	})
}

// youth is how long a VM is believed not to have touched its memory yet: the time of a boot.
const youth = 3 * time.Minute

// untouched is the memory that an entry's VMs may still fill: all while it is young, then that of the siblings which are young
// or did not begin yet.
func (l *Ledger) untouched(e Entry) settings.Size {
	young := func(since time.Time) bool { return l.options.Now().Sub(since) < youth }
	if young(e.Since) {
		return e.Need.Memory
	}
	left := e.Bed.Memory
	for _, s := range e.Siblings {
		if !young(s.Since) {
			left -= s.Memory
		}
	}
	return max(0, left)
}

// lacks says what there is too little of for need: in the budget, or on the host itself. What the host has free includes
// what admitted VMs will still fill: what the disks of all may grow by, and the memory that is untouched.
func (l *Ledger) lacks(b *book, need settings.Resources, spare *settings.Resources) string {
	if lacks := lacking(need, subtract(l.budget, b.used())); lacks != "" {
		return lacks
	}
	if spare == nil {
		return ""
	}
	free := *spare
	for _, e := range b.Entries {
		free.Disk -= l.growth(e)
		free.Memory -= l.untouched(e)
	}
	if need.Memory > free.Memory {
		return fmt.Sprintf("the host itself is short of memory: %v needed, %v free beside the reserve", need.Memory, max(0, free.Memory))
	}
	if need.Disk > free.Disk {
		return fmt.Sprintf("the host itself is short of disk: %v needed, %v free beside the reserve", need.Disk, max(0, free.Disk))
	}
	return ""
}

// growth is what the files of an admitted VM and its siblings may still take of the disk: what they have is not free any more.
func (l *Ledger) growth(e Entry) settings.Size {
	left := e.Need.Disk
	if l.options.OnDisk == nil {
		return left
	}
	left -= l.options.OnDisk(e.ID)
	for sibling := range e.Siblings {
		left -= l.options.OnDisk(sibling)
	}
	return max(0, left)
}

// spare asks the host; nil where nobody wants to know.
func (l *Ledger) spare(ctx context.Context) (*settings.Resources, error) {
	if l.options.Spare == nil {
		return nil, nil
	}
	s, err := l.options.Spare(ctx)
	return &s, err
}
