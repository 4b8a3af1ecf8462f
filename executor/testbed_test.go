package executor

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"salsa.debian.org/cloud-team/debcloud/executor/admission"
	"salsa.debian.org/cloud-team/debcloud/executor/runnertest"
	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/process"
	"salsa.debian.org/cloud-team/debcloud/internal/usernet"
	"salsa.debian.org/cloud-team/debcloud/internal/vm"
)

// visitor stands in the guest's place of the agent: it asks for a page through the network.
const visitor = `#!/bin/sh
n=0
until ip route | grep -q default || [ $n = 900 ]; do sleep 0.1; n=$((n + 1)); done
echo "the guest got: $(wget -qO- http://192.168.127.1:8000/)"
sleep 1000
`

// offered is a test bed for a job of whom there is only the entry in the ledger, at a UNIX socket of this host.
func offered(t *testing.T, b *runnertest.Bed) (*testbed, string) {
	t.Helper()
	s, err := settings.Load(b.Settings)
	if err != nil {
		t.Fatal(err)
	}
	d := &Driver{Settings: s, Log: slog.New(slog.DiscardHandler), Stderr: io.Discard}
	if err := d.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	m := machine{vm.Lasting{Name: "debcloud-job-1-test"}, Mark{For: forJob, Job: 1, Attempt: b.Temp, Runner: process.This(), Deadline: time.Now().Add(time.Hour)}}
	ledger, err := d.ledger()
	if err != nil {
		t.Fatal(err)
	}
	need := s.Testbed.Budget
	need.VMs++
	grant, err := ledger.Admit(t.Context(), admission.Request{ID: m.Lasting.Name, Class: admission.Job, Need: need}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(grant.Done)
	tb := newTestbed(d, m)
	socket := filepath.Join(b.Dir, "testbed")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: tb.mux}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return tb, socket
}

// A process in a job boots a machine beside it by the same calls as on a host of its own.
func TestTestbed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a private libvirtd needs root")
	}
	programs := t.TempDir()
	if err := os.WriteFile(filepath.Join(programs, "debcloud"), []byte(visitor), 0o755); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "image.raw")
	runnertest.Raw(t, runnertest.Image(t, programs), image)
	b := runnertest.NewBed(t, runnertest.Options{Image: image, More: "testbed: {projects: ['cloud-team/*'], budget: {cpus: 2, memory: 1GiB, disk: 4GiB, vms: 2}}\n"})
	tb, socket := offered(t, b)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	network, err := usernet.New(ctx, usernet.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	l, err := network.Listen("tcp", "192.168.127.1:8000")
	if err != nil {
		t.Fatal(err)
	}
	network.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a page") }))

	h, err := vm.Open(ctx, vm.Options{Dir: t.TempDir(), Testbed: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	spec := vm.Spec{Name: "sibling", Image: image, MemoryMiB: 256, CPUs: 1, Network: &vm.Interface{Addr: network.Addr()}}
	started := make(chan error, 1)
	go func() { // as "debcloud boot" does with both firmwares: the image is handed over once
		beside := spec
		beside.Name, beside.Network = "beside", nil
		other, err := h.Start(ctx, beside)
		if err == nil {
			err = other.Destroy(ctx)
		}
		started <- err
	}()
	domain, err := h.Start(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	for !bytes.Contains(domain.Console(), []byte("the guest got: a page")) {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-domain.Stopped():
			t.Fatalf("it stopped: %q", domain.Console())
		case <-ctx.Done():
			t.Fatalf("no page: %q", domain.Console())
		}
	}
	all, err := tb.driver.machines(ctx)
	if err != nil || len(all) != 1 || all[0].For != forTestbed || all[0].Of != "debcloud-job-1-test" {
		t.Errorf("%+v %v", all, err)
	}
	for _, row := range []struct {
		summary string
		change  func(*vm.Spec)
		says    string
	}{
		{"more than the job's share", func(s *vm.Spec) { s.MemoryMiB = 2048 }, "memory"},
		{"an image that could name files of the host", func(s *vm.Spec) { s.ImageFormat = "qcow2" }, "raw images only"},
		{"a kernel of its own", func(s *vm.Spec) { s.Kernel = image }, "images from virtio disks only"},
	} {
		other := spec
		row.change(&other)
		if _, err := h.Start(ctx, other); err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v", row.summary, err)
		}
	}
	if err := domain.Destroy(ctx); err != nil {
		t.Error(err)
	}
	tb.removeAll(ctx)
	if left := b.Left(t, Namespace); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// What a job may not hand over.
func TestTestbedTakes(t *testing.T) {
	tb := newTestbed(&Driver{Settings: settings.Default(), Log: slog.New(slog.DiscardHandler)}, machine{})
	for _, row := range []struct{ method, path, says string }{
		{"PUT", "/disks/..%2f..%2fetc?size=512", "is no name"},
		{"PUT", "/disks/a?size=-512", "cannot be"},
		{"PUT", "/disks/a?size=511", "cannot be"},
		{"PUT", "/disks/a?size=1099511627776", "more than"},
		{"POST", "/machines/unknown/reset", "no machine"},
		{"GET", "/machines/unknown/console", "no machine"},
	} {
		w := &recorder{header: make(http.Header)}
		r, err := http.NewRequest(row.method, "http://testbed"+row.path, strings.NewReader(""))
		if err != nil {
			t.Fatal(err)
		}
		tb.mux.ServeHTTP(w, r)
		if w.code != http.StatusBadRequest || !strings.Contains(w.body.String(), row.says) {
			t.Errorf("%s %s: %d %s", row.method, row.path, w.code, w.body.String())
		}
	}
}

type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(code int)        { r.code = code }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }

// A disk arrives as it was, with holes; one that is shorter or longer than it says is refused.
func TestStore(t *testing.T) {
	content := append(make([]byte, 1<<20), []byte(strings.Repeat("x", 512))...)
	for _, row := range []struct {
		summary string
		size    int64
		ok      bool
	}{{"whole", int64(len(content)), true}, {"cut off", int64(len(content)) + 512, false}, {"longer", int64(len(content)) - 512, false}} {
		path := filepath.Join(t.TempDir(), "disk")
		err := store(path, compressedForTest(t, content), row.size)
		if (err == nil) != row.ok || err != nil && fault.KindOf(err) != fault.Input {
			t.Errorf("%s: %v", row.summary, err)
		}
		if got, _ := os.ReadFile(path); row.ok && !bytes.Equal(got, content) {
			t.Errorf("%s: %d other bytes", row.summary, len(got))
		}
	}
}

func compressedForTest(t *testing.T, content []byte) io.Reader {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}
