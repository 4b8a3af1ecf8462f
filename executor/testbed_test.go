package executor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"

	"salsa.debian.org/cloud-team/debcloud/executor/admission"
	"salsa.debian.org/cloud-team/debcloud/executor/runnertest"
	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/loopback/loopbacktest"
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
	tb := newTestbed(t.Context(), d, m)
	return tb, serve(t, tb, b.Dir)
}

// serve offers a test bed at a UNIX socket.
func serve(t *testing.T, tb *testbed, dir string) string {
	t.Helper()
	socket := filepath.Join(dir, "testbed")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: tb.mux}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return socket
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
	host := &beleaguered{hypervisor: tb.node}
	tb.node = host

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
	if err := host.stranger.Wait(); err != nil {
		t.Errorf("a stranger in QEMU's place was not hung up on: %v", err)
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
	tb.finish(ctx)
	if left := b.Left(t, Namespace); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// beleaguered is a host where a stranger is faster than QEMU.
type beleaguered struct {
	hypervisor
	stranger *exec.Cmd
}

func (b *beleaguered) Create(ctx context.Context, s vm.LastingSpec) (err error) {
	if s.Network.Client != "" {
		if b.stranger, err = loopbacktest.Stranger(context.WithoutCancel(ctx), s.Network.Client); err != nil {
			return err
		}
	}
	return b.hypervisor.Create(ctx, s)
}

// fakeHypervisor knows which domains there are. Create is held up until release where that is not nil, and then makes the
// domain although it was cancelled: as libvirtd finishes what it has begun.
type fakeHypervisor struct {
	hypervisor // of what is not below: nil
	dir        string
	user       int           // of QEMU
	creating   chan struct{} // gets a value when a Create is held up
	cancelled  chan struct{} // gets a value when that one's context has ended
	release    chan struct{}
	handing    chan struct{} // gets a value when a disk begins to be handed over; nil: not
	fails      error         // of Create, which leaves the domain, and of Remove

	mu      sync.Mutex
	domains map[string]vm.LastingSpec
}

func (f *fakeHypervisor) Create(ctx context.Context, s vm.LastingSpec) error {
	if f.release != nil {
		f.creating <- struct{}{}
		defer context.AfterFunc(ctx, func() { f.cancelled <- struct{}{} })()
		<-f.release
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.domains[s.Name] = s
	return f.fails
}

func (f *fakeHypervisor) Remove(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fails == nil {
		delete(f.domains, name)
	}
	return f.fails
}

func (f *fakeHypervisor) Accelerator(context.Context) (vm.Accel, string) { return vm.TCG, "" }
func (f *fakeHypervisor) ConsoleSocket(string) string                    { return filepath.Join(f.dir, "console") }
func (f *fakeHypervisor) User(context.Context) (int, error)              { return f.user, nil }

func (f *fakeHypervisor) HandedDisk(_ context.Context, _, disk string) (string, error) {
	if f.handing != nil {
		f.handing <- struct{}{}
	}
	return filepath.Join(f.dir, disk), nil
}

// held makes every Create wait for the release.
func (f *fakeHypervisor) held() *fakeHypervisor {
	f.creating, f.cancelled, f.release = make(chan struct{}, 9), make(chan struct{}, 9), make(chan struct{})
	return f
}

// left names the domains that there are.
func (f *fakeHypervisor) left() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.domains))
}

// fakeBed is a test bed without libvirt, for two VMs, with one disk.
func fakeBed(t *testing.T) (*testbed, *fakeHypervisor) {
	t.Helper()
	s := settings.Default()
	s.State, s.Pool.Path = t.TempDir(), t.TempDir()
	s.Testbed.Budget = settings.Resources{CPUs: 2, Memory: 2 << 30, Disk: 1 << 20, VMs: 2}
	d := &Driver{Settings: s, Log: slog.New(slog.DiscardHandler)}
	ledger, err := d.ledger()
	if err != nil {
		t.Fatal(err)
	}
	if err := ledger.Adopt(t.Context(), admission.Request{ID: "job", Need: s.Testbed.Budget}); err != nil {
		t.Fatal(err)
	}
	tb := newTestbed(t.Context(), d, machine{Lasting: vm.Lasting{Name: "job"}})
	f := &fakeHypervisor{dir: t.TempDir(), user: os.Geteuid(), domains: make(map[string]vm.LastingSpec)}
	tb.node = f
	if w := ask(t, tb, "PUT", "/disks/disk?size=4096", compressedForTest(t, make([]byte, 4096))); w.code != 0 {
		t.Fatal(w.body.String())
	}
	return tb, f
}

