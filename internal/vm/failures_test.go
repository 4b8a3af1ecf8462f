package vm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// childVariable makes the test binary a program that runs a domain until it is killed. Its value is the directory.
const childVariable = "DEBCLOUD_VM_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		if err := runDomain(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// childURI names the daemon that the child uses. Empty: one of its own.
const childURI = "DEBCLOUD_VM_TEST_URI"

// child is what the killed process says of itself.
type child struct{ Domain, Run, Dir string }

func runDomain(dir string) error {
	h, err := Open(context.Background(), Options{Dir: dir, Private: true, URI: os.Getenv(childURI)})
	if err != nil {
		return err
	}
	d, err := h.Start(context.Background(), Spec{Name: "orphan", Image: filepath.Join(dir, "guest.raw"), MemoryMiB: 64, CPUs: 1})
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(child{Domain: d.name, Run: h.run, Dir: d.files.dir}); err != nil {
		return err
	}
	select {}
}

// processesWith lists the processes whose command line holds text.
func processesWith(text string) (found []string) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		if b, err := os.ReadFile(path); err == nil && bytes.Contains(b, []byte(text)) {
			found = append(found, path)
		}
	}
	return found
}

func waitUntil(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after ten seconds still not: %s", what)
		}
	}
}

// killedChild runs a domain in another process and kills that with SIGKILL.
func killedChild(t *testing.T, uri string) child {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a private libvirtd needs root")
	}
	dir := t.TempDir()
	if err := os.Rename(guestImage(t), filepath.Join(dir, "guest.raw")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(testContext(t, time.Minute), os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+dir, childURI+"="+uri)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatal("the child did not start a domain:", err)
	}
	var c child
	if err := json.Unmarshal(line, &c); err != nil {
		t.Fatal(err)
	}
	if len(processesWith(c.Domain)) == 0 {
		t.Fatalf("no process of %s runs", c.Domain)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for _, left := range []string{c.Run, c.Dir} {
		if _, err := os.Stat(left); err != nil {
			t.Errorf("the test proves nothing: %v", err)
		}
	}
	return c
}

func gone(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
}

func TestNothingOutlivesAKilledProcess(t *testing.T) {
	c := killedChild(t, "")
	waitUntil(t, "QEMU and libvirtd are gone", func() bool { return len(processesWith(c.Domain)) == 0 && len(processesWith(c.Run)) == 0 })
	openHost(t) // with another directory for overlays
	gone(t, c.Run, c.Dir)
}

// A daemon that is not ours keeps the domains of a killed process until the next Open; those of a living one it keeps.
func TestOrphansOfASharedDaemon(t *testing.T) {
	shared := openHost(t)
	uri := shared.daemon.uri()
	c := killedChild(t, uri)
	if len(processesWith(c.Domain)) == 0 {
		t.Errorf("the test proves nothing: %s is gone", c.Domain)
	}
	living := startGuest(t, shared, Spec{Image: guestImage(t), MemoryMiB: 64, CPUs: 1})
	h, err := Open(testContext(t, time.Minute), Options{Dir: t.TempDir(), URI: uri})
	if err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the orphan is gone", func() bool { return len(processesWith(c.Domain)) == 0 })
	gone(t, c.Run, c.Dir)
	if living.State() != Running {
		t.Error("a domain of a living process was destroyed")
	}
	d := startGuest(t, h, Spec{Image: guestImage(t), MemoryMiB: 64, CPUs: 1})
	printed(t, d, "ready", 1)
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if len(processesWith(d.name)) > 0 || living.State() != Running {
		t.Error("Close must end this host's domains and no others")
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	h := openHost(t)
	d := startGuest(t, h, Spec{Image: guestImage(t), MemoryMiB: 64, CPUs: 1, Firmware: UEFI})
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "no process", func() bool { return len(processesWith(d.name)) == 0 && len(processesWith(h.run)) == 0 })
	gone(t, h.run, d.files.dir)
	if b, _ := os.ReadFile("/proc/mounts"); bytes.Contains(b, []byte(h.run)) {
		t.Error("a mount is still there")
	}
	if err := d.Destroy(t.Context()); err != nil {
		t.Error("Destroy after Close:", err)
	}
	if _, err := h.Start(t.Context(), Spec{Image: guestImage(t)}); err == nil {
		t.Error("a closed host starts domains")
	}
}

// A daemon that dies takes its domains along, and Destroy and Close still clean up.
func TestDaemonDies(t *testing.T) {
	h := openHost(t)
	d := startGuest(t, h, Spec{Image: guestImage(t), MemoryMiB: 64, CPUs: 1})
	h.daemon.process.Kill()
	if err := d.Wait(testContext(t, 10*time.Second)); err != nil {
		t.Error(err)
	}
	if err := d.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}

