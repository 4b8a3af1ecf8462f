package admission

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

var small = settings.Resources{CPUs: 4, Memory: 8 << 30, Disk: 100 << 30, VMs: 4}

func cpus(n int) settings.Resources {
	return settings.Resources{CPUs: n, Memory: settings.Size(n) << 30, Disk: 10 << 30, VMs: 1}
}

func request(id string, n int) Request { return Request{ID: id, Class: Job, Need: cpus(n)} }

func newLedger(t testing.TB, dir string, o Options) *Ledger {
	t.Helper()
	l, err := New(dir, small, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func admit(t testing.TB, l *Ledger, r Request) *Grant {
	t.Helper()
	g, err := l.Try(t.Context(), r)
	if err != nil || g == nil {
		t.Fatalf("%s was not admitted: %v", r.ID, err)
	}
	return g
}

// waitFor looks until a condition holds.
func waitFor(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func snapshot(t testing.TB, l *Ledger) Snapshot {
	t.Helper()
	s, err := l.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRefusals(t *testing.T) {
	l := newLedger(t, t.TempDir(), Options{})
	for _, row := range []struct {
		summary string
		request Request
		says    string
	}{
		{"more processors than the whole budget can never be", request("a", 5), "processors: 5 needed, 4 free: more than this host gives"},
		{"nor can more disk", Request{ID: "a", Need: settings.Resources{Disk: 101 << 30, VMs: 1}}, "disk: 101GiB needed, 100GiB free"},
		{"a VM has a name", request("", 1), `"" is no name`},
		{"nothing is less than nothing", Request{ID: "a", Need: settings.Resources{CPUs: -1, VMs: 1}}, "cannot be"},
		{"a request is for a VM", Request{ID: "a", Need: settings.Resources{CPUs: 1}}, "cannot be"},
	} {
		_, err := l.Admit(t.Context(), row.request, nil)
		if err == nil || !strings.Contains(err.Error(), row.says) || fault.KindOf(err) != fault.Input {
			t.Errorf("%s: %v", row.summary, err)
		}
	}
	if s := snapshot(t, l); len(s.Entries)+len(s.Waiting) > 0 {
		t.Errorf("what was refused is in the ledger: %+v", s)
	}
}

// TestOrder holds that whoever asks first is served first, and that small requests do not starve a large one.
func TestOrder(t *testing.T) {
	l := newLedger(t, t.TempDir(), Options{})
	admit(t, l, request("first", 3))
	var mu sync.Mutex
	var served []string
	var all sync.WaitGroup
	for i, r := range []Request{request("large", 4), request("tiny", 1), request("middle", 2), request("tiny2", 1)} {
		all.Go(func() {
			g, err := l.Admit(t.Context(), r, nil)
			if err != nil {
				t.Errorf("%s: %v", r.ID, err)
				return
			}
			mu.Lock()
			served = append(served, r.ID)
			mu.Unlock()
			g.Done()
			if err := l.Release(t.Context(), r.ID); err != nil {
				t.Error(err)
			}
		})
		waitFor(t, r.ID+" waits", func() bool { return len(snapshot(t, l).Waiting) == i+1 })
	}
	// There is room for tiny, but large was first.
	if g, err := l.Try(t.Context(), request("warm", 1)); g != nil || err != nil {
		t.Errorf("a warm VM overtook those that wait: %v", err)
	}
	if err := l.Release(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	if len(served) != 4 || served[0] != "large" {
		t.Errorf("served in the order %v", served)
	}
	if s := snapshot(t, l); len(s.Entries)+len(s.Waiting) > 0 || s.Free != small {
		t.Errorf("left in the ledger: %+v", s)
	}
}

func TestTell(t *testing.T) {
	clock := time.Date(2025, 8, 14, 12, 0, 0, 0, time.UTC)
	var mu sync.Mutex
	now := func() time.Time { mu.Lock(); defer mu.Unlock(); return clock }
	l := newLedger(t, t.TempDir(), Options{Now: now, Poll: time.Millisecond, Tell: time.Minute})
	admit(t, l, request("first", 4))
	told := make(chan Position, 100)
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := l.Admit(ctx, request("second", 2), func(p Position) { told <- p })
		ended <- err
	}()
	want := "waiting for room on this host, next in line, for 0s so far: processors: 2 needed, 0 free"
	next := func() Position {
		select {
		case err := <-ended:
			t.Fatalf("the wait ended: %v", err)
		case p := <-told:
			return p
		}
		panic("unreachable")
	}
	if p := next(); p.String() != want {
		t.Errorf("told %q, want %q", p, want)
	}
	time.Sleep(20 * time.Millisecond) // many polls, and still the same minute
	mu.Lock()
	clock = clock.Add(61 * time.Second)
	mu.Unlock()
	if p := next(); !strings.Contains(p.String(), "for 1m1s so far") {
		t.Errorf("told %q", p)
	}
	cause := errors.New("job cancelled")
	cancel(cause)
	if err := <-ended; !errors.Is(err, cause) {
		t.Errorf("the cancelled wait ended with %v", err)
	}
	if n := len(told); n > 0 {
		t.Errorf("told %d times more within a minute", n)
	}
	if s := snapshot(t, l); len(s.Waiting) > 0 {
		t.Errorf("still waits: %+v", s.Waiting)
	}
	if left, _ := filepath.Glob(filepath.Join(l.dir, ticketDir, "waiting-*")); len(left) > 0 {
		t.Errorf("tickets left: %v", left)
	}
}

func TestAdmittedTwice(t *testing.T) {
	l := newLedger(t, t.TempDir(), Options{})
	g := admit(t, l, request("a", 3))
	if _, err := l.Admit(t.Context(), request("a", 3), nil); err == nil {
		t.Error("admitted while another holds it")
	}
	g.Done()
	g.Done()
	if _, err := l.Admit(t.Context(), request("a", 1), nil); err == nil {
		t.Error("admitted with another need")
	}
	again, err := l.Admit(t.Context(), request("a", 3), nil)
	if err != nil {
		t.Fatal(err)
	}
	again.Done()
	if s := snapshot(t, l); len(s.Entries) != 1 || s.Used != cpus(3) {
		t.Errorf("%+v", s)
	}
}

func TestReclaim(t *testing.T) {
	l := newLedger(t, t.TempDir(), Options{})
	booting := admit(t, l, request("booting", 1))
	admit(t, l, request("lives", 1)).Done()
	admit(t, l, request("gone", 1)).Done()
	exist := map[string]bool{"lives": true}
	list := func(context.Context) (map[string]bool, error) {
		// While reap lists, a VM comes into being that its list does not have yet.
		booting.Done()
		return exist, nil
	}
	gone, err := l.Reclaim(t.Context(), list)
	if err != nil || len(gone) != 1 || gone[0].ID != "gone" {
		t.Errorf("reclaimed %+v, %v", gone, err)
	}
	again := func(context.Context) (map[string]bool, error) { return exist, nil }
	if gone, err := l.Reclaim(t.Context(), again); err != nil || len(gone) != 1 || gone[0].ID != "booting" {
		t.Errorf("the second time reclaimed %+v, %v", gone, err)
	}
	if s := snapshot(t, l); len(s.Entries) != 1 || s.Entries[0].ID != "lives" {
		t.Errorf("%+v", s.Entries)
	}
	if _, err := l.Reclaim(t.Context(), func(context.Context) (map[string]bool, error) { return nil, errors.New("libvirtd is away") }); err == nil {
		t.Error("reclaimed without a list")
	}
}

func TestReclaimOfANameThatCameBack(t *testing.T) {
	l := newLedger(t, t.TempDir(), Options{})
	admit(t, l, request("a", 1)).Done()
	gone, err := l.Reclaim(t.Context(), func(ctx context.Context) (map[string]bool, error) {
		if err := l.Release(ctx, "a"); err != nil {
			return nil, err
		}
		admit(t, l, request("a", 2)).Done()
		return nil, nil
	})
	if err != nil || len(gone) != 0 || snapshot(t, l).Used != cpus(2) {
		t.Errorf("reclaimed %v, %v", gone, err)
	}
}

func TestAdoptAndRename(t *testing.T) {
	l := newLedger(t, t.TempDir(), Options{})
	for range 2 {
		if err := l.Adopt(t.Context(), request("orphan", 4)); err != nil {
			t.Fatal(err)
		}
	}
	if g, err := l.Try(t.Context(), request("b", 1)); g != nil || err != nil {
		t.Errorf("admitted beside what was adopted: %v", err)
	}
	if err := l.Rename(t.Context(), "orphan", Request{ID: "job", Class: Job, Need: cpus(4), For: "job 1"}); err != nil {
		t.Fatal(err)
	}
	if err := l.Rename(t.Context(), "job", request("job", 5)); err == nil {
		t.Error("renamed to more than the budget")
	}
	if err := l.Rename(t.Context(), "orphan", request("other", 1)); err == nil {
		t.Error("renamed what is not there")
	}
	if s := snapshot(t, l); len(s.Entries) != 1 || s.Entries[0].ID != "job" || s.Entries[0].For != "job 1" {
		t.Errorf("%+v", s.Entries)
	}
}

func TestWithin(t *testing.T) {
	l := newLedger(t, t.TempDir(), Options{})
	share := settings.Resources{CPUs: 2, Memory: 2 << 30, Disk: 20 << 30, VMs: 2}
	admit(t, l, Request{ID: "job", Need: add(cpus(1), share)}).Done()
	reserve := func(sibling string, n int) error {
		return l.ReserveWithin(t.Context(), "job", sibling, share, cpus(n))
	}
	if err := errors.Join(reserve("a", 1), reserve("b", 1)); err != nil {
		t.Fatal(err)
	}
	if err := reserve("c", 1); err == nil || !strings.Contains(err.Error(), "VMs: 1 needed, 0 free") {
		t.Errorf("a third sibling: %v", err)
	}
	if err := reserve("a", 1); err == nil {
		t.Error("the same sibling twice")
	}
	for range 2 {
		if err := l.ReleaseWithin(t.Context(), "job", "a"); err != nil {
			t.Fatal(err)
		}
	}
	if err := reserve("c", 1); err != nil {
		t.Errorf("after one left: %v", err)
	}
	if err := l.ReserveWithin(t.Context(), "nobody", "a", share, cpus(1)); err == nil {
		t.Error("a sibling of nobody")
	}
	if s := snapshot(t, l); s.Used != add(cpus(1), share) {
		t.Errorf("siblings count twice: %+v", s.Used)
	}
}

// TestHostIsFull holds that the host's other users keep what they have.
func TestHostIsFull(t *testing.T) {
	clock := time.Date(2025, 8, 14, 12, 0, 0, 0, time.UTC)
	spare := settings.Resources{Memory: 3 << 30, Disk: 50 << 30}
	l := newLedger(t, t.TempDir(), Options{
		Now:   func() time.Time { return clock },
		Spare: func(context.Context) (settings.Resources, error) { return spare, nil },
	})
	admit(t, l, request("a", 2)).Done()
	if g, _ := l.Try(t.Context(), request("b", 2)); g != nil {
		t.Error("b got memory that a has not touched yet")
	}
	clock = clock.Add(time.Hour)
	spare.Memory = 1 << 30
	if g, _ := l.Try(t.Context(), request("b", 2)); g != nil {
		t.Error("b got memory that the host does not have")
	}
	spare.Memory, spare.Disk = 2<<30, 19<<30
	if g, _ := l.Try(t.Context(), request("b", 2)); g != nil {
		t.Error("b got disk that a may still fill")
	}
	spare.Disk = 20 << 30
	admit(t, l, request("b", 2))
}

// TestDisksThatHaveGrown holds that what a VM has written is not counted a second time: the host has that much less free.
func TestDisksThatHaveGrown(t *testing.T) {
	pool := t.TempDir()
	const gib = 1 << 30
	spare := settings.Resources{Memory: 100 * gib, Disk: 40 * gib}
	taken := map[string]settings.Size{}
	l, err := New(pool, settings.Resources{CPUs: 100, Memory: 100 * gib, Disk: 400 * gib, VMs: 100}, Options{
		Spare:  func(context.Context) (settings.Resources, error) { return spare, nil },
		OnDisk: func(id string) settings.Size { return taken[id] },
	})
	if err != nil {
		t.Fatal(err)
	}
	disk := func(id string, size settings.Size) Request {
		return Request{ID: id, Class: Job, Need: settings.Resources{CPUs: 1, Memory: gib, Disk: size, VMs: 1}}
	}
	admit(t, l, disk("a", 20*gib))
	admit(t, l, disk("b", 10*gib))
	if g, _ := l.Try(t.Context(), disk("c", 20*gib)); g != nil {
		t.Error("c got disk that a and b may still fill")
	}
	for _, use := range []struct {
		summary, id string
		bytes       settings.Size
	}{{"a fills its disk", "a", 20 * gib}, {"a sibling of b fills a part", "b-sibling", 4 * gib}, {"and b the rest, with some qcow2 tables", "b", 7 * gib}} {
		if use.id == "b-sibling" {
			if err := l.ReserveWithin(t.Context(), "b", use.id, settings.Resources{CPUs: 1, Memory: gib, Disk: 4 * gib, VMs: 1}, settings.Resources{Disk: 4 * gib}); err != nil {
				t.Fatal(err)
			}
		}
		taken[use.id] = use.bytes
		spare.Disk -= use.bytes
		fits := max(0, spare.Disk-max(0, 20*gib-taken["a"])-max(0, 10*gib-taken["b"]-taken["b-sibling"]))
		if g, _ := l.Try(t.Context(), disk("c", fits+1)); g != nil {
			t.Errorf("%s: c got more than the %v that are left", use.summary, fits)
		}
		admit(t, l, disk("c", fits)).Done()
		if err := l.Release(t.Context(), "c"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOnDisk counts the blocks of a VM's files, not their length, and nobody else's.
func TestOnDisk(t *testing.T) {
	s := settings.Default()
	s.Pool.Path = t.TempDir()
	for name, bytes := range map[string]int{"vm.overlay.qcow2": 1 << 20, "vm.handed.disk0": 1 << 20, "vm-1.overlay.qcow2": 4 << 20} {
		f, err := os.Create(filepath.Join(s.Pool.Path, name))
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Write(make([]byte, bytes))
		if err := errors.Join(err, f.Truncate(1<<30), f.Sync(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if got := onDisk(s)("vm"); got < 2<<20 || got > 3<<20 {
		t.Errorf("%v on disk, written were 2MiB", got)
	}
	if got := onDisk(s)("none"); got != 0 {
		t.Errorf("%v of a VM that has no files", got)
	}
}

// TestSiblingsMemory holds that nobody else gets the memory of siblings which begin long after their job.
func TestSiblingsMemory(t *testing.T) {
	clock := time.Date(2025, 8, 14, 12, 0, 0, 0, time.UTC)
	spare := settings.Resources{Memory: 7 << 30, Disk: 100 << 30}
	l := newLedger(t, t.TempDir(), Options{
		Now:   func() time.Time { return clock },
		Spare: func(context.Context) (settings.Resources, error) { return spare, nil },
	})
	bed := settings.Resources{CPUs: 2, Memory: 5 << 30, Disk: 10 << 30, VMs: 2}
	admit(t, l, Request{ID: "job", Class: Job, Need: add(cpus(1), bed), Bed: bed}).Done()
	refused := func(when string, memory settings.Size) {
		t.Helper()
		r := Request{ID: "other", Class: Job, Need: settings.Resources{CPUs: 1, Memory: memory, VMs: 1}}
		if g, err := l.Try(t.Context(), r); g != nil || err != nil {
			t.Errorf("%s: %v of memory were given away, %v", when, memory, err)
		}
		r.Need.Memory--
		admit(t, l, r).Done()
		if err := l.Release(t.Context(), "other"); err != nil {
			t.Fatal(err)
		}
	}
	refused("the job is young", 1<<30+1)
	clock = clock.Add(time.Hour)
	spare.Memory = 6 << 30
	refused("no sibling has begun", 1<<30+1)
	if err := l.ReserveWithin(t.Context(), "job", "a", bed, settings.Resources{Memory: 4 << 30, VMs: 1}); err != nil {
		t.Fatal(err)
	}
	refused("a sibling is young", 1<<30+1)
	clock = clock.Add(time.Hour)
	spare.Memory = 2 << 30
	refused("it has its memory, another may begin", 1<<30+1)
	if err := l.ReleaseWithin(t.Context(), "job", "a"); err != nil {
		t.Fatal(err)
	}
	spare.Memory = 6 << 30
	refused("it has ended, others may begin", 1<<30+1)
}

func TestBrokenLedger(t *testing.T) {
	l := newLedger(t, t.TempDir(), Options{})
	for _, text := range []string{"", "{", `{"schema": 2}`} {
		if err := os.WriteFile(filepath.Join(l.dir, ledgerFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := l.Try(t.Context(), request("a", 1))
		if fault.KindOf(err) != fault.Outside || !strings.Contains(fault.HintOf(err), "executor reap") {
			t.Errorf("ledger %q: %v", text, err)
		}
	}
}

// TestLockedByAStoppedProcess holds that cancelling works even where the lock never comes free.
func TestLockedByAStoppedProcess(t *testing.T) {
	l := newLedger(t, t.TempDir(), Options{})
	unlock, err := Lock(t.Context(), filepath.Join(l.dir, lockFile))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := l.Admit(ctx, request("a", 1), nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ended with %v", err)
	}
	unlock()
	admit(t, l, request("a", 1))
}

func TestBudgetOf(t *testing.T) {
	host := Host{CPUs: 16, Memory: 64 << 30, Disk: 500 << 30}
	reserve := settings.Machine{CPUs: 2, Memory: 4 << 30, Disk: 50 << 30}
	for _, row := range []struct {
		summary string
		budget  settings.Budget
		host    Host
		want    settings.Resources
	}{
		{"what is not said is the host's without the reserve", settings.Budget{Reserve: reserve}, host,
			settings.Resources{CPUs: 14, Memory: 60 << 30, Disk: 450 << 30, VMs: unlimited}},
		{"what is said holds", settings.Budget{CPUs: 40, Memory: 1 << 30, Disk: 1 << 30, VMs: 3, Reserve: reserve}, host,
			settings.Resources{CPUs: 40, Memory: 1 << 30, Disk: 1 << 30, VMs: 3}},
		{"a small host keeps one processor for jobs", settings.Budget{Reserve: reserve}, Host{CPUs: 2},
			settings.Resources{CPUs: 1, VMs: unlimited}},
	} {
		if got := BudgetOf(row.budget, row.host); got != row.want {
			t.Errorf("%s: %+v", row.summary, got)
		}
	}
}

func TestMeasure(t *testing.T) {
	h, err := Measure(filepath.Join(t.TempDir(), "not", "yet", "there"))
	if err != nil || h.CPUs < 1 || h.AvailableMemory < 1<<20 || h.Memory < h.AvailableMemory || h.SpareDisk < 1<<20 || h.Disk < h.SpareDisk {
		t.Errorf("%+v, %v", h, err)
	}
}

// TestOpen goes the way of a driver: settings, a real host.
func TestOpen(t *testing.T) {
	s := settings.Default()
	s.State, s.Pool.Path = t.TempDir(), t.TempDir()
	s.Budget = settings.Budget{CPUs: 1, Memory: 256 << 20, Disk: 1 << 20, VMs: 1}
	l, err := Open(s)
	if err != nil {
		t.Fatal(err)
	}
	r := Request{ID: "a", Class: Job, Need: settings.Resources{CPUs: 1, Memory: 256 << 20, Disk: 1 << 20, VMs: 1}}
	g, err := l.Admit(t.Context(), r, func(p Position) { t.Log(p) })
	if err != nil {
		t.Fatal(err)
	}
	g.Done()
	if s := snapshot(t, l); s.Free != (settings.Resources{}) {
		t.Errorf("%+v", s)
	}
}

func ids(entries []Entry) []string {
	var names []string
	for _, e := range entries {
		names = append(names, e.ID)
	}
	slices.Sort(names)
	return names
}
