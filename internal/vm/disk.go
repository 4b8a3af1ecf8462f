package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// createOverlay makes a qcow2 file that takes the writes to image, and returns the size in bytes of the disk that the guest sees.
func createOverlay(ctx context.Context, s Spec, overlay string) (int64, error) {
	image, err := filepath.Abs(s.Image)
	if err != nil {
		return 0, err
	}
	size, err := VirtualSize(ctx, image, s.ImageFormat)
	if err != nil {
		return 0, err
	}
	if s.DiskSize != 0 && s.DiskSize < size {
		return 0, fault.Inputf("a disk of %d bytes is smaller than its image %s of %d bytes", s.DiskSize, image, size)
	}
	size = max(size, s.DiskSize)
	_, err = output(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", s.ImageFormat, "-b", image, overlay, fmt.Sprint(size))
	return size, err
}

// VirtualSize returns how many bytes a disk has whose image is "raw" or "qcow2" (""). qemu-img also tells a qcow2 image that is
// none.
func VirtualSize(ctx context.Context, image, format string) (int64, error) {
	if info, err := os.Stat(image); errors.Is(err, fs.ErrNotExist) {
		return 0, fault.Inputf("image %s does not exist", image)
	} else if err != nil {
		return 0, fault.Inputf("image: %w", err)
	} else if !info.Mode().IsRegular() || info.Size() == 0 {
		return 0, fault.Inputf("image %s is empty or not a file", image)
	} else if format == "raw" {
		return info.Size(), nil
	}
	format = orDefault(format, "qcow2")
	out, err := output(ctx, "qemu-img", "info", "-U", "-f", format, "--output=json", image)
	if err != nil {
		return 0, fault.Inputf("image %s cannot be read as %s: %w", image, format, err)
	}
	var info struct {
		Size int64 `json:"virtual-size"`
	}
	if err := json.Unmarshal(out, &info); err != nil {
		return 0, fmt.Errorf("qemu-img info %s: %w", image, err)
	}
	return info.Size, nil
}

// output runs a short program that dies with ctx, and returns its standard output. The error holds its last words.
func output(ctx context.Context, name string, args ...string) ([]byte, error) {
	if err := need(name); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s: %w", name, context.Cause(ctx))
		}
		return nil, fmt.Errorf("%s %s: %w: %s", name, args[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// packages names the Debian package of each program that this package runs.
var packages = map[string]string{
	"libvirtd":           "libvirt-daemon-system",
	"qemu-system-x86_64": "qemu-system-x86",
	"qemu-img":           "qemu-utils",
	"tini":               "tini",
}

// need tells which package to install where a program is missing.
func need(programs ...string) error {
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			return fault.WithHint(fault.Outsidef("cannot run virtual machines: program %s is not installed", p), "install the Debian package %s", packages[p])
		}
	}
	return nil
}
