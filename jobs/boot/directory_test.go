package boot

import (
	"os"
	"path/filepath"
	"testing"
)

func TestDirectoryRemovesThoseOfTheDead(t *testing.T) {
	parent := t.TempDir()
	dead, other := filepath.Join(parent, directoryPrefix+"dead"), filepath.Join(parent, "other")
	for _, dir := range []string{filepath.Join(dead, "debcloud-vm-1"), other} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	first, removeFirst, err := directory(parent)
	if err != nil {
		t.Fatal(err)
	}
	second, removeSecond, err := directory(parent)
	if err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]bool{dead: false, other: true, first: true, second: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", filepath.Base(dir), err == nil, want)
		}
	}
	removeFirst()
	removeSecond()
	if left, _ := filepath.Glob(filepath.Join(parent, directoryPrefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
