package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// command prepares a program of the machine. It and all it starts end with ctx or with this process.
// env is all of its environment but PATH and the locale.
func command(ctx context.Context, env []string, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program(name), args...)
	cmd.Env = append([]string{"PATH=" + searchPath(), "LC_ALL=C", "TZ=UTC"}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// searchPath is PATH and the directories of administrators' programs, which an ordinary PATH leaves out.
func searchPath() string {
	return strings.Join([]string{os.Getenv("PATH"), "/usr/local/sbin", "/usr/sbin", "/sbin"}, ":")
}

// program finds name in searchPath; a name that is nowhere is returned as it is, and starting it says so.
func program(name string) string {
	for _, dir := range filepath.SplitList(searchPath()) {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); dir != "" && err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file
		}
	}
	return name
}

// packages names the Debian package of each program that this package calls.
var packages = map[string]string{"mkfs.ext4": "e2fsprogs", "mkfs.fat": "dosfstools", "mmd": "mtools", "mcopy": "mtools"}

// run runs cmd and returns what it printed, which is also part of the error if it fails.
func run(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	text := strings.TrimSpace(out.String())
	name := filepath.Base(cmd.Path)
	switch {
	case ctx.Err() != nil:
		return text, ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return text, fault.Inputf("program %q is not installed: install the Debian package %s", name, packages[name])
	case err != nil:
		return text, &toolError{name: name, err: err, output: text}
	}
	return text, nil
}

// toolError is the failure of a program, with what it printed.
type toolError struct {
	name   string
	err    error
	output string
}

func (e *toolError) Error() string {
	lines := strings.Split(e.output, "\n")
	return fmt.Sprintf("%s failed (%v): %s", e.name, e.err, strings.Join(lines[max(0, len(lines)-5):], "; "))
}

func (e *toolError) Unwrap() error { return e.err }
