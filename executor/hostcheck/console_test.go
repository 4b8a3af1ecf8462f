package hostcheck

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/executor/settings"
)

// TestConsole reads configurations in libvirt's form.
func TestConsole(t *testing.T) {
	for _, row := range []struct{ summary, virtlogd, qemu, ok, warns string }{
		{"no files: libvirt's defaults", "", "", "at most 8MiB of each are kept", ""},
		{"what is commented out is not set", "#max_size = 0\n", "#stdio_handler = \"file\"\n", "at most 8MiB", ""},
		{"as much as the cap", "max_size = 4194304\n", "stdio_handler = \"logd\"\n", "at most 16MiB", ""},
		{"one backup fewer", "max_size=8388608 # bytes\nmax_backups = 1\n", "", "at most 16MiB", ""},
		{"more than the cap", "max_size = 4194304\nmax_backups = 4\n", "", "", "/virtlogd.conf lets one become 20MiB, and console.cap is 16MiB"},
		{"without rotation", "max_size = 0\n", "", "", "max_size is 0 in"},
		{"without virtlogd", "max_size = 4096\n", "stdio_handler = \"file\"\n", "", "stdio_handler is \"file\" in"},
		{"a number that is none", "max_size = \"2M\"\n", "", "", "parsing \"2M\""},
	} {
		dir := t.TempDir()
		for name, text := range map[string]string{"virtlogd.conf": row.virtlogd, "qemu.conf": row.qemu} {
			if text == "" {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		c := newCheck(t, settings.Default(), Host{LibvirtConfig: dir})
		c.console()
		for state, want := range map[State]string{OK: row.ok, Warns: row.warns} {
			if got := says(c.findings, state); (got == "") != (want == "") || !strings.Contains(got, want) {
				t.Errorf("%s: %s: %s", row.summary, state, got)
			}
		}
	}
}

func TestConsoleUnreadable(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "qemu.conf"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := newCheck(t, settings.Default(), Host{LibvirtConfig: dir})
	if c.console(); !strings.Contains(says(c.findings, Warns), "nobody knows how large one may become") {
		t.Errorf("%+v", c.findings)
	}
}
