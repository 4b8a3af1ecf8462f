package build

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
)

// optionsVariable holds Options in JSON. With it the test binary is a program that builds, so that a test can send it
// signals and look at what it leaves behind.
const optionsVariable = "DEBCLOUD_BUILD_TEST_OPTIONS"

func TestMain(m *testing.M) {
	if text := os.Getenv(optionsVariable); text != "" {
		os.Exit(runOptions(text))
	}
	// The mirrors of tests are here, whatever the machine's proxy.
	os.Setenv("no_proxy", strings.TrimPrefix(os.Getenv("no_proxy")+",127.0.0.1", ","))
	os.Exit(m.Run())
}

// runOptions builds as cmd/debcloud does and returns the fault's kind as exit code.
func runOptions(text string) int {
	var o Options
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if _, err := Run(ctx, o); err != nil {
		fmt.Fprintf(os.Stderr, "%v\nhint: %s\n", err, fault.HintOf(err))
		return map[fault.Kind]int{fault.Work: 1, fault.Input: 2, fault.Outside: 3}[fault.KindOf(err)]
	}
	return 0
}

// child is a build in a process of its own.
type child struct {
	*exec.Cmd
	said bytes.Buffer
}

// startBuild starts a build of o in a process of its own, which as may still change.
func startBuild(t *testing.T, o Options, as func(*syscall.SysProcAttr)) *child {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	// This path leads to the test binary for a user that cannot enter its directory, too.
	c := &child{Cmd: exec.Command("/proc/self/exe")}
	c.Env = append(os.Environ(), optionsVariable+"="+string(text))
	c.Stdout, c.Stderr = &c.said, &c.said
	c.SysProcAttr = &syscall.SysProcAttr{}
	if as != nil {
		as(c.SysProcAttr)
	}
	c.WaitDelay = 5 * time.Second
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.ProcessState == nil {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
	})
	return c
}

// end waits for the end of the process and returns its exit code, -1 if a signal ended it. It fails the test after limit.
func (c *child) end(t *testing.T, limit time.Duration) int {
	t.Helper()
	timer := time.AfterFunc(limit, func() { _ = c.Process.Kill() })
	err := c.Wait()
	if !timer.Stop() {
		t.Fatalf("the build went on for %v: %s", limit, c.said.String())
	}
	if err != nil && c.ProcessState == nil {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode()
}

// tinyOptions build from files, a config space that begins with an empty tree instead of a Debian system: FAI's own
// machinery, in a second and without a network. Keys of files are paths in the space.
func tinyOptions(t *testing.T, files map[string]string) Options {
	t.Helper()
	needRoot(t)
	space := t.TempDir()
	all := map[string]string{
		"class/TINY.var":         "tiny=1\n",
		"hooks/extrbase.TINY.sh": "mkdir -p $FAI_ROOT/etc $FAI_ROOT/tmp\nskiptask extrbase debconf repository updatebase instsoft\n",
	}
	for name, text := range files {
		all[name] = text
	}
	for name, text := range all {
		if err := writeFile(filepath.Join(space, name), []byte(text), !strings.HasPrefix(name, "class/")); err != nil {
			t.Fatal(err)
		}
	}
	return Options{
		Cell: image.Cell{
			Release: image.Release{Name: "trixie", Basename: "trixie", ID: "13", BaseID: "13"},
			Vendor:  image.Vendor{Name: "tiny", SizeGB: 1},
			Arch:    image.Arch{Name: "amd64"},
		},
		Type: image.BuildType{
			Name: "official", OutputName: "debian-{release}-{vendor}-{arch}-{build_type}-{version}", OutputVersion: "{date}-{version}",
		},
		Version:     image.Version{Date: "20260102", Number: 3},
		Classes:     []string{"TINY", "LAST"},
		ConfigSpace: space,
		Mirror:      Mirrors{"http://mirror.example/debian", "http://mirror.example/debian-security"},
		ImageMirror: Mirrors{"http://image.example/debian", "http://image.example/debian-security"},
		Output:      t.TempDir(),
	}
}

// waitUntil fails the test if done is not true before limit.
func waitUntil(t *testing.T, what string, limit time.Duration, done func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, limit)
		}
	}
}

// demandClean demands that nothing but the log is left of a build that did not succeed.
func demandClean(t *testing.T, o Options) {
	t.Helper()
	entries, err := os.ReadDir(o.Output)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != o.Name()+".build.log" {
			t.Errorf("%s is left in the output directory", e.Name())
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), o.Output) {
		t.Errorf("a mount is left, %v:\n%s", err, mounts)
	}
	if left := processesIn(t, o.Output); len(left) > 0 {
		t.Errorf("processes are left: %s", strings.Join(left, "; "))
	}
}

// processesIn lists the processes whose command line, or directory of any kind, or mounts name dir.
func processesIn(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(all) == 0 {
		t.Fatal("no process at all: ", err)
	}
	var found []string
	for _, p := range all {
		if filepath.Base(p) == fmt.Sprint(os.Getpid()) {
			continue
		}
		// A process that has ended meanwhile has none of these files.
		command, _ := os.ReadFile(p + "/cmdline")
		mounts, _ := os.ReadFile(p + "/mountinfo")
		cwd, _ := os.Readlink(p + "/cwd")
		root, _ := os.Readlink(p + "/root")
		for _, text := range []string{string(command), string(mounts), cwd, root} {
			if strings.Contains(text, dir) {
				found = append(found, filepath.Base(p)+" "+strings.ReplaceAll(string(command), "\x00", " "))
				break
			}
		}
	}
	return found
}
