package directory

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// died is what the process of a publisher panics with that the suite cut.
type died struct{ err error }

// mortal is a Directory whose changes of the tree go through a line of the suite.
type mortal struct {
	*Directory
	line *publishtest.Line
}

// current is the line of the publisher that works just now.
var current atomic.Pointer[publishtest.Line]

func (m mortal) Publish(ctx context.Context, img *publish.Image, stage publish.Stage) (p *publish.Publication, err error) {
	current.Store(m.line)
	defer func() {
		if d, ok := recover().(died); ok {
			p, err = nil, d.err
		}
	}()
	return m.Directory.Publish(ctx, img, stage)
}

// treeCloud is a tree in the place of a cloud.
type treeCloud struct{ path string }

func (c treeCloud) Publisher(_ testing.TB, line *publishtest.Line, _ *journal.Journal) publish.Publisher {
	return mortal{New(c.path), line}
}

// Dump lists all files. Directories count only for what is in them, and un-versioned names only where "latest" leads to them: those of
// a version that was the newest once may stay.
func (c treeCloud) Dump(t testing.TB) string {
	if _, err := os.Stat(c.path); err != nil {
		return ""
	}
	shown, _ := os.Readlink(filepath.Join(c.path, "trixie", "daily", latestName))
	lines := slices.DeleteFunc(listing(t, c.path, false), func(line string) bool {
		return strings.Contains(line, " d") || strings.Contains(line, "/"+viewName+"/") && !strings.Contains(line, "/"+shown+"/")
	})
	return strings.Join(lines, "\n") + "\n"
}

func (c treeCloud) Secrets() []string { return nil }

// Lose removes the qcow2 of the newest version.
func (c treeCloud) Lose(t testing.TB) bool {
	var last string
	filepath.WalkDir(c.path, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && filepath.Ext(path) == ".qcow2" {
			last = path
		}
		return nil
	})
	return last != "" && os.Remove(last) == nil
}

func TestSuite(t *testing.T) {
	cut = func(name string) {
		if err := current.Load().Call(context.Background(), name, func() error { return nil }); err != nil {
			panic(died{err})
		}
	}
	t.Cleanup(func() { cut = func(string) {} })
	publishtest.Run(t, publishtest.Provider{
		Name: "directory", Vendor: "genericcloud", NoRequests: true, NoJournal: true,
		Cloud: func(t testing.TB) publishtest.Cloud { return treeCloud{filepath.Join(t.TempDir(), "public")} },
	})
}
