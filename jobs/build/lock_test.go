package build

import (
	"os"
	"path/filepath"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), ".name.work")
	// What a killed build left behind.
	if err := writeFile(filepath.Join(dir, "tree/etc/passwd"), nil, false); err != nil {
		t.Fatal(err)
	}
	unlock, err := lock(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("%d entries of the killed build are left", len(left))
	}
	if _, err := lock(t.Context(), dir); fault.KindOf(err) != fault.Input {
		t.Errorf("the second lock gives %v, want bad input", err)
	}
	unlock()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the work directory is left: %v", err)
	}
	again, err := lock(t.Context(), dir)
	if err != nil {
		t.Fatalf("after the unlock: %v", err)
	}
	again()
}
