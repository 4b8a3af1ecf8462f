package publishtest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/progress"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

// patience is how long any publication of the suite may take; one that is cut has to end, too.
const patience = 2 * time.Minute

// scene is an empty cloud, and a journal that does not exist yet.
type scene struct {
	t       testing.TB
	p       Provider
	cloud   Cloud
	journal string
	said    *output // all that anyone could read: log, progress, errors
}

func newScene(t testing.TB, p Provider) *scene {
	s := &scene{t: t, p: p, cloud: p.Cloud(t), journal: filepath.Join(tempDir(t), "journal.db"), said: &output{}}
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(s.said, &slog.HandlerOptions{Level: slog.LevelDebug})))
	t.Cleanup(func() {
		slog.SetDefault(before)
		s.demandNoSecrets()
	})
	return s
}

// output is a buffer for several goroutines.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// try is one publication, in the state of a new process.
type try struct {
	build string
	stage publish.Stage
	opts  publish.Options // of them Type and so on
	line  *Line
	ctx   context.Context
	busy  journal.Busy
}

// publish makes one try. Its result is nil where it failed.
func (s *scene) publish(y try) (*publish.Result, error) {
	s.t.Helper()
	ctx := y.ctx
	if ctx == nil {
		ctx = s.t.Context()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if y.line == nil {
		y.line = &Line{}
	}
	y.line.kill = cancel
	display, shown := s.display()
	j, err := journal.Open(context.WithoutCancel(ctx), s.journal, y.busy)
	if err != nil {
		s.t.Fatal(err)
	}
	defer j.Close()
	o := y.opts
	o.BuildPath, o.Stage, o.To = y.build, y.stage, s.cloud.Publisher(s.t, y.line, j)
	if o.Type == "" {
		o.Type = "daily"
	}
	timer := time.AfterFunc(patience, func() { cancel(fmt.Errorf("publishtest: still not done after %s", patience)) })
	defer timer.Stop()
	r, err := publish.Publish(progress.NewContext(ctx, display), o)
	if err != nil {
		fmt.Fprintln(s.said, err)
	}
	if r != nil {
		text, _ := os.ReadFile(r.UploadPath)
		s.said.Write(text)
	}
	shown()
	return r, err
}

// display is a progress display whose output goes to what was said.
func (s *scene) display() (*progress.Display, func()) {
	f, err := os.CreateTemp(tempDir(s.t), "progress-")
	if err != nil {
		s.t.Fatal(err)
	}
	d := progress.New(f)
	return d, func() {
		d.Close()
		text, _ := os.ReadFile(f.Name())
		s.said.Write(text)
		f.Close()
	}
}

// demand publishes and fails the test where that fails.
func (s *scene) demand(when string, y try) *publish.Result {
	s.t.Helper()
	r, err := s.publish(y)
	if err != nil {
		s.t.Fatalf("%s: %v", when, err)
	}
	return r
}

// pieces counts those that the cloud, a Counter, was sent.
func (s *scene) pieces() int { return s.cloud.(Counter).Pieces() }

func (s *scene) dump() string { s.t.Helper(); return s.cloud.Dump(s.t) }

// demandDump compares what the cloud has with what it should have.
func (s *scene) demandDump(when, want string) {
	s.t.Helper()
	if got := s.dump(); got != want {
		s.t.Errorf("%s: the cloud is not as it should be:\n%s", when, difference(want, got))
	}
}

// difference lists the lines that only one of two texts has.
func difference(want, got string) string {
	var b strings.Builder
	list := func(sign, a, other string) {
		count := map[string]int{}
		for line := range strings.Lines(other) {
			count[line]++
		}
		for line := range strings.Lines(a) {
			if count[line]--; count[line] < 0 {
				b.WriteString(sign + strings.TrimSuffix(line, "\n") + "\n")
			}
		}
	}
	list("- ", want, got)
	list("+ ", got, want)
	return b.String()
}

// loseJournal is what happens to a CI job on another machine.
func (s *scene) loseJournal() {
	s.t.Helper()
	if err := os.Remove(s.journal); err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
}

func (s *scene) demandNoSecrets() {
	kept, _ := os.ReadFile(s.journal)
	for _, secret := range s.cloud.Secrets() {
		if strings.Contains(s.said.String(), secret) {
			s.t.Errorf("a secret of %d characters is in the log, an error, a document or the progress", len(secret))
		}
		if bytes.Contains(kept, []byte(secret)) {
			s.t.Errorf("a secret of %d characters is in the journal", len(secret))
		}
	}
}

// Journal opens a new journal, in memory where there is such a place. It is closed with the test.
func Journal(t testing.TB) *journal.Journal {
	t.Helper()
	j, err := journal.Open(t.Context(), filepath.Join(tempDir(t), "journal.db"), journal.Wait)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

// tempDir is t.TempDir in memory, where there is such a place: everything of a journal is synced, which takes long on a busy disk.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "debcloud-publishtest-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
