package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

func TestDaemonSocket(t *testing.T) {
	for uri, want := range map[string]string{
		"qemu:///system?socket=/run/a/libvirt-sock":      "/run/a/libvirt-sock",
		"qemu+unix:///system?socket=/run/b/libvirt-sock": "/run/b/libvirt-sock",
		"qemu:///system": systemSocket(socketDir),
	} {
		path, name, err := daemonSocket(uri)
		if path != want || name != "qemu:///system" || err != nil {
			t.Errorf("%s: %s, %s, %v; want %s", uri, path, name, err, want)
		}
	}
	for _, uri := range []string{
		"", "qemu:///session", "qemu://casulana/system", "qemu+ssh:///system", "test:///default", "xen:///system", "qemu:///system?sokcet=/run/a", "qemu:///%zz",
	} {
		if _, _, err := daemonSocket(uri); fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), `"`+uri+`"`) {
			t.Errorf("%q: %v", uri, err)
		}
	}
}

// TestConnectToNoDaemon: only a daemon that may come back is worth waiting for.
func TestConnectToNoDaemon(t *testing.T) {
	_, err := Connect(testContext(t, time.Minute), NodeOptions{URI: "qemu:///session", Namespace: "urn:test", RunDir: t.TempDir(), LogDir: t.TempDir()})
	if fault.KindOf(err) != fault.Input {
		t.Errorf("%v", err)
	}
}

func TestSystemSocket(t *testing.T) {
	dir := t.TempDir()
	all, own := filepath.Join(dir, "libvirt-sock"), filepath.Join(dir, "virtqemud-sock")
	if got := systemSocket(dir); got != all {
		t.Errorf("where none listens: %s", got)
	}
	if err := os.WriteFile(own, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := systemSocket(dir); got != own {
		t.Errorf("where QEMU's own listens: %s", got)
	}
}