// ask makes a request of a test bed. Its answer has no code where nothing was wrong.
func ask(t *testing.T, tb *testbed, method, path string, body io.Reader) *recorder {
	t.Helper()
	w := &recorder{header: make(http.Header)}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://testbed"+path, body)
	if err != nil {
		t.Error(err)
		return w
	}
	tb.mux.ServeHTTP(w, r)
	return w
}

const aMachine = `{"disks": ["disk"], "cpus": 1, "memory_mib": 256, "network": true}`

// within are the siblings for which the ledger keeps room.
func within(t *testing.T, tb *testbed) map[string]admission.Sibling {
	t.Helper()
	ledger, err := tb.driver.ledger()
	if err != nil {
		t.Fatal(err)
	}
	s, err := ledger.Snapshot(t.Context())
	if err != nil || len(s.Entries) != 1 {
		t.Fatalf("%+v %v", s, err)
	}
	return s.Entries[0].Siblings
}

// sockets counts those that this process has open.
func sockets(t *testing.T) int {
	t.Helper()
	open, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, fd := range open {
		if to, _ := os.Readlink(fd); strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

// Whoever is not QEMU's user is not a sibling.
func TestTestbedStranger(t *testing.T) {
	tb, f := fakeBed(t)
	defer tb.finish(t.Context())
	f.user++
	if w := ask(t, tb, "POST", "/machines/x", strings.NewReader(aMachine)); w.code != 0 {
		t.Fatal(w.body.String())
	}
	conn, err := net.Dial("tcp", f.domains[tb.domainOf("x")].Network.Client)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it was not hung up on: %v", err)
	}
}

// A machine whose making is still going on is removed all the same, by a request and by the end of the stage: it does not come
// to be afterwards, unknown to the bed and to the ledger.
func TestTestbedRemovesWhatIsBeingMade(t *testing.T) {
	for _, row := range []struct {
		summary string
		remove  func(*testbed)
	}{
		{"DELETE", func(tb *testbed) {
			if w := ask(t, tb, "DELETE", "/machines/x", nil); w.code != 0 {
				t.Errorf("DELETE: %d %s", w.code, w.body.String())
			}
		}},
		{"the end of the stage", func(tb *testbed) { tb.finish(t.Context()) }},
	} {
		t.Run(row.summary, func(t *testing.T) {
			tb, f := fakeBed(t)
			before := sockets(t)
			f.held()
			var both sync.WaitGroup
			both.Go(func() { ask(t, tb, "POST", "/machines/x", strings.NewReader(aMachine)) })
			<-f.creating
			if w := ask(t, tb, "POST", "/machines/x/resume", nil); !strings.Contains(w.body.String(), "no machine") {
				t.Errorf("a machine that is not there yet: %d %s", w.code, w.body.String())
			}
			removed := make(chan struct{})
			both.Go(func() {
				defer close(removed)
				row.remove(tb)
			})
			select {
			case <-removed:
				t.Error("it was removed while it was made")
			case <-f.cancelled:
			}
			close(f.release)
			both.Wait()
			if left := within(t, tb); len(f.left())+len(left)+len(tb.siblings) > 0 || sockets(t) > before {
				t.Errorf("left: %v, %v, %v, %d sockets", f.left(), left, tb.siblings, sockets(t)-before)
			}
		})
	}
}

// A machine that came to be only half, and cannot be removed, keeps its share until it can.
func TestTestbedKeepsTheShareOfWhatStays(t *testing.T) {
	tb, f := fakeBed(t)
	f.fails = errors.New("libvirtd is away")
	for _, method := range []string{"POST", "POST", "DELETE"} {
		if w := ask(t, tb, method, "/machines/x", strings.NewReader(aMachine)); w.code == 0 {
			t.Errorf("%s: %s", method, w.body.String())
		}
	}
	if left := within(t, tb); len(f.left()) != 1 || len(left) != 1 {
		t.Errorf("%v, %v", f.left(), left)
	}
	f.fails = nil
	if w := ask(t, tb, "DELETE", "/machines/x", nil); w.code != 0 {
		t.Errorf("DELETE: %d %s", w.code, w.body.String())
	}
	if left := within(t, tb); len(f.left())+len(left)+len(tb.siblings) > 0 {
		t.Errorf("left: %v, %v, %v", f.left(), left, tb.siblings)
	}
}

// After the end of the stage nothing is made.
func TestTestbedEnds(t *testing.T) {
	tb, f := fakeBed(t)
	tb.finish(t.Context())
	w := ask(t, tb, "POST", "/machines/x", strings.NewReader(aMachine))
	if !strings.Contains(w.body.String(), "the stage has ended") || len(f.left()) > 0 {
		t.Errorf("%d %s %v", w.code, w.body.String(), f.left())
	}
	if left, _ := os.ReadDir(f.dir); len(left) > 0 {
		t.Errorf("disks are left: %v", left)
	}
}

// A machine that is refused leaves no socket, no share and no name.
func TestTestbedRefusalsLeaveNothing(t *testing.T) {
	tb, f := fakeBed(t)
	for _, name := range []string{"a", "b"} {
		if w := ask(t, tb, "POST", "/machines/"+name, strings.NewReader(aMachine)); w.code != 0 {
			t.Fatal(w.body.String())
		}
	}
	before := sockets(t)
	for _, row := range []struct{ name, spec, says string }{
		{"c", aMachine, "VMs: 1 needed, 0 free"},
		{"a", aMachine, "already"},
		{"c", strings.Replace(aMachine, `"disk"]`, `"other"]`, 1), `no disk "other"`},
	} {
		if w := ask(t, tb, "POST", "/machines/"+row.name, strings.NewReader(row.spec)); !strings.Contains(w.body.String(), row.says) {
			t.Errorf("%s %s: %d %s", row.name, row.spec, w.code, w.body.String())
		}
	}
	if left := within(t, tb); len(f.left()) != 2 || len(left) != 2 || len(tb.siblings) != 2 || sockets(t) > before {
		t.Errorf("left: %v, %v, %v, %d sockets", f.left(), left, tb.siblings, sockets(t)-before)
	}
	tb.finish(t.Context())
	if left := within(t, tb); len(f.left())+len(left)+len(tb.siblings) > 0 || sockets(t) > before-2 {
		t.Errorf("after the stage: %v, %v, %v, %d sockets", f.left(), left, tb.siblings, sockets(t)-before)
	}
}

// The disks that a job hands over and the overlays of its machines have one share, in whole blocks.
func TestTestbedDiskTotal(t *testing.T) {
	tb, f := fakeBed(t)
	put := func(name string, size int) func() *recorder {
		return func() *recorder {
			return ask(t, tb, "PUT", fmt.Sprintf("/disks/%s?size=%d", name, size), compressedForTest(t, make([]byte, size)))
		}
	}
	post := func(name string, size int) func() *recorder {
		return func() *recorder {
			return ask(t, tb, "POST", "/machines/"+name, strings.NewReader(fmt.Sprintf(`{"disks": ["disk"], "cpus": 1, "memory_mib": 256, "disk_size": %d}`, size)))
		}
	}
	for _, step := range []struct {
		summary string
		do      func() *recorder
		says    string
	}{
		{"1 MiB is for all, of which one disk has 4 KiB", post("a", 700<<10), ""},
		{"an overlay takes of what disks may have", put("more", 400<<10), "400KiB of disk are more than the 320KiB that a test bed has left of 1MiB"},
		{"and of what overlays may have", post("b", 400<<10), "400KiB of disk are more than the 320KiB"},
		{"it ends with its machine", func() *recorder { return ask(t, tb, "DELETE", "/machines/a", nil) }, ""},
		{"so does that of one which was refused", put("more", 400<<10), ""},
		{"a disk takes of what overlays may have", post("a", 700<<10), "700KiB of disk are more than the 620KiB"},
		{"however large", post("a", math.MaxInt64), "more than the 620KiB"},
		{"the last block but one", post("a", 616<<10-512), ""},
		{"a small disk takes a block", put("small", 512), ""},
		{"and there is no more", put("smaller", 512), "512 of disk are more than the 0"},
	} {
		if w := step.do(); (w.code == 0) != (step.says == "") || !strings.Contains(w.body.String(), step.says) {
			t.Errorf("%s: %d %s", step.summary, w.code, w.body.String())
		}
	}
	tb.finish(t.Context())
	if left, _ := os.ReadDir(f.dir); len(left) > 0 {
		t.Errorf("disks are left: %v", left)
	}
}

// A job's disks are few, however small.
func TestTestbedCountsDisks(t *testing.T) {
	tb, f := fakeBed(t)
	sector, err := io.ReadAll(compressedForTest(t, make([]byte, 512)))
	if err != nil {
		t.Fatal(err)
	}
	for i := range mostDisks + 1 {
		w := ask(t, tb, "PUT", fmt.Sprintf("/disks/d%d?size=512", i), bytes.NewReader(sector))
		if most := i >= mostDisks-1; most != strings.Contains(w.body.String(), "takes 64 disks") { // fakeBed has one
			t.Errorf("disk %d: %d %s", i, w.code, w.body.String())
		}
	}
	if there, _ := os.ReadDir(f.dir); len(there) != mostDisks {
		t.Errorf("%d files", len(there))
	}
}

// slowDisk is the body of a disk whose first byte somebody has asked for.
type slowDisk struct {
	io.Reader
	asked chan<- string
	name  string
	goOn  <-chan struct{}
	once  sync.Once
}

func (s *slowDisk) Read(p []byte) (int, error) {
	s.once.Do(func() {
		s.asked <- s.name
		<-s.goOn
	})
	return s.Reader.Read(p)
}

// Two disks arrive at once, the others wait: each takes memory here. One that is still arriving is not to be booted from.
func TestTestbedUploads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb, _ := fakeBed(t)
		defer tb.finish(t.Context())
		asked, goOn := make(chan string, 9), make(chan struct{})
		var all sync.WaitGroup
		for i := range 5 {
			all.Go(func() {
				name := fmt.Sprint("d", i)
				body := &slowDisk{Reader: compressedForTest(t, make([]byte, 512)), asked: asked, name: name, goOn: goOn}
				if w := ask(t, tb, "PUT", "/disks/"+name+"?size=512", body); w.code != 0 {
					t.Errorf("%s: %d %s", name, w.code, w.body.String())
				}
			})
		}
		synctest.Wait()
		if len(asked) != 2 {
			t.Errorf("%d disks arrive at once", len(asked))
		}
		half := fmt.Sprintf("%q]", <-asked)
		if w := ask(t, tb, "POST", "/machines/x", strings.NewReader(strings.Replace(aMachine, `"disk"]`, half, 1))); !strings.Contains(w.body.String(), "no disk") {
			t.Errorf("a machine from half a disk: %d %s", w.code, w.body.String())
		}
		close(goOn)
		all.Wait()
	})
}

