package admission

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Lock takes the lock of a file that it creates. The kernel lets go of it when the process ends, however it ends.
//
// flock(2) cannot be interrupted, so when ctx ends it is left behind, and lets go at once when its turn comes.
func Lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- flock(f, syscall.LOCK_EX) }()
	select {
	case err := <-done:
		if err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		return func() { _ = f.Close() }, nil
	case <-ctx.Done():
		go func() { <-done; _ = f.Close() }()
		return nil, fmt.Errorf("lock %s: %w", path, context.Cause(ctx))
	}
}

func flock(f *os.File, how int) error {
	for {
		if err := syscall.Flock(int(f.Fd()), how); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// Tickets are files that their owner has locked: whoever can lock one knows that the owner is dead or let go. They are
// made and looked at under the ledger's lock alone.

// ticketName is the ticket of one who waits.
func ticketName(ticket uint64) string { return "waiting-" + strconv.FormatUint(ticket, 10) }

// entryTicket is the ticket of one who was admitted and whose VM does not exist yet. An ID may hold what a file's name
// must not.
func entryTicket(id string) string {
	sum := sha256.Sum256([]byte(id))
	return fmt.Sprintf("admitted-%x", sum[:12])
}

func (l *Ledger) ticketPath(name string) string { return filepath.Join(l.dir, ticketDir, name) }

// draw makes a ticket and locks it.
func (l *Ledger) draw(name string) (*os.File, error) {
	f, err := os.OpenFile(l.ticketPath(name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, nil
}

// held tells whether somebody has the ticket, and tears up one that nobody has.
func (l *Ledger) held(name string) bool {
	f, err := os.OpenFile(l.ticketPath(name), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	if flock(f, syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return true
	}
	l.tear(name)
	return false
}

func (l *Ledger) tear(name string) { _ = os.Remove(l.ticketPath(name)) }

// sweepTickets removes those that a killed process drew and never entered. It is called under the lock, so whoever
// draws at this moment has entered or is dead.
func (l *Ledger) sweepTickets() {
	found, _ := os.ReadDir(filepath.Join(l.dir, ticketDir))
	for _, f := range found {
		l.held(f.Name())
	}
}

// Grant is room that was admitted.
type Grant struct {
	ticket *os.File
	// Waited is how long it took.
	Waited time.Duration
}

// Done lets go: from now on the VM itself, found by its name, keeps the entry. It may be called twice.
func (g *Grant) Done() {
	if g.ticket != nil {
		_ = g.ticket.Close()
		g.ticket = nil
	}
}
