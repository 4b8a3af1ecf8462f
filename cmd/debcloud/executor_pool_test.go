package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/runnertest"
)

// poolService is a running `executor pool`.
type poolService struct {
	cmd     *exec.Cmd
	bed     *runnertest.Bed
	metrics string // URL
	stderr  bytes.Buffer
}

// newPoolBed is a host whose settings want one VM ready, with metrics at a free port.
func newPoolBed(t testing.TB) (*runnertest.Bed, string) {
	t.Helper()
	more, metrics := poolSettings(t, "tiny")
	return runnertest.NewBed(t, runnertest.Options{Image: testGuest(t), More: more}), metrics
}

// poolSettings want one VM of that image ready, with metrics at a free port, whose URL is returned.
func poolSettings(t testing.TB, image string) (settings, metrics string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	return fmt.Sprintf(`
warm_pool: {check: 10s, vms: [{image: %s, refs: unprotected, count: 1}]}
metrics: {address: %q}
`, image, address), "http://" + address + "/metrics"
}

func startPool(t testing.TB, b *runnertest.Bed, metrics string) *poolService {
	t.Helper()
	program, err := exec.LookPath("debcloud")
	if err != nil {
		t.Fatal(err)
	}
	return startPoolOf(t, program, b, metrics)
}

func startPoolOf(t testing.TB, program string, b *runnertest.Bed, metrics string) *poolService {
	t.Helper()
	s := &poolService{bed: b, metrics: metrics, cmd: exec.Command(program, "executor", "pool", "--settings", b.Settings)}
	s.cmd.Stderr = &s.stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.cmd.Process.Kill(); _ = s.cmd.Wait() })
	return s
}

// ready waits until a VM stands ready that is none of those.
func (s *poolService) ready(t testing.TB, not ...string) string {
	t.Helper()
	for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		found, _ := filepath.Glob(filepath.Join(s.bed.State, "pool", "ready", "*.json"))
		for _, f := range found {
			if name := strings.TrimSuffix(filepath.Base(f), ".json"); !slices.Contains(not, name) {
				return name
			}
		}
	}
	log, _ := os.ReadFile(s.bed.Log)
	t.Fatalf("no VM stands ready: %s\nhost's log: %s", &s.stderr, log)
	return ""
}

func (s *poolService) stop(t testing.TB) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait()
	if code := s.cmd.ProcessState.ExitCode(); code != 0 && code != 128+int(syscall.SIGTERM) {
		t.Errorf("the pool ended with %v: %s", s.cmd.ProcessState, &s.stderr)
	}
}

// TestExecutorPool has a job claim a VM that stands ready, and the service killed in both ways.
func TestExecutorPool(t *testing.T) {
	b, metrics := newPoolBed(t)
	s := startPool(t, b, metrics)
	first := s.ready(t)
	r := newRunner(t, b)
	job := newJob(script("build_script", "echo I am $(hostname)\n"))
	o := r.Play(t.Context(), job)
	if want := fmt.Sprintf("I am debcloud-job-%d-", job.ID); o.State != "success" || !strings.Contains(o.Log, want) || !strings.Contains(o.Log, "virtual machine "+first+" is ready") {
		log, _ := os.ReadFile(b.Log)
		t.Errorf("the job did not get %s with a new name: %s\nhost's log: %s", first, o, log)
	}
	second := s.ready(t, first)
	text := scrape(t, s.metrics)
	for _, want := range []string{`debcloud_executor_prepare_seconds_count{start="warm"} 1`, `debcloud_executor_prepare_seconds_count{start="cold"} 0`,
		`debcloud_executor_jobs_total{result="success"} 1`, `debcloud_executor_vms{class="warm"} 1`} {
		if !strings.Contains(text, want) {
			t.Errorf("the metrics lack %s:\n%s", want, regexp.MustCompile(`(?m)^#.*\n|.*_bucket.*\n`).ReplaceAllString(text, ""))
		}
	}
	s.stop(t)
	nothingLeft(t, b)

	s = startPool(t, b, metrics)
	third := s.ready(t, first, second)
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	reap := exec.Command(r.Driver[0], "executor", "reap", "--settings", b.Settings)
	if out, err := reap.CombinedOutput(); err != nil || !strings.Contains(string(out), "removed "+third) {
		t.Errorf("reap: %v: %s", err, out)
	}
	nothingLeft(t, b)
}

func scrape(t testing.TB, url string) string {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// BenchmarkPrepareWarm holds a prepare that claims a VM against one that boots it: at most 0.05 of it.
func BenchmarkPrepareWarm(b *testing.B) {
	b.Run("tiny", func(b *testing.B) {
		bed, metrics := newPoolBed(b)
		benchWarm(b, newRunner(b, bed), bed, metrics)
	})
	b.Run("runner", func(b *testing.B) {
		more, metrics := poolSettings(b, "runner")
		image := newRunnerImage(b, runnertest.Options{More: more + "images: {runner: {limits: {default: {cpus: 2, memory: 1GiB, disk: 6GiB}}}}\ndefault_image: runner\n"})
		benchWarm(b, image.runner, image.bed, metrics)
	})
}

func benchWarm(b *testing.B, r *runnertest.Runner, bed *runnertest.Bed, metrics string) {
	prepare := func() float64 {
		o := r.Play(context.Background(), newJob(script("build_script", "true\n")))
		if o.State != "success" {
			b.Fatal(o)
		}
		return o.CallsOf("prepare")[0].Took.Seconds()
	}
	var cold, warm float64
	for b.Loop() {
		cold += prepare()
		s := startPoolOf(b, r.Driver[0], bed, metrics)
		s.ready(b)
		time.Sleep(2 * time.Second) // the boot's last work is done
		warm += prepare()
		s.stop(b)
	}
	b.ReportMetric(cold/float64(b.N), "cold-s")
	b.ReportMetric(warm/float64(b.N), "warm-s")
	b.ReportMetric(warm/cold, "warm/cold")
}

// TestExecutorPoolYields has a job that needs the room of a VM that stands ready and is of no use to it.
func TestExecutorPoolYields(t *testing.T) {
	b, metrics := newPoolBed(t)
	text, err := os.ReadFile(b.Settings)
	if err != nil {
		t.Fatal(err)
	}
	b.Write(t, strings.Replace(string(text), "vms: 16", "vms: 1", 1))
	s := startPool(t, b, metrics)
	first := s.ready(t)
	job := newJob(script("build_script", "nproc\n"))
	job.Variables = []runnertest.Variable{{Key: "DEBCLOUD_CPUS", Value: "2"}}
	o := newRunner(t, b).Play(t.Context(), job)
	if o.State != "success" || !strings.Contains(o.Log, "waiting for room on this host, next in line, for 0s so far: VMs: 1 needed, 0 free") || !strings.Contains(o.Log, "2 processors") {
		log, _ := os.ReadFile(b.Log)
		t.Errorf("the VM that stands ready did not give way: %s\nhost's log: %s", o, log)
	}
	s.ready(t, first) // and stands there again when the job is over
	s.stop(t)
	nothingLeft(t, b)
}
