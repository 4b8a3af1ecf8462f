package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/process"
)

func TestTwoFirmwaresSideBySide(t *testing.T) {
	h := openHost(t)
	image := guestImage(t)
	bios := startGuest(t, h, Spec{Name: "bios", Image: image, MemoryMiB: 64, CPUs: 1})
	uefi := startGuest(t, h, Spec{Name: "uefi", Image: image, MemoryMiB: 128, CPUs: 1, Firmware: UEFI})
	printed(t, bios, "ready", 1)
	printed(t, uefi, "BdsDxe", 1) // there is nothing for UEFI on this disk: it says so
	for _, d := range []*Domain{bios, uefi} {
		if d.State() != Running {
			t.Errorf("%s is %s", d, d.State())
		}
		if err := d.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
		if d.State() != Stopped {
			t.Errorf("%s is %s", d, d.State())
		}
	}
	nothingLeft(t, h)
}

// Every bus carries the boot disk, and further disks, to the guest.
func TestBuses(t *testing.T) {
	h := openHost(t)
	image := guestImage(t)
	for _, bus := range []string{"virtio", "scsi", "sata", "nvme"} {
		d := startGuest(t, h, Spec{Name: bus, Image: image, DiskBus: bus, MemoryMiB: 64, CPUs: 1,
			Disks: []Disk{{Path: image, Bus: bus, Serial: "seed"}, {Path: image}}})
		printed(t, d, "ready", 1)
		if err := d.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestSecureBootAndSMBIOS(t *testing.T) {
	h := openHost(t)
	d := startGuest(t, h, Spec{Image: guestImage(t), Firmware: UEFI, SecureBoot: true, MemoryMiB: 128, CPUs: 1,
		SMBIOS: SMBIOS{Manufacturer: "Example Corp", Product: "Cloud", Serial: "ds=nocloud", UUID: "1b4e28ba-2fa1-11d2-883f-0016d3cca427",
			ChassisAssetTag: "7783-7084", BIOSVendor: "Example", OEMStrings: []string{"io.systemd.credential:a=b"}}})
	line := strings.Join(processArguments(t, d), " ")
	for _, want := range []string{"smm=on", "secboot", "manufacturer=Example Corp", "asset=7783-7084", "io.systemd.credential:a=b", "ds=nocloud"} {
		if !strings.Contains(line, want) {
			t.Errorf("QEMU's command line lacks %q: %s", want, line)
		}
	}
}

func processArguments(t *testing.T, d *Domain) []string {
	t.Helper()
	found := processesWith("guest=" + d.name)
	if len(found) == 0 {
		t.Fatalf("%s has no process", d)
	}
	b, _ := os.ReadFile(found[0])
	return strings.Split(string(b), "\x00")
}

// A guest that prints without end fills neither memory nor disk, and still obeys.
func TestFlood(t *testing.T) {
	h := openHost(t)
	log := filepath.Join(t.TempDir(), "console.log")
	d := startGuest(t, h, Spec{Image: guestImage(t), MemoryMiB: 64, CPUs: 1, ConsoleLog: log})
	printed(t, d, "ready", 1)
	typeKeys(t, d, "f")
	printed(t, d, "ready", 1000)
	if err := d.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(log)
	if err != nil || info.Size() > MaxConsole+100 {
		t.Errorf("log of %d bytes, %v", info.Size(), err)
	}
}

func TestConsoleSessions(t *testing.T) {
	h := openHost(t)
	d := startGuest(t, h, Spec{Image: guestImage(t), MemoryMiB: 64, CPUs: 1})
	printed(t, d, "ready", 1)
	first, _ := d.OpenConsole(t.Context())
	second, _ := d.OpenConsole(t.Context())
	_, _ = first.Write([]byte("xyz"))
	printed(t, d, "xyz", 1)
	_, _ = second.Write([]byte("q"))
	for _, session := range []io.Reader{first, second} {
		all, err := io.ReadAll(session) // to the power-off
		if err != nil || !bytes.Contains(all, []byte("ready\r\nxyz")) {
			t.Errorf("session saw %q, %v", all, err)
		}
	}
	short := testContext(t, 50*time.Millisecond)
	third, _ := d.OpenConsole(short)
	_, _ = io.ReadAll(third)
	if err := d.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

// The command of the log runs the same machine.
func TestCommandLine(t *testing.T) {
	h := openHost(t)
	image := guestImage(t)
	d := startGuest(t, h, Spec{Image: image, MemoryMiB: 128, CPUs: 1})
	ctx := testContext(t, 30*time.Second)
	seen := make(chan struct{})
	w := &watcher{pattern: []byte("ready"), found: func() { close(seen) }}
	cmd := exec.CommandContext(ctx, "sh", "-c", "exec "+d.CommandLine())
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-seen:
	case <-ctx.Done():
		t.Errorf("%s prints %q", d.CommandLine(), w.last)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	secure := (&Domain{host: h, spec: Spec{Image: "a b,c.raw", Firmware: UEFI, SecureBoot: true}.withDefaults()}).CommandLine()
	for _, want := range []string{ovmfSecureCode, ovmfSecureVars, "smm=on", "'if=virtio,format=raw,file=a b,,c.raw'"} {
		if !strings.Contains(secure, want) {
			t.Errorf("%q is not in %s", want, secure)
		}
	}
}

func TestConsoleKeepsFirstAndLast(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	c := &console{file: file, changed: make(chan struct{}), done: make(chan struct{})}
	c.add([]byte("first"))
	line := []byte(strings.Repeat("x", 1<<20))
	for range 40 {
		c.add(line)
	}
	c.add([]byte("last"))
	all := c.bytes()
	if !bytes.HasPrefix(all, []byte("first")) || !bytes.HasSuffix(all, []byte("last")) || !bytes.Contains(all, []byte("bytes left out here")) {
		t.Errorf("%d bytes, %q … %q", len(all), all[:10], all[len(all)-10:])
	}
	if len(all) > MaxConsole+MaxConsole/4+100 {
		t.Errorf("%d bytes are kept", len(all))
	}
	c.finishFile()
	close(c.done)
	if b, _ := os.ReadFile(file.Name()); !bytes.Equal(b, all) {
		t.Errorf("the file has %d bytes, memory %d", len(b), len(all))
	}
	read, err := io.ReadAll(c.session(t.Context()))
	if err != nil || len(read) != len(c.head)+len(c.tail) || !bytes.HasSuffix(read, []byte("last")) {
		t.Errorf("a reader got %d bytes, %v", len(read), err)
	}
}

func TestProbe(t *testing.T) {
	if _, err := os.Stat(ovmfCode); err != nil {
		t.Skip("the Debian package ovmf is not installed")
	}
	if err := runProbe(testContext(t, time.Minute), "tcg", "max"); err != nil {
		t.Errorf("the probe guest does not run where guests do run: %v", err)
	}
	if err := runProbe(testContext(t, 300*time.Millisecond), "tcg", "max"); err == nil {
		t.Error("a guest that said nothing in time passed")
	}
	if err := runProbe(testContext(t, 10*time.Second), "tcg", "no-such-cpu"); err == nil || !strings.Contains(err.Error(), "no-such-cpu") {
		t.Errorf("QEMU that fails: %v", err)
	}
}

// One answer a boot of the host: a remembered one is not probed again, one of an earlier boot is.
func TestProbeIsRemembered(t *testing.T) {
	cache := t.TempDir()
	write := func(v verdict) {
		b, _ := json.Marshal(v)
		if err := os.WriteFile(filepath.Join(cache, "kvm.json"), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(verdict{Boot: process.BootID(), KVM: false, Reason: "so it was"})
	if v := rememberedProbe(t.Context(), cache); v.Reason != "so it was" {
		t.Errorf("probed again: %+v", v)
	}
	write(verdict{Boot: "before", KVM: false, Reason: "so it was"})
	if v := rememberedProbe(t.Context(), cache); v.Reason == "so it was" || v.Boot != process.BootID() {
		t.Errorf("an answer of another boot counts: %+v", v)
	}
}

// What is missing may be installed: only what a guest has shown is remembered.
func TestProbeThatCannotBe(t *testing.T) {
	cache, missing, probed := t.TempDir(), errors.New("the probe needs the Debian package ovmf"), 0
	p := prober{func() error { return missing }, func(context.Context) error { probed++; return nil }}
	if v := p.remembered(t.Context(), cache); v.KVM || v.Reason != missing.Error() || probed > 0 {
		t.Errorf("without ovmf: %+v, %d probes", v, probed)
	}
	missing = nil
	for range 2 {
		if v := p.remembered(t.Context(), cache); !v.KVM || probed != 1 {
			t.Errorf("with ovmf: %+v, %d probes", v, probed)
		}
	}
}
