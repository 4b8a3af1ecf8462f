package hostlog

import (
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/settings"
)

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "executor.log")
	var all sync.WaitGroup
	for range 4 { // as many processes have it open
		log, err := Open(settings.Log{File: path, Level: "info"})
		if err != nil {
			t.Fatal(err)
		}
		log = log.With("job", 4711)
		all.Go(func() {
			for range 50 {
				log.Info("VM is ready", "seconds", 1.5)
				log.Debug("not wanted")
			}
		})
	}
	all.Wait()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != 200 {
		t.Errorf("%d lines", len(lines))
	}
	for _, line := range lines {
		var got struct {
			Msg     string
			Job     int
			Seconds float64
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil || got.Msg != "VM is ready" || got.Job != 4711 || got.Seconds != 1.5 {
			t.Fatalf("%s: %v", line, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	if _, err := Open(settings.Log{Level: "loud"}); err == nil {
		t.Error("a level that is none is taken")
	}
	if _, err := Open(settings.Log{Level: "info", File: filepath.Join(t.TempDir(), "x\x00")}); err == nil {
		t.Error("a file that cannot be is taken")
	}
}

// TestJournal speaks the journal's protocol to a socket where journald's is, in a mount namespace of its own.
func TestJournal(t *testing.T) {
	if os.Getenv("HOSTLOG_TEST_NAMESPACE") == "" {
		if os.Geteuid() != 0 {
			t.Skip("needs root, for a /run of its own")
		}
		cmd := exec.Command("unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /run && exec \"$@\"", "sh", os.Args[0], "-test.run=^TestJournal$", "-test.v")
		cmd.Env = append(os.Environ(), "HOSTLOG_TEST_NAMESPACE=1")
		out, err := cmd.CombinedOutput()
		if strings.Contains(string(out), "unshare failed") {
			t.Skipf("this machine gives no mount namespace: %s", out)
		}
		if err != nil || !strings.Contains(string(out), "PASS: TestJournal") {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	nothing, err := Open(settings.Log{Level: "info"})
	if err == nil {
		err = nothing.Handler().Handle(t.Context(), slog.Record{Message: "nobody reads this"})
	}
	if err != nil {
		t.Errorf("without a journal: %v", err)
	}
	const socket = "/run/systemd/journal/socket"
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	journal, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer journal.Close()
	log, err := Open(settings.Log{Level: "warn"})
	if err != nil {
		t.Fatal(err)
	}
	log.Info("not wanted")
	log.With("job", 4711).Warn("VM is slow", "cpu-type", "max", "reason", "two\nlines")
	if err := journal.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64<<10)
	n, err := journal.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"MESSAGE=VM is slow\n", "PRIORITY=4\n", "DEBCLOUD_JOB=4711\n", "DEBCLOUD_CPU_TYPE=max\n", "DEBCLOUD_REASON\n\x09\x00\x00\x00\x00\x00\x00\x00two\nlines\n"} {
		if !strings.Contains(string(b[:n]), want) {
			t.Errorf("the journal got %q, without %q", b[:n], want)
		}
	}
}
