package salsa

import (
	"syscall"
	"testing"
)

// allocated returns the bytes that a file takes on disk.
func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var s syscall.Stat_t
	if err := syscall.Stat(path, &s); err != nil {
		t.Fatal(err)
	}
	return s.Blocks * 512
}
