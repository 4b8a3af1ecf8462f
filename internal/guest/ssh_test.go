package guest

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// server is an SSH server that runs commands with sh, as OpenSSH does for a user.
type server struct {
	key, user ssh.Signer
	listener  net.Listener
}

func newServer(t *testing.T) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{key: newSigner(t), user: newSigner(t), listener: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			go s.serve(c)
		}
	}()
	return s
}

func (s *server) login() Login {
	return Login{User: "debian", Signer: s.user, HostKey: HostKeys{s.key.PublicKey()}.Callback()}
}

func (s *server) dial(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", s.listener.Addr().String())
}

func (s *server) serve(c net.Conn) {
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(s.user.PublicKey().Marshal()) {
			return nil, errors.New("unknown key")
		}
		return nil, nil
	}}
	config.AddHostKey(s.key)
	conn, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		c.Close()
		return
	}
	defer conn.Close()
	go ssh.DiscardRequests(requests)
	for n := range channels {
		channel, requests, err := n.Accept()
		if err != nil {
			return
		}
		go run(channel, requests)
	}
}

// run serves one session: exec starts a command, signal goes to its process group.
func run(channel ssh.Channel, requests <-chan *ssh.Request) {
	var cmd *exec.Cmd
	for r := range requests {
		switch r.Type {
		case "exec":
			cmd = exec.Command("sh", "-c", string(r.Payload[4:]))
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
			cmd.Stdin = channel
			cmd.WaitDelay = 100 * time.Millisecond
			if cmd.Start() != nil {
				_ = r.Reply(false, nil)
				continue
			}
			_ = r.Reply(true, nil)
			go finish(channel, cmd)
		case "signal":
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		default:
			_ = r.Reply(false, nil)
		}
	}
}

func finish(channel ssh.Channel, cmd *exec.Cmd) {
	_ = cmd.Wait()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		name := map[syscall.Signal]string{syscall.SIGKILL: "KILL", syscall.SIGTERM: "TERM"}[status.Signal()]
		_, _ = channel.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Signal         string
			Core           bool
			Text, Language string
		}{Signal: name}))
	} else {
		_, _ = channel.SendRequest("exit-status", false, binary.BigEndian.AppendUint32(nil, uint32(status.ExitStatus())))
	}
	_ = channel.Close()
}