// Two processes of one stage hand over a disk each, though neither knows of the other.
func TestTestbedSharedByProcesses(t *testing.T) {
	tb, f := fakeBed(t)
	socket := serve(t, tb, t.TempDir())
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		h, err := vm.Open(t.Context(), vm.Options{Dir: t.TempDir(), Testbed: socket})
		if err != nil {
			t.Fatal(err)
		}
		_, err = h.Start(t.Context(), vm.Spec{Name: "x", Image: image, ImageFormat: "raw", MemoryMiB: 256, CPUs: 1})
		if err == nil || !strings.Contains(err.Error(), "console") { // it is made, and has none here
			t.Errorf("%v", err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	if len(tb.handed) != 3 || len(f.left()) > 0 {
		t.Errorf("%d disks, %v", len(tb.handed), f.left())
	}
}

// A stage that ends while a disk arrives does not wait for the rest of it, and leaves none of it.
func TestTestbedEndsDuringAnUpload(t *testing.T) {
	tb, f := fakeBed(t)
	finish := tb.serve()
	c, err := tb.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f.handing = make(chan struct{}, 9)
	if _, err := io.WriteString(c, "PUT /disks/half?size=512 HTTP/1.1\r\nHost: testbed\r\nContent-Length: 100\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-f.handing
	finish(t.Context())
	if left, _ := os.ReadDir(f.dir); len(left)+len(tb.handed) > 0 {
		t.Errorf("left: %v, %v", left, tb.handed)
	}
}

// A guest that opens connections without end gets so many, and further ones when it has closed some.
func TestTestbedConnections(t *testing.T) {
	tb, _ := fakeBed(t)
	var taken sync.WaitGroup
	taken.Go(func() {
		for c, err := tb.Accept(); err == nil; c, err = tb.Accept() {
			defer c.Close()
		}
	})
	var open []net.Conn
	for range mostConnections {
		c, err := tb.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	if _, err := tb.dial(t.Context()); err == nil || !strings.Contains(err.Error(), "64 connections") {
		t.Errorf("one more: %v", err)
	}
	for range 2 { // as a connection that ends by itself at the end of the stage
		_ = open[0].Close()
	}
	for _, ok := range []bool{true, false} {
		if _, err := tb.dial(t.Context()); (err == nil) != ok {
			t.Errorf("after one was closed: %v", err)
		}
	}
	tb.finish(t.Context())
	_ = open[1].Close()
	if _, err := tb.dial(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the stage: %v", err)
	}
	taken.Wait()
}

// A disk whose decoder would take much memory is refused before it does.
func TestStoreWindow(t *testing.T) {
	// A frame of 512 zeros: magic number, no flags, the window, a last block that repeats one byte (RFC 8878, 3.1.1).
	frame := func(window byte) io.Reader {
		return bytes.NewReader([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, window, 0x03, 0x10, 0, 0})
	}
	if err := store(filepath.Join(t.TempDir(), "disk"), frame((23-10)<<3), 512); err != nil {
		t.Errorf("8 MiB: %v", err)
	}
	if err := store(filepath.Join(t.TempDir(), "disk"), frame((24-10)<<3), 512); fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), "window") {
		t.Errorf("16 MiB: %v", err)
	}
}

// The ledger knows which part of what a job needs is for its siblings, from prepare and where reap enters it again.
func TestTestbedShare(t *testing.T) {
	s := settings.Default()
	s.State, s.Pool.Path = t.TempDir(), t.TempDir()
	s.Budget = settings.Budget{CPUs: 9, Memory: 9 << 20, Disk: 9 << 20, VMs: 9}
	s.Testbed.Budget = settings.Resources{CPUs: 2, Memory: 2 << 20, Disk: 3 << 20, VMs: 2}
	d := &Driver{Settings: s}
	m := machine{vm.Lasting{Name: "adopted", CPUs: 1, MemoryMiB: 1}, Mark{For: forJob, DiskBytes: 1 << 20, Testbed: true}}
	adopted := m.request(s)
	grant, err := d.admit(t.Context(), order{job: Job{Testbed: true}, spec: vm.LastingSpec{Name: "prepared"}, need: adopted.Need})
	if err != nil {
		t.Fatal(err)
	}
	grant.Done()
	l, err := d.ledger()
	if err != nil {
		t.Fatal(err)
	}
	now, err := l.Snapshot(t.Context())
	if err != nil || len(now.Entries) != 1 || now.Entries[0].Bed != s.Testbed.Budget || adopted.Bed != s.Testbed.Budget {
		t.Errorf("%+v, %+v, %v", now, adopted, err)
	}
	m.Testbed = false
	if without := m.request(s); without.Bed != (settings.Resources{}) {
		t.Errorf("a job without siblings: %+v", without)
	}
}

// What a job may not hand over. It fills no log of the host's with that.
func TestTestbedTakes(t *testing.T) {
	var log bytes.Buffer
	tb := newTestbed(t.Context(), &Driver{Settings: settings.Default(), Log: slog.New(slog.NewTextHandler(&log, nil))}, machine{})
	for _, row := range []struct{ method, path, says string }{
		{"PUT", "/disks/..%2f..%2fetc?size=512", "is no name"},
		{"PUT", "/disks/a?size=-512", "cannot be"},
		{"PUT", "/disks/a?size=511", "cannot be"},
		{"PUT", "/disks/a?size=1099511627776", "more than"},
		{"POST", "/machines/unknown/reset", "no machine"},
		{"GET", "/machines/unknown/console", "no machine"},
	} {
		w := ask(t, tb, row.method, row.path, strings.NewReader(""))
		if w.code != http.StatusBadRequest || !strings.Contains(w.body.String(), row.says) {
			t.Errorf("%s %s: %d %s", row.method, row.path, w.code, w.body.String())
		}
	}
	if log.Len() > 0 {
		t.Errorf("the host's log has %s", log.String())
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
