// Package guest speaks to a running virtual machine: commands and files over SSH, and its serial console.
package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"regexp"
	"time"

	"golang.org/x/crypto/ssh"
)

var errSoon = errors.New("not yet written")

// Dialer opens one connection to the guest's SSH server.
type Dialer func(ctx context.Context) (net.Conn, error)

// Login says as whom to log in and whom to trust.
type Login struct {
	User    string
	Signer  ssh.Signer
	HostKey ssh.HostKeyCallback // see HostKeys.Callback
}

// SSH is a connection to a guest.
type SSH struct{}

// Dial connects and logs in. It tries again until that works, ctx ends, or stopped is closed (the machine is off; nil:
// never). A host key that HostKey refuses is final.
func Dial(ctx context.Context, dial Dialer, login Login, stopped <-chan struct{}) (*SSH, error) {
	return nil, errSoon
}

// Result is what a command left.
type Result struct {
	Stdout, Stderr []byte
	Exit           int // 128 + number where a signal ended it
	Duration       time.Duration
}

// Run executes a shell command line. An exit code other than 0 is no error. When ctx ends, the command is killed.
func (s *SSH) Run(ctx context.Context, command string, stdin io.Reader) (Result, error) {
	return Result{}, errSoon
}

// Output executes a command line that must succeed and returns its standard output. The error quotes the command, its
// exit code and its standard error.
func (s *SSH) Output(ctx context.Context, command string) (string, error) { return "", errSoon }

// WriteFile creates or replaces a file of the guest. Mode is as in chmod.
func (s *SSH) WriteFile(ctx context.Context, path string, mode uint32, content io.Reader) error { return errSoon }

// ReadFile returns a file of the guest.
func (s *SSH) ReadFile(ctx context.Context, path string) ([]byte, error) { return nil, errSoon }

// Closed is closed when the connection has ended.
func (s *SSH) Closed() <-chan struct{} { return nil }

// Close ends the connection.
func (s *SSH) Close() error { return nil }

// HostKeys are the SSH host keys that a guest has printed on its console.
type HostKeys []ssh.PublicKey

// ConsoleHostKeys returns the keys in cloud-init's last complete block "-----BEGIN SSH HOST KEY KEYS-----" of a console's
// output; nil if there is none yet.
func ConsoleHostKeys(console []byte) HostKeys { return nil }

// Callback accepts exactly these keys.
func (k HostKeys) Callback() ssh.HostKeyCallback { return nil }

// Console reads and answers a serial console.
type Console struct{}

// NewConsole wraps vm's Domain.OpenConsole. Close the Console, not rw.
func NewConsole(rw io.ReadWriteCloser) *Console { return nil }

// Expect waits until the output since the last match matches one of the patterns, and returns the index of the one that
// matches first and the text up to its end. The text has no ANSI escapes and no carriage returns. The error quotes the last lines.
func (c *Console) Expect(ctx context.Context, patterns ...*regexp.Regexp) (int, string, error) {
	return 0, "", errSoon
}

// Send types text; end it with "\n" for Enter.
func (c *Console) Send(ctx context.Context, text string) error { return errSoon }

// Close ends the console's session.
func (c *Console) Close() error { return nil }

// Plain removes ANSI escape sequences, carriage returns and NUL bytes from a console's output.
func Plain(console []byte) string { return "" }

// Tail returns the last n lines of a console's output, as plain text.
func Tail(console []byte, n int) string { return "" }
