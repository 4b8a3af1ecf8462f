package resync

import (
	"errors"
	"io"
	"net"
	"regexp"
	"strconv"
	"sync"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
)

// Port is the guest's side. A Read that returns io.EOF says that nobody is connected at the moment; any other error is
// final.
type Port interface {
	io.Reader
	io.Writer
	io.Closer
}

// absence is how long a port must say that nobody is connected before it is believed. Linux learns from one queue that a
// host has come and from another what it sends: the port may go on saying so for a while after the first bytes.
const absence = time.Second

// idle is how long to wait before a port that nobody is connected to is read again: a virtio port does not tell.
const idle = 20 * time.Millisecond

// Listener hands out the connections that a host begins on a port, one at a time.
type Listener struct {
	port  Port
	conns chan *guestConn
	done  chan struct{}
	err   error // why it ended, once done is closed

	write   sync.Mutex // one writer at a time; never held by who reads
	mu      sync.Mutex
	current *guestConn
}

var _ net.Listener = (*Listener)(nil)

// Listen reads from the port until that is closed or fails.
func Listen(port Port) *Listener {
	l := &Listener{port: port, conns: make(chan *guestConn, 1), done: make(chan struct{})}
	l.write.Lock() // what the first connection writes comes after the announcement, or it would be broken by it
	go l.announce()
	go l.pump()
	return l
}

// announce breaks a connection that the host may have had with another process on this port. Where no host is connected,
// the marker waits in the port, and the next one drops it. It takes over l.write.
func (l *Listener) announce() {
	defer l.write.Unlock()
	_, _ = l.port.Write([]byte(lost)) // a port that fails shows in pump
}

// marker is what begins a connection.
var marker = lazyregexp.New(regexp.QuoteMeta(hello) + "([0-9a-f]{" + strconv.Itoa(nonceLen) + "})" + end)

// pump reads for as long as the port lives.
func (l *Listener) pump() {
	defer close(l.done)
	defer l.replace(nil)
	buf := make([]byte, markerLen+64<<10)
	var alone time.Time // since when the port says that nobody is connected
	seen := 0           // bytes at the beginning of buf that were delivered before: a marker may have begun there
	for {
		n, err := l.port.Read(buf[seen:])
		seen = copy(buf, l.take(buf[:seen+n], seen))
		switch {
		case errors.Is(err, io.EOF):
			if n > 0 || alone.IsZero() {
				alone = time.Now()
			}
			if time.Since(alone) > absence {
				seen = 0
				l.replace(nil)
			}
			time.Sleep(idle)
		case err != nil:
			l.err = err
			return
		default:
			alone = time.Time{}
		}
	}
}

// take gives the bytes to the connections that they belong to, but the first ones, which they have. It returns those at the
// end in which a marker may have begun. Nothing is held back: a connection that is about to end may get the
// beginning of the marker that ends it.
func (l *Listener) take(b []byte, delivered int) []byte {
	for {
		at := marker.FindSubmatchIndex(b)
		if at == nil {
			break
		}
		l.deliver(b[min(delivered, at[0]):at[0]])
		l.begin(string(b[at[2]:at[3]]))
		b, delivered = b[at[1]:], 0
	}
	l.deliver(b[delivered:])
	return b[max(0, len(b)-markerLen+1):]
}

func (l *Listener) deliver(b []byte) {
	l.mu.Lock()
	c := l.current
	l.mu.Unlock()
	if c != nil && len(b) > 0 {
		_, _ = c.in.Write(b) // an error says that the connection was closed: then nobody wants them
	}
}

func (l *Listener) begin(nonce string) {
	in := newPipe()
	c := &guestConn{listener: l, in: in, echo: ready + nonce + end}
	l.replace(c)
	select {
	case <-l.conns: // nobody has accepted the one before
	default:
	}
	l.conns <- c
}

// replace ends the current connection.
func (l *Listener) replace(c *guestConn) {
	l.mu.Lock()
	before := l.current
	l.current = c
	l.mu.Unlock()
	if before != nil {
		before.in.CloseWrite()
	}
}

// Accept waits for the next connection. Its error is that of the port.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, l.err
	}
}

// Close closes the port and ends everything.
func (l *Listener) Close() error {
	err := l.port.Close()
	<-l.done
	return err
}

// Addr is nothing but a name.
func (l *Listener) Addr() net.Addr { return address{} }

type address struct{}

func (address) Network() string { return "port" }
func (address) String() string  { return "port" }

// guestConn is one connection. It can be read to its end when another has followed it, but not written to.
type guestConn struct {
	listener *Listener
	in       *pipe
	echo     string // to be written before anything else; under listener.write
}

func (c *guestConn) Read(p []byte) (int, error) { return c.in.Read(p) }

func (c *guestConn) Write(p []byte) (int, error) {
	l := c.listener
	l.write.Lock()
	defer l.write.Unlock()
	l.mu.Lock()
	over := l.current != c
	l.mu.Unlock()
	if over {
		return 0, net.ErrClosed
	}
	if c.echo == "" {
		return l.port.Write(p)
	}
	echo := c.echo
	c.echo = ""
	n, err := l.port.Write(append([]byte(echo), p...))
	return max(0, n-len(echo)), err
}

func (c *guestConn) Close() error {
	c.in.CloseRead()
	l := c.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == c {
		l.current = nil
	}
	return nil
}

func (c *guestConn) LocalAddr() net.Addr  { return address{} }
func (c *guestConn) RemoteAddr() net.Addr { return address{} }

// A port has no deadlines.
func (c *guestConn) SetDeadline(time.Time) error      { return errNoDeadline }
func (c *guestConn) SetReadDeadline(time.Time) error  { return errNoDeadline }
func (c *guestConn) SetWriteDeadline(time.Time) error { return errNoDeadline }

var errNoDeadline = errors.New("a port has no deadlines")

// pipe holds what was read from the port until the connection takes it. It is bounded: the host waits meanwhile.
type pipe struct {
	mu      sync.Mutex
	changed sync.Cond
	b       []byte
	noMore  bool // to come
	unread  bool // nobody reads any more
}

const pipeSize = 1 << 20

func newPipe() *pipe {
	p := new(pipe)
	p.changed.L = &p.mu
	return p
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.b) >= pipeSize && !p.unread && !p.noMore {
		p.changed.Wait()
	}
	if p.unread || p.noMore {
		return 0, net.ErrClosed
	}
	p.b = append(p.b, b...)
	p.changed.Broadcast()
	return len(b), nil
}

func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.b) == 0 && !p.noMore && !p.unread {
		p.changed.Wait()
	}
	if p.unread {
		return 0, net.ErrClosed
	}
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.b)
	p.b = p.b[n:]
	p.changed.Broadcast()
	return n, nil
}

// CloseWrite lets the reader come to the end.
func (p *pipe) CloseWrite() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.noMore = true
	p.changed.Broadcast()
}

// CloseRead drops what is there and what may come.
func (p *pipe) CloseRead() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unread, p.b = true, nil
	p.changed.Broadcast()
}
