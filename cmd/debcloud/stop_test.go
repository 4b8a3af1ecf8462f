package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stop is a signal to "debcloud run" at the moment when it says something.
type stop struct {
	signal syscall.Signal
	at     string
}

// TestLongRunIsStoppedAtEveryStep takes a cell all the way, stops it in every step, by SIGTERM or SIGKILL, and runs it again each time.
// Nothing may stay behind, each step that had ended is not done again, and the last run publishes.
//
// The cell is another than the one of `make test-image`: another release, and an image that is tested on its console.
func TestLongRunIsStoppedAtEveryStep(t *testing.T) {
	if os.Getenv("DEBCLOUD_TEST_LONG") != "1" {
		t.Skip("it builds an image three times: run make test-long")
	}
	if os.Geteuid() != 0 {
		t.Skip("building needs root")
	}
	run := newStoppedRun(t)
	for _, s := range []stop{
		{syscall.SIGTERM, "FAI: bootstrapping"},
		{syscall.SIGKILL, "FAI: installing packages"},
		{syscall.SIGKILL, "check: started"},
		{syscall.SIGKILL, "bios: powered on"},
		{syscall.SIGTERM, "bios: kernel after"},
		{syscall.SIGKILL, "publish debian-12-nocloud-amd64-daily-20260814-7: started"},
		{syscall.SIGTERM, "publish debian-12-nocloud-amd64-daily-20260814-7: started"},
	} {
		run.until(s)
	}
	table := run.toTheEnd()
	for _, want := range []string{"build ", "check ", "boot ", "publish ", "index ", "1 image"} {
		if !strings.Contains(table, want) {
			t.Errorf("the last run's table lacks %q:\n%s", want, table)
		}
	}
	published := filepath.Join(run.dir, "public", "bookworm", "daily", "20260814-7")
	mustRun(t, published, "sha512sum", "--check", "--strict", "SHA512SUMS")
}

// stoppedRun is one cell's run with directories of its own.
type stoppedRun struct {
	*testing.T
	dir string
}

func newStoppedRun(t *testing.T) *stoppedRun {
	r := &stoppedRun{t, t.TempDir()}
	if err := os.Mkdir(filepath.Join(r.dir, "tmp"), 0o755); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *stoppedRun) command() *exec.Cmd {
	program, err := filepath.Abs(filepath.Join("..", "..", "debcloud"))
	if err != nil {
		r.Fatal(err)
	}
	c := exec.CommandContext(r.Context(), program, "run", "bookworm", "nocloud", "amd64", "--version", "20260814-7", "--dir", "public", "--work", "work")
	c.Dir = r.dir
	c.Env = append(os.Environ(), "TMPDIR="+filepath.Join(r.dir, "tmp"))
	c.WaitDelay = 10 * time.Second
	return c
}

// until runs the cell and stops it at s. A guest that a busy host starved before that is tried again.
func (r *stoppedRun) until(s stop) {
	r.Helper()
	for range 3 {
		there, said, end := r.stopAt(s)
		if there {
			r.demandEnd(s, end)
			return
		}
		if exit, ok := errors.AsType[*exec.ExitError](end); !ok || exit.ExitCode() != 3 {
			r.Fatalf("it never said %q: %v\n%s", s.at, end, said)
		}
		r.Logf("once more, because: %s", lastLineOf(said))
	}
	r.Fatalf("something outside failed three times before it said %q", s.at)
}

// stopAt starts a run and sends the signal when it says s.at. It returns whether the run came there, all it said, and how it ended.
func (r *stoppedRun) stopAt(s stop) (there bool, said string, end error) {
	r.Helper()
	c := r.command()
	out, in := io.Pipe()
	c.Stderr = in
	if err := c.Start(); err != nil {
		r.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		err := c.Wait()
		in.Close()
		ended <- err
	}()
	var all strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		all.WriteString(lines.Text() + "\n")
		if !there && strings.HasPrefix(lines.Text(), s.at) {
			there = true
			_ = c.Process.Signal(s.signal) // Wait tells
		}
	}
	return there, all.String(), <-ended
}

// demandEnd demands the exit that goes with the signal, and that nothing goes on or is mounted. After SIGTERM no temporary file
// is there either; what SIGKILL leaves is for the next run.
func (r *stoppedRun) demandEnd(s stop, err error) {
	r.Helper()
	exit, _ := errors.AsType[*exec.ExitError](err)
	switch {
	case exit == nil:
		r.Fatalf("%s at %q: ended with %v", s.signal, s.at, err)
	case s.signal == syscall.SIGTERM && exit.ExitCode() != 128+int(syscall.SIGTERM):
		r.Errorf("%s at %q: exit code %d", s.signal, s.at, exit.ExitCode())
	case s.signal == syscall.SIGKILL && exit.ExitCode() != -1:
		r.Errorf("%s at %q: it ended by itself, with %d", s.signal, s.at, exit.ExitCode())
	}
	for deadline := time.Now().Add(30 * time.Second); len(r.goesOn()) > 0 && time.Now().Before(deadline); {
		time.Sleep(100 * time.Millisecond) // the kernel ends the processes of a killed run's namespaces
	}
	if left := r.goesOn(); len(left) > 0 {
		r.Errorf("%s at %q leaves %q", s.signal, s.at, left)
	}
	if s.signal == syscall.SIGTERM {
		r.demandTidy()
	}
}

// goesOn returns the processes and mounts that have to do with this run.
func (r *stoppedRun) goesOn() []string {
	var found []string
	paths, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range paths {
		line, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		root, _ := os.Readlink(filepath.Join(p, "root"))
		if bytes.Contains(line, []byte(r.dir)) || strings.HasPrefix(root, r.dir) {
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, r.dir) {
			found = append(found, line)
		}
	}
	return found
}

// demandTidy demands that there are only finished files.
func (r *stoppedRun) demandTidy() {
	r.Helper()
	for _, pattern := range []string{"tmp/*", "work/.*", "public/.*"} {
		left, _ := filepath.Glob(filepath.Join(r.dir, pattern))
		for _, path := range left {
			r.Errorf("left behind: %s", path)
		}
	}
}

// toTheEnd runs the cell to its end and returns the table. A guest that a busy host starved is tried again.
func (r *stoppedRun) toTheEnd() string {
	r.Helper()
	for range 3 {
		c := r.command()
		var said bytes.Buffer
		c.Stderr = &said
		table, err := c.Output()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 3 {
			r.Logf("once more, because: %s", lastLineOf(said.String()))
			continue
		}
		if err != nil {
			r.Fatalf("%v\n%s%s", err, table, said.String())
		}
		r.demandTidy()
		return string(table)
	}
	r.Fatal("something outside failed three times")
	return ""
}

func lastLineOf(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}
