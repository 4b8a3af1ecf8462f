// Package progress shows on standard error where long work stands: bars on a terminal, plain lines elsewhere.
package progress

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// Display owns a stream on which tasks show themselves. A nil Display is silent, so work can be called without one.
type Display struct {
	out  io.Writer
	bars *mpb.Progress // nil where out is no terminal
	mu   sync.Mutex
}

// New returns a Display on f. Call Close before the program ends.
func New(f *os.File) *Display {
	d := &Display{out: f}
	if term.IsTerminal(int(f.Fd())) {
		d.bars = mpb.New(mpb.WithOutput(f), mpb.WithWidth(64), mpb.WithRefreshRate(200*time.Millisecond))
	}
	return d
}

// Write puts p above the bars, so that log lines and bars do not tear each other apart.
func (d *Display) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bars != nil {
		return d.bars.Write(p)
	}
	return d.out.Write(p)
}

// Close draws the last state and releases the terminal.
func (d *Display) Close() {
	if d != nil && d.bars != nil {
		d.bars.Shutdown()
	}
}

// Task starts a line for work of total units; total 0 means that its length is not known.
// With bytes set the units are bytes. End it with Done or Abort.
func (d *Display) Task(name string, total int64, bytes bool) *Task {
	if d == nil {
		return nil
	}
	t := &Task{display: d, name: name, total: total, started: time.Now()}
	if d.bars == nil {
		t.plain("started")
		return t
	}
	decorators := []decor.Decorator{decor.Elapsed(decor.ET_STYLE_GO, decor.WCSyncSpace)}
	switch {
	case total > 0 && bytes:
		decorators = append(decorators, decor.CountersKibiByte(" % .1f / % .1f"), decor.Percentage(decor.WCSyncSpace))
	case total > 0:
		decorators = append(decorators, decor.CountersNoUnit(" %d / %d"), decor.Percentage(decor.WCSyncSpace))
	}
	decorators = append(decorators, decor.Any(func(decor.Statistics) string { return " " + t.said() }))
	style := mpb.BarStyle().Build()
	if total == 0 {
		style = mpb.SpinnerStyle().PositionLeft().Build()
	}
	t.bar = d.bars.New(total, constantFiller{style}, mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR)), mpb.AppendDecorators(decorators...))
	return t
}

type constantFiller struct{ mpb.BarFiller }

func (f constantFiller) Build() mpb.BarFiller { return f.BarFiller }

// Task is one line of a Display. All its methods may be called on a nil Task and from several goroutines.
type Task struct {
	display *Display
	name    string
	total   int64
	started time.Time
	bar     *mpb.Bar

	mu   sync.Mutex
	text string
}

// Say tells what is being done just now, in a few words.
func (t *Task) Say(format string, args ...any) {
	if t == nil {
		return
	}
	text := fmt.Sprintf(format, args...)
	t.mu.Lock()
	same := t.text == text
	t.text = text
	t.mu.Unlock()
	if t.bar == nil && !same {
		t.plain(text)
	}
}

// Add counts n more units as done.
func (t *Task) Add(n int64) {
	if t != nil && t.bar != nil {
		t.bar.IncrInt64(n)
	}
}

// Done ends the task well.
func (t *Task) Done() {
	if t == nil {
		return
	}
	if t.bar == nil {
		t.plain(fmt.Sprintf("done in %s", time.Since(t.started).Round(100*time.Millisecond)))
		return
	}
	t.bar.SetTotal(-1, true)
}

// Abort ends the task where it stands. After Done it does nothing, so it can be deferred.
func (t *Task) Abort() {
	if t != nil && t.bar != nil {
		t.bar.Abort(false)
	}
}

func (t *Task) said() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text
}

func (t *Task) plain(text string) { fmt.Fprintf(t.display, "%s: %s\n", t.name, text) }

type contextKey struct{}

// NewContext returns a context that carries d.
func NewContext(ctx context.Context, d *Display) context.Context {
	return context.WithValue(ctx, contextKey{}, d)
}

// Start begins a task on the context's Display; without one it returns nil, which is silent.
func Start(ctx context.Context, name string, total int64, bytes bool) *Task {
	d, _ := ctx.Value(contextKey{}).(*Display)
	return d.Task(name, total, bytes)
}
