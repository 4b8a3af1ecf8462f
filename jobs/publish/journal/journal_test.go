package journal

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

var key = Key{Target: "aws", Digest: "sha512:abc", Image: "debian-13-ec2-amd64-20260814-1"}

func TestMain(m *testing.M) {
	if path := os.Getenv("DEBCLOUD_TEST_JOURNAL"); path != "" {
		lockAndWait(path)
	}
	os.Exit(m.Run())
}

// lockAndWait is a publisher in another process: it begins a step and is killed in it.
func lockAndWait(path string) {
	j, err := Open(context.Background(), path, Wait)
	if err != nil {
		panic(err)
	}
	e, err := j.Lock(context.Background(), key)
	if err != nil {
		panic(err)
	}
	Step(context.Background(), e, "upload", func(context.Context, bool) (string, error) {
		os.Stdout.WriteString("locked\n")
		time.Sleep(time.Hour)
		return "", nil
	})
}

func open(t *testing.T, path string, busy Busy) *Journal {
	t.Helper()
	j, err := Open(t.Context(), path, busy)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func lock(t *testing.T, j *Journal) *Entry {
	t.Helper()
	e, err := j.Lock(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Unlock)
	return e
}

type result struct {
	ID    string
	Count int
}

func TestStepIsDoneOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "journal.db")
	calls := 0
	do := func(_ context.Context, again bool) (result, error) {
		if again {
			t.Error("the first try is told that there was one before")
		}
		calls++
		return result{"snap-1", 7}, nil
	}
	for range 3 {
		j := open(t, path, Wait)
		e := lock(t, j)
		r, err := Step(t.Context(), e, "snapshot", do)
		if err != nil || r != (result{"snap-1", 7}) {
			t.Errorf("%v, %v", r, err)
		}
		e.Unlock()
		j.Close()
	}
	if calls != 1 {
		t.Errorf("done %d times", calls)
	}
}

func TestStepAfterAFailure(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal.db"), Wait)
	e := lock(t, j)
	broken := fault.Outsidef("Get https://host/disk?sig=SECRET&x=1: reset")
	if _, err := Step(t.Context(), e, "upload", func(context.Context, bool) (int, error) { return 0, broken }); err != broken {
		t.Errorf("the error is %v", err)
	}
	all, err := j.Status(t.Context())
	if err != nil || len(all) != 1 || all[0].Error != "Get https://host/disk?… reset" && !strings.Contains(all[0].Error, "https://host/disk?…") || strings.Contains(all[0].Error, "SECRET") || !all[0].Ended.IsZero() {
		t.Errorf("%+v, %v", all, err)
	}
	again := false
	n, err := Step(t.Context(), e, "upload", func(_ context.Context, a bool) (int, error) { again = a; return 5, nil })
	if err != nil || n != 5 || !again {
		t.Errorf("%d, %v, again %v", n, err, again)
	}
	if all, _ := j.Status(t.Context()); all[0].Tries != 2 || all[0].Ended.IsZero() || all[0].Error != "" {
		t.Errorf("%+v", all)
	}
	if err := e.Forget(t.Context(), "upload"); err != nil {
		t.Fatal(err)
	}
	if n, err := Step(t.Context(), e, "upload", func(context.Context, bool) (int, error) { return 6, nil }); err != nil || n != 6 {
		t.Errorf("after it was forgotten: %d, %v", n, err)
	}
}

