package generator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"runtime/metrics"
	"strings"
	"time"

	"github.com/google/go-jsonnet"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Bounds of an evaluation. Today's largest takes 0.1 s and 30 MiB.
const (
	maxEvaluation = 20 * time.Second
	maxHeap       = 512 << 20 // bytes
	maxGoStack    = 128 << 20 // bytes; tailstrict calls nest in Go, and at 1 GiB Go ends the program
	maxStack      = 500       // nested calls
)

// evaluate runs the Jsonnet file name of fsys and returns JSON. Imports cannot leave fsys. label stands for fsys in messages.
//
// go-jsonnet cannot be cancelled: when the context, the time or the memory ends, its goroutine is left behind, and
// the caller is expected to end the program soon.
func evaluate(ctx context.Context, fsys fs.FS, label, name string) (string, error) {
	return newLibrary(fsys, label).run(ctx, name, fmt.Sprintf("import %q", name))
}

// library is a folder of Jsonnet files, each of which is parsed once. It is for one goroutine at a time.
type library struct {
	vm    *jsonnet.VM
	label string
}

func newLibrary(fsys fs.FS, label string) *library {
	vm := jsonnet.MakeVM()
	vm.MaxStack = maxStack
	vm.Importer(&confinedImporter{fsys: fsys, label: label, cache: map[string]jsonnet.Contents{}})
	return &library{vm, label}
}

// parse parses a file before it is needed. Its errors come when it is. Nothing bounds it, so it is for files that are known.
func (l *library) parse(name string) { _, _, _ = l.vm.ImportAST("", name) }

// call evaluates the function in file name with an argument, which is JSON.
func (l *library) call(ctx context.Context, name, argument string) (string, error) {
	l.vm.TLAVar("argument", argument)
	return l.run(ctx, name, fmt.Sprintf("function(argument) (import %q)(std.parseJson(argument))", name))
}

func (l *library) run(ctx context.Context, name, snippet string) (string, error) {
	type result struct {
		json string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		json, err := l.vm.EvaluateAnonymousSnippet("<debcloud>", snippet)
		done <- result{json, err}
	}()
	stop := watch(ctx)
	defer stop.cancel()
	select {
	case r := <-done:
		if r.err != nil {
			return "", fault.Inputf("%s", strings.TrimSpace(r.err.Error()))
		}
		return r.json, nil
	case err := <-stop.reached:
		return "", fmt.Errorf("evaluate %s: %w", path.Join(l.label, name), err)
	}
}

type limitWatch struct {
	reached <-chan error
	cancel  context.CancelFunc
}

// watch reports the first of: ctx is done, the evaluation took too long, the heap grew too large.
func watch(ctx context.Context) limitWatch {
	ctx, cancel := context.WithCancel(ctx)
	reached := make(chan error, 1)
	deadline := time.Now().Add(maxEvaluation)
	go func() {
		ticks := time.NewTicker(20 * time.Millisecond)
		defer ticks.Stop()
		for {
			select {
			case <-ctx.Done():
				reached <- context.Cause(ctx)
				return
			case now := <-ticks.C:
				if now.After(deadline) {
					reached <- fault.Inputf("it did not end within %s: it seems to loop", maxEvaluation)
					return
				}
				if heap, stack := memory(); heap > maxHeap || stack > maxGoStack {
					reached <- fault.Inputf("it needs more than %d MiB of memory or calls itself without end: it seems to loop", maxHeap>>20)
					return
				}
			}
		}
	}()
	return limitWatch{reached, cancel}
}

// memory returns the bytes of objects and of stacks.
func memory() (heap, stack uint64) {
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64(), samples[1].Value.Uint64()
}

// confinedImporter imports regular files of one file system only; jsonnet.FileImporter opens any path.
type confinedImporter struct {
	fsys  fs.FS
	label string
	cache map[string]jsonnet.Contents
}

// Import implements jsonnet.Importer. What it returns as the place of a file begins with the label.
func (c *confinedImporter) Import(from, imported string) (jsonnet.Contents, string, error) {
	inside := imported
	if from != "" {
		inside = path.Join(path.Dir(strings.TrimPrefix(from, c.label+"/")), imported)
	}
	if path.IsAbs(imported) || !fs.ValidPath(inside) {
		return jsonnet.Contents{}, "", fmt.Errorf("import %q leaves the folder %q: move the file into it", imported, c.label)
	}
	found := c.label + "/" + inside
	if contents, ok := c.cache[found]; ok {
		return contents, found, nil
	}
	source, err := readBounded(c.fsys, inside)
	if err != nil {
		return jsonnet.Contents{}, "", fmt.Errorf("import %q: %w", imported, err)
	}
	c.cache[found] = jsonnet.MakeContentsRaw(source)
	return c.cache[found], found, nil
}

// readBounded reads a regular file of at most maxFileSize bytes.
func readBounded(fsys fs.FS, name string) ([]byte, error) {
	info, err := fs.Stat(fsys, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fault.Inputf("there is no such file")
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fault.Inputf("it is no regular file")
	case info.Size() > maxFileSize:
		return nil, fault.Inputf("it has %d bytes, more than the limit of %d", info.Size(), maxFileSize)
	}
	return fs.ReadFile(fsys, name)
}
