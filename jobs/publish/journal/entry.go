package journal

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Key is what an Entry is about.
type Key struct {
	Target string
	Digest string // of the raw image, manifest.Digest.String
	Image  string // public name: an image that is published as a daily and as a release has two Entries
}

// Entry is one image's way to one target. It is locked: nobody else on this machine has it at the same time.
type Entry struct {
	Key
	journal *Journal
	lock    *os.File
}

// Lock takes the Entry of key. Where someone else has it, in this process or another one, Lock waits with a message, or returns an error
// of kind fault.Outside, as Open was told. The lock dies with its process. Call Unlock at the end.
func (j *Journal) Lock(ctx context.Context, key Key) (*Entry, error) {
	f, err := os.OpenFile(j.path+".lock", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fault.Inputf("the journal's lock cannot be made: %w", err)
	}
	if err := j.lock(ctx, f, key); err != nil {
		f.Close()
		return nil, err
	}
	return &Entry{Key: key, journal: j, lock: f}, nil
}

// lock locks one byte of the file, chosen by the key. Such a lock belongs to the open file, so it also keeps two goroutines
// apart, and the kernel drops it when the process dies.
func (j *Journal) lock(ctx context.Context, f *os.File, key Key) error {
	sum := sha256.Sum256([]byte(key.Target + "\x00" + key.Digest + "\x00" + key.Image))
	at := int64(binary.BigEndian.Uint64(sum[:8]) >> 2)
	for waited := false; ; waited = true {
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: at, Len: 1})
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		if j.busy == Stop {
			return fault.WithHint(fault.Outsidef("another publisher is at work on %s for %s", key.Image, key.Target), "wait until it is done; debcloud publish status shows how far it is")
		}
		if !waited {
			slog.InfoContext(ctx, "waiting for another publisher of the same image", "image", key.Image, "target", key.Target)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Unlock lets others have the Entry.
func (e *Entry) Unlock() { e.lock.Close() }

// Forget drops the named steps, so that they are done anew, or all steps where none is named. A publisher does so with those
// whose result the cloud no longer has.
func (e *Entry) Forget(ctx context.Context, steps ...string) error {
	if len(steps) == 0 {
		_, err := e.journal.db.ExecContext(ctx, "DELETE FROM step WHERE target = ? AND digest = ? AND image = ?", e.Target, e.Digest, e.Image)
		return e.journal.explain(ctx, err)
	}
	for _, name := range steps {
		if _, err := e.journal.db.ExecContext(ctx, "DELETE FROM step WHERE target = ? AND digest = ? AND image = ? AND name = ?", e.Target, e.Digest, e.Image, name); err != nil {
			return e.journal.explain(ctx, err)
		}
	}
	return nil
}
