package executor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/guest"
	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
	"salsa.debian.org/cloud-team/debcloud/internal/loopback"
	"salsa.debian.org/cloud-team/debcloud/internal/vm"
)

// testbed runs sibling VMs for the stage of a job that is allowed to have them, within the job's share of the host. It
// lasts as long as the stage. The protocol is that of internal/vm.
type testbed struct {
	driver *Driver
	node   hypervisor
	job    machine
	conns  chan net.Conn
	open   chan struct{} // holds a value for each connection
	mux    *http.ServeMux

	life     context.Context // ends when the stage does
	end      context.CancelCauseFunc
	requests sync.WaitGroup // those that are being answered; none begins after the end of life

	uploads chan struct{} // holds a value for each disk that is being handed over

	mu       sync.Mutex
	handed   map[string]*handedDisk
	siblings map[string]*sibling // also those that are being made or removed
}

// hypervisor is what a test bed needs of a vm.Node.
type hypervisor interface {
	Accelerator(ctx context.Context) (vm.Accel, string)
	Create(ctx context.Context, s vm.LastingSpec) error
	Remove(ctx context.Context, name string) error
	Resume(ctx context.Context, name string) error
	PressPower(ctx context.Context, name string) error
	Reset(ctx context.Context, name string) error
	HandedDisk(ctx context.Context, name, disk string) (string, error)
	ConsoleSocket(name string) string
	User(ctx context.Context) (int, error)
}

// sibling is one VM of a test bed. From its first moment it is in the bed's map, and it leaves it when nothing of it is left.
type sibling struct {
	name, domain string
	turn         sync.Mutex              // held by whoever makes or removes it
	stop         context.CancelCauseFunc // ends the making
	there        bool                    // it was made, and nobody removes it; under the bed's lock
	disk         int64                   // what its overlay may grow to; under the bed's lock
	network      net.Listener            // where QEMU's network interface connects; nil: it has none
	wire         chan net.Conn           // that connection
}

// guestSocket is the test bed's socket in the guest.
const guestSocket = "/run/debcloud-testbed"

// offerTestbed forwards a test bed into the job's VM. stop takes it and its VMs away.
func (d *Driver) offerTestbed(ctx context.Context, s *guest.SSH, m machine) (stop func(), err error) {
	d.node.Accelerator(ctx) // which keeps the answer: requests at the same time only read it
	t := newTestbed(ctx, d, m)
	finish := t.serve()
	end, err := s.Forward(ctx, guestSocket, t.dial)
	if err != nil {
		finish(ctx)
		return nil, err
	}
	return func() {
		_ = end()
		finish(ctx)
	}, nil
}

// serve answers what comes through dial. finish ends that, and takes everything away: what is just being made and handed over
// too.
func (t *testbed) serve() (finish func(context.Context)) {
	server := &http.Server{Handler: t.mux, ReadHeaderTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	go func() { _ = server.Serve(t) }()
	return func(ctx context.Context) {
		_ = t.Close()
		_ = server.Close() // bodies that nobody sends on
		t.finish(ctx)
	}
}

// mostConnections bounds what one guest keeps this process busy with.
const mostConnections = 64

// dial opens a connection of the guest's.
func (t *testbed) dial(ctx context.Context) (net.Conn, error) {
	select {
	case t.open <- struct{}{}:
	default:
		return nil, fault.Inputf("a test bed has %d connections at most", mostConnections)
	}
	here, there := net.Pipe()
	c := &countedConn{there, sync.OnceFunc(func() { <-t.open })}
	select {
	case t.conns <- here:
		return c, nil
	case <-t.life.Done():
	case <-ctx.Done():
	}
	return nil, errors.Join(net.ErrClosed, c.Close())
}

// countedConn counts until it is closed.
type countedConn struct {
	net.Conn
	closed func()
}

func (c *countedConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

func newTestbed(ctx context.Context, d *Driver, m machine) *testbed {
	t := &testbed{
		driver: d, node: d.node, job: m, conns: make(chan net.Conn), open: make(chan struct{}, mostConnections), mux: http.NewServeMux(),
		uploads: make(chan struct{}, mostUploads), handed: make(map[string]*handedDisk), siblings: make(map[string]*sibling),
	}
	t.life, t.end = context.WithCancelCause(context.WithoutCancel(ctx)) // a cancelled stage may still tidy up
	answer := func(pattern string, f func(w http.ResponseWriter, r *http.Request) error) {
		t.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := t.answer(w, r, f); err != nil {
				t.refuse(w, r, err)
			}
		})
	}
	answer("GET /{$}", t.describe)
	answer("PUT /disks/{disk}", t.take)
	answer("POST /machines/{machine}", t.create)
	answer("POST /machines/{machine}/{verb}", t.act)
	answer("DELETE /machines/{machine}", t.delete)
	answer("GET /machines/{machine}/console", t.console)
	answer("GET /machines/{machine}/network", t.connect)
	return t
}