// TestStepEndsAfterCancel: what was done is written though the context ended meanwhile.
func TestStepEndsAfterCancel(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal.db"), Wait)
	e := lock(t, j)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	if _, err := Step(ctx, e, "a", func(context.Context, bool) (int, error) { cancel(stop); return 1, nil }); err != nil {
		t.Errorf("the step that was done: %v", err)
	}
	if _, err := Step(ctx, e, "b", func(context.Context, bool) (int, error) { t.Error("begun after the end"); return 1, nil }); !errors.Is(err, stop) {
		t.Errorf("the next step: %v", err)
	}
	if n, err := Step(t.Context(), e, "a", func(context.Context, bool) (int, error) { return 2, nil }); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

func TestStepsSideBySide(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal.db"), Wait)
	e := lock(t, j)
	var all sync.WaitGroup
	for _, region := range []string{"north", "south", "east", "west"} {
		all.Go(func() {
			if _, err := Step(t.Context(), e, "copy "+region, func(context.Context, bool) (string, error) { return region, nil }); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if all, err := j.Status(t.Context()); len(all) != 4 || err != nil {
		t.Errorf("%v, %v", all, err)
	}
}

func TestTwoPublishers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	e := lock(t, open(t, path, Wait))
	_, err := open(t, path, Stop).Lock(t.Context(), key)
	if err == nil || fault.KindOf(err) != fault.Outside || !strings.Contains(err.Error(), "another publisher is at work on debian-13-ec2-amd64-20260814-1 for aws") {
		t.Errorf("one that does not wait: %v", err)
	}
	other := key
	other.Target = "azure"
	o, err := open(t, path, Stop).Lock(t.Context(), other)
	if err != nil {
		t.Errorf("another target: %v", err)
	} else {
		o.Unlock()
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, errors.New("patience ends"))
	defer cancel()
	if _, err := open(t, path, Wait).Lock(ctx, key); err == nil || err.Error() != "patience ends" {
		t.Errorf("one that waits and is cancelled: %v", err)
	}
	got := make(chan error)
	go func() {
		e, err := open(t, path, Wait).Lock(t.Context(), key)
		if err == nil {
			e.Unlock()
		}
		got <- err
	}()
	e.Unlock()
	if err := <-got; err != nil {
		t.Errorf("one that waits: %v", err)
	}
}

// TestLockDiesWithItsProcess kills a publisher in the middle of a step.
func TestLockDiesWithItsProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(self)
	child.Env = append(os.Environ(), "DEBCLOUD_TEST_JOURNAL="+path)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, path, Stop).Lock(t.Context(), key); err == nil {
		t.Error("locked twice")
	}
	child.Process.Kill()
	child.Wait()
	e := lock(t, open(t, path, Stop))
	again := false
	if _, err := Step(t.Context(), e, "upload", func(_ context.Context, a bool) (int, error) { again = a; return 1, nil }); err != nil || !again {
		t.Errorf("again %v, %v", again, err)
	}
}

func TestBrokenJournals(t *testing.T) {
	good := filepath.Join(t.TempDir(), "good.db")
	j := open(t, good, Wait)
	e := lock(t, j)
	for i := range 100 {
		if _, err := Step(t.Context(), e, strings.Repeat("x", 100)+string(rune('a'+i)), func(context.Context, bool) (int, error) { return i, nil }); err != nil {
			t.Fatal(err)
		}
	}
	e.Unlock()
	j.Close()
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		summary string
		text    []byte
	}{
		{"some other file", []byte(strings.Repeat("this is no journal ", 100))},
		{"half of a journal", whole[:len(whole)/2/4096*4096]},
		{"a journal cut in a page", whole[:len(whole)-1000]},
		{"a page of zeros", append(append(append([]byte{}, whole[:4096]...), make([]byte, 4096)...), whole[8192:]...)},
		{"another version", append(append(append([]byte{}, whole[:60]...), 0, 0, 0, 99), whole[64:]...)},
	} {
		path := filepath.Join(t.TempDir(), "journal.db")
		if err := os.WriteFile(path, row.text, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Open(t.Context(), path, Wait)
		if err == nil || fault.KindOf(err) != fault.Input || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "the journal "+path+" cannot be used") {
			t.Errorf("%s: %v", row.summary, err)
		}
		if !strings.Contains(fault.HintOf(err), "remove it and run the same command again") {
			t.Errorf("%s: the hint is %q", row.summary, fault.HintOf(err))
		}
	}
	if j, err := Open(t.Context(), filepath.Join(t.TempDir(), "a ?%#b", "journal.db"), Wait); err != nil {
		t.Errorf("an odd path: %v", err)
	} else {
		j.Close()
	}
	if _, err := Open(t.Context(), "/proc/none/journal.db", Wait); fault.KindOf(err) != fault.Input {
		t.Errorf("a path that cannot be: %v", err)
	}
}

// TestKnown reads results of steps that ended, and begins none.
func TestKnown(t *testing.T) {
	j, err := Open(t.Context(), filepath.Join(t.TempDir(), "journal.db"), Wait)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	e, err := j.Lock(t.Context(), Key{Target: "t", Digest: "d", Image: "i"})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Unlock()
	_, _ = Step(t.Context(), e, "failed", func(context.Context, bool) (string, error) { return "x", errors.New("no") })
	if _, err := Step(t.Context(), e, "done", func(context.Context, bool) (string, error) { return "ami-1", nil }); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"failed": "", "done": "ami-1", "never": ""} {
		if got, known, err := Known[string](t.Context(), e, name); got != want || known != (want != "") || err != nil {
			t.Errorf("%s: %q, %v, %v", name, got, known, err)
		}
	}
	if _, _, err := Known[int](t.Context(), e, "done"); fault.KindOf(err) != fault.Input {
		t.Errorf("a result of another kind: %v", err)
	}
	if all, err := j.Status(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("asking began a step: %+v, %v", all, err)
	}
}

