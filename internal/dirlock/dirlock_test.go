package dirlock_test

import (
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
