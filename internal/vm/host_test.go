package vm

import (
	"bytes"
	"context"
	_ "embed"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

//go:embed testdata/guest.bin
var bootSector []byte

// guestImage is a disk with the guest of testdata/guest.S.
func guestImage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil { // a lasting domain's QEMU runs as a user of its own
		t.Fatal(err)
	}
	path := filepath.Join(dir, "guest.raw")
	if err := os.WriteFile(path, bootSector, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 1<<20); err != nil {
		t.Fatal(err)
	}
	return path
}

func testContext(t *testing.T, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func openHost(t *testing.T) *Host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a private libvirtd needs root")
	}
	h, err := Open(testContext(t, time.Minute), Options{Dir: t.TempDir(), Private: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func startGuest(t *testing.T, h *Host, s Spec) *Domain {
	t.Helper()
	d, err := h.Start(testContext(t, 30*time.Second), s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// printed waits until the console has said text n times.
func printed(t *testing.T, d *Domain, text string, n int) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if bytes.Count(d.Console(), []byte(text)) >= n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("console of %s lacks %q: %q", d, text, d.Console())
		}
	}
}

func typeKeys(t *testing.T, d *Domain, keys string) {
	t.Helper()
	c, err := d.OpenConsole(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(keys)); err != nil {
		t.Fatal(err)
	}
}

func TestDomain(t *testing.T) {
	start := time.Now()
	h := openHost(t)
	t.Logf("open: %v", time.Since(start))
	image := guestImage(t)
	before, _ := os.ReadFile(image)
	start = time.Now()
	log := filepath.Join(t.TempDir(), "console.log")
	d := startGuest(t, h, Spec{Name: "tiny", Image: image, MemoryMiB: 64, CPUs: 1, DiskSize: 2 << 20, ConsoleLog: log})
	t.Logf("start: %v", time.Since(start))
	printed(t, d, "ready", 1)
	t.Logf("ready: %v", time.Since(start))
	typeKeys(t, d, "hello")
	printed(t, d, "hello", 1)
	typeKeys(t, d, "w")
	printed(t, d, "ok", 1)
	typeKeys(t, d, "c")
	printed(t, d, "written", 1)
	if err := d.Reset(testContext(t, 5*time.Second)); err != nil {
		t.Fatal(err)
	}
	printed(t, d, "ready", 2)
	typeKeys(t, d, "r") // the guest's own reset keeps the domain running too
	printed(t, d, "ready", 3)
	if err := d.Shutdown(testContext(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	if d.State() != Stopped || !strings.Contains(string(d.Console()), "button") {
		t.Errorf("%s is %s: %q", d, d.State(), d.Console())
	}
	if err := d.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.ReadFile(image); !bytes.Equal(before, after) {
		t.Error("the image was written to")
	}
	if b, _ := os.ReadFile(log); !bytes.Equal(b, d.Console()) {
		t.Errorf("console log %q, console %q", b, d.Console())
	}
	start = time.Now()
	h.Close()
	t.Logf("close: %v", time.Since(start))
}
