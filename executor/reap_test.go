package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/runnertest"
	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/executor/tools"
	"salsa.debian.org/cloud-team/debcloud/internal/guest"
	"salsa.debian.org/cloud-team/debcloud/internal/process"
	"salsa.debian.org/cloud-team/debcloud/internal/vm"
)

// beddedDriver works with a libvirtd of its own, whose VMs never run.
func beddedDriver(t *testing.T) (*Driver, *runnertest.Bed) {
	t.Helper()
	image := filepath.Join(runnertest.OpenDir(t), "image.raw")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	b := runnertest.NewBed(t, runnertest.Options{Image: image})
	s, err := settings.Load(b.Settings)
	if err != nil {
		t.Fatal(err)
	}
	d := &Driver{Settings: s, Log: slog.New(slog.DiscardHandler), Stdout: io.Discard, Stderr: io.Discard}
	if err := d.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d, b
}

// halted makes a VM with that mark, its processors halted.
func halted(t *testing.T, d *Driver, name string, m Mark) machine {
	t.Helper()
	if err := d.node.Create(t.Context(), haltedSpec(t, d, name, m)); err != nil {
		t.Fatal(err)
	}
	return lookedAt(t, d, name)
}

func haltedSpec(t *testing.T, d *Driver, name string, m Mark) vm.LastingSpec {
	t.Helper()
	m.Secret = guest.NewSecret()
	element, err := m.element()
	if err != nil {
		t.Fatal(err)
	}
	return vm.LastingSpec{Name: name, Metadata: element, Image: d.Settings.Images["tiny"].File, ImageFormat: "raw", MemoryMiB: 64, CPUs: 1, Paused: true}
}

func lookedAt(t *testing.T, d *Driver, name string) machine {
	t.Helper()
	l, known, err := d.node.Look(t.Context(), name)
	if err != nil || !known {
		t.Fatalf("%s: %v %v", name, known, err)
	}
	return d.read(t.Context(), l)
}

// A VM whose service was killed is over when the reaper lists it, and a job's when the reaper comes to it.
func TestReapLooksAgain(t *testing.T) {
	d, b := beddedDriver(t)
	later := time.Now().Add(time.Hour)
	job := Mark{For: forJob, Job: 1, Attempt: b.Temp, Runner: process.This(), Created: time.Now(), Deadline: later}
	orphaned := Mark{For: forPool, Deadline: later}
	claim := func(name string) {
		t.Helper()
		if _, err := d.adoptWarm(t.Context(), name, job); err != nil {
			t.Fatal(err)
		}
	}
	withdrawn := func(name string, remove func() (bool, error)) error { _, err := remove(); return err }
	for _, row := range []struct {
		name     string
		withdraw func(string, func() (bool, error)) error
		before   func(string)
		gone     bool
	}{
		{"claimed-before", withdrawn, claim, false},
		{"claimed-at-the-last-moment", func(name string, remove func() (bool, error)) error { claim(name); return withdrawn(name, remove) }, func(string) {}, false},
		{"being-claimed", func(string, func() (bool, error)) error { return nil }, func(string) {}, false},
		{"nobodys", withdrawn, func(string) {}, true},
		{"nobody-can-claim", nil, func(string) {}, true},
	} {
		name := namePrefix + row.name
		listed := halted(t, d, name, orphaned)
		if over(listed, nil, false) == "" {
			t.Fatalf("%s: not over", row.name)
		}
		d.Withdraw = row.withdraw
		row.before(name)
		gone, err := d.reapMachine(t.Context(), listed)
		_, known, lookErr := d.node.Look(t.Context(), name)
		if gone != row.gone || known == row.gone || errors.Join(err, lookErr) != nil {
			t.Errorf("%s: gone %v, want %v; known %v: %v", row.name, gone, row.gone, known, errors.Join(err, lookErr))
		}
		if err := d.remove(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	// A sibling lives as long as its job's VM, whether or not that one was listed.
	halted(t, d, namePrefix+"1", job)
	sibling := job
	sibling.For, sibling.Of = forTestbed, namePrefix+"1"
	m := halted(t, d, namePrefix+"1-sibling", sibling)
	if gone, err := d.reapMachine(t.Context(), m); gone || err != nil {
		t.Errorf("the sibling of a living job: %v %v", gone, err)
	}
	if err := d.remove(t.Context(), namePrefix+"1"); err != nil {
		t.Fatal(err)
	}
	if gone, err := d.reapMachine(t.Context(), m); !gone || err != nil {
		t.Errorf("the sibling of nobody: %v %v", gone, err)
	}
}

// A cleanup beside the reaper ends a VM after it was listed: no share of the host is left with it.
func TestReapAdoptsTheLiving(t *testing.T) {
	d, b := beddedDriver(t)
	mark := Mark{For: forJob, Job: 1, Attempt: b.Temp, Runner: process.This(), Deadline: time.Now().Add(time.Hour)}
	living := make(map[string]machine)
	for _, name := range []string{namePrefix + "ended", namePrefix + "lives"} {
		living[name] = halted(t, d, name, mark)
	}
	if err := d.remove(t.Context(), namePrefix+"ended"); err != nil {
		t.Fatal(err)
	}
	var r Reaped
	if err := d.reapLedger(t.Context(), &r, living); err != nil {
		t.Fatal(err)
	}
	l, err := d.ledger()
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Snapshot(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Entries) != 1 || s.Entries[0].ID != namePrefix+"lives" || !slices.Equal(r.Adopted, []string{namePrefix + "lives"}) {
		t.Errorf("entries %+v, adopted %q", s.Entries, r.Adopted)
	}
}

// Files of the pool that no domain's name leads to: another's domain has one of the two tools disks.
func TestReapPool(t *testing.T) {
	d, b := beddedDriver(t)
	agent, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d.PruneTools = func(ctx context.Context, inUse func(context.Context) ([]string, error)) ([]string, error) {
		return tools.Prune(ctx, tools.Spec{Debcloud: agent, Dir: b.Pool}, inUse)
	}
	in := func(name string) string { return filepath.Join(b.Pool, name) }
	unused, used := in("debcloud-tools-1111111111111111.raw"), in("debcloud-tools-2222222222222222.raw")
	left := []string{in("seed-1"), in(".debcloud-tools-1")}
	stay := []string{in("seed-2"), in(".debcloud-tools-2"), in("seed-mine")}
	for _, path := range append(left, stay...) {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{unused, used} {
		if err := os.WriteFile(path, make([]byte, 1<<20), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range append(left, unused, used, in("seed-mine")) {
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-25*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	other, err := vm.Connect(t.Context(), vm.NodeOptions{URI: b.Daemon.URI(), Namespace: Namespace + "/other", PoolDir: b.Pool, RunDir: b.Run, LogDir: b.Dir})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	theirs := haltedSpec(t, d, "theirs", Mark{})
	theirs.Metadata = fmt.Appendf(nil, "<vm xmlns=%q/>", Namespace+"/other")
	theirs.Disks = []vm.Disk{{Path: used, Serial: tools.Serial}}
	if err := other.Create(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	if found := b.Left(t, Namespace); len(found) != 5 {
		t.Errorf("a bed sees only %q", found)
	}
	r, err := d.Reap(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(r.Files)
	if want := slices.Sorted(slices.Values(append(left, unused))); !slices.Equal(r.Files, want) {
		t.Errorf("removed %q, want %q", r.Files, want)
	}
	for _, path := range append(left, unused) {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	for _, path := range append(stay, used) {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}
