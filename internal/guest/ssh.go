// Package guest speaks to a running virtual machine: commands and files over SSH, and its serial console.
package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Dialer opens one connection to the guest's SSH server.
type Dialer func(ctx context.Context) (net.Conn, error)

// Login says as whom to log in and whom to trust.
type Login struct {
	User    string
	Signer  ssh.Signer
	HostKey ssh.HostKeyCallback // see HostKeys.Callback
}

// SSH is a connection to a guest.
type SSH struct {
	client *ssh.Client
	closed chan struct{}
}

// Time limits of one attempt to connect. An emulated guest needs seconds for the key exchange.
const (
	dialLimit      = 10 * time.Second
	handshakeLimit = time.Minute
	retryPause     = 250 * time.Millisecond
)

// Dial connects and logs in. It tries again until that works, ctx ends, or stopped is closed (the machine is off; nil:
// never). A host key that HostKey refuses is final.
func Dial(ctx context.Context, dial Dialer, login Login, stopped <-chan struct{}) (*SSH, error) {
	if login.HostKey == nil {
		return nil, fault.Inputf("SSH to %s: no host key to check against", login.User)
	}
	last := errors.New("not tried")
	for {
		s, err := dialOnce(ctx, dial, login)
		if err == nil {
			return s, nil
		}
		if _, ok := errors.AsType[*wrongHostKey](err); ok {
			return nil, err
		}
		if ctx.Err() == nil { // else err tells only that
			last = err
		}
		select {
		case <-time.After(retryPause):
		case <-stopped:
			return nil, fmt.Errorf("the machine stopped before SSH answered; last try: %w", last)
		case <-ctx.Done():
			return nil, fmt.Errorf("SSH as %s does not answer: %w; last try: %w", login.User, context.Cause(ctx), last)
		}
	}
}

// wrongHostKey is final: somebody else answers.
type wrongHostKey struct{ err error }

func (e *wrongHostKey) Error() string { return "SSH host key refused: " + e.err.Error() }
func (e *wrongHostKey) Unwrap() error { return e.err }

func dialOnce(ctx context.Context, dial Dialer, login Login) (*SSH, error) {
	short, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	conn, err := dial(short)
	if err != nil {
		return nil, err
	}
	// The handshake knows no context: closing the connection ends it.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(handshakeLimit))
	var refused error
	config := &ssh.ClientConfig{
		User: login.User,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(login.Signer)},
		HostKeyCallback: func(name string, addr net.Addr, key ssh.PublicKey) error {
			refused = login.HostKey(name, addr, key)
			return refused
		},
	}
	c, channels, requests, err := ssh.NewClientConn(conn, conn.RemoteAddr().String(), config)
	if err != nil {
		_ = conn.Close()
		if refused != nil {
			return nil, &wrongHostKey{refused}
		}
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	s := &SSH{client: ssh.NewClient(c, channels, requests), closed: make(chan struct{})}
	go func() {
		_ = s.client.Wait()
		close(s.closed)
	}()
	return s, nil
}

// Result is what a command left.
type Result struct {
	Stdout, Stderr []byte // the first MaxOutput bytes
	Exit           int    // 128 + number where a signal ended it
	Duration       time.Duration
}

// MaxOutput is how much of a command's standard output and of its standard error is kept, in bytes.
const MaxOutput = 16 << 20

// Run executes a shell command line. An exit code other than 0 is no error. When ctx ends, the command is killed.
func (s *SSH) Run(ctx context.Context, command string, stdin io.Reader) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, fmt.Errorf("run %q: %w", command, context.Cause(ctx))
	}
	start := time.Now()
	var stdout, stderr limited
	err := s.exec(ctx, command, Command{Stdin: stdin, Stdout: &stdout, Stderr: &stderr})
	r := Result{Stdout: stdout.b.Bytes(), Stderr: stderr.b.Bytes(), Duration: time.Since(start)}
	if exit, ok := errors.AsType[*ExitError](err); ok {
		r.Exit, err = exit.Code, nil
	}
	if err != nil {
		return r, fmt.Errorf("run %q: %w", command, err)
	}
	return r, nil
}

// newSession waits for the server no longer than ctx lasts.
func (s *SSH) newSession(ctx context.Context) (*ssh.Session, error) {
	return await(ctx, s.client.NewSession)
}

// await waits for what the server opens no longer than ctx lasts. What comes later is closed.
func await[T io.Closer](ctx context.Context, open func() (T, error)) (T, error) {
	type result struct {
		opened T
		err    error
	}
	done := make(chan result, 1)
	go func() {
		opened, err := open()
		done <- result{opened, err}
	}()
	select {
	case r := <-done:
		return r.opened, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				_ = r.opened.Close()
			}
		}()
		var none T
		return none, context.Cause(ctx)
	}
}

// limited keeps the first MaxOutput bytes and drops the rest.
type limited struct{ b bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.b.Write(p[:min(len(p), MaxOutput-l.b.Len())])
	return len(p), nil
}

// signalNumber knows the names of RFC 4254, section 6.10.
func signalNumber(name string) int {
	return map[string]int{"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "ABRT": 6, "FPE": 8, "KILL": 9,
		"USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15}[name]
}

// Output executes a command line that must succeed and returns its standard output. The error quotes the command, its
// exit code and its standard error.
func (s *SSH) Output(ctx context.Context, command string) (string, error) {
	r, err := s.Run(ctx, command, nil)
	if err != nil {
		return "", err
	}
	if r.Exit != 0 {
		return string(r.Stdout), fmt.Errorf("%q ended with exit code %d: %s", command, r.Exit, Tail(r.Stderr, 5))
	}
	return string(r.Stdout), nil
}

// WriteFile creates or replaces a file of the guest. Mode is as in chmod.
func (s *SSH) WriteFile(ctx context.Context, path string, mode uint32, content io.Reader) error {
	q := Quote(path)
	r, err := s.Run(ctx, fmt.Sprintf("umask 077 && cat >%s.new && chmod %04o %s.new && mv -f %s.new %s", q, mode&0o7777, q, q, q), content)
	if err == nil && r.Exit != 0 {
		err = fmt.Errorf("exit code %d: %s", r.Exit, Tail(r.Stderr, 5))
	}
	if err != nil {
		return fmt.Errorf("write %s in the guest: %w", path, err)
	}
	return nil
}

// ReadFile returns a file of the guest, of at most MaxOutput bytes.
func (s *SSH) ReadFile(ctx context.Context, path string) ([]byte, error) {
	out, err := s.Output(ctx, "cat "+Quote(path))
	if err != nil {
		return nil, fmt.Errorf("read %s in the guest: %w", path, err)
	}
	return []byte(out), nil
}

// Quote makes one word of a shell's command line.
func Quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// Closed is closed when the connection has ended.
func (s *SSH) Closed() <-chan struct{} { return s.closed }

// Close ends the connection.
func (s *SSH) Close() error {
	err := s.client.Close()
	<-s.closed
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