// Accept, Close and Addr make the forwarded connections a net.Listener.
func (t *testbed) Accept() (net.Conn, error) {
	select {
	case c := <-t.conns:
		return c, nil
	case <-t.life.Done():
		return nil, net.ErrClosed
	}
}

// Close ends what is being answered, and no further request is.
func (t *testbed) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end(errBedClosed)
	return nil
}

var errBedClosed = fault.Inputf("the stage has ended, and its test bed with it")

func (t *testbed) Addr() net.Addr { return &net.UnixAddr{Name: guestSocket, Net: "unix"} }

// answer lets f answer a request during the bed's life.
func (t *testbed) answer(w http.ResponseWriter, r *http.Request, f func(http.ResponseWriter, *http.Request) error) error {
	t.mu.Lock()
	if t.life.Err() != nil {
		t.mu.Unlock()
		return errBedClosed
	}
	t.requests.Add(1)
	t.mu.Unlock()
	defer t.requests.Done()
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer context.AfterFunc(t.life, func() { cancel(errBedClosed) })()
	return f(w, r.WithContext(ctx))
}

// finish takes everything away when the stage has ended, after the requests that are being answered.
func (t *testbed) finish(ctx context.Context) {
	_ = t.Close()
	t.requests.Wait()
	t.removeAll(ctx)
}

// refuse tells the client what it did wrong, and of what went wrong here one sentence.
func (t *testbed) refuse(w http.ResponseWriter, r *http.Request, err error) {
	code, level := http.StatusInternalServerError, slog.LevelWarn
	if fault.KindOf(err) == fault.Input {
		code, level = http.StatusBadRequest, slog.LevelDebug // as many as the guest likes
	}
	t.driver.Log.Log(r.Context(), level, "a test bed refuses", "job", t.job.Job, "request", r.Method+" "+r.URL.Path, "error", err)
	http.Error(w, err.Error(), code)
}

func (t *testbed) describe(w http.ResponseWriter, r *http.Request) error {
	accel, _ := t.node.Accelerator(r.Context())
	return json.NewEncoder(w).Encode(vm.Bed{KVM: accel == vm.KVM})
}

