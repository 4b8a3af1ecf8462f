package agent_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/guest"
	"salsa.debian.org/cloud-team/debcloud/internal/guest/agent"
	"salsa.debian.org/cloud-team/debcloud/internal/guest/porttest"
)

// machine is a port with an agent behind it.
type machine struct {
	port   *porttest.Port
	secret guest.Secret
	root   string
	stop   func()
}

func newMachine(tb testing.TB) *machine {
	tb.Helper()
	m := &machine{port: porttest.New(), secret: guest.NewSecret(), root: tb.TempDir()}
	m.start(tb)
	return m
}

func (m *machine) start(tb testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- agent.Serve(ctx, m.port, agent.Options{Secret: m.secret, Path: []string{"/opt/first"}, Root: m.root})
	}()
	m.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("the agent ends with %v", err)
		}
	})
	tb.Cleanup(m.stop)
}

func (m *machine) connect(tb testing.TB) *guest.SSH {
	tb.Helper()
	s, err := guest.DialAgent(within(tb, time.Minute), m.port.Dial, m.secret, nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

func within(tb testing.TB, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(tb.Context(), limit)
	tb.Cleanup(cancel)
	return ctx
}

func TestExec(t *testing.T) {
	s := newMachine(t).connect(t)
	for _, row := range []struct {
		summary        string
		command        guest.Command
		stdin          string
		stdout, stderr string
		exit           *guest.ExitError
	}{
		{"output and errors come apart", sh("echo out; echo err >&2"), "", "out\n", "err\n", nil},
		{"an exit code", sh("exit 42"), "", "", "", &guest.ExitError{Code: 42}},
		{"the highest exit code", sh("exit 255"), "", "", "", &guest.ExitError{Code: 255}},
		{"standard input arrives and ends", sh("tr a-z A-Z"), "hello", "HELLO", "", nil},
		{"standard input that nobody reads", sh("exit 3"), strings.Repeat("x", 5_000_000), "", "", &guest.ExitError{Code: 3}},
		{"a script on standard input", guest.Command{Args: []string{"bash"}}, "echo one\nexit 7\necho two\n", "one\n", "", &guest.ExitError{Code: 7}},
		{"death by a signal", sh("kill -TERM $$"), "", "", "", &guest.ExitError{Code: 143, Signal: "TERM"}},
		{"death by a signal that the RFC does not know", sh("kill -BUS $$"), "", "", "", &guest.ExitError{Code: 128, Signal: "SIGBUS"}},
		{"arguments are not read by a shell", guest.Command{Args: []string{"printf", "%s|", "$HOME", "it's", "a b", "", "*"}}, "", "$HOME|it's|a b||*|", "", nil},
		{"variables", guest.Command{Args: []string{"sh", "-c", `echo "$A $B"`}, Env: []string{"A=it's", "B=x=y"}}, "", "it's x=y\n", "", nil},
		{"the agent's directory comes first on the PATH", sh("echo ${PATH%%:*}"), "", "/opt/first\n", "", nil},
		{"nothing else of the agent's environment", sh("env | cut -d= -f1 | grep -vE '^(_|PWD|SHLVL|OLDPWD)$' | sort | tr '\\n' ' '"), "", "HOME LANG LOGNAME PATH SHELL USER ", "", nil},
		{"a working directory", guest.Command{Args: []string{"pwd"}, Dir: "/usr/lib"}, "", "/usr/lib\n", "", nil},
		{"a program that is not there", guest.Command{Args: []string{"/nonexistent"}}, "", "", "*", &guest.ExitError{Code: 127}},
		{"what is left in the background does not hold it up", sh("sleep 100 & echo done"), "", "done\n", "", nil},
	} {
		var stdout, stderr bytes.Buffer
		c := row.command
		c.Stdin, c.Stdout, c.Stderr = strings.NewReader(row.stdin), &stdout, &stderr
		err := s.Exec(within(t, time.Minute), c)
		exit, _ := errors.AsType[*guest.ExitError](err)
		same := exit == nil && row.exit == nil && err == nil || exit != nil && row.exit != nil && exit.Signal == row.exit.Signal && (exit.Code == row.exit.Code || row.exit.Code == 128)
		if !same || stdout.String() != row.stdout || row.stderr != "*" && stderr.String() != row.stderr {
			t.Errorf("%s: %v; out %q, err %q", row.summary, err, stdout.String(), stderr.String())
		}
	}
}

func sh(line string) guest.Command { return guest.Command{Args: []string{"sh", "-c", line}} }

func TestExecRefuses(t *testing.T) {
	s := newMachine(t).connect(t)
	for _, c := range []guest.Command{{}, {Args: []string{"a\x00b"}}, {Args: []string{"true"}, Env: []string{"A B=c"}}, {Args: []string{"true"}, Env: []string{"A"}}} {
		if err := s.Exec(within(t, time.Minute), c); err == nil {
			t.Errorf("ran %+v", c)
		}
	}
}

// All that a command has printed arrives, however fast it ends.
func TestMuchOutput(t *testing.T) {
	s := newMachine(t).connect(t)
	for _, line := range []string{"head -c 20000000 /dev/zero; head -c 1000 /dev/zero >&2", "sleep 100 & head -c 60000 /dev/zero"} {
		var stdout, stderr counter
		c := sh(line)
		c.Stdout, c.Stderr = &stdout, &stderr
		err := s.Exec(within(t, time.Minute), c)
		if err != nil || stdout != 20_000_000 && stdout != 60_000 {
			t.Errorf("%s: %d and %d bytes, %v", line, stdout, stderr, err)
		}
	}
}

type counter int

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

func TestExecIsCancelled(t *testing.T) {
	s := newMachine(t).connect(t)
	for _, row := range []struct {
		summary, line string
		grace         time.Duration
		stdout        string
	}{
		{"the group hears SIGTERM", "trap 'echo heard; exit 9' TERM; echo $$; sleep 4711 & wait", time.Minute, "heard\n"},
		{"who does not listen is killed", "trap '' TERM; echo $$; sleep 4711; sleep 4711", 200 * time.Millisecond, ""},
	} {
		pid := make(writtenTo, 100)
		ctx, cancel := context.WithCancelCause(within(t, time.Minute))
		c := sh(row.line)
		c.Stdout, c.Grace = pid, row.grace
		done := make(chan error, 1)
		go func() { done <- s.Exec(ctx, c) }()
		first := pid.await(t, done)
		cause := errors.New("the job was cancelled")
		cancel(cause)
		err := <-done
		if exit, ok := errors.AsType[*guest.ExitError](err); ok || !errors.Is(err, cause) {
			t.Errorf("%s: %v, %v", row.summary, err, exit)
		}
		said := ""
		select {
		case said = <-pid:
		default:
		}
		if said != row.stdout {
			t.Errorf("%s: it said %q", row.summary, said)
		}
		demandGone(t, first)
	}
	if err := s.Exec(within(t, time.Minute), sh("true")); err != nil {
		t.Errorf("the connection is of no use any more: %v", err)
	}
}

// writtenTo hands on what is written.
type writtenTo chan string

func (w writtenTo) Write(p []byte) (int, error) { w <- string(p); return len(p), nil }

// await returns what is written next, by a command whose end done tells.
func (w writtenTo) await(t *testing.T, done <-chan error) string {
	t.Helper()
	for {
		select {
		case text := <-w:
			return text
		case err := <-done:
			if len(w) == 0 {
				t.Fatalf("it ended before it had said anything: %v", err)
			}
			return <-w
		}
	}
}

// demandGone waits until no process of the session is left.
func demandGone(t *testing.T, pid string) {
	t.Helper()
	session := strings.TrimSpace(pid)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := ofSession(session)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("of session %s run on: %q", session, left)
		}
	}
}