func within(t *testing.T, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func connect(t *testing.T) *SSH {
	t.Helper()
	srv := newServer(t)
	s, err := Dial(within(t, 10*time.Second), srv.dial, srv.login(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestRun(t *testing.T) {
	s := connect(t)
	for _, row := range []struct {
		summary, command, stdin, stdout, stderr string
		exit                                    int
	}{
		{"output and errors come apart", "echo out; echo err >&2", "", "out\n", "err\n", 0},
		{"an exit code is a result", "exit 42", "", "", "", 42},
		{"standard input arrives and ends", "tr a-z A-Z", "hello", "HELLO", "", 0},
		{"death by a signal", "kill -TERM $$", "", "", "", 143},
	} {
		r, err := s.Run(within(t, 10*time.Second), row.command, strings.NewReader(row.stdin))
		if err != nil || string(r.Stdout) != row.stdout || string(r.Stderr) != row.stderr || r.Exit != row.exit {
			t.Errorf("%s: %q: %+v, %v", row.summary, row.command, r, err)
		}
	}
}

func TestRunKeepsTheFirstOfMuchOutput(t *testing.T) {
	s := connect(t)
	r, err := s.Run(within(t, 30*time.Second), "head -c 20000000 /dev/zero", nil)
	if err != nil || len(r.Stdout) != MaxOutput {
		t.Errorf("%d bytes, %v", len(r.Stdout), err)
	}
}

func TestRunIsCancelled(t *testing.T) {
	s := connect(t)
	mark := filepath.Join(t.TempDir(), "pid")
	_, err := s.Run(within(t, 300*time.Millisecond), "echo $$ >"+Quote(mark)+"; sleep 4711", nil)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "sleep 4711") {
		t.Errorf("got %v", err)
	}
	pid, _ := os.ReadFile(mark)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat("/proc/" + strings.TrimSpace(string(pid))); err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %s runs on", pid)
		}
	}
	if out, err := s.Output(within(t, 5*time.Second), "echo still there"); err != nil || out != "still there\n" {
		t.Errorf("the connection is of no use any more: %q, %v", out, err)
	}
}

func TestOutputQuotesAFailure(t *testing.T) {
	s := connect(t)
	_, err := s.Output(within(t, 5*time.Second), "echo no such thing >&2; exit 3")
	for _, want := range []string{"exit 3", "exit code 3", "no such thing"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}

func TestFiles(t *testing.T) {
	s := connect(t)
	path := filepath.Join(t.TempDir(), "it's a file")
	if err := s.WriteFile(within(t, 5*time.Second), path, 0o640, strings.NewReader("content")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if b, err := s.ReadFile(within(t, 5*time.Second), path); err != nil || string(b) != "content" {
		t.Errorf("read %q, %v", b, err)
	}
	if _, err := s.ReadFile(within(t, 5*time.Second), path+".gone"); err == nil || !strings.Contains(err.Error(), ".gone") {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := s.WriteFile(within(t, 5*time.Second), "/nonexistent/x", 0o600, strings.NewReader("")); err == nil {
		t.Error("wrote where nothing is")
	}
}

func TestDialTriesAgain(t *testing.T) {
	srv := newServer(t)
	var tries atomic.Int32
	s, err := Dial(within(t, 10*time.Second), func(ctx context.Context) (net.Conn, error) {
		switch tries.Add(1) {
		case 1:
			return nil, errors.New("no route")
		case 2: // somebody who hangs up, as a port forwarder does before the server is up
			here, there := net.Pipe()
			there.Close()
			return here, nil
		}
		return srv.dial(ctx)
	}, srv.login(), nil)
	if err != nil || tries.Load() != 3 {
		t.Fatalf("%d tries, %v", tries.Load(), err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	<-s.Closed()
}

func TestDialGivesUp(t *testing.T) {
	srv := newServer(t)
	off := make(chan struct{})
	close(off)
	stranger := srv.login()
	stranger.HostKey = HostKeys{newSigner(t).PublicKey()}.Callback()
	nobody := srv.login()
	nobody.Signer = newSigner(t)
	trusting := srv.login()
	trusting.HostKey = nil
	silent := func(context.Context) (net.Conn, error) { here, _ := net.Pipe(); return here, nil }
	for _, row := range []struct {
		summary string
		dial    Dialer
		login   Login
		stopped chan struct{}
		says    string
	}{
		{"the host key is another", srv.dial, stranger, nil, "host key refused"},
		{"nobody checks the host key", srv.dial, trusting, nil, "no host key"},
		{"the user's key is unknown until the end", srv.dial, nobody, nil, "unable to authenticate"},
		{"the server says nothing until the end", silent, srv.login(), nil, "does not answer"},
		{"the machine is off", func(context.Context) (net.Conn, error) { return nil, errors.New("no route") }, srv.login(), off, "stopped before SSH answered; last try: no route"},
	} {
		start := time.Now()
		_, err := Dial(within(t, 600*time.Millisecond), row.dial, row.login, row.stopped)
		if err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v", row.summary, err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: took %v", row.summary, took)
		}
	}
}

func TestServerGoes(t *testing.T) {
	srv := newServer(t)
	var conn net.Conn
	s, err := Dial(within(t, 5*time.Second), func(ctx context.Context) (net.Conn, error) {
		var err error
		conn, err = srv.dial(ctx)
		return conn, err
	}, srv.login(), nil)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { conn.Close() })
	if _, err := s.Run(within(t, 5*time.Second), "sleep 2", nil); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	select {
	case <-s.Closed():
	case <-time.After(5 * time.Second):
		t.Error("Closed does not tell")
	}
}
