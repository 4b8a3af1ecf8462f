package vm

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// console takes in what a serial port prints, from power-on to power-off, and hands it to any number of readers.
//
// It must always read: QEMU stops the guest's writes while nobody does.
type console struct {
	conn net.Conn
	file *os.File // nil: none

	mu      sync.Mutex
	head    []byte
	tail    []byte
	skipped int64         // bytes between head and tail
	changed chan struct{} // closed and replaced when something was added
	done    chan struct{} // closed when the port is gone
}

// openConsole reads from conn until it ends. file may be nil.
func openConsole(conn net.Conn, file *os.File) *console {
	c := &console{conn: conn, file: file, changed: make(chan struct{}), done: make(chan struct{})}
	go c.pump()
	return c
}

func (c *console) pump() {
	buf := make([]byte, 16<<10)
	for {
		n, err := c.conn.Read(buf)
		c.add(buf[:n])
		if err != nil {
			break
		}
	}
	_ = c.conn.Close()
	c.finishFile()
	close(c.done)
}

func (c *console) add(b []byte) {
	if len(b) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if room := MaxConsole/2 - len(c.head); room > 0 {
		n := min(room, len(b))
		c.head = append(c.head, b[:n]...)
		if c.file != nil {
			_, _ = c.file.Write(b[:n])
		}
		b = b[n:]
	}
	c.tail = append(c.tail, b...)
	// Trim seldom, so that a byte is moved once.
	if over := len(c.tail) - MaxConsole/2; over > MaxConsole/4 {
		c.skipped += int64(over)
		c.tail = append(c.tail[:0], c.tail[over:]...)
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// finishFile adds the tail, which is known only at the end.
func (c *console) finishFile() {
	if c.file == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.skipped > 0 {
		_, _ = fmt.Fprintf(c.file, "\n[%d bytes left out here]\n", c.skipped)
	}
	_, _ = c.file.Write(c.tail)
	_ = c.file.Close()
}

// bytes is everything that is kept.
func (c *console) bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]byte, 0, len(c.head)+len(c.tail)+64)
	all = append(all, c.head...)
	if c.skipped > 0 {
		all = fmt.Appendf(all, "\n[%d bytes left out here]\n", c.skipped)
	}
	return append(all, c.tail...)
}

// readAt copies what was printed from an offset on. It returns the offset after it, which jumps over what was left out,
// and a channel that tells of more.
func (c *console) readAt(p []byte, off int64) (n int, next int64, more <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	head := int64(len(c.head))
	if off < head {
		n = copy(p, c.head[off:])
		return n, off + int64(n), c.changed
	}
	start := max(off, head+c.skipped)
	if i := start - head - c.skipped; i < int64(len(c.tail)) {
		n = copy(p, c.tail[i:])
	}
	return n, start + int64(n), c.changed
}

// session is one reader and writer of a console.
type session struct {
	c      *console
	ctx    context.Context
	cancel context.CancelFunc
	off    int64
}

func (c *console) session(ctx context.Context) *session {
	ctx, cancel := context.WithCancel(ctx)
	return &session{c: c, ctx: ctx, cancel: cancel}
}

func (s *session) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	ended := false
	for {
		if err := s.ctx.Err(); err != nil {
			return 0, err
		}
		n, next, more := s.c.readAt(p, s.off)
		s.off = next
		if n > 0 {
			return n, nil
		}
		if ended {
			return 0, io.EOF
		}
		select {
		case <-more:
		case <-s.c.done:
			ended = true // once more: the last bytes may have come since
		case <-s.ctx.Done():
		}
	}
}

// Write types p. A guest that does not read its serial port for ten seconds is an error.
func (s *session) Write(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	_ = s.c.conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	return s.c.conn.Write(p)
}

func (s *session) Close() error {
	s.cancel()
	return nil
}
