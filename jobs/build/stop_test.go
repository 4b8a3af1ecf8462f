package build

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// hang is a script that leaves a daemon, a mount and a file in use behind, and says in space/started of the work directory that
// it has.
const hang = `#!/bin/sh
setsid sleep 1001 </dev/null >/dev/null 2>&1 &
mkdir -p "$FAI_ROOT/tmp/mounted"
mount -t tmpfs tmpfs "$FAI_ROOT/tmp/mounted"
cd "$FAI_ROOT/tmp/mounted"
trap '' TERM HUP INT
: >/mnt/space/started
sleep 1002
`

// hanging is a build that hangs in a script, and a function that tells whether it has got there.
func hanging(t *testing.T) (Options, func() bool) {
	o := tinyOptions(t, map[string]string{"scripts/TINY/50-hang": hang})
	return o, func() bool { return hangs(o) }
}

func hangs(o Options) bool {
	_, err := os.Stat(filepath.Join(workOf(o), "space/started"))
	return err == nil
}

func workOf(o Options) string { return filepath.Join(o.Output, "."+o.Name()+".work") }

// bootstrapping is a build that hangs while the base system is being fetched: its mirror never answers.
func bootstrapping(t *testing.T) (Options, func() bool) {
	asked := make(chan struct{}, 100)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	t.Cleanup(server.CloseClientConnections)
	t.Cleanup(server.Close)
	o := tinyOptions(t, nil)
	o.ConfigSpace, o.Classes = "", []string{"BASE", "DEBIAN", "TRIXIE", "LAST"}
	o.Mirror.Debian = server.URL + "/debian"
	return o, func() bool { return len(asked) > 0 }
}

func TestStopped(t *testing.T) {
	before, err := filepath.Glob("/tmp/mmdebstrap.*")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		summary string
		start   func(*testing.T) (Options, func() bool)
		process string // of which the command line must be among those that run by then
		signal  syscall.Signal
		code    int
	}{
		{"SIGTERM while the base system is fetched", bootstrapping, "mmdebstrap", syscall.SIGTERM, 1},
		{"SIGKILL while the base system is fetched", bootstrapping, "mmdebstrap", syscall.SIGKILL, -1},
		{"SIGTERM while a script runs", hanging, "sleep 1001", syscall.SIGTERM, 1},
		{"SIGKILL while a script runs", hanging, "sleep 1001", syscall.SIGKILL, -1},
	} {
		t.Run(row.summary, func(t *testing.T) {
			t.Parallel()
			o, isThere := row.start(t)
			c := startBuild(t, o, nil)
			waitUntil(t, "the build gets to where it hangs", time.Minute, isThere)
			if running := processesIn(t, o.Output); !strings.Contains(strings.Join(running, "\n"), row.process) {
				t.Fatalf("%s is not among the build's processes: %q", row.process, running)
			}
			if err := c.Process.Signal(row.signal); err != nil {
				t.Fatal(err)
			}
			if code := c.end(t, 10*time.Second); code != row.code {
				t.Errorf("exit code %d, want %d: %s", code, row.code, c.said.String())
			}
			if row.signal == syscall.SIGTERM {
				demandClean(t, o)
			} else {
				// Nobody waits for these processes: they go by themselves.
				waitUntil(t, "the processes end", 5*time.Second, func() bool { return len(processesIn(t, o.Output)) == 0 })
			}
			demandNextRun(t, o)
			if left, _ := filepath.Glob("/tmp/mmdebstrap.*"); !slices.Equal(left, before) {
				t.Errorf("in /tmp is %q, before it was %q", left, before)
			}
		})
	}
}

// demandNextRun demands that nothing of a stopped build hinders the next one of the same name, nor outlives it.
func demandNextRun(t *testing.T, stopped Options) {
	t.Helper()
	o := tinyOptions(t, map[string]string{"scripts/TINY/50-next": "#!/bin/sh\nls /mnt/space\nexit 9\n"})
	o.Output = stopped.Output
	soon, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := Run(soon, o)
	demandFault(t, err, fault.Work, `script "TINY/50-next"`, "exit code 9")
	if err != nil && strings.Contains(err.Error(), "started") {
		t.Errorf("the stopped build's files are still there: %v", err)
	}
	demandClean(t, o)
}

// FAI refuses to run where another one runs. Here it must not: builds of different images go on side by side. The same
// image twice is refused.
func TestSideBySide(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	one, _ := hanging(t)
	other, _ := hanging(t)
	other.Output, other.Version.Number = one.Output, one.Version.Number+1
	ended := make(chan error, 2)
	for _, o := range []Options{one, other} {
		go func() { _, err := Run(ctx, o); ended <- err }()
		// The one holds FAI's lock before the other asks for it.
		waitUntil(t, "the build runs", time.Minute, func() bool { return len(ended) > 0 || hangs(o) })
	}

	soon, cancelSoon := context.WithTimeout(ctx, 10*time.Second)
	defer cancelSoon()
	_, err := Run(soon, one)
	demandFault(t, err, fault.Input, "the same image is being built", one.Output)
	if hint := fault.HintOf(err); !strings.Contains(hint, "wait for that build") {
		t.Errorf("hint %q", hint)
	}
	if _, err := os.Stat(workOf(one)); err != nil {
		t.Errorf("the refused build took away the work directory: %v", err)
	}

	cancel()
	for range 2 {
		select {
		case err := <-ended:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want that it was cancelled", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("a cancelled build goes on")
		}
	}
	for _, log := range []string{one.Name(), other.Name()} {
		if err := os.Remove(filepath.Join(one.Output, log+".build.log")); err != nil {
			t.Error(err)
		}
	}
	demandClean(t, one)
}
