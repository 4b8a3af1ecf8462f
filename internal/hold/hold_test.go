package hold_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/hold"
)

func TestHold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if _, err := hold.Keep(t.Context(), path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	var releases []func()
	for range 2 {
		release, err := hold.Keep(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := hold.Free(path); ok {
			t.Error("free while it is held")
		}
		releases = append(releases, release)
	}
	releases[0]()
	if _, ok := hold.Free(path); ok {
		t.Error("free while one of two holds it")
	}
	releases[1]()
	free, ok := hold.Free(path)
	if !ok {
		t.Fatal("held by nobody, and not free")
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := hold.Keep(ctx, path); !errors.Is(err, cause) {
		t.Errorf("held while somebody decides about it: %v", err)
	}
	free()
	release, err := hold.Keep(t.Context(), path)
	if err != nil {
		t.Errorf("it was left, and cannot be held: %v", err)
	}
	release()
}

// A file that is replaced between the opening and the locking is another one.
func TestRemovedMeanwhile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	free, ok := hold.Free(path)
	if !ok {
		t.Fatal("not free")
	}
	kept := make(chan error)
	go func() {
		_, err := hold.Keep(t.Context(), path)
		kept <- err
	}()
	if err := os.Remove(path); err != nil {
		t.Error(err)
	}
	free()
	if err := <-kept; !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("held what was removed: %v", err)
	}
}
