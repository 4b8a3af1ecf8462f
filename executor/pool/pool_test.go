package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor"
	"salsa.debian.org/cloud-team/debcloud/executor/admission"
	"salsa.debian.org/cloud-team/debcloud/executor/settings"
)

// memory plays the driver: VMs are names in a map.
type memory struct {
	mu    sync.Mutex
	vms   map[string]bool // name → nobody's
	sick  map[string]bool
	fails error
	slow  chan struct{} // a boot waits for it
	tries int
	named int
	l     *admission.Ledger
}

func (m *memory) BootWarm(ctx context.Context, w executor.WarmSpec) (string, error) {
	m.mu.Lock()
	m.named++
	name := fmt.Sprintf("warm-%d", m.named)
	fails, slow := m.fails, m.slow
	m.mu.Unlock()
	g, err := m.l.Try(ctx, admission.Request{ID: name, Class: admission.Warm, Need: need(settings.Machine{CPUs: 2, Memory: 4 << 30, Disk: 20 << 30})})
	if g == nil {
		return "", err
	}
	defer g.Done()
	m.mu.Lock()
	m.tries++
	m.vms[name] = true
	m.mu.Unlock()
	if slow != nil {
		select {
		case <-slow:
		case <-ctx.Done():
			fails = context.Cause(ctx)
		}
	}
	if fails != nil {
		return "", errors.Join(fails, m.Discard(context.WithoutCancel(ctx), name))
	}
	return name, nil
}

func (m *memory) Healthy(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sick[name] {
		return errors.New("no answer")
	}
	return nil
}

func (m *memory) Discard(ctx context.Context, name string) error {
	m.mu.Lock()
	delete(m.vms, name)
	m.mu.Unlock()
	return m.l.Release(ctx, name)
}

func (m *memory) Warm(context.Context) ([]executor.WarmVM, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []executor.WarmVM
	for name, nobodys := range m.vms {
		if nobodys {
			found = append(found, executor.WarmVM{Domain: name})
		}
	}
	return found, nil
}

func (m *memory) tried() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tries
}

func (m *memory) names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.vms))
}

// adopt is what the driver does after a claim: the metadata say whose the VM is.
func (m *memory) adopt(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.vms[name] = false
}

var budget = settings.Resources{CPUs: 8, Memory: 32 << 30, Disk: 400 << 30, VMs: 8}

type host struct {
	*Keeper
	memory *memory
	base   atomic.Value
}

func newHost(t *testing.T, count int) *host {
	t.Helper()
	s := settings.Default()
	s.State = t.TempDir()
	s.WarmPool.VMs = []settings.Warm{{Image: "runner", Refs: settings.Protected, Count: count}}
	return hostOf(t, s)
}

