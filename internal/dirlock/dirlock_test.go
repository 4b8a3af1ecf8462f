package dirlock_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/dirlock"
)

func TestTry(t *testing.T) {
	dir := t.TempDir()
	held, err := dirlock.Try(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dirlock.Try(dir); !errors.Is(err, dirlock.ErrTaken) {
		t.Errorf("while it is held: %v", err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := dirlock.Try(dir)
	if err != nil {
		t.Fatalf("after that: %v", err)
	}
	_ = again.Close()
	if _, err := dirlock.Try(filepath.Join(dir, "gone")); !errors.Is(err, dirlock.ErrReplaced) {
		t.Errorf("one that is gone: %v", err)
	}
}

func TestWait(t *testing.T) {
	dir := t.TempDir()
	held, err := dirlock.Try(dir)
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	f, err := dirlock.Wait(t.Context(), dir, func() { told++; _ = held.Close() })
	if err != nil || told != 1 {
		t.Fatalf("told %d times: %v", told, err)
	}
	defer f.Close()
	stop := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	if _, err := dirlock.Wait(ctx, dir, func() { cancel(stop) }); !errors.Is(err, stop) {
		t.Errorf("stopped while it waits: %v", err)
	}
}