func ofSession(session string) []string {
	var left []string
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, _ := os.ReadFile(path)
		_, rest, _ := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); len(f) > 3 && f[3] == session && f[0] != "Z" {
			left = append(left, string(b))
		}
	}
	return left
}

func TestConnectionGoes(t *testing.T) {
	m := newMachine(t)
	for _, row := range []struct {
		summary string
		stays   bool
		line    string
	}{
		{"what runs is ended", false, "echo $$; sleep 4711 & sleep 4711"},
		{"what was left in the background too", false, "sleep 4711 >/dev/null 2>&1 & echo $$"},
		{"what is to stay stays", true, "echo $$; sleep 4711"},
	} {
		s := m.connect(t)
		pid := make(writtenTo, 1)
		c := sh(row.line)
		c.Stdout, c.Stays = pid, row.stays
		done := make(chan error, 1)
		go func() { done <- s.Exec(within(t, time.Minute), c) }()
		first := pid.await(t, done)
		if !strings.HasPrefix(row.line, "echo") {
			if err := <-done; err != nil {
				t.Errorf("%s: %v", row.summary, err)
			}
			s.Close()
		} else {
			s.Close()
			err := <-done
			if _, ok := errors.AsType[*guest.ExitError](err); ok || err == nil {
				t.Errorf("%s: a broken connection is reported as %v", row.summary, err)
			}
		}
		if !row.stays {
			demandGone(t, first)
			continue
		}
		if err := m.connect(t).Exec(within(t, time.Minute), sh("kill -0 "+first)); err != nil {
			t.Errorf("%s: %v", row.summary, err)
		}
		n, _ := strconv.Atoi(strings.TrimSpace(first))
		_ = syscall.Kill(-n, syscall.SIGKILL)
	}
}

