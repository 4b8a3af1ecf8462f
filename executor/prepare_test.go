package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/metrics"
	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/hold"
)

// asks gives a driver a job to work for, with variables, each "key=value".
func asks(t *testing.T, d *Driver, variables ...string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "custom-executor1")
	response := filepath.Join(dir, "response.json")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(response, []byte(respond(`"ref":"topic","protected":false`, variables...)), 0o600); err != nil {
		t.Fatal(err)
	}
	d.Environment = Environment{TempDir: dir, JobResponseFile: response}
}

// What a job waits for room with cannot be removed until its VM uses it.
func TestSettleHolds(t *testing.T) {
	d, b := beddedDriver(t)
	base, disk := filepath.Join(b.Pool, "base.raw"), filepath.Join(b.Pool, "tools.raw")
	for _, path := range []string{base, disk} {
		if err := os.WriteFile(path, make([]byte, 1<<20), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	d.Settings.Images["tiny"] = settings.Image{}
	pruned := 0
	d.Imported = func(context.Context, string, string, string) (Base, error) {
		if pruned++; pruned == 1 {
			return Base{Path: base + ".old", Format: "raw"}, nil // it goes at this moment
		}
		return Base{Path: base, Format: "raw"}, nil
	}
	d.Tools = func(context.Context) (string, error) { return disk, nil }
	asks(t, d)
	o, err := d.settle(t.Context())
	if err != nil || o.base.Path != base {
		t.Fatalf("%+v %v", o.base, err)
	}
	for _, path := range []string{base, disk} {
		if release, ok := hold.Free(path); ok {
			t.Errorf("%s may be removed while the job waits", path)
			release()
		}
	}
	d.letGo()
	for _, path := range []string{base, disk} {
		release, ok := hold.Free(path)
		if !ok {
			t.Fatalf("%s is held for ever", path)
		}
		release()
	}
}

// Each attempt is counted once, by its worst call.
func TestResults(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, row := range []struct {
		summary string
		call    func(*Driver) error
		want    string
	}{
		{"an image that is not there", func(d *Driver) error { d.Environment.Image = "none"; return d.Prepare(t.Context()) }, "refused"},
		{"a response that cannot be read", func(d *Driver) error {
			return errors.Join(os.WriteFile(d.Environment.JobResponseFile, []byte("{"), 0o600), d.Prepare(t.Context()))
		}, "system_failure"},
		{"cancelled in prepare", func(d *Driver) error { return d.Prepare(ended) }, "cancelled"},
		{"a stage without a script", func(d *Driver) error { return d.Run(t.Context(), "/nowhere", "build_script") }, "system_failure"},
		{"cancelled in a stage", func(d *Driver) error { return d.Run(ended, d.Environment.JobResponseFile, "build_script") }, "cancelled"},
	} {
		s := settings.Default()
		s.State, s.Run, s.Console.Dir = t.TempDir(), t.TempDir(), t.TempDir()
		s.Metrics.Textfile, s.Libvirt.URI = filepath.Join(s.State, "m.prom"), "qemu:///system?socket=/nowhere"
		recorder, err := metrics.Open(s, nil, "v1")
		if err != nil {
			t.Fatal(err)
		}
		d := &Driver{Settings: s, Metrics: recorder, Log: slog.New(slog.DiscardHandler), Stdout: io.Discard, Stderr: io.Discard}
		asks(t, d)
		if err := d.Config(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := row.call(d); err == nil {
			t.Errorf("%s: no error", row.summary)
		}
		for _, failed := range []error{errors.New("something stays"), nil} {
			a, ok := d.notes().read(d.Environment.TempDir)
			if err := d.finish(t.Context(), a, failed); !ok || (err == nil) != (failed == nil) {
				t.Errorf("%s: %v, after %v", row.summary, err, failed)
			}
		}
		text, err := os.ReadFile(s.Metrics.Textfile)
		if want := fmt.Sprintf("debcloud_executor_jobs_total{result=%q} 1\n", row.want); err != nil || !strings.Contains(string(text), want) || strings.Count(string(text), "} 1\n") != 2 {
			t.Errorf("%s: want %s and the version: %v\n%s", row.summary, want, err, text)
		}
	}
	if worse(metrics.Cancelled, metrics.Success) != metrics.Cancelled || worse(metrics.Cancelled, metrics.SystemFailure) != metrics.SystemFailure {
		t.Error("a stage after a cancel changes what it was")
	}
}

// A job that waits for room does not lose its turn because libvirtd is restarted meanwhile.
func TestBootAfterRestart(t *testing.T) {
	d, b := beddedDriver(t)
	if err := b.Daemon.Kill(); err != nil { // and it comes back
		t.Fatal(err)
	}
	o := order{job: Job{ID: 1, Project: "a/b"}, spec: haltedSpec(t, d, namePrefix+"1", Mark{For: forJob, Job: 1}), need: settings.Resources{VMs: 1, CPUs: 1}}
	if _, err := d.boot(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if m := lookedAt(t, d, namePrefix+"1"); m.Job != 1 {
		t.Errorf("%+v", m)
	}
}

// Where libvirtd stays away, the share of the host does not stay with the job.
func TestBootWithoutDaemon(t *testing.T) {
	d, b := beddedDriver(t)
	if err := b.Daemon.Stop(); err != nil {
		t.Fatal(err)
	}
	o := order{job: Job{ID: 1, Project: "a/b"}, spec: haltedSpec(t, d, namePrefix+"1", Mark{For: forJob, Job: 1}), need: settings.Resources{VMs: 1, CPUs: 1}}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // a restart is waited for longer
	defer cancel()
	if _, err := d.boot(ctx, o); err == nil {
		t.Error("booted by nobody")
	}
	l, err := d.ledger()
	if err != nil {
		t.Fatal(err)
	}
	if s, err := l.Snapshot(t.Context()); err != nil || len(s.Entries) > 0 {
		t.Errorf("still holds %+v: %v", s.Entries, err)
	}
}

// An image that was made for jobs has git; one that gets a seed may lack it, and nothing else.
func TestWithout(t *testing.T) {
	s := settings.Default()
	s.Images = map[string]settings.Image{"runner": {}, "plain": {Seed: "nocloud"}}
	for _, row := range []struct {
		image   string
		missing []string
		wrong   string // what the error says; "": none
		says    string // in the job's log
	}{
		{"runner", nil, "", ""},
		{"runner", []string{"git"}, "it has no git", ""},
		{"plain", nil, "", ""},
		{"plain", []string{"git"}, "", "VM image plain has no git"},
		{"plain", []string{"bash", "git", "gitlab-runner"}, "it has no bash, gitlab-runner", "VM image plain has no git"},
	} {
		var log strings.Builder
		d := &Driver{Settings: s, Stderr: &log}
		err := d.without(row.image, row.missing)
		if (err == nil) != (row.wrong == "") || err != nil && !strings.Contains(err.Error(), row.wrong) {
			t.Errorf("%s without %q: %v", row.image, row.missing, err)
		}
		if (log.String() == "") != (row.says == "") || !strings.Contains(log.String(), row.says) {
			t.Errorf("%s without %q: the log says %q", row.image, row.missing, &log)
		}
	}
}
