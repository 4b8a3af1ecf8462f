// Package resync makes connections of a serial port: a stream without beginning or end, in which bytes of an earlier connection may
// still be under way in both directions, and which does not tell when the other side was replaced.
//
// The host begins each connection with a marker that holds a nonce. The guest looks for markers always, also in the
// middle of a connection: each ends the connection before it and begins one, whose first bytes are the echoed nonce. The
// host drops everything before that echo. A guest that starts anew sends a third marker, which breaks the connection that
// the host may believe to have.
package resync

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"net"
	"sync"
	"time"
)

// Markers. What carries the connection is encrypted, so that nothing in it can look like one. All begin with bytes that no SSH
// implementation takes for a packet: as a length they are over 6 MiB.
const (
	hello    = "\x00debcloud-hello:" // host to guest, then the nonce and end
	ready    = "\x00debcloud-ready:" // guest to host, then the nonce and end
	lost     = "\x00debcloud-lost;\n"
	end      = "\n"
	nonceLen = 32
)

// markerLen is the length of hello and of ready with a nonce.
const markerLen = len(hello) + nonceLen + len(end)

// again is how long the host waits for an echo before it sends its marker again, the first time: an agent that was about to end
// may have taken it with it. Each time after, it waits twice as long, because a slow guest must not see a new one before it
// has answered the last.
const again = 3 * time.Second

// Begin makes a connection of the host's side of a port. It neither reads nor writes: the marker goes out with what is written
// first, and the first Read waits for the echo.
func Begin(port net.Conn) net.Conn { return &hostConn{Conn: port, pause: again} }

type hostConn struct {
	net.Conn

	mu     sync.Mutex
	nonce  string // of the last marker; "" before the first
	synced bool   // its echo has come
	early  []byte // what was written before that
	pause  time.Duration
	timer  *time.Timer

	read sync.Mutex
	rest []byte // came with the echo
}

func (c *hostConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.synced {
		return c.Conn.Write(p)
	}
	c.early = append(c.early, p...)
	if c.nonce != "" {
		return c.Conn.Write(p)
	}
	if err := c.announce(); err != nil {
		return 0, err
	}
	return len(p), nil
}

// announce sends a marker with a new nonce, and what came after the one before it. c.mu is held.
func (c *hostConn) announce() error {
	random := make([]byte, nonceLen/2)
	_, _ = rand.Read(random) // it never fails
	c.nonce = hex.EncodeToString(random)
	if _, err := c.Conn.Write(append([]byte(hello+c.nonce+end), c.early...)); err != nil {
		return err
	}
	c.timer = time.AfterFunc(c.pause, c.announceAgain)
	c.pause *= 2
	return nil
}

func (c *hostConn) announceAgain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.synced {
		_ = c.announce() // who reads sees the error too
	}
}

func (c *hostConn) Read(p []byte) (int, error) {
	c.read.Lock()
	defer c.read.Unlock()
	if !c.isSynced(nil) {
		if err := c.await(); err != nil {
			return 0, err
		}
	}
	if len(c.rest) > 0 {
		n := copy(p, c.rest)
		c.rest = c.rest[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// await drops everything up to the echo of this connection's last nonce.
func (c *hostConn) await() error {
	var seen []byte
	buf := make([]byte, 32<<10)
	for {
		n, err := c.Conn.Read(buf)
		seen = append(seen, buf[:n]...)
		if c.isSynced(seen) {
			return nil
		}
		if err != nil {
			c.stop()
			return err
		}
		seen = seen[max(0, len(seen)-markerLen):]
	}
}

// isSynced looks for the echo in seen, once there was none, and keeps what follows it.
func (c *hostConn) isSynced(seen []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.synced || c.nonce == "" {
		return c.synced
	}
	_, rest, found := bytes.Cut(seen, []byte(ready+c.nonce+end))
	if found {
		c.synced, c.rest, c.early = true, rest, nil
		c.timer.Stop()
	}
	return found
}

// stop sends no more markers.
func (c *hostConn) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
}

// Close may come while a Write waits for the port, and ends it.
func (c *hostConn) Close() error {
	err := c.Conn.Close()
	c.stop()
	return err
}