// A script that breaks off is not run as if it were whole.
func TestStandardInputBreaks(t *testing.T) {
	s := newMachine(t).connect(t)
	mark := filepath.Join(t.TempDir(), "mark")
	broken := io.MultiReader(strings.NewReader("sleep 1\ntouch "+mark), failing{})
	err := s.Exec(within(t, time.Minute), guest.Command{Args: []string{"sh"}, Stdin: broken, Grace: time.Millisecond})
	if _, ok := errors.AsType[*guest.ExitError](err); ok || err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("the torn line ran")
	}
	full := sh("yes")
	full.Stdout = failing{}
	full.Grace = time.Millisecond
	if err := s.Exec(within(t, time.Minute), full); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("got %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error)  { return 0, errors.New("disk on fire") }
func (failing) Write([]byte) (int, error) { return 0, errors.New("disk on fire") }

func TestAgentStartsAnew(t *testing.T) {
	m := newMachine(t)
	s := m.connect(t)
	done := make(chan error, 1)
	started := make(writtenTo, 1)
	c := sh("echo; sleep 4711")
	c.Stdout = started
	go func() { done <- s.Exec(within(t, time.Minute), c) }()
	started.await(t, done)
	m.stop()
	m.port.Reopen()
	m.start(t)
	select {
	case err := <-done:
		if _, ok := errors.AsType[*guest.ExitError](err); ok || err == nil {
			t.Errorf("got %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the host does not notice")
	}
	s.Close()
	if err := m.connect(t).Ping(within(t, time.Minute)); err != nil {
		t.Error(err)
	}
}

func TestStranger(t *testing.T) {
	m := newMachine(t)
	_, err := guest.DialAgent(within(t, time.Minute), m.port.Dial, guest.NewSecret(), nil)
	if err == nil || !strings.Contains(err.Error(), "host key refused") {
		t.Errorf("got %v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	s := newMachine(t).connect(t)
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			r, err := s.Run(within(t, time.Minute), fmt.Sprintf("cat; exit %d", i), strings.NewReader(strings.Repeat("x", i*1000)))
			if err != nil || r.Exit != i || len(r.Stdout) != i*1000 {
				t.Errorf("%d: %d bytes, exit %d, %v", i, len(r.Stdout), r.Exit, err)
			}
		})
	}
	all.Wait()
}

func TestTransfer(t *testing.T) {
	s := newMachine(t).connect(t)
	content := make([]byte, 64<<20)
	_, _ = rand.Read(content)
	path := filepath.Join(t.TempDir(), "it's a file")
	if err := s.Upload(within(t, 5*time.Minute), path, 0o640, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 || info.Size() != int64(len(content)) {
		t.Errorf("%v, %v", info, err)
	}
	sum := sha256.New()
	if err := s.Download(within(t, 5*time.Minute), path, sum); err != nil || !bytes.Equal(sum.Sum(nil), hash(content)) {
		t.Errorf("came back differently, %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func hash(b []byte) []byte { h := sha256.Sum256(b); return h[:] }

func TestTransferFails(t *testing.T) {
	s := newMachine(t).connect(t)
	dir := t.TempDir()
	if err := s.Upload(within(t, time.Minute), filepath.Join(dir, "half"), 0o600, io.MultiReader(strings.NewReader("half"), failing{})); err == nil {
		t.Error("half a file counts as whole")
	}
	if err := s.Upload(within(t, time.Minute), "/nonexistent/x", 0o600, strings.NewReader("")); err == nil {
		t.Error("wrote where nothing is")
	}
	if err := s.Download(within(t, time.Minute), filepath.Join(dir, "none"), io.Discard); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("read what is not there: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	endless, _ := io.Pipe()
	if err := s.Upload(within(t, 300*time.Millisecond), filepath.Join(dir, "never"), 0o600, endless); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an upload without an end: %v", err)
	}
	if err := s.Ping(within(t, time.Minute)); err != nil {
		t.Error(err)
	}
}

func TestForward(t *testing.T) {
	m := newMachine(t)
	s := m.connect(t)
	dir := t.TempDir()
	here := filepath.Join(dir, "host")
	serveUpper(t, here)
	there := filepath.Join(dir, "new", "guest")
	stop, err := s.Forward(within(t, time.Minute), there, guest.Socket(here))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(there); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := s.Forward(within(t, time.Minute), there, guest.Socket(here)); err == nil {
		t.Error("a second socket in the same place")
	}
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() {
			conn, err := net.Dial("unix", there)
			if err != nil {
				t.Error(err)
				return
			}
			demandUpper(t, conn, strings.Repeat("a", i*50_000))
		})
	}
	all.Wait()

	back, err := s.DialSocket(within(t, time.Minute), here)
	if err != nil {
		t.Fatal(err)
	}
	demandUpper(t, back, "from the host into the guest")
	if _, err := s.DialSocket(within(t, time.Minute), filepath.Join(dir, "none")); err == nil {
		t.Error("connected to a socket that is not there")
	}

	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("unix", there); err == nil {
		t.Error("a stopped forwarding still accepts")
	}
	if _, err := s.Forward(within(t, time.Minute), there, guest.Socket(filepath.Join(dir, "none"))); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", there)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(conn); len(b) > 0 || err != nil {
		t.Errorf("nobody listens on the host, and the guest hears %q, %v", b, err)
	}
	s.Close()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := net.Dial("unix", there); err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the socket outlives the connection")
		}
	}
}

