package directory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
)

// xzArguments choose level, threads and block size by who downloads the image; README.md has the measurements. With
// two threads and more xz writes blocks, which readers can decompress side by side, and its output does not depend on
// the number of threads. More of them would take more than 200 MiB.
func xzArguments(t image.UploadType) []string {
	if t == image.Published {
		return []string{"-c", "-4", "--block-size=12MiB", "-T2"}
	}
	return []string{"-c", "-1", "--block-size=8MiB", "-T" + strconv.Itoa(max(2, min(6, runtime.GOMAXPROCS(0))))}
}

// xz is a compressor fed by a pipe.
type xz struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *failureKeeper
	said   bytes.Buffer
	cancel context.CancelFunc
	waited bool
}

// failureKeeper remembers why the compressed bytes could not be written, which exec reports after xz's own broken pipe.
type failureKeeper struct {
	io.Writer
	err error
}

func (k *failureKeeper) Write(p []byte) (int, error) {
	n, err := k.Writer.Write(p)
	if err != nil {
		k.err = err
	}
	return n, err
}

func startXZ(ctx context.Context, t image.UploadType, out io.Writer) (*xz, error) {
	ctx, cancel := context.WithCancel(ctx)
	x := &xz{out: &failureKeeper{Writer: out}, cancel: cancel}
	x.cmd = exec.CommandContext(ctx, "xz", xzArguments(t)...)
	x.cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")} // XZ_DEFAULTS and XZ_OPT would change the output
	x.cmd.Stdout, x.cmd.Stderr = x.out, &x.said
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	x.cmd.Cancel = func() error { return unix.Kill(-x.cmd.Process.Pid, unix.SIGKILL) }
	x.cmd.WaitDelay = 5 * time.Second
	var err error
	if x.in, err = x.cmd.StdinPipe(); err == nil {
		err = x.cmd.Start()
	}
	if err != nil {
		cancel()
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fault.WithHint(fault.Outsidef("xz is not installed"), "apt install xz-utils")
		}
		return nil, fmt.Errorf("start xz: %w", err)
	}
	return x, nil
}

// Write feeds xz. Where xz is gone, the error says why.
func (x *xz) Write(p []byte) (int, error) {
	n, err := x.in.Write(p)
	if err != nil {
		if why := x.Close(); why != nil {
			err = why
		}
	}
	return n, err
}

// Close ends the input and waits for the end of the output.
func (x *xz) Close() error {
	if x.waited {
		return nil
	}
	x.waited = true
	x.in.Close()
	err := x.cmd.Wait()
	x.cancel()
	if x.out.err != nil {
		return fmt.Errorf("write the compressed image: %w", x.out.err)
	}
	if err != nil {
		return fmt.Errorf("xz failed: %w: %s", err, strings.TrimSpace(x.said.String()))
	}
	return nil
}

// abort kills xz, unless it was waited for.
func (x *xz) abort() {
	x.cancel()
	_ = x.Close()
}
