// Package porttest is a virtio-serial port in memory, for tests. It is as unfriendly as a real one: bytes of a connection that
// has ended stay under way in both directions, a guest's read ends at once while nobody is connected and its write waits, and
// the host's connections are served one after the other.
package porttest

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Port is the guest's side; Dial gives the host's. Close ends it for good, Reopen stands for another process that opens it.
type Port struct {
	mu      sync.Mutex
	changed sync.Cond
	toGuest []byte
	toHost  []byte
	host    *host // nil: nobody is connected
	closed  bool
}

// capacity is how many bytes wait in each direction.
const capacity = 64 << 10

// New makes a port.
func New() *Port {
	p := new(Port)
	p.changed.L = &p.mu
	return p
}

// Read returns io.EOF where nothing waits and nobody is connected.
func (p *Port) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.toGuest) == 0 && p.host != nil && !p.closed {
		p.changed.Wait()
	}
	if p.closed {
		return 0, os.ErrClosed
	}
	return take(&p.toGuest, b, &p.changed)
}

// Write waits while nobody is connected.
func (p *Port) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return put(&p.toHost, b, &p.changed, func() error {
		switch {
		case p.closed:
			return os.ErrClosed
		case p.host == nil:
			return errWait
		}
		return nil
	})
}

// Close makes every Read and Write of the guest fail. The host does not notice.
func (p *Port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.changed.Broadcast()
	return nil
}

// Reopen lets the guest use a closed port again.
func (p *Port) Reopen() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = false
}

// Inject puts bytes on the way to the guest and to the host, as if an earlier connection had left them.
func (p *Port) Inject(toGuest, toHost []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.toGuest = append(p.toGuest, toGuest...)
	p.toHost = append(p.toHost, toHost...)
	p.changed.Broadcast()
}

// Dial connects as the host. It waits until nobody else is connected.
func (p *Port) Dial(ctx context.Context) (net.Conn, error) {
	stop := context.AfterFunc(ctx, p.changed.Broadcast)
	defer stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.host != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		p.changed.Wait()
	}
	p.host = &host{port: p}
	p.changed.Broadcast()
	return p.host, nil
}

type host struct{ port *Port }

func (h *host) check() error {
	if h.port.host != h {
		return net.ErrClosed
	}
	return nil
}

func (h *host) Read(b []byte) (int, error) {
	p := h.port
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.toHost) == 0 && h.check() == nil {
		p.changed.Wait()
	}
	if err := h.check(); err != nil {
		return 0, err
	}
	return take(&p.toHost, b, &p.changed)
}

func (h *host) Write(b []byte) (int, error) {
	p := h.port
	p.mu.Lock()
	defer p.mu.Unlock()
	return put(&p.toGuest, b, &p.changed, h.check)
}

func (h *host) Close() error {
	p := h.port
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.host == h {
		p.host = nil
	}
	p.changed.Broadcast()
	return nil
}

func (h *host) LocalAddr() net.Addr              { return &net.UnixAddr{Name: "host", Net: "unix"} }
func (h *host) RemoteAddr() net.Addr             { return &net.UnixAddr{Name: "port", Net: "unix"} }
func (h *host) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (h *host) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (h *host) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

func take(queue *[]byte, b []byte, changed *sync.Cond) (int, error) {
	if len(*queue) == 0 {
		return 0, io.EOF
	}
	n := copy(b, *queue)
	*queue = (*queue)[n:]
	changed.Broadcast()
	return n, nil
}

// errWait says that a write has to wait.
const errWait = wait("wait")

type wait string

func (w wait) Error() string { return string(w) }

func put(queue *[]byte, b []byte, changed *sync.Cond, check func() error) (int, error) {
	written := 0
	for written < len(b) {
		err := check()
		if err != nil && err != errWait {
			return written, err
		}
		room := capacity - len(*queue)
		if err == errWait || room <= 0 {
			changed.Wait()
			continue
		}
		n := min(room, len(b)-written)
		*queue = append(*queue, b[written:written+n]...)
		written += n
		changed.Broadcast()
	}
	return written, nil
}