// serveUpper answers in capitals once the client has said all.
func serveUpper(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			go func() {
				b, _ := io.ReadAll(c)
				_, _ = c.Write(bytes.ToUpper(b))
				c.Close()
			}()
		}
	}()
}

func demandUpper(t *testing.T, c net.Conn, text string) {
	t.Helper()
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Error(err)
	}
	_ = c.(interface{ CloseWrite() error }).CloseWrite()
	if b, err := io.ReadAll(c); err != nil || string(b) != strings.ToUpper(text) {
		t.Errorf("%d bytes came back of %d, %v", len(b), len(text), err)
	}
}

func TestIdentify(t *testing.T) {
	m := newMachine(t)
	s := m.connect(t)
	if err := os.Mkdir(filepath.Join(m.root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(m.root, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("hosts", "127.0.0.1 localhost\n127.0.1.1 pool-3 # of the pool\n::1 localhost")
	write("machine-id", "")
	const id = "0123456789abcdef0123456789abcdef"
	if err := s.Identify(within(t, time.Minute), guest.Identity{Hostname: "job-4711", MachineID: id, Entropy: make([]byte, 64), Time: time.Now()}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"hostname": "job-4711\n", "machine-id": id + "\n", "hosts": "127.0.0.1 localhost\n::1 localhost\n127.0.1.1\tjob-4711\n",
	} {
		if b, err := os.ReadFile(filepath.Join(m.root, "etc", name)); err != nil || string(b) != want {
			t.Errorf("%s is %q, %v", name, b, err)
		}
	}
	for _, bad := range []guest.Identity{
		{Hostname: "a.b"}, {Hostname: "-a"}, {Hostname: strings.Repeat("a", 64)}, {Hostname: "new", MachineID: "short"},
		{MachineID: strings.ToUpper(id)}, {Hostname: "new", Time: time.Unix(1, 0)},
	} {
		if err := s.Identify(within(t, time.Minute), bad); err == nil {
			t.Errorf("took %+v", bad)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(m.root, "etc/hostname")); string(b) != "job-4711\n" {
		t.Errorf("a refused identity was half taken: %q", b)
	}
}

// A guest that answers garbage, or nothing, harms nobody but itself.
func TestGarbageAnswers(t *testing.T) {
	for name, answer := range map[string]string{"garbage": strings.Repeat("\xff\x00garbage", 1000), "nothing": ""} {
		p := porttest.New()
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
					p.Inject(nil, []byte(answer))
					_, _ = p.Read(make([]byte, 4096))
				}
			}
		}()
		_, err := guest.DialAgent(within(t, time.Second), p.Dial, guest.NewSecret(), nil)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		close(stop)
	}
}

func TestServeEndsWithItsPort(t *testing.T) {
	p := porttest.New()
	p.Close()
	if err := agent.Serve(t.Context(), p, agent.Options{}); err == nil {
		t.Error("serves a port that is closed")
	}
}

// BenchmarkExec is one command over a port in memory, beside the same command started here. It reports both in
// microseconds.
func BenchmarkExec(b *testing.B) {
	s := newMachine(b).connect(b)
	var remote, here []time.Duration
	for b.Loop() {
		begun := time.Now()
		if err := s.Exec(b.Context(), sh("true")); err != nil {
			b.Fatal(err)
		}
		remote = append(remote, time.Since(begun))
		begun = time.Now()
		runHere(b)
		here = append(here, time.Since(begun))
	}
	b.ReportMetric(median(remote), "exec-µs")
	b.ReportMetric(median(here), "here-µs")
	b.ReportMetric(median(remote)/median(here), "ratio")
}

func runHere(b *testing.B) {
	p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "true"}, &os.ProcAttr{})
	if err == nil {
		_, err = p.Wait()
	}
	if err != nil {
		b.Fatal(err)
	}
}

func median(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2].Microseconds())
}

// BenchmarkUpload is 64 MiB over SFTP and a port in memory.
func BenchmarkUpload(b *testing.B) {
	s := newMachine(b).connect(b)
	content := make([]byte, 64<<20)
	path := filepath.Join(b.TempDir(), "file")
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		if err := s.Upload(b.Context(), path, 0o600, bytes.NewReader(content)); err != nil {
			b.Fatal(err)
		}
	}
}