var bedName = lazyregexp.New(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}$`)

// named returns a name of the request's path, which the job's author chose.
func named(r *http.Request, what string) (string, error) {
	name := r.PathValue(what)
	if !bedName.MatchString(name) {
		return "", fault.Inputf("%q is no name for a %s of a test bed", name, what)
	}
	return name, nil
}

// domainOf names a sibling's domain.
func (t *testbed) domainOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return t.job.Lasting.Name + "-" + hex.EncodeToString(sum[:4])
}

func (t *testbed) create(_ http.ResponseWriter, r *http.Request) error {
	name, err := named(r, "machine")
	if err != nil {
		return err
	}
	var b vm.BedSpec
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&b); err != nil {
		return fault.Inputf("the description of machine %q: %w", name, err)
	}
	ctx, stop := context.WithCancelCause(r.Context())
	defer stop(nil)
	s, err := t.claim(name, stop)
	if err != nil {
		return err
	}
	defer s.turn.Unlock()
	if err := t.make(ctx, s, b); err != nil {
		return err
	}
	t.setThere(s, true)
	t.driver.Log.InfoContext(ctx, "a job has started a sibling", "domain", s.domain, "job", t.job.Job, "name", name)
	return nil
}

// claim enters a sibling that the caller then makes, in its turn: whoever wants to remove it waits for that.
func (t *testbed) claim(name string, stop context.CancelCauseFunc) (*sibling, error) {
	s := &sibling{name: name, domain: t.domainOf(name), stop: stop, wire: make(chan net.Conn, 1)}
	s.turn.Lock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, again := t.siblings[name]; again {
		return nil, fault.Inputf("there is a machine %q already", name)
	}
	t.siblings[name] = s
	return s, nil
}

// make makes a sibling of its description, and leaves nothing of one that cannot be made.
func (t *testbed) make(ctx context.Context, s *sibling, b vm.BedSpec) error {
	spec, err := t.spec(ctx, s, b)
	if err == nil {
		err = t.admit(ctx, s, spec)
	}
	if err != nil {
		t.forget(s)
		return err
	}
	if b.Network {
		spec.Network.Client, err = t.listen(ctx, s)
	}
	if err == nil {
		err = t.node.Create(ctx, spec)
	}
	if err != nil {
		return errors.Join(err, t.takeAway(ctx, s))
	}
	return nil
}

// admit takes a sibling's need out of the job's share.
func (t *testbed) admit(ctx context.Context, s *sibling, spec vm.LastingSpec) error {
	if err := t.reserveOverlay(s, spec.DiskSize); err != nil {
		return err
	}
	need := settings.Resources{VMs: 1, CPUs: spec.CPUs, Memory: settings.Size(spec.MemoryMiB) << 20, Disk: settings.Size(spec.DiskSize)}
	ledger, err := t.driver.ledger()
	if err != nil {
		return err
	}
	return ledger.ReserveWithin(ctx, t.job.Lasting.Name, s.domain, t.driver.Settings.Testbed.Budget, need)
}

// spec describes a sibling but for its network.
func (t *testbed) spec(ctx context.Context, s *sibling, b vm.BedSpec) (vm.LastingSpec, error) {
	var none vm.LastingSpec
	if len(b.Disks) == 0 || len(b.Disks) > 8 || b.CPUs < 1 || b.MemoryMiB < 1 || (settings.Size(b.MemoryMiB)<<20).MiB() != b.MemoryMiB {
		return none, fault.Inputf("a machine of %d disks, %d processors and %d MiB cannot be", len(b.Disks), b.CPUs, b.MemoryMiB)
	}
	mark := t.job.Mark
	mark.For, mark.Of, mark.Created, mark.Testbed, mark.Secret = forTestbed, t.job.Lasting.Name, time.Now(), false, guest.Secret{}
	element, err := mark.element()
	if err != nil {
		return none, err
	}
	spec := vm.LastingSpec{
		Name: s.domain, Metadata: element, ImageFormat: "raw", DiskSize: b.DiskSize, MemoryMiB: b.MemoryMiB, CPUs: b.CPUs,
		SecureBoot: b.SecureBoot, SMBIOS: b.SMBIOS, Interactive: true, Paused: true,
	}
	if b.UEFI {
		spec.Firmware = vm.UEFI
	}
	for i, disk := range b.Disks {
		size, known := t.size(disk)
		if !known {
			return none, fault.Inputf("no disk %q was handed over", disk)
		}
		path, err := t.node.HandedDisk(ctx, t.job.Lasting.Name, disk)
		if err != nil {
			return none, err
		}
		if i == 0 {
			spec.Image, spec.DiskSize = path, max(spec.DiskSize, size)
		} else {
			spec.Disks = append(spec.Disks, vm.Disk{Path: path})
		}
	}
	return spec, nil
}

// listen waits for QEMU's connection to a sibling's network, which ends in this process: it reaches what the job's own
// process lets it reach.
func (t *testbed) listen(ctx context.Context, s *sibling) (addr string, err error) {
	user, err := t.node.User(ctx)
	if err != nil {
		return "", err
	}
	if s.network, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return "", err
	}
	go func() {
		defer close(s.wire)
		defer s.network.Close()
		if c, err := loopback.Accept(s.network, user); err == nil {
			s.wire <- c
		}
	}()
	return s.network.Addr().String(), nil
}

// forget is the end of a sibling of which nothing is left but its network.
func (t *testbed) forget(s *sibling) {
	if s.network != nil {
		_ = s.network.Close()
		for c := range s.wire {
			_ = c.Close()
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.siblings, s.name)
}

func (t *testbed) setThere(s *sibling, there bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.there = there
}

// sibling is one that is there.
func (t *testbed) sibling(r *http.Request) (*sibling, error) {
	name := r.PathValue("machine")
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.siblings[name]
	if s == nil || !s.there {
		return nil, fault.Inputf("the test bed has no machine %q", name)
	}
	return s, nil
}

func (t *testbed) act(_ http.ResponseWriter, r *http.Request) error {
	s, err := t.sibling(r)
	if err != nil {
		return err
	}
	verbs := map[string]func(context.Context, string) error{"resume": t.node.Resume, "press": t.node.PressPower, "reset": t.node.Reset}
	f := verbs[r.PathValue("verb")]
	if f == nil {
		return fault.Inputf("a test bed cannot %q: it can resume, press, reset", r.PathValue("verb"))
	}
	return f(r.Context(), s.domain)
}

// delete removes a sibling. One that is gone is no error; the making of one ends first.
func (t *testbed) delete(_ http.ResponseWriter, r *http.Request) error {
	t.mu.Lock()
	s := t.siblings[r.PathValue("machine")]
	t.mu.Unlock()
	if s == nil {
		return nil
	}
	return t.remove(r.Context(), s)
}

func (t *testbed) remove(ctx context.Context, s *sibling) error {
	s.stop(fault.Inputf("machine %q was removed while it was made", s.name))
	s.turn.Lock()
	defer s.turn.Unlock()
	return t.takeAway(ctx, s)
}

// takeAway removes a sibling in the caller's turn. One that cannot be removed keeps its name and its share.
func (t *testbed) takeAway(ctx context.Context, s *sibling) error {
	t.mu.Lock()
	gone := t.siblings[s.name] != s
	s.there = false
	t.mu.Unlock()
	if gone {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	if err := t.node.Remove(ctx, s.domain); err != nil {
		return err
	}
	ledger, err := t.driver.ledger()
	if err != nil {
		return err
	}
	if err := ledger.ReleaseWithin(ctx, t.job.Lasting.Name, s.domain); err != nil {
		return err
	}
	t.forget(s)
	return nil
}

// removeAll takes every sibling and every disk away.
func (t *testbed) removeAll(ctx context.Context) {
	t.mu.Lock()
	all := slices.Collect(maps.Values(t.siblings))
	disks := t.handed
	t.handed = make(map[string]*handedDisk)
	t.mu.Unlock()
	for _, s := range all {
		if err := t.remove(ctx, s); err != nil {
			t.driver.Log.WarnContext(ctx, "a sibling stays for the reaper", "domain", s.domain, "error", err)
		}
	}
	for disk := range disks {
		if path, err := t.node.HandedDisk(context.WithoutCancel(ctx), t.job.Lasting.Name, disk); err == nil {
			_ = os.Remove(path)
		}
	}
}

func (t *testbed) console(w http.ResponseWriter, r *http.Request) error {
	s, err := t.sibling(r)
	if err != nil {
		return err
	}
	c, err := new(net.Dialer).DialContext(r.Context(), "unix", t.node.ConsoleSocket(s.domain))
	if err != nil {
		return err
	}
	return upgrade(w, c)
}

func (t *testbed) connect(w http.ResponseWriter, r *http.Request) error {
	s, err := t.sibling(r)
	if err != nil {
		return err
	}
	if s.network == nil {
		return fault.Inputf("machine %q has no network", s.name)
	}
	select {
	case c, ok := <-s.wire:
		if !ok {
			return fault.Inputf("the network of machine %q was connected before", s.name)
		}
		return upgrade(w, c)
	case <-r.Context().Done():
		return context.Cause(r.Context())
	}
}

// upgrade makes a request's connection one to c.
func upgrade(w http.ResponseWriter, c net.Conn) error {
	taker, ok := w.(http.Hijacker)
	if !ok {
		return errors.Join(errors.New("this connection cannot be taken over"), c.Close())
	}
	client, buffered, err := taker.Hijack()
	if err != nil {
		return errors.Join(err, c.Close())
	}
	_, err = fmt.Fprintf(client, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", vm.BedProtocol)
	if err == nil && buffered.Reader.Buffered() > 0 {
		_, err = io.CopyN(c, buffered.Reader, int64(buffered.Reader.Buffered()))
	}
	if err != nil {
		_, _ = client.Close(), c.Close()
		return nil // there is nobody to tell
	}
	go vm.Splice(client, c)
	return nil
}
