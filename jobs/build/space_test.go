package build

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

func TestDemandSpace(t *testing.T) {
	if err := demandSpace("out", 100<<20, 100<<20); err != nil {
		t.Errorf("just enough: %v", err)
	}
	err := demandSpace("out", 1500<<20, 100<<20)
	if fault.KindOf(err) != fault.Outside || !strings.Contains(err.Error(), "1500 MiB in out, which has 100 MiB free") {
		t.Errorf("got %v", err)
	}
}

// A small tmpfs stands for a disk that is nearly full: the build must say so before it begins.
func TestNoSpaceIsFoundBeforeTheBuild(t *testing.T) {
	needRoot(t)
	err := inNamespace(func() error {
		dir := t.TempDir()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
			return err
		}
		_, err := choosePlace(dir)
		return err
	})
	if fault.KindOf(err) != fault.Outside || !strings.Contains(err.Error(), "64 MiB free") {
		t.Errorf("got %v", err)
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("this test mounts and needs root")
	}
}
