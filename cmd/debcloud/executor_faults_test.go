package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/runnertest"
	"salsa.debian.org/cloud-team/debcloud/internal/process"
)

// playRunner is the program "play-runner": a Runner of one job, which can be killed. Its standard input is a played.
func playRunner() {
	var p played
	if err := json.NewDecoder(os.Stdin).Decode(&p); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(p.Runner.Play(context.Background(), p.Job))
}

type played struct {
	Runner *runnertest.Runner
	Job    runnertest.Job
}

// longTests is set where there is time for many.
func longTests() bool { return os.Getenv("DEBCLOUD_TEST_LONG") != "" }

// Whoever is killed, and whenever: the reaper leaves nothing of it, and no job succeeds that did not.
func TestExecutorFaults(t *testing.T) { testFaults(t, 4) }

func TestLongExecutorFaults(t *testing.T) {
	if !longTests() {
		t.Skip("DEBCLOUD_TEST_LONG is not set")
	}
	testFaults(t, 100)
}

func testFaults(t *testing.T, number int) {
	b := runnertest.NewBed(t, runnertest.Options{Image: testGuest(t)})
	begun := time.Now()
	if o := playAndKill(t, b); o == nil || o.State != "success" {
		t.Fatalf("without a fault: %v", o)
	}
	length := time.Since(begun)
	victims := []string{"runner", "driver", "QEMU", "libvirtd"}
	for n := range number {
		victim, after := victims[n%len(victims)], rand.N(length)
		t.Run(fmt.Sprintf("%s after %v", victim, after.Round(time.Millisecond)), func(t *testing.T) {
			o := playAndKill(t, b, killer{b, victim, after}.kill)
			if o != nil && o.Reason == "script_failure" {
				t.Errorf("the script is blamed: %v", o)
			}
			if o != nil && o.State == "success" && !strings.Contains(o.Log, "the script is done") {
				t.Errorf("it succeeds, and did not: %v", o)
			}
			reap(t, b)
			nothingLeft(t, b)
		})
	}
}

// playAndKill plays a short job in another process and runs kills beside it, with that process's number. The outcome is
// nil where the process itself was killed.
func playAndKill(t *testing.T, b *runnertest.Bed, kills ...func(*testing.T, int)) *runnertest.Outcome {
	t.Helper()
	p := played{newRunner(t, b), newJob(script("prepare_script", "echo hello\n"), script("build_script", "sleep 1; echo the script is done\n"), script("after_script", "true\n"))}
	input, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command("play-runner")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var killing sync.WaitGroup
	for _, kill := range kills {
		killing.Go(func() { kill(t, cmd.Process.Pid) })
	}
	err = cmd.Wait()
	killing.Wait()
	if err != nil {
		return nil
	}
	var o runnertest.Outcome
	if err := json.Unmarshal(out.Bytes(), &o); err != nil {
		t.Fatalf("%v: %s", err, out.Bytes())
	}
	return &o
}

// killer kills one process of a bed after a while.
type killer struct {
	bed    *runnertest.Bed
	victim string
	after  time.Duration
}

func (k killer) kill(t *testing.T, runner int) {
	time.Sleep(k.after)
	switch k.victim {
	case "runner":
		_ = syscall.Kill(runner, syscall.SIGKILL)
	case "driver":
		for _, pid := range driversOf(k.bed) {
			if process.Parent(pid) == runner {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	case "QEMU":
		for _, pid := range qemusOf(k.bed) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	case "libvirtd":
		if err := k.bed.Daemon.Kill(); err != nil {
			t.Log(err)
		}
	}
}

// qemusOf lists the processes of jobs' virtual machines.
func qemusOf(b *runnertest.Bed) []int {
	var found []int
	for _, pid := range b.Daemon.Processes() {
		if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.Contains(string(line), "guest=debcloud-job-") {
			found = append(found, pid)
		}
	}
	return found
}

// driversOf lists the driver's processes.
func driversOf(b *runnertest.Bed) []int {
	var found []int
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		line, _ := os.ReadFile(path)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if bytes.Contains(line, []byte(b.Settings)) && bytes.Contains(line, []byte("executor")) && pid != os.Getpid() {
			found = append(found, pid)
		}
	}
	return found
}

// reap waits until drivers of a killed Runner have ended, and calls the reaper.
func reap(t *testing.T, b *runnertest.Bed) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); len(driversOf(b)) > 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("drivers still run: %v", driversOf(b))
		}
	}
	cmd := exec.Command("debcloud", "executor", "--settings", b.Settings, "reap")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("reap: %v: %s", err, out)
	}
	t.Logf("reap: %s", out)
}
