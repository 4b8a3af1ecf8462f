package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"salsa.debian.org/cloud-team/debcloud/internal/guest"
)

// Messages of OpenSSH's extension (PROTOCOL, section 2.4).
type (
	directSocket struct {
		Path     string
		Reserved string
		Zero     uint32
	}
	forwardedSocket struct{ Path, Reserved string }
)

// dialSocket leads a channel to a UNIX socket of the guest.
func (c *connection) dialSocket(n ssh.NewChannel) {
	var m directSocket
	if err := ssh.Unmarshal(n.ExtraData(), &m); err != nil {
		_ = n.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	conn, err := new(net.Dialer).DialContext(c.ctx, "unix", m.Path)
	if err != nil {
		_ = n.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer conn.Close()
	channel, requests, err := n.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	go ssh.DiscardRequests(requests)
	defer context.AfterFunc(c.ctx, func() { _ = conn.Close() })()
	guest.Join(conn, channel)
}

// listenSocket makes a UNIX socket in the guest that leads to the host.
func (c *connection) listenSocket(payload []byte) error {
	path := stringOf(payload)
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%q is no absolute path of a socket", path)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || c.sockets[path] != nil {
		return fmt.Errorf("socket %q is there already", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	// What another connection or an agent before this one left there, and nothing but a socket.
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == os.ModeSocket {
		_ = os.Remove(path)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	c.sockets[path] = l
	go c.forward(l, path)
	return os.Chmod(path, 0o600)
}

func (c *connection) closeSocket(payload []byte) error {
	path := stringOf(payload)
	c.mu.Lock()
	l := c.sockets[path]
	delete(c.sockets, path)
	c.mu.Unlock()
	if l == nil {
		return fmt.Errorf("no socket %q", path)
	}
	return l.Close()
}

func (c *connection) forward(l net.Listener, path string) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			channel, requests, err := c.ssh.OpenChannel("forwarded-streamlocal@openssh.com", ssh.Marshal(forwardedSocket{Path: path}))
			if err != nil {
				return
			}
			defer channel.Close()
			go ssh.DiscardRequests(requests)
			defer context.AfterFunc(c.ctx, func() { _ = conn.Close() })()
			guest.Join(conn, channel)
		}()
	}
}