func hostOf(t *testing.T, s *settings.Settings) *host {
	t.Helper()
	l, err := admission.New(filepath.Join(s.State, "admission"), budget, admission.Options{Poll: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	store, err := Open(s)
	if err != nil {
		t.Fatal(err)
	}
	h := &host{memory: &memory{vms: make(map[string]bool), sick: make(map[string]bool), l: l}}
	h.base.Store("v1")
	h.Keeper = &Keeper{
		Settings: s, Ledger: l, Store: store, VMs: h.memory, Log: slog.New(slog.DiscardHandler),
		Digest:   func(context.Context, string) (string, error) { return h.base.Load().(string), nil },
		failures: make(map[string]failure), ended: make(chan struct{}, 1),
	}
	return h
}

// work passes until a pass boots nothing any more.
func (h *host) work(t *testing.T, checkAll bool) {
	t.Helper()
	for range 20 {
		before := h.memory.tried()
		if err := h.pass(t.Context(), checkAll); err != nil {
			t.Fatal(err)
		}
		h.boots.Wait()
		if h.memory.tried() == before {
			h.invariant(t)
			return
		}
	}
	t.Fatal("the pool does not come to rest")
}

// invariant holds records, VMs and ledger against each other.
func (h *host) invariant(t *testing.T) {
	t.Helper()
	var records []string
	for _, r := range h.Store.records(ready) {
		records = append(records, r.Name)
	}
	slices.Sort(records)
	unclaimed, _ := h.unclaimed(t.Context())
	if !slices.Equal(records, slices.Sorted(maps.Keys(unclaimed))) {
		t.Errorf("ready are %v, there are %v", records, unclaimed)
	}
	s, err := h.Ledger.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	vms := 0
	for _, e := range s.Entries {
		if _, ok := h.memory.vms[e.ID]; ok {
			vms++
		}
	}
	if vms != len(h.memory.names()) {
		t.Errorf("the ledger has %d of %v", vms, h.memory.names())
	}
}

func (h *host) claimer() Claimer {
	return Claimer{Kind: Kind{Image: "runner", Digest: h.base.Load().(string), Class: settings.Protected,
		Machine: settings.Machine{CPUs: 2, Memory: 4 << 30, Disk: 20 << 30}}, For: "job 1 of a/b"}
}

func (h *host) claim(t *testing.T, c Claimer) string {
	t.Helper()
	name, ok, err := h.Store.Claim(t.Context(), h.Ledger, c)
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		return ""
	}
	h.memory.adopt(name)
	return name
}

func TestFillClaimRefill(t *testing.T) {
	h := newHost(t, 2)
	h.work(t, false)
	first := h.memory.names()
	if len(first) != 2 {
		t.Fatalf("VMs %v", first)
	}
	for _, row := range []struct {
		summary string
		change  func(*Claimer)
	}{
		{"of another size", func(c *Claimer) { c.Machine.CPUs = 1 }},
		{"on another network", func(c *Claimer) { c.Class = settings.Fork }},
		{"of another image", func(c *Claimer) { c.Image = "sid" }},
		{"of a newer image", func(c *Claimer) { c.Digest = "v2" }},
	} {
		c := h.claimer()
		row.change(&c)
		if name := h.claim(t, c); name != "" {
			t.Errorf("a job that wants a VM %s got %s", row.summary, name)
		}
	}
	name := h.claim(t, h.claimer())
	if !slices.Contains(first, name) {
		t.Fatalf("claimed %q of %v", name, first)
	}
	s, _ := h.Ledger.Snapshot(t.Context())
	for _, e := range s.Entries {
		if (e.Class == admission.Job) != (e.ID == name) || e.ID == name && e.For != "job 1 of a/b" {
			t.Errorf("the ledger has %+v", e)
		}
	}
	h.work(t, false)
	if now := h.memory.names(); len(now) != 3 {
		t.Errorf("after a claim there are %v", now)
	}
	held[0].Close() // prepare has ended
	held = held[1:]
	h.work(t, false)
	if left := h.Store.records(claimed); len(left) > 0 {
		t.Errorf("claimed records left: %+v", left)
	}
	if !slices.Contains(h.memory.names(), name) {
		t.Error("the job's VM was taken away")
	}
}

func TestTestbedShare(t *testing.T) {
	h := newHost(t, 1)
	h.work(t, false)
	c := h.claimer()
	c.More = settings.Resources{CPUs: 7, VMs: 1}
	if _, ok, err := h.Store.Claim(t.Context(), h.Ledger, c); ok || err == nil {
		t.Errorf("claimed beyond the budget: %v", err)
	}
	h.invariant(t)
	c.More.CPUs = 6
	if name := h.claim(t, c); name == "" {
		t.Error("not claimed")
	}
	if s, _ := h.Ledger.Snapshot(t.Context()); s.Used.CPUs != 8 || s.Used.VMs != 2 || s.Entries[0].Bed != c.More {
		t.Errorf("%+v", s)
	}
}

func TestRetire(t *testing.T) {
	h := newHost(t, 2)
	h.work(t, false)
	old := h.memory.names()
	h.base.Store("v2")
	h.work(t, false)
	if now := h.memory.names(); len(now) != 2 || slices.Contains(now, old[0]) || slices.Contains(now, old[1]) {
		t.Errorf("after a new image: %v, before %v", now, old)
	}
	old = h.memory.names()
	h.memory.sick[old[0]] = true
	h.work(t, false)
	if !slices.Equal(h.memory.names(), old) {
		t.Error("asked each time, not at the check alone")
	}
	h.work(t, true)
	if now := h.memory.names(); len(now) != 2 || slices.Contains(now, old[0]) || !slices.Contains(now, old[1]) {
		t.Errorf("after one fell ill: %v, before %v", now, old)
	}
	old = h.memory.names()
	later := time.Now().Add(13 * time.Hour)
	h.Now = func() time.Time { return later }
	h.work(t, false)
	if now := h.memory.names(); len(now) != 2 || slices.Contains(now, old[0]) || slices.Contains(now, old[1]) {
		t.Errorf("after 13 hours: %v, before %v", now, old)
	}
	h.Settings.WarmPool.VMs[0].Count = 1
	h.work(t, false)
	if now := h.memory.names(); len(now) != 1 {
		t.Errorf("one is wanted, there are %v", now)
	}
	gone := h.memory.names()[0]
	if err := h.memory.Discard(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	h.work(t, false)
	if now := h.memory.names(); len(now) != 1 || now[0] == gone {
		t.Errorf("one is wanted, there are %v", now)
	}
}

// TestYield holds that ready VMs, and those that are being made, give way to a job.
func TestYield(t *testing.T) {
	h := newHost(t, 3)
	h.work(t, false)
	h.Settings.WarmPool.VMs[0].Count = 4
	h.memory.slow = make(chan struct{})
	if err := h.pass(t.Context(), false); err != nil || !h.isBooting() {
		t.Fatalf("a fourth is not being made: %v", err)
	}
	served := make(chan error)
	go func() {
		g, err := h.Ledger.Admit(t.Context(), admission.Request{ID: "job", Need: settings.Resources{CPUs: 3, VMs: 1}}, nil)
		if err == nil {
			g.Done()
		}
		served <- err
	}()
	for {
		s, err := h.Ledger.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Waiting) > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := h.pass(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	if now := h.memory.names(); len(now) != 2 {
		t.Errorf("for 3 of 8 processors, of 4 VMs with 2 each there stay %v", now)
	}
	h.memory.mu.Lock()
	h.memory.slow = nil
	h.memory.mu.Unlock()
	h.work(t, false)
	if now := h.memory.names(); len(now) != 2 {
		t.Errorf("beside a job of 3 processors there are %v", now)
	}
	if err := h.Ledger.Release(t.Context(), "job"); err != nil {
		t.Fatal(err)
	}
	h.work(t, false)
	if now := h.memory.names(); len(now) != 4 {
		t.Errorf("after the job there are %v", now)
	}
}

func TestFailedBoots(t *testing.T) {
	h := newHost(t, 1)
	clock := time.Now()
	h.Now = func() time.Time { return clock }
	h.memory.fails = errors.New("no agent")
	var pauses []time.Duration
	for range 12 {
		before := h.memory.tries
		h.work(t, false)
		h.work(t, false)
		if h.memory.tries != before+1 {
			t.Fatalf("%d boots at once", h.memory.tries-before)
		}
		pause := h.failureOf("runner").until.Sub(clock)
		pauses = append(pauses, pause)
		clock = clock.Add(pause)
	}
	if pauses[0] != firstPause || pauses[1] != 2*firstPause || pauses[11] != longestWait {
		t.Errorf("pauses %v", pauses)
	}
	if left := h.memory.names(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	h.memory.fails = nil
	h.work(t, false)
	if len(h.memory.names()) != 1 || h.failureOf("runner").count != 0 {
		t.Error("it did not recover")
	}
}

// TestManyClaim lets many jobs want the same VMs: nobody gets another's.
func TestManyClaim(t *testing.T) {
	h := newHost(t, 4)
	h.work(t, false)
	var mu sync.Mutex
	got := make(map[string]int)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			store, err := Open(h.Settings)
			if err != nil {
				t.Error(err)
				return
			}
			name, ok, err := claimLocked(t.Context(), &mu, store, h)
			if err != nil {
				t.Error(err)
			}
			if ok {
				mu.Lock()
				got[name]++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(got) != 4 {
		t.Errorf("claimed %v of 4", got)
	}
	for name, n := range got {
		if n != 1 {
			t.Errorf("%s was claimed %d times", name, n)
		}
	}
}

// claimLocked is Claim without the list of open claims, which belongs to a process.
func claimLocked(ctx context.Context, _ *sync.Mutex, s *Store, h *host) (string, bool, error) {
	for _, r := range s.records(ready) {
		lock, err := s.take(r.Name)
		if err != nil {
			return "", false, err
		}
		if lock != nil {
			return r.Name, true, h.Ledger.Rename(ctx, r.Name, h.claimer().request(r))
		}
	}
	return "", false, nil
}

// TestMain is also a driver that claims a VM, and is killed before the metadata say so.
func TestMain(m *testing.M) {
	if state := os.Getenv("POOL_TEST_STATE"); state != "" {
		claimAndHang(state)
	}
	os.Exit(m.Run())
}

func claimAndHang(state string) {
	s := settings.Default()
	s.State = state
	l, err := admission.New(filepath.Join(state, "admission"), budget, admission.Options{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	store, err := Open(s)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	r := store.records(ready)[0]
	name, ok, err := store.Claim(context.Background(), l, Claimer{Kind: r.Kind, For: "job 2"})
	fmt.Println(name, ok, err)
	time.Sleep(time.Hour)
}

func TestKilledClaimer(t *testing.T) {
	h := newHost(t, 1)
	h.work(t, false)
	name := h.memory.names()[0]
	h.Settings.WarmPool.VMs[0].Count = 0
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), "POOL_TEST_STATE="+h.Settings.State)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 200)
	n, _ := out.Read(said)
	if want := name + " true <nil>\n"; string(said[:n]) != want {
		t.Fatalf("the driver says %q, want %q", said[:n], want)
	}
	if err := h.pass(t.Context(), true); err != nil || !slices.Contains(h.memory.names(), name) {
		t.Errorf("the VM of a claimer that lives was taken away: %v", err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	h.work(t, false)
	if left := h.memory.names(); len(left) > 0 {
		t.Errorf("the VM of a killed claimer stays: %v", left)
	}
	if s, _ := h.Ledger.Snapshot(t.Context()); len(s.Entries) > 0 {
		t.Errorf("the ledger still has %+v", s.Entries)
	}
}

// TestRun is the service: it fills the pool, refills it when a job claims, and leaves nothing when it ends.
// Who withdraws a VM and who claims it exclude each other.
func TestWithdraw(t *testing.T) {
	h := newHost(t, 1)
	h.work(t, false)
	name := h.memory.names()[0]
	called := 0
	withdraw := func(gone bool, during func()) {
		t.Helper()
		if err := h.Store.Withdraw(name, func() (bool, error) { called++; during(); return gone, nil }); err != nil {
			t.Error(err)
		}
	}
	withdraw(false, func() {
		if other, ok, err := h.Store.Claim(t.Context(), h.Ledger, h.claimer()); ok || err != nil {
			t.Errorf("%s was claimed while it was withdrawn: %v", other, err)
		}
		if h.Store.Withdraw(name, func() (bool, error) { t.Error("withdrawn twice"); return true, nil }) != nil {
			t.Error("withdrawn twice")
		}
	})
	if got := h.claim(t, h.claimer()); got != name || called != 1 {
		t.Fatalf("what stays is %q, want %q; %d calls", got, name, called)
	}
	if withdraw(true, func() {}); called != 1 {
		t.Error("a job's VM was withdrawn")
	}
	_ = held[len(held)-1].Close() // the claimer dies
	if withdraw(true, func() {}); called != 2 || h.Store.has(name) {
		t.Errorf("the VM of a dead claimer: %d calls", called)
	}
	if withdraw(true, func() {}); called != 3 {
		t.Errorf("a VM without a record: %d calls", called)
	}
}

// A service that comes after one that was killed looks after its VMs.
func TestKeeperAdopts(t *testing.T) {
	h := newHost(t, 2)
	h.work(t, false)
	before := h.memory.names()
	next := hostOf(t, h.Settings)

	next.memory.vms = h.memory.vms
	if err := next.pass(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	next.boots.Wait()
	if got := next.memory.names(); !slices.Equal(got, before) || next.memory.tried() > 0 {
		t.Errorf("%q became %q after %d boots", before, got, next.memory.tried())
	}
}

func TestRun(t *testing.T) {
	h := newHost(t, 2)
	h.Settings.WarmPool.Check = time.Hour // so that the refill is not the tick's work
	h.memory.vms["warm-lost"] = true      // an earlier service was killed with it
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- h.Run(ctx) }()
	eventually := func(what string, condition func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !condition(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not within a minute: %s", what)
			}
		}
	}
	eventually("two VMs", func() bool { return len(h.Store.records(ready)) == 2 })
	if slices.Contains(h.memory.names(), "warm-lost") {
		t.Error("a lost VM stays")
	}
	if !h.Store.Kept() {
		t.Error("nobody keeps the pool")
	}
	if err := (&Keeper{Settings: h.Settings, Store: h.Store}).Run(t.Context()); err == nil {
		t.Error("a second keeper runs")
	}
	name := h.claim(t, h.claimer())
	eventually("a refill", func() bool { return len(h.Store.records(ready)) == 2 })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if left := h.memory.names(); !slices.Equal(left, []string{name}) {
		t.Errorf("left: %v, and %s is a job's", left, name)
	}
	if h.Store.Kept() {
		t.Error("the ended service still keeps the pool")
	}
}
