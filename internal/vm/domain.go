package vm

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/process"
)

// domainDirPrefix starts the names of the directories with overlays.
const domainDirPrefix = "debcloud-vm-"

// Domain is one virtual machine, powered on.
type Domain struct {
	host  *Host
	spec  Spec
	name  string
	files files
	xml   string

	console *console // nil until it was powered on
	started time.Time

	destroy   sync.Mutex
	destroyed bool
}

func (s Spec) withDefaults() Spec {
	s.Name = orDefault(s.Name, "vm")
	s.ImageFormat = orDefault(s.ImageFormat, "raw")
	s.DiskBus = orDefault(s.DiskBus, "virtio")
	if s.MemoryMiB == 0 {
		s.MemoryMiB = 1024
	}
	if s.CPUs == 0 {
		s.CPUs = 2
	}
	return s
}

// check finds what libvirt and QEMU would refuse, or worse, accept.
func (s Spec) check() error {
	switch {
	case s.Image == "" && s.Kernel == "":
		return fault.Inputf("virtual machine %s has neither an image nor a kernel", s.Name)
	case strings.Trim(s.Name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "" || len(s.Name) > 100:
		return fault.Inputf("%q is no name for a virtual machine: letters, digits, and - _ .", s.Name)
	case s.ImageFormat != "raw" && s.ImageFormat != "qcow2":
		return fault.Inputf("image format %q is neither raw nor qcow2", s.ImageFormat)
	case s.SecureBoot && s.Firmware != UEFI:
		return fault.Inputf("secure boot needs UEFI")
	case s.MemoryMiB < 16 || s.CPUs < 1:
		return fault.Inputf("virtual machine %s has %d MiB of memory and %d processors", s.Name, s.MemoryMiB, s.CPUs)
	}
	return nil
}

// hasRoom finds what this machine lacks. A test bed looks at itself.
func (h *Host) hasRoom(s Spec) error {
	if h.bed != nil {
		return nil
	}
	return s.hasRoom()
}

func (s Spec) hasRoom() error {
	if free := availableMiB(); free > 0 && s.MemoryMiB > free {
		return fault.WithHint(fault.Outsidef("virtual machine %s needs %d MiB of memory, this machine has %d MiB available", s.Name, s.MemoryMiB, free),
			"stop something, or give the virtual machine less")
	}
	if s.Firmware == UEFI {
		if _, err := os.Stat(ovmfCode); err != nil {
			return fault.WithHint(fault.Outsidef("UEFI firmware is not installed: %w", err), "install the Debian package ovmf")
		}
	}
	return nil
}

// availableMiB is what the kernel believes that programs can get without swapping; 0 where it does not say.
func availableMiB() int {
	b, _ := os.ReadFile("/proc/meminfo")
	_, rest, _ := strings.Cut(string(b), "MemAvailable:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kib, _ := strconv.Atoi(fields[0])
	return kib / 1024
}

// powerOn makes the overlay, starts QEMU with halted processors, attaches to the console and lets the processors run: so
// the console has the first byte.
func (d *Domain) powerOn(ctx context.Context) error {
	if d.host.bed != nil {
		return d.powerOnThere(ctx)
	}
	if d.spec.Image != "" {
		if _, err := createOverlay(ctx, d.spec, d.files.overlay()); err != nil {
			return err
		}
	}
	var err error
	d.xml, err = domainXML(d.name, d.spec, d.files, d.host.accel, process.This())
	if err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := d.host.conn.create(ctx, d.xml); err != nil {
		return err
	}
	if err := d.attachConsole(ctx); err != nil {
		return err
	}
	d.started = time.Now()
	return d.host.conn.resume(ctx, d.name)
}

// Started is when the processors began to run: the moment of power-on.
func (d *Domain) Started() time.Time { return d.started }

func (d *Domain) attachConsole(ctx context.Context) error {
	var file *os.File
	var err error
	if d.spec.ConsoleLog != "" {
		if file, err = os.Create(d.spec.ConsoleLog); err != nil {
			return fault.Inputf("console log: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := d.dialConsole(ctx)
	if err != nil {
		if file != nil {
			_ = file.Close()
		}
		return fmt.Errorf("console: %w", err)
	}
	d.console = openConsole(conn, file)
	return nil
}

func (d *Domain) dialConsole(ctx context.Context) (net.Conn, error) {
	if d.host.bed != nil {
		return d.host.bed.stream(ctx, d.name, "console")
	}
	return new(net.Dialer).DialContext(ctx, "unix", d.files.console)
}

// Name is the domain's name in libvirt.
func (d *Domain) Name() string { return d.name }

// String names the domain and how it runs in one line, for a log.
func (d *Domain) String() string {
	return fmt.Sprintf("%s (%s, %s, %d processors, %d MiB)", d.name, d.spec.Firmware, d.host.accel, d.spec.CPUs, d.spec.MemoryMiB)
}

// CommandLine is a shell command that runs the same machine without libvirt, with its console on the terminal. It does
// not write to the image, and its network is QEMU's own.
func (d *Domain) CommandLine() string {
	s := d.spec
	args := []string{"qemu-system-x86_64", "-machine", "q35", "-snapshot", "-nographic", "-m", strconv.Itoa(s.MemoryMiB), "-smp", strconv.Itoa(s.CPUs)}
	if d.host.accel == KVM {
		args = append(args, "-accel", "kvm", "-cpu", "host")
	} else {
		args = append(args, "-accel", "tcg,thread=multi", "-cpu", "max")
	}
	if s.Firmware == UEFI {
		code, vars := ovmfCode, ovmfVars
		if s.SecureBoot {
			code, vars = ovmfSecureCode, ovmfSecureVars
			args = append(args, "-machine", "smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on")
		}
		args = append(args, "-drive", "if=pflash,format=raw,readonly=on,file="+code, "-drive", "if=pflash,format=raw,file="+vars)
	}
	if s.Image != "" {
		args = append(args, "-drive", "if=virtio,format="+s.ImageFormat+",file="+escapeComma(s.Image))
	}
	for _, disk := range s.Disks {
		args = append(args, "-drive", "if=virtio,format="+orDefault(disk.Format, "raw")+",file="+escapeComma(disk.Path))
	}
	if s.Kernel != "" {
		args = append(args, "-kernel", s.Kernel, "-append", s.Cmdline)
		if s.Initrd != "" {
			args = append(args, "-initrd", s.Initrd)
		}
	}
	if s.Network != nil {
		args = append(args, "-nic", "user,model=virtio-net-pci")
	}
	for i, a := range args {
		args[i] = quote(a)
	}
	return strings.Join(args, " ")
}

// escapeComma writes a path as a value of a QEMU option.
func escapeComma(path string) string { return strings.ReplaceAll(path, ",", ",,") }

// quote makes one word of a shell's command line.
func quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./,=:+@") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Console returns what the serial console printed so far.
func (d *Domain) Console() []byte {
	if d.console == nil {
		return nil
	}
	return d.console.bytes()
}

// OpenConsole attaches to the serial console: reads give what is printed from the first byte on, then wait for more;
// writes are keystrokes. Several may be open at once. The reader ends with io.EOF when the domain has stopped, with
// ctx's error when ctx ends.
func (d *Domain) OpenConsole(ctx context.Context) (io.ReadWriteCloser, error) {
	return d.console.session(ctx), nil
}

// State says whether the domain runs.
func (d *Domain) State() State {
	select {
	case <-d.console.done:
		return Stopped
	default:
		return Running
	}
}

// Stopped is closed when the domain has stopped.
func (d *Domain) Stopped() <-chan struct{} { return d.console.done }

// Wait returns when the domain has stopped or ctx has ended (its error). The error is nil after a power-off or Destroy,
// else it says how QEMU ended.
func (d *Domain) Wait(ctx context.Context) error {
	select {
	case <-d.console.done:
		return d.failure()
	case <-ctx.Done():
		return fmt.Errorf("%s still runs: %w", d.name, context.Cause(ctx))
	}
}

// failure tells a QEMU that died from a guest that powered off. libvirt notes which in the domain's log, a moment after.
func (d *Domain) failure() error {
	for range 20 {
		log := d.qemuLog()
		_, rest, noted := strings.Cut(log, "shutting down, reason=")
		if reason := strings.TrimSpace(rest); noted {
			if reason == "crashed" || reason == "failed" {
				return fault.Outsidef("QEMU of %s ended: %s: %s", d.name, reason, d.lastWords())
			}
			return nil
		}
		if log == "" || d.host.daemon != nil && d.host.daemon.gone() {
			return nil // there is nobody to ask
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil
}

// Shutdown presses the power button and waits until the domain has stopped or ctx has ended. It presses again each ten
// seconds: a guest hears it only when its operating system is up.
func (d *Domain) Shutdown(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		if err := d.host.power().pressPower(ctx, d.name); err != nil && d.State() == Running && !d.stopsWithin(time.Second) {
			return err
		}
		select {
		case <-d.console.done:
			return nil
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s did not power off: %w", d.name, context.Cause(ctx))
		}
	}
}

func (d *Domain) stopsWithin(t time.Duration) bool {
	select {
	case <-d.console.done:
		return true
	case <-time.After(t):
		return false
	}
}

// Reset restarts the machine as its reset button does: the guest is not asked.
func (d *Domain) Reset(ctx context.Context) error { return d.host.power().reset(ctx, d.name) }

// qemuLog is what libvirt and QEMU wrote about the domain, "" where it cannot be read.
func (d *Domain) qemuLog() string {
	dir := "/var/log/libvirt/qemu"
	if d.host.daemon != nil {
		dir = filepath.Join(d.host.run, "log", "qemu")
	}
	b, _ := os.ReadFile(filepath.Join(dir, d.name+".log"))
	return string(b)
}

// lastWords are the end of what QEMU itself wrote, such as why it ended. libvirt's own lines begin otherwise.
func (d *Domain) lastWords() string {
	var said []string
	for line := range strings.Lines(d.qemuLog()) {
		line = strings.TrimSpace(line)
		if strings.Contains(line, "qemu-system-x86_64: ") || strings.HasPrefix(line, "KVM ") {
			said = append(said, line)
		}
	}
	return strings.Join(said[max(0, len(said)-3):], "; ")
}

// Destroy cuts the power and removes the overlay and everything else that belongs to the domain. It may be called
// twice, and works after ctx has ended.
func (d *Domain) Destroy(ctx context.Context) error {
	d.destroy.Lock()
	defer d.destroy.Unlock()
	if d.destroyed {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownWait)
	defer cancel()
	if d.xml != "" {
		if err := d.cutPower(ctx); err != nil {
			return err
		}
	}
	d.destroyed = true
	_ = os.Remove(d.files.console)
	d.host.forget(d)
	return os.RemoveAll(d.files.dir)
}

func (d *Domain) cutPower(ctx context.Context) error {
	err := d.host.power().destroy(ctx, d.name)
	if err != nil && d.host.daemon != nil && d.host.daemon.ended() {
		err = nil // and every QEMU ended with it
	}
	if err != nil || d.console == nil {
		return err
	}
	select {
	case <-d.console.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s does not end: %w", d.name, context.Cause(ctx))
	}
}
