// Package metrics counts what the executor does, for Prometheus.
//
// A driver process lives for one call, so what it counts is kept in a file in the state directory, under a lock. From
// there it goes to node_exporter's textfile collector whenever something was counted, and to whoever scrapes the
// HTTP address of `executor pool`.
package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"

	"salsa.debian.org/cloud-team/debcloud/executor/admission"
	"salsa.debian.org/cloud-team/debcloud/executor/settings"
)

// Result is how an attempt of Runner at a job ended.
type Result string

const (
	Success       Result = "success"        // every stage ended with 0
	ScriptFailure Result = "script_failure" // a stage's script failed
	Refused       Result = "refused"        // the job asked for what it cannot have
	Cancelled     Result = "cancelled"      // Runner ended a call: the job was cancelled, or its time was over
	SystemFailure Result = "system_failure" // anything else failed, prepare included
)

// Kind is what the reaper took away.
type Kind string

const (
	Domain    Kind = "domain"
	Volume    Kind = "volume"
	Directory Kind = "directory"
	Entry     Kind = "ledger_entry"
)

// Recorder counts. Nothing that a job needs depends on it, so its methods log what goes wrong and return nothing.
type Recorder struct {
	dir, textfile string
	ledger        Ledger
	version       string
}

// Ledger tells how full the host is: admission's.
type Ledger interface {
	Snapshot(context.Context) (admission.Snapshot, error)
}

// Open counts in the settings' state directory. version is the program's.
func Open(s *settings.Settings, l Ledger, version string) (*Recorder, error) {
	dir := filepath.Join(s.State, "metrics")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("metrics of the executor: %w", err)
	}
	return &Recorder{dir: dir, textfile: s.Metrics.Textfile, ledger: l, version: version}, nil
}

// JobFinished counts an attempt at a job, once, in its cleanup. Runner attempts a job anew whose prepare failed.
func (r *Recorder) JobFinished(ctx context.Context, result Result) {
	r.record(ctx, func(c *counts) { c.Jobs[result]++ })
}

// Prepared notes how long prepare took from its start until the VM was ready, the wait for room not included.
func (r *Recorder) Prepared(ctx context.Context, seconds float64, warm bool) {
	start := "cold"
	if warm {
		start = "warm"
	}
	r.record(ctx, func(c *counts) { c.Prepare[start] = c.Prepare[start].observe(prepareBuckets, seconds) })
}

// Booted notes how long a VM took from power-on until its agent answered.
func (r *Recorder) Booted(ctx context.Context, seconds float64) {
	r.record(ctx, func(c *counts) { c.Boot = c.Boot.observe(bootBuckets, seconds) })
}

// Admitted notes how long a job waited for room.
func (r *Recorder) Admitted(ctx context.Context, seconds float64) {
	r.record(ctx, func(c *counts) { c.Wait = c.Wait.observe(waitBuckets, seconds) })
}

// Reaped counts what the reaper took away.
func (r *Recorder) Reaped(ctx context.Context, kind Kind, n int) {
	if n > 0 {
		r.record(ctx, func(c *counts) { c.Reaped[kind] += n })
	}
}

// Refresh writes the textfile anew, with what changed although nothing was counted.
func (r *Recorder) Refresh(ctx context.Context) { r.record(ctx, nil) }

func (r *Recorder) record(ctx context.Context, f func(*counts)) {
	if err := r.update(ctx, f); err != nil {
		slog.WarnContext(ctx, "metrics were not counted", "error", err)
	}
}

// update changes the counts and writes the textfile, both under one lock, so that an older one never replaces a newer.
func (r *Recorder) update(ctx context.Context, f func(*counts)) error {
	// A killed process lets go of the lock, a stopped one does not, and no job waits for a counter.
	bounded, cancel := context.WithTimeout(ctx, lockLimit)
	defer cancel()
	unlock, err := admission.Lock(bounded, filepath.Join(r.dir, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	c := r.read(ctx)
	if f != nil {
		f(c)
		if err := r.write(c); err != nil {
			return err
		}
	}
	if r.textfile == "" {
		return nil
	}
	return replace(r.textfile, pageOf(c, r.host(ctx), r.version))
}

// read returns empty counts where the file is lost: Prometheus takes that for a counter that began anew.
func (r *Recorder) read(ctx context.Context) *counts {
	c := new(counts)
	text, err := os.ReadFile(r.path())
	if err == nil {
		err = json.Unmarshal(text, c)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		slog.WarnContext(ctx, "metrics begin anew", "error", err)
		c = new(counts)
	}
	c.fill()
	return c
}

func (r *Recorder) path() string { return filepath.Join(r.dir, "counts.json") }

func (r *Recorder) write(c *counts) error {
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return replace(r.path(), text)
}

// replace is atomic for readers and killed processes, not for a power cut. Others than the driver's user may read the file, whatever its umask.
func replace(path string, text []byte) error {
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return err
	}
	if err := os.Chmod(path+".new", 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// ServeHTTP answers a scrape.
func (r *Recorder) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	ctx := request.Context()
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(pageOf(r.read(ctx), r.host(ctx), r.version)) // a scraper that goes away needs no answer
}

// host is nil where the ledger does not tell.
func (r *Recorder) host(ctx context.Context) *admission.Snapshot {
	if r.ledger == nil {
		return nil
	}
	s, err := r.ledger.Snapshot(ctx)
	if err != nil {
		slog.WarnContext(ctx, "metrics lack the ledger", "error", err)
		return nil
	}
	return &s
}
