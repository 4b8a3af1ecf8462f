package vm

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/process"
)

//go:embed private.sh
var privateScript string

// daemon is a private libvirtd. It dies with this process, however that ends.
type daemon struct {
	run     string // its directory
	process process.ID
	cmd     *exec.Cmd
	exited  chan struct{}
}

// startDaemon starts libvirtd in namespaces of its own. run must be short: UNIX sockets' paths end at 107 bytes.
func startDaemon(run, cache string, accel Accel) (*daemon, error) {
	return daemonOptions{run: run, cache: cache, accel: accel}.start()
}

type daemonOptions struct {
	run, cache string
	accel      Accel
	// lasting is a daemon for domains that outlive who made them: virtlogd limits their logs, and a killed libvirtd comes
	// back and finds them.
	lasting bool
	// network gives it a network namespace.
	network bool
}

func (o daemonOptions) start() (*daemon, error) {
	if os.Geteuid() != 0 {
		return nil, fault.WithHint(fault.Inputf("no libvirtd answers and only root can start a private one"), "run as root, or start the system's libvirtd")
	}
	if err := need("libvirtd", "qemu-system-x86_64", "qemu-img", "tini"); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(o.run, "libvirtd.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	kvm := "hide"
	if o.accel == KVM {
		kvm = "show"
	}
	kind := "fleeting"
	if o.lasting {
		kind = "lasting"
	}
	network := "host"
	if o.network {
		network = "own"
	}
	cmd := exec.Command("sh", "-c", privateScript, "libvirtd", o.run, o.cache, kvm, kind, network)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:    true,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if o.network {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET
	}
	d := &daemon{run: o.run, cmd: cmd, exited: make(chan struct{})}
	started := make(chan error)
	go d.mind(started)
	if err := <-started; err != nil {
		return nil, fault.Outsidef("start libvirtd: %w", err)
	}
	d.process = process.Of(cmd.Process.Pid)
	return d, nil
}

// mind holds the thread that starts the daemon: the kernel sends Pdeathsig when that thread ends (Go issue 27505).
func (d *daemon) mind(started chan<- error) {
	runtime.LockOSThread()
	err := d.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	_ = d.cmd.Wait()
	close(d.exited)
}

// uri is how libvirt's library finds the daemon.
func (d *daemon) uri() string {
	return "qemu+unix:///system?socket=" + filepath.Join(d.run, "run", "libvirt-sock")
}

// dial waits until the daemon answers, which takes it half a second on a quiet machine.
func (d *daemon) dial(ctx context.Context) (*connection, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, fmt.Errorf("no answer within a minute"))
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(filepath.Join(d.run, "run", "libvirt-sock")); err == nil {
			if c, err := dial(ctx, d.uri()); err == nil {
				return c, nil
			}
		}
		select {
		case <-tick.C:
		case <-d.exited:
			return nil, fault.Outsidef("libvirtd ended at once: %s", d.lastWords())
		case <-ctx.Done():
			return nil, fault.Outsidef("libvirtd: %w: %s", context.Cause(ctx), d.lastWords())
		}
	}
}

// lastWords are the errors that it logged.
func (d *daemon) lastWords() string {
	b, _ := os.ReadFile(filepath.Join(d.run, "libvirtd.log"))
	lines := strings.Split(string(bytes.TrimSpace(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "; ")
}

func (d *daemon) gone() bool {
	select {
	case <-d.exited:
		return true
	default:
		return false
	}
}

// ended is gone with patience: it shows on the daemon's socket a moment earlier.
func (d *daemon) ended() bool {
	select {
	case <-d.exited:
		return true
	case <-time.After(2 * time.Second):
		return false
	}
}

// stop ends the daemon and, with its PID namespace, every QEMU that it started.
func (d *daemon) stop() error {
	_ = d.cmd.Process.Kill()
	select {
	case <-d.exited:
		return nil
	case <-time.After(shutdownWait):
		return fmt.Errorf("libvirtd (process %d) does not end", d.process.PID)
	}
}
