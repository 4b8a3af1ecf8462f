package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
)

// Console reads and answers a serial console.
type Console struct {
	rw   io.ReadWriteCloser
	done chan struct{} // closed when the reader has ended

	mu      sync.Mutex
	text    strings.Builder // plain text since the last match
	plain   stripper
	changed chan struct{} // closed and replaced when there is more
	err     error         // why the reader ended
}

// NewConsole wraps vm's Domain.OpenConsole. Close the Console, not rw.
func NewConsole(rw io.ReadWriteCloser) *Console {
	c := &Console{rw: rw, done: make(chan struct{}), changed: make(chan struct{})}
	go c.read()
	return c
}

func (c *Console) read() {
	defer close(c.done)
	buf := make([]byte, 4096)
	for {
		n, err := c.rw.Read(buf)
		c.mu.Lock()
		c.text.WriteString(c.plain.strip(buf[:n]))
		c.err = err
		close(c.changed)
		c.changed = make(chan struct{})
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Expect waits until the output since the last match matches one of the patterns, and returns the index of the one that
// matches first and the text up to its end. The text has no ANSI escapes and no carriage returns. The error quotes the
// last lines.
func (c *Console) Expect(ctx context.Context, patterns ...*regexp.Regexp) (int, string, error) {
	for {
		i, text, more, err := c.match(patterns)
		if i >= 0 {
			return i, text, nil
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the machine stopped")
			}
			return -1, text, c.unmatched(patterns, text, err)
		}
		select {
		case <-more:
		case <-ctx.Done():
			return -1, text, c.unmatched(patterns, text, context.Cause(ctx))
		}
	}
}

func (c *Console) unmatched(patterns []*regexp.Regexp, text string, err error) error {
	var wanted []string
	for _, p := range patterns {
		wanted = append(wanted, p.String())
	}
	return fmt.Errorf("console: %w while waiting for %q; its last lines:\n%s", err, wanted, Tail([]byte(text), 10))
}

// match takes the earliest match away. Where there is none, it returns -1, what was printed, and how to wait for more.
func (c *Console) match(patterns []*regexp.Regexp) (int, string, <-chan struct{}, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := c.text.String()
	best, start, end := -1, 0, 0
	for i, p := range patterns {
		if at := p.FindStringIndex(text); at != nil && (best < 0 || at[0] < start) {
			best, start, end = i, at[0], at[1]
		}
	}
	if best >= 0 {
		c.text.Reset()
		c.text.WriteString(text[end:])
		return best, text[:end], nil, nil
	}
	return -1, text, c.changed, c.err
}

// Send types text; end it with "\n" for Enter.
func (c *Console) Send(ctx context.Context, text string) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	_, err := io.WriteString(c.rw, strings.ReplaceAll(text, "\n", "\r"))
	return err
}

// Close ends the console's session.
func (c *Console) Close() error {
	err := c.rw.Close()
	<-c.done
	return err
}

// Plain removes ANSI escape sequences and control characters other than tab and newline from a console's output.
func Plain(console []byte) string {
	var s stripper
	return s.strip(console)
}

// Tail returns the last n lines of a console's output, as plain text.
func Tail(console []byte, n int) string {
	lines := strings.Split(strings.TrimRight(Plain(console), "\n\t "), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// stripper removes escape sequences (ECMA-48) from text that comes in pieces.
type stripper struct{ state escapeState }

type escapeState int

const (
	plainText      escapeState = iota
	afterEscape                // ESC
	inCSI                      // ESC [ …, ends with a byte from @ to ~
	inString                   // ESC ] … and its like, end with BEL or ESC \
	escapeInString             // ESC within one
	afterCharset               // ESC ( and its like, one more byte
)

func (s *stripper) strip(b []byte) string {
	out := make([]byte, 0, len(b))
	for _, c := range b {
		if s.next(c) {
			out = append(out, c)
		}
	}
	return string(out)
}

// next reports whether c is text.
func (s *stripper) next(c byte) bool {
	const escape, bell = 0x1b, 0x07
	switch s.state {
	case afterEscape:
		switch {
		case c == '[':
			s.state = inCSI
		case strings.IndexByte("]PX^_", c) >= 0:
			s.state = inString
		case c >= 0x20 && c <= 0x2f:
			s.state = afterCharset
		default:
			s.state = plainText
		}
	case inCSI:
		if c >= '@' && c <= '~' {
			s.state = plainText
		}
	case inString:
		if c == bell || c == '\n' { // a newline: better lose a title than the log
			s.state = plainText
		} else if c == escape {
			s.state = escapeInString
		}
	case escapeInString, afterCharset:
		s.state = plainText
	default:
		if c == escape {
			s.state = afterEscape
			return false
		}
		return c == '\n' || c == '\t' || c >= 0x20 && c != 0x7f
	}
	return false
}
