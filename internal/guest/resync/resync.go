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

// Begin makes a connection of the host's side of a port. It neither reads nor writes: the marker goes out with what is written
// first, and the first Read waits for the echo.
func Begin(port net.Conn) net.Conn {
	random := make([]byte, nonceLen/2)
	_, _ = rand.Read(random) // it never fails
	return &hostConn{Conn: port, nonce: hex.EncodeToString(random)}
}

type hostConn struct {
	net.Conn
	nonce string

	write sync.Mutex
	begun bool

	read   sync.Mutex
	synced bool
	rest   []byte // came with the echo
}

func (c *hostConn) Write(p []byte) (int, error) {
	c.write.Lock()
	defer c.write.Unlock()
	if c.begun {
		return c.Conn.Write(p)
	}
	c.begun = true
	marker := hello + c.nonce + end
	n, err := c.Conn.Write(append([]byte(marker), p...))
	return max(0, n-len(marker)), err
}

func (c *hostConn) Read(p []byte) (int, error) {
	c.read.Lock()
	defer c.read.Unlock()
	if !c.synced {
		if err := c.await(); err != nil {
			return 0, err
		}
		c.synced = true
	}
	if len(c.rest) > 0 {
		n := copy(p, c.rest)
		c.rest = c.rest[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// await drops everything up to the echo of this connection's nonce.
func (c *hostConn) await() error {
	echo := []byte(ready + c.nonce + end)
	var seen []byte
	buf := make([]byte, 32<<10)
	for {
		n, err := c.Conn.Read(buf)
		seen = append(seen, buf[:n]...)
		if i := bytes.Index(seen, echo); i >= 0 {
			c.rest = seen[i+len(echo):]
			return nil
		}
		if err != nil {
			return err
		}
		seen = seen[max(0, len(seen)-len(echo)):]
	}
}