// Wait tells a QEMU that died from a guest that powered off.
func TestQEMUDies(t *testing.T) {
	h := openHost(t)
	d := startGuest(t, h, Spec{Image: guestImage(t), MemoryMiB: 64, CPUs: 1})
	found := processesWith("guest=" + d.name)
	if len(found) != 1 {
		t.Fatalf("%d processes", len(found))
	}
	var pid int
	if _, err := fmt.Sscanf(found[0], "/proc/%d/cmdline", &pid); err != nil {
		t.Fatal(err)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	if err := d.Wait(testContext(t, 10*time.Second)); fault.KindOf(err) != fault.Outside {
		t.Errorf("got %v", err)
	}
	if err := d.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	nothingLeft(t, h)
}

func TestStartFails(t *testing.T) {
	h := openHost(t)
	image := guestImage(t)
	empty := filepath.Join(t.TempDir(), "empty.raw")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		summary string
		spec    Spec
		kind    fault.Kind
		says    string
	}{
		{"no disk at all", Spec{}, fault.Input, "neither an image nor a kernel"},
		{"the image is not there", Spec{Image: image + ".gone"}, fault.Input, "does not exist"},
		{"the image is empty", Spec{Image: empty}, fault.Input, "is empty"},
		{"the image is of another format", Spec{Image: image, ImageFormat: "qcow2"}, fault.Input, "cannot be read as qcow2"},
		{"a format that nobody knows", Spec{Image: image, ImageFormat: "vdi"}, fault.Input, "neither raw nor qcow2"},
		{"the disk would be cut", Spec{Image: image, DiskSize: 4096}, fault.Input, "smaller than its image"},
		{"a bus that nobody knows", Spec{Image: image, DiskBus: "floppy"}, fault.Input, "floppy"},
		{"a name that is no file name", Spec{Image: image, Name: "../x"}, fault.Input, `"../x"`},
		{"secure boot without UEFI", Spec{Image: image, SecureBoot: true}, fault.Input, "needs UEFI"},
		{"more memory than there is", Spec{Image: image, MemoryMiB: 1 << 30}, fault.Outside, "available"},
		{"an address without a port", Spec{Image: image, Network: &Interface{Addr: "localhost"}}, fault.Input, `"localhost"`},
		{"QEMU cannot read the kernel", Spec{Kernel: empty, MemoryMiB: 64}, fault.Outside, "kernel"},
	} {
		d, err := h.Start(testContext(t, 20*time.Second), row.spec)
		if err == nil {
			t.Errorf("%s: it started", row.summary)
			_ = d.Destroy(t.Context())
			continue
		}
		if fault.KindOf(err) != row.kind || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: kind %d, %v", row.summary, fault.KindOf(err), err)
		}
	}
	nothingLeft(t, h)
}

func nothingLeft(t *testing.T, h *Host) {
	t.Helper()
	left, _ := filepath.Glob(filepath.Join(h.options.Dir, "*"))
	if len(left) > 0 || len(h.domains) > 0 {
		t.Errorf("left behind: %q, %d domains", left, len(h.domains))
	}
	if found := processesWith("guest=debcloud-"); len(found) > 0 {
		for _, f := range found {
			if b, _ := os.ReadFile(f); bytes.Contains(b, []byte(h.run)) {
				t.Errorf("left behind: %s", b)
			}
		}
	}
}

func TestStartIsCancelled(t *testing.T) {
	h := openHost(t)
	image := guestImage(t)
	for _, after := range []time.Duration{0, 20 * time.Millisecond, 150 * time.Millisecond, 400 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		d, err := h.Start(ctx, Spec{Image: image, MemoryMiB: 64})
		cancel()
		if err == nil {
			if err := d.Destroy(ctx); err != nil {
				t.Error(err)
			}
		}
	}
	nothingLeft(t, h)
}

func TestProgramIsMissing(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	for _, p := range []string{"qemu-system-x86_64", "qemu-img", "libvirtd", "tini"} {
		_, err := Open(t.Context(), Options{Dir: t.TempDir(), Private: true, Emulated: true})
		if err == nil || os.Geteuid() == 0 && !strings.Contains(fault.HintOf(err), packages[p]) {
			t.Errorf("without %s: %v (hint %q)", p, err, fault.HintOf(err))
		}
		if err := os.WriteFile(filepath.Join(bin, p), []byte("#!/bin/sh\nexit 7\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Everything is there, but libvirtd ends at once: its last words are in the error. Here sh is missing.
	if _, err := Open(testContext(t, 20*time.Second), Options{Dir: t.TempDir(), Private: true, Emulated: true}); fault.KindOf(err) != fault.Outside {
		t.Errorf("a broken libvirtd: %v", err)
	}
}

func TestOpenUnknownDaemon(t *testing.T) {
	_, err := Open(testContext(t, 20*time.Second), Options{URI: "qemu+unix:///system?socket=/nonexistent/libvirt-sock", Emulated: true})
	if fault.KindOf(err) != fault.Outside || !strings.Contains(err.Error(), "nonexistent") {
		t.Errorf("got %v", err)
	}
}
