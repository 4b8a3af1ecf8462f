package hostcheck

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/executor/settings"
)

// TestReach: QEMU's user has to come through each directory above a disk.
func TestReach(t *testing.T) {
	top := t.TempDir()
	for _, dir := range []string{filepath.Dir(top), top} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	closed := filepath.Join(top, "closed")
	image := filepath.Join(closed, "open", "image.raw")
	if err := os.MkdirAll(filepath.Dir(image), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil { // libvirt gives it to QEMU
		t.Fatal(err)
	}
	link := filepath.Join(top, "image.raw")
	if err := os.Symlink(image, link); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	for _, row := range []struct {
		mode os.FileMode
		uid  int
		want string
	}{
		{0o711, nobody, ""}, {0o700, nobody, closed}, {0o700, 0, ""}, {0o700, os.Geteuid(), ""},
	} {
		if err := os.Chmod(closed, row.mode); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{image, link} {
			if got := closedAbove(path, row.uid); got != row.want {
				t.Errorf("mode %04o, user %d: %q is closed, want %q", row.mode, row.uid, got, row.want)
			}
		}
	}

	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	s := settings.Default()
	s.Images, s.Pool.Path = map[string]settings.Image{"plain": {File: link, Format: "raw"}}, filepath.Join(closed, "open")
	c := newCheck(t, s, Host{})
	c.qemuUser = nobody
	c.images()
	c.directories()
	got := says(c.findings, Lacks)
	for _, subject := range []string{"image plain", "directory pool"} {
		if !strings.Contains(got, subject+": QEMU runs as user 65534, who does not come through "+closed) {
			t.Errorf("%s is not told: %s", subject, got)
		}
	}
}
