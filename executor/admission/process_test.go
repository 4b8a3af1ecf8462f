package admission

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/settings"
)

// TestMain is also the driver process that the tests below start many of and kill.
func TestMain(m *testing.M) {
	switch os.Getenv("ADMISSION_TEST") {
	case "stream":
		if err := stream(os.Getenv("ADMISSION_DIR"), os.Getenv("ADMISSION_NAME")); err != nil {
			fmt.Println("FAULT", err)
			os.Exit(1)
		}
		os.Exit(0)
	case "wait":
		wait(os.Getenv("ADMISSION_DIR"), os.Getenv("ADMISSION_NAME"))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// stream is a driver that runs short jobs one after the other. What it holds stands as a file in the directory "vms",
// which plays libvirt: made after admission, removed before release, and it outlives the process.
func stream(dir, name string) error {
	l, err := New(dir, small, Options{Poll: 200 * time.Millisecond})
	if err != nil {
		return err
	}
	ctx := context.Background()
	jobs, _ := strconv.Atoi(os.Getenv("ADMISSION_JOBS"))
	for i := range jobs {
		r := request(fmt.Sprintf("%s-%d", name, i), 1+rand.IntN(3))
		g, err := l.Admit(ctx, r, nil)
		if err != nil {
			return err
		}
		if err := powerOn(dir, r); err != nil {
			return err
		}
		g.Done()
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
		if err := os.Remove(filepath.Join(dir, "vms", r.ID)); err != nil {
			return err
		}
		if err := l.Release(ctx, r.ID); err != nil {
			return err
		}
	}
	return nil
}

// powerOn adds a VM and holds all VMs against the budget, independently of the ledger.
func powerOn(dir string, r Request) error {
	unlock, err := Lock(context.Background(), filepath.Join(dir, "vms.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	text, _ := json.Marshal(r.Need)
	if err := os.WriteFile(filepath.Join(dir, "vms", "."+r.ID), text, 0o600); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, "vms", "."+r.ID), filepath.Join(dir, "vms", r.ID)); err != nil {
		return err
	}
	sum := settings.Resources{}
	found, _ := filepath.Glob(filepath.Join(dir, "vms", "[!.]*"))
	for _, f := range found {
		var need settings.Resources
		// One that is removed meanwhile is not there any more.
		if text, err := os.ReadFile(f); err == nil && json.Unmarshal(text, &need) == nil {
			sum = add(sum, need)
		}
	}
	if lacks := lacking(sum, small); lacks != "" {
		return fmt.Errorf("the host is overcommitted by %s: %s", r.ID, lacks)
	}
	return nil
}

// wait is a driver that waits for room until it is killed.
func wait(dir, name string) {
	l, err := New(dir, small, Options{})
	if err == nil {
		_, err = l.Admit(context.Background(), request(name, 4), func(Position) { fmt.Println("waits") })
	}
	fmt.Println("ended", err)
}

func driver(t testing.TB, how, dir, name string, more ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), append(more, "ADMISSION_TEST="+how, "ADMISSION_DIR="+dir, "ADMISSION_NAME="+name)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func hostDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "vms"), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func listVMs(dir string) func(context.Context) (map[string]bool, error) {
	return func(context.Context) (map[string]bool, error) {
		found, err := filepath.Glob(filepath.Join(dir, "vms", "[!.]*"))
		exist := make(map[string]bool)
		for _, f := range found {
			exist[filepath.Base(f)] = true
		}
		return exist, err
	}
}

// TestManyProcesses lets real processes race for room.
func TestManyProcesses(t *testing.T) {
	dir := hostDir(t)
	var all sync.WaitGroup
	for i := range 16 {
		cmd := driver(t, "stream", dir, fmt.Sprintf("p%d", i), "ADMISSION_JOBS=12")
		all.Go(func() {
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	all.Wait()
	if s := snapshot(t, newLedger(t, dir, Options{})); len(s.Entries)+len(s.Waiting) > 0 {
		t.Errorf("left in the ledger: %+v", s)
	}
}

// TestKilledProcesses kills drivers at random moments, while a reaper does what reap does. Nothing is overcommitted,
// nobody waits for ever, and in the end the ledger is empty.
func TestKilledProcesses(t *testing.T) {
	dir, temp := hostDir(t), t.TempDir()
	t.Setenv("TMPDIR", temp)
	l := newLedger(t, dir, Options{})
	stop := make(chan struct{})
	var dead sync.Map // the names of killed drivers
	var reaper sync.WaitGroup
	reaper.Go(func() {
		for {
			reap(t, l, dir, &dead)
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	var killed, ended atomic.Int32
	var drivers sync.WaitGroup
	for lane := range 8 {
		drivers.Go(func() {
			for i := range 12 {
				name := fmt.Sprintf("p%d.%d", lane, i)
				if killStream(t, dir, name) {
					killed.Add(1)
				} else {
					ended.Add(1)
				}
				dead.Store(name, true)
			}
		})
	}
	drivers.Wait()
	close(stop)
	reaper.Wait()
	reap(t, l, dir, &dead)
	t.Logf("%d drivers were killed, %d ended by themselves", killed.Load(), ended.Load())
	if killed.Load() < 40 {
		t.Errorf("only %d drivers were killed in time", killed.Load())
	}
	if s := snapshot(t, l); len(s.Entries)+len(s.Waiting) > 0 {
		t.Errorf("left in the ledger: %v, %v", ids(s.Entries), s.Waiting)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, ticketDir)); len(left) > 0 {
		t.Errorf("left of the tickets: %v", left)
	}
	admit(t, l, request("after", 4))
	// Some died while they wrote.
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left of the ledger: %v", left)
	}
	if left, _ := os.ReadDir(temp); len(left) > 0 {
		t.Errorf("left in TMPDIR: %v", left)
	}
}

// killStream reports whether the driver was killed before it ended.
func killStream(t *testing.T, dir, name string) bool {
	cmd := driver(t, "stream", dir, name, "ADMISSION_JOBS=1000")
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return false
	}
	time.Sleep(time.Duration(20+rand.IntN(250)) * time.Millisecond)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if strings.Contains(out.String(), "FAULT") {
		t.Error(out.String())
	}
	return cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled()
}

// reap removes the VMs of the dead, then what the ledger has of them.
func reap(t *testing.T, l *Ledger, dir string, dead *sync.Map) {
	found, _ := os.ReadDir(filepath.Join(dir, "vms"))
	for _, f := range found {
		name, _, _ := strings.Cut(strings.TrimPrefix(f.Name(), "."), "-")
		if _, ok := dead.Load(name); ok {
			_ = os.Remove(filepath.Join(dir, "vms", f.Name()))
		}
	}
	if _, err := l.Reclaim(t.Context(), listVMs(dir)); err != nil {
		t.Error(err)
	}
}

// TestKilledWaiter holds that a driver which is killed while it is next in line holds nobody up.
func TestKilledWaiter(t *testing.T) {
	dir := hostDir(t)
	l := newLedger(t, dir, Options{Poll: 50 * time.Millisecond})
	admit(t, l, request("first", 2)).Done()
	cmd := driver(t, "wait", dir, "large")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "waits\n" {
		t.Fatalf("the driver says %q, %v", line, err)
	}
	served := make(chan error)
	go func() {
		_, err := l.Admit(t.Context(), request("tiny", 1), nil)
		served <- err
	}()
	waitFor(t, "tiny waits behind large", func() bool { return len(snapshot(t, l).Waiting) == 2 })
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if s := snapshot(t, l); len(s.Waiting) != 0 || len(s.Entries) != 2 {
		t.Errorf("%+v", s)
	}
}

// BenchmarkContention is what one more admission costs while 32 processes want room at once.
func BenchmarkContention(b *testing.B) {
	dir := hostDir(b)
	const processes = 32
	for b.Loop() {
		var all sync.WaitGroup
		start := time.Now()
		for i := range processes {
			cmd := driver(b, "stream", dir, fmt.Sprintf("p%d", i), "ADMISSION_JOBS=4")
			all.Go(func() {
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Errorf("%v: %s", err, out)
				}
			})
		}
		all.Wait()
		b.ReportMetric(time.Since(start).Seconds()*1000/processes/4, "ms/job")
	}
}

// BenchmarkAlone is one admission and release with nobody else there.
func BenchmarkAlone(b *testing.B) {
	l := newLedger(b, b.TempDir(), Options{})
	for b.Loop() {
		g, err := l.Admit(b.Context(), request("a", 1), nil)
		if err != nil {
			b.Fatal(err)
		}
		g.Done()
		if err := l.Release(b.Context(), "a"); err != nil {
			b.Fatal(err)
		}
	}
}
