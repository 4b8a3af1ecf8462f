package vm

import (
	"context"
	"errors"
	"io"
)

var errSoon = errors.New("not yet written")

// Host runs domains.
type Host struct{}

// Open connects to libvirt and clears away what killed processes left behind. The error says which package is missing
// where one is.
func Open(ctx context.Context, o Options) (*Host, error) { return nil, errSoon }

// Accelerator says how this host's guests are executed. KVM is believed only after a guest has really run on it; the
// answer is kept until the host reboots.
func (h *Host) Accelerator(ctx context.Context) Accel { return TCG }

// Start defines a domain on an overlay of the image and powers it on. Destroy it when done, also if ctx has ended.
func (h *Host) Start(ctx context.Context, s Spec) (*Domain, error) { return nil, errSoon }

// Close destroys the domains that are left and stops the daemons that Open started. It may be called twice.
func (h *Host) Close() error { return errSoon }

// Domain is one virtual machine, powered on.
type Domain struct{}

// Name is the domain's name in libvirt.
func (d *Domain) Name() string { return "" }

// String names the domain and how it runs in one line, for a log.
func (d *Domain) String() string { return "" }

// CommandLine is a shell command that runs the same machine without libvirt.
func (d *Domain) CommandLine() string { return "" }

// Console returns what the serial console printed so far.
func (d *Domain) Console() []byte { return nil }

// OpenConsole attaches to the serial console: reads give what is printed from the first byte on, then wait for more; writes are
// keystrokes. Several may be open at once. The reader ends with io.EOF when the domain has stopped, with ctx's error
// when ctx ends.
func (d *Domain) OpenConsole(ctx context.Context) (io.ReadWriteCloser, error) { return nil, errSoon }

// State says whether the domain runs.
func (d *Domain) State() State { return Stopped }

// Stopped is closed when the domain has stopped.
func (d *Domain) Stopped() <-chan struct{} { return nil }

// Wait returns when the domain has stopped (nil) or ctx has ended (its error).
func (d *Domain) Wait(ctx context.Context) error { return errSoon }

// Shutdown presses the power button and waits until the domain has stopped or ctx has ended.
func (d *Domain) Shutdown(ctx context.Context) error { return errSoon }

// Reset restarts the machine as its reset button does: the guest is not asked.
func (d *Domain) Reset(ctx context.Context) error { return errSoon }

// Destroy cuts the power and removes the overlay and everything else that belongs to the domain. It may be called
// twice, and works after ctx has ended.
func (d *Domain) Destroy(ctx context.Context) error { return nil }