func TestWithoutQueries(t *testing.T) {
	for text, want := range map[string]string{
		`Put "https://a.blob.example/x?sv=1&sig=abc%2F": EOF`: `Put "https://a.blob.example/x?…": EOF`,
		"no URL? none":                        "no URL? none",
		"http://127.0.0.1:8080/plain is fine": "http://127.0.0.1:8080/plain is fine",
	} {
		if got := WithoutQueries(text); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// print makes up a block's print.
func print(of byte) (p [32]byte) { p[0], p[31] = of, of; return p }

// TestMarks: what a try added is there for the next one, in another process, but for what it had no time to write. It is of one place and of one content.
func TestMarks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	broken := errors.New("killed")
	try := func(of string, do func(*Marks) error) {
		t.Helper()
		j := open(t, path, Wait)
		defer j.Close()
		e := lock(t, j)
		defer e.Unlock()
		_, err := Step(t.Context(), e, "upload", func(ctx context.Context, _ bool) (string, error) {
			m, err := e.Marks(ctx, "upload", of, 3)
			if err == nil {
				err = do(m)
			}
			return "done", err
		})
		if err != nil && err != broken {
			t.Fatal(err)
		}
	}
	demand := func(m *Marks, want ...int64) {
		t.Helper()
		if m.Len() != len(want) {
			t.Errorf("%d marks, want %v", m.Len(), want)
		}
		for _, n := range want {
			if !m.Has(n, print(byte(n))) || m.Has(n, print(byte(n)+1)) || m.Has(n+1000, print(byte(n))) {
				t.Errorf("block %d: %v, with other contents %v, at another place %v", n, m.Has(n, print(byte(n))), m.Has(n, print(byte(n)+1)), m.Has(n+1000, print(byte(n))))
			}
		}
	}
	add := func(m *Marks, blocks ...int64) {
		t.Helper()
		for _, n := range blocks {
			if err := m.Add(n, print(byte(n))); err != nil {
				t.Fatal(err)
			}
		}
	}
	try("snap-1", func(m *Marks) error {
		demand(m)
		add(m, 4, 0, 70000, 1, 2)
		return broken
	})
	try("snap-1", func(m *Marks) error {
		demand(m, 4, 0, 70000) // and no more: two were not written
		add(m, 9)
		if err := m.Keep(); err != nil {
			t.Fatal(err)
		}
		return broken
	})
	try("snap-2", func(m *Marks) error {
		demand(m)
		return broken // and writes nothing
	})
	try("snap-1", func(m *Marks) error {
		demand(m, 0, 4, 9, 70000)
		return broken
	})
	try("snap-1", func(m *Marks) error {
		if err := m.Clear(); err != nil {
			t.Fatal(err)
		}
		demand(m)
		return broken
	})
	try("snap-1", func(m *Marks) error {
		demand(m)
		add(m, 1, 2, 3)
		return nil
	})
	e := lock(t, open(t, path, Wait))
	if got, known, err := Known[string](t.Context(), e, "upload"); got != "done" || !known || err != nil {
		t.Errorf("the result is %q, %v, %v", got, known, err)
	}
	m, err := e.Marks(t.Context(), "upload", "snap-1", 3)
	if err != nil {
		t.Fatal(err)
	}
	demand(m) // those of a step that ended are gone
	add(m, 1, 2, 3)
	if got, _, err := Known[string](t.Context(), e, "upload"); got != "done" || err != nil {
		t.Errorf("after marks that came too late the result is %q, %v", got, err)
	}
}

// TestMarksAreKeptSideBySide: of blocks that many senders add, a process that dies loses fewer than one more than the writing waits for, and each sender's last.
func TestMarksAreKeptSideBySide(t *testing.T) {
	const senders, each, every = 8, 50, 16
	path := filepath.Join(t.TempDir(), "journal.db")
	j := open(t, path, Wait)
	e := lock(t, j)
	Step(t.Context(), e, "upload", func(ctx context.Context, _ bool) (int, error) {
		m, err := e.Marks(ctx, "upload", "x", every)
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for sender := range senders {
			all.Go(func() {
				for n := range each {
					if err := m.Add(int64(sender*each+n), print(1)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		return 0, errors.New("killed")
	})
	m, err := e.Marks(t.Context(), "upload", "x", every)
	if err != nil || m.Len() <= senders*each-every {
		t.Errorf("%d marks of %d, %v", m.Len(), senders*each, err)
	}
}
