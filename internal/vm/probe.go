package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/process"
)

// Stock firmware, from Debian's package ovmf.
const (
	ovmfCode       = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars       = "/usr/share/OVMF/OVMF_VARS_4M.fd"
	ovmfSecureCode = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	ovmfSecureVars = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"
)

// probeLimit bounds the probe guest. OVMF is through in 2 s with KVM, in 5 s even without.
const probeLimit = 20 * time.Second

// probeable reports, as an error, what the probe lacks here. That may come at any time, with a package or a module.
func probeable() error {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_ = f.Close()
	if _, err := os.Stat(ovmfCode); err != nil {
		return fmt.Errorf("the probe needs the Debian package ovmf: %w", err)
	}
	return need("qemu-system-x86_64")
}

// probeKVM reports, as an error, why guests cannot run on KVM here.
//
// That /dev/kvm opens proves nothing. A paravirtual KVM inside a VM runs SeaBIOS and even a boot sector that goes to long
// mode, but fails at instructions that it has to emulate ("KVM internal error … emulation failure"), and stock kernels
// hang. So the probe guest is stock firmware on the processor that domains get: OVMF goes from real mode through
// protected mode with FPU and SSE to long mode with paging, exceptions and timer interrupts before it says a word.
func probeKVM(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, probeLimit, fmt.Errorf("firmware did not start within %v", probeLimit))
	defer cancel()
	return runProbe(ctx, "kvm", "host")
}

// runProbe boots OVMF until its boot manager writes to the serial port.
func runProbe(ctx context.Context, accel, cpu string) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "q35", "-accel", accel, "-cpu", cpu, "-m", "256",
		"-display", "none", "-nodefaults", "-no-user-config", "-nic", "none", "-action", "panic=shutdown",
		"-drive", "if=pflash,format=raw,readonly=on,file="+ovmfCode,
		"-drive", "if=pflash,format=raw,snapshot=on,file="+ovmfVars,
		"-serial", "stdio")
	spoke := &watcher{pattern: []byte("BdsDxe"), found: stop}
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = spoke, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if spoke.seen() {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	first, _, _ := bytes.Cut(bytes.TrimSpace(stderr.Bytes()), []byte("\n"))
	return fmt.Errorf("%w %s", err, first)
}

// watcher calls found when pattern has been written to it.
type watcher struct {
	pattern []byte
	found   func()
	last    []byte
	done    bool
}

func (w *watcher) Write(p []byte) (int, error) {
	w.last = append(w.last, p...)
	if !w.done && bytes.Contains(w.last, w.pattern) {
		w.done = true
		w.found()
	}
	w.last = w.last[max(0, len(w.last)-len(w.pattern)):]
	return len(p), nil
}

// seen may be called when the writer has ended.
func (w *watcher) seen() bool { return w.done }

// verdict is what the probe found, kept until the host boots anew.
type verdict struct {
	Boot   string `json:"boot"`
	KVM    bool   `json:"kvm"`
	Reason string `json:"reason,omitempty"`
}

// rememberedProbe probes once a boot of the host. The answer is not kept where the caller gave up meanwhile, nor where no
// guest was started because something is missing.
func rememberedProbe(ctx context.Context, cache string) verdict {
	return prober{probeable, probeKVM}.remembered(ctx, cache)
}

type prober struct {
	ready func() error
	probe func(context.Context) error
}

func (p prober) remembered(ctx context.Context, cache string) verdict {
	path := filepath.Join(cache, "kvm.json")
	var v verdict
	if b, err := os.ReadFile(path); err == nil && json.Unmarshal(b, &v) == nil && v.Boot == process.BootID() {
		return v
	}
	if err := p.ready(); err != nil {
		return verdict{Boot: process.BootID(), Reason: err.Error()}
	}
	err := p.probe(ctx)
	v = verdict{Boot: process.BootID(), KVM: err == nil}
	if err != nil {
		v.Reason = err.Error()
	}
	if b, err := json.Marshal(v); err == nil && ctx.Err() == nil {
		_ = os.WriteFile(path+".new", b, 0o644)
		_ = os.Rename(path+".new", path)
	}
	return v
}
