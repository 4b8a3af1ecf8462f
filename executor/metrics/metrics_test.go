package metrics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"salsa.debian.org/cloud-team/debcloud/executor/admission"
	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// TestMain is also a driver process that counts and ends.
func TestMain(m *testing.M) {
	if dir := os.Getenv("METRICS_TEST_DIR"); dir != "" {
		r, err := Open(settingsIn(dir), nil, "v1")
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		for range 10 {
			r.JobFinished(context.Background(), Success)
			r.Prepared(context.Background(), 0.3, true)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func settingsIn(dir string) *settings.Settings {
	s := settings.Default()
	s.State, s.Metrics.Textfile = dir, filepath.Join(dir, "debcloud.prom")
	return s
}

type ledger func() (admission.Snapshot, error)

func (l ledger) Snapshot(context.Context) (admission.Snapshot, error) { return l() }

// values parses the text as Prometheus does and returns each series that is no bucket.
func values(t *testing.T, text []byte) map[string]float64 {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	got := make(map[string]float64)
	for name, f := range families {
		for _, m := range f.Metric {
			series := strings.TrimPrefix(name, "debcloud_executor_")
			for _, l := range m.Label {
				series += "/" + l.GetValue()
			}
			if h := m.Histogram; h != nil {
				got[series+" count"], got[series+" sum"] = float64(h.GetSampleCount()), h.GetSampleSum()
				for _, b := range h.Bucket {
					got[fmt.Sprintf("%s <= %v", series, b.GetUpperBound())] = float64(b.GetCumulativeCount())
				}
				continue
			}
			got[series] = m.Counter.GetValue() + m.Gauge.GetValue()
		}
	}
	return got
}

func TestOverProcesses(t *testing.T) {
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), "METRICS_TEST_DIR="+dir)
		all.Go(func() {
			if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	all.Wait()
	text, err := os.ReadFile(filepath.Join(dir, "debcloud.prom"))
	if err != nil {
		t.Fatal(err)
	}
	got := values(t, text)
	for series, want := range map[string]float64{
		"jobs_total/success": 80, "jobs_total/system_failure": 0, "jobs_total/cancelled": 0, "jobs_total/refused": 0, "prepare_seconds/warm count": 80, "prepare_seconds/cold count": 0,
		"prepare_seconds/warm <= 0.25": 0, "prepare_seconds/warm <= 0.5": 80, "prepare_seconds/warm <= 600": 80, "reaped_total/domain": 0, "build_info/v1": 1,
	} {
		if v, ok := got[series]; !ok || v != want {
			t.Errorf("%s is %v, %v; want %v", series, v, ok, want)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "debcloud.prom?*")); len(left) > 0 {
		t.Errorf("left beside the textfile: %v", left)
	}
}

func TestHTTP(t *testing.T) {
	since := time.Date(2025, 8, 14, 12, 0, 0, 0, time.UTC)
	host := admission.Snapshot{
		Budget:  settings.Resources{CPUs: 8, Memory: 16 << 30, Disk: 100 << 30, VMs: 9},
		Used:    settings.Resources{CPUs: 4, Memory: 6 << 30, Disk: 20 << 30, VMs: 2},
		Waiting: []admission.Waiter{{Since: since}},
		Entries: []admission.Entry{
			{Request: admission.Request{Class: admission.Job}, Siblings: map[string]admission.Sibling{"a": {}}},
			{Request: admission.Request{Class: admission.Warm}},
		},
	}
	var trouble error
	r, err := Open(settingsIn(t.TempDir()), ledger(func() (admission.Snapshot, error) { return host, trouble }), "v1")
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	r.JobFinished(ctx, ScriptFailure)
	r.Booted(ctx, 12.5)
	r.Admitted(ctx, 61)
	r.Reaped(ctx, Domain, 3)
	r.Reaped(ctx, Volume, 0)
	scrape := func() []byte {
		answer := httptest.NewRecorder()
		r.ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
		if answer.Code != 200 {
			t.Errorf("answer %d: %s", answer.Code, answer.Body)
		}
		return answer.Body.Bytes()
	}
	text := scrape()
	got := values(t, text)
	for series, want := range map[string]float64{
		"jobs_total/script_failure": 1, "boot_seconds sum": 12.5, "boot_seconds <= 10": 0, "boot_seconds <= 15": 1, "admission_wait_seconds <= 60": 0,
		"reaped_total/domain": 3, "waiting_jobs": 1, "oldest_waiting_timestamp_seconds": float64(since.Unix()), "vms/job": 2, "vms/warm": 1,
		"cpus_budget": 8, "cpus_used": 4, "memory_used_bytes": 6 << 30, "disk_budget_bytes": 100 << 30,
	} {
		if v, ok := got[series]; !ok || v != want {
			t.Errorf("%s is %v, %v; want %v", series, v, ok, want)
		}
	}
	if found, err := promlint.New(bytes.NewReader(text)).Lint(); err != nil || len(found) > 0 {
		t.Errorf("promlint: %v, %v", found, err)
	}
	trouble = errors.New("ledger is broken")
	if got := values(t, scrape()); got["jobs_total/script_failure"] != 1 {
		t.Errorf("without the ledger: %v", got)
	}
}

func TestLostCounts(t *testing.T) {
	r, err := Open(settingsIn(t.TempDir()), nil, "v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.path(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.JobFinished(t.Context(), Success)
	if c := r.read(t.Context()); c.Jobs[Success] != 1 {
		t.Errorf("%+v", c)
	}
}

// TestStoppedProcess holds that a job does not wait for ever for somebody who has the lock and sleeps.
func TestStoppedProcess(t *testing.T) {
	r, err := Open(settingsIn(t.TempDir()), nil, "v1")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(r.dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := r.update(ctx, func(*counts) {}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ended with %v", err)
	}
}

// TestDocumented holds the table in the documentation against what there is.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/executor.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"jobs_total", "prepare_seconds", "boot_seconds", "admission_wait_seconds", "reaped_total", "waiting_jobs",
		"oldest_waiting_timestamp_seconds", "vms", "build_info", "cpus_budget", "cpus_used", "memory_budget_bytes", "memory_used_bytes", "disk_budget_bytes", "disk_used_bytes"} {
		if !strings.Contains(string(text), "`debcloud_executor_"+name) {
			t.Errorf("docs/executor.md does not tell of debcloud_executor_%s", name)
		}
	}
}

func TestServe(t *testing.T) {
	r, err := Open(settingsIn(t.TempDir()), nil, "v1")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	at := make(chan net.Addr, 1)
	ended := make(chan error, 1)
	go func() { ended <- r.Serve(ctx, "127.0.0.1:0", func(a net.Addr) { at <- a }) }()
	address := (<-at).String()
	for path, want := range map[string]int{"/metrics": 200, "/": 404} {
		answer, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%s: %s", path, answer.Status)
		}
	}
	if err := r.Serve(ctx, address, nil); fault.KindOf(err) != fault.Outside {
		t.Errorf("an address that is taken: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestLabel holds that what a label has is what Prometheus reads.
func TestLabel(t *testing.T) {
	version := "1.0~\"beta\"\\\n"
	if got := values(t, pageOf(new(counts), nil, version)); got["build_info/"+version] != 1 {
		t.Errorf("%v", got)
	}
}
