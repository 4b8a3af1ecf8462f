package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
)

// Command is a program to run in a guest.
type Command struct {
	Args           []string      // the program and its arguments; no shell reads them
	Env            []string      // NAME=VALUE, beside what the guest sets itself
	Dir            string        // working directory; "" is the user's home
	Stdin          io.Reader     // nil: empty
	Stdout, Stderr io.Writer     // nil: dropped
	Grace          time.Duration // between SIGTERM and SIGKILL when ctx ends; 0 is ten seconds
	Stays          bool          // the agent lets it, and what it has started, outlive the connection; no other server knows how
}

// StaysRequest is the type of the channel request that marks a Command that Stays.
const StaysRequest = "stays@cloud.debian.org"

// ExitError says that the program itself ended other than with success: everything else that can go wrong is another
// error.
type ExitError struct {
	Code   int    // 1 to 255; 128 + number where a signal ended it
	Signal string // such as "KILL", without SIG; "" where none ended it
}

func (e *ExitError) Error() string {
	if e.Signal != "" {
		return fmt.Sprintf("ended by SIG%s", e.Signal)
	}
	return fmt.Sprintf("exit code %d", e.Code)
}

// Exec runs a program to its end. The error is nil for exit code 0 and an *ExitError where the program itself ended
// otherwise; a connection that breaks, a guest that stops, a Stdin that cannot be read or a Stdout that refuses what is
// written are other errors.
//
// When ctx ends, the process group of the program gets SIGTERM, after Grace SIGKILL, and Exec returns ctx's cause when
// it has ended or, if the guest does not tell, a few seconds later. The connection can be used on.
//
// It ends when the program does, though something that it left in the background may hold its output open; what is printed
// later is lost. Exec does not wait for Stdin: a blocked Read may go on after it has returned.
func (s *SSH) Exec(ctx context.Context, c Command) error {
	line, err := c.line()
	if err != nil {
		return err
	}
	if c.Grace == 0 {
		c.Grace = 10 * time.Second
	}
	if err := s.exec(ctx, line, c); err != nil {
		return fmt.Errorf("%s in the guest: %w", c.Args[0], err)
	}
	return nil
}

var variableForm = lazyregexp.New(`^[A-Za-z_][A-Za-z0-9_]*=`)

// line is the command line that a shell turns into c.
func (c Command) line() (string, error) {
	if len(c.Args) == 0 {
		return "", fault.Inputf("a command for the guest without a program")
	}
	var words []string
	if c.Dir != "" {
		words = append(words, "cd", Quote(c.Dir), "&&")
	}
	words = append(words, "exec")
	if len(c.Env) > 0 {
		words = append(words, "env")
		for _, variable := range c.Env {
			if !variableForm.MatchString(variable) {
				name, _, _ := strings.Cut(variable, "=")
				return "", fault.Inputf("%q is no name of a variable for the guest", name)
			}
			words = append(words, Quote(variable))
		}
	}
	for _, arg := range c.Args {
		words = append(words, Quote(arg))
	}
	line := strings.Join(words, " ")
	if strings.ContainsRune(line, 0) {
		return "", fault.Inputf("a command for the guest holds a NUL byte: %q", line)
	}
	return line, nil
}

// killWait is how long a killed program may take to be gone before the guest counts as deaf.
const killWait = 5 * time.Second

// exec runs a command line. A Grace of 0 is none.
func (s *SSH) exec(ctx context.Context, line string, c Command) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	session, err := s.newSession(ctx)
	if err != nil {
		return err
	}
	defer session.Close()
	stdout, stderr := newSink(c.Stdout, cancel), newSink(c.Stderr, cancel)
	defer stdout.close()
	defer stderr.close()
	session.Stdout, session.Stderr = stdout, stderr
	started := make(chan error, 1)
	go func() { started <- start(session, line, c, cancel) }()
	select {
	case err = <-started:
	case <-ctx.Done(): // the server may run it nevertheless: closing the session ends it
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- session.Wait() }()
	select {
	case err = <-done:
	case <-ctx.Done():
		end(session, done, c.Grace)
	}
	if ctx.Err() != nil { // also where a sink failed
		return context.Cause(ctx)
	}
	return exitError(err)
}

func start(session *ssh.Session, line string, c Command, cancel context.CancelCauseFunc) error {
	if c.Stays {
		if ok, err := session.SendRequest(StaysRequest, true, nil); err != nil {
			return err
		} else if !ok {
			return errors.New("the server cannot let a command outlive the connection")
		}
	}
	stdin, err := session.StdinPipe()
	if err != nil {
		return err
	}
	if err := session.Start(line); err != nil {
		return fmt.Errorf("the guest cannot start it: %w", err)
	}
	go feed(stdin, c.Stdin, cancel)
	return nil
}

// feed gives the program its standard input. Where that breaks off, the program must not take what it got for the whole.
func feed(stdin io.WriteCloser, from io.Reader, cancel context.CancelCauseFunc) {
	if from != nil {
		r := &source{from: from}
		_, _ = io.Copy(stdin, r) // a program need not read its input
		if r.err != nil {
			cancel(fmt.Errorf("its standard input cannot be read: %w", r.err))
			return
		}
	}
	_ = stdin.Close()
}

// source remembers why reading failed.
type source struct {
	from io.Reader
	err  error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.from.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// end terminates the program and waits until it is gone, within reason.
func end(session *ssh.Session, done <-chan error, grace time.Duration) {
	if grace > 0 && session.Signal(ssh.SIGTERM) == nil {
		select {
		case <-done:
			return
		case <-time.After(grace):
		}
	}
	_ = session.Signal(ssh.SIGKILL)
	select {
	case <-done:
	case <-time.After(killWait):
	}
}

// exitError tells a program's own end from everything else.
func exitError(err error) error {
	if exit, ok := errors.AsType[*ssh.ExitError](err); ok {
		if name := exit.Signal(); name != "" {
			return &ExitError{Code: 128 + signalNumber(name), Signal: name}
		}
		return &ExitError{Code: exit.ExitStatus()}
	}
	if _, ok := errors.AsType[*ssh.ExitMissingError](err); ok {
		return errors.New("the connection to the guest broke before the command had ended")
	}
	return err
}

// sink passes output on until it is closed. A writer that fails cancels, and the rest is dropped, so that the guest can come to
// an end.
type sink struct {
	cancel context.CancelCauseFunc

	mu sync.Mutex
	to io.Writer // nil: dropped
}

func newSink(to io.Writer, cancel context.CancelCauseFunc) *sink {
	return &sink{to: to, cancel: cancel}
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.to == nil {
		return len(p), nil
	}
	if _, err := s.to.Write(p); err != nil {
		s.to = nil
		s.cancel(fmt.Errorf("its output cannot be written: %w", err))
	}
	return len(p), nil
}

func (s *sink) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.to = nil
}
