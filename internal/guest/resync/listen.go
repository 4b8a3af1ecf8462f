package resync

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Port is the guest's side. A Read that returns io.EOF says that nobody is connected at the moment; any other error is
// final.
type Port interface {
	io.Reader
	io.Writer
	io.Closer
}

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
	go l.announce()
	go l.pump()
	return l
}

// announce breaks a connection that the host may have had with another process on this port. Where no host is connected,
// the marker waits in the port, and the next one drops it.
func (l *Listener) announce() {
	l.write.Lock()
	defer l.write.Unlock()
	_, _ = l.port.Write([]byte(lost)) // a port that fails shows in pump
}

// pump reads for as long as the port lives.
func (l *Listener) pump() {
	defer close(l.done)
	defer l.replace(nil)
	buf := make([]byte, 64<<10)
	var held []byte // may be the beginning of a marker
	for {
		n, err := l.port.Read(buf)
		held = l.take(append(held, buf[:n]...))
		if errors.Is(err, io.EOF) {
			held = nil
			l.replace(nil)
			time.Sleep(idle)
		} else if err != nil {
			l.err = err
			return
		}
	}
}

// take gives the bytes to the connections that they belong to, and returns those at the end that may begin a marker.
func (l *Listener) take(b []byte) []byte {
	for {
		i := bytes.Index(b, []byte(hello))
		if i < 0 {
			break
		}
		l.deliver(b[:i])
		b = b[i:]
		if len(b) < markerLen {
			return bytes.Clone(b)
		}
		if nonce := b[len(hello) : markerLen-len(end)]; isNonce(nonce) && string(b[markerLen-len(end):markerLen]) == end {
			l.begin(string(nonce))
			b = b[markerLen:]
		} else {
			l.deliver(b[:1]) // it only looked like one
			b = b[1:]
		}
	}
	keep := suffix(b)
	l.deliver(b[:len(b)-keep])
	return bytes.Clone(b[len(b)-keep:])
}

func isNonce(b []byte) bool {
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// suffix is how many of the last bytes may begin a marker.
func suffix(b []byte) int {
	for n := min(len(b), len(hello)-1); n > 0; n-- {
		if bytes.Equal(b[len(b)-n:], []byte(hello[:n])) {
			return n
		}
	}
	return 0
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
