// Package agent serves the SSH protocol in a job VM, on a virtio-serial port: it needs no network and no address, and is
// there before either. internal/guest is its client.
//
// What it offers: commands (exec) with signals to their process groups, SFTP, sockets of the guest reached from the host and of the
// host reached from the guest (OpenSSH's streamlocal extensions), and the identity of a VM. Whoever holds the VM's
// secret is root; there are no terminals and no other users.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/ssh"

	"salsa.debian.org/cloud-team/debcloud/internal/guest"
	"salsa.debian.org/cloud-team/debcloud/internal/guest/resync"
)

// Options say how to serve.
type Options struct {
	Secret guest.Secret
	Path   []string // directories that come first on the PATH of commands
	Root   string   // where files of the identity are written; "" is /, and only there the kernel is told too
	Groups *Groups  // nil: commands are told apart by their process groups alone
}

// Serve serves a port until ctx ends or the port fails. It returns nil for the former; no process that it started for a
// connection runs on then, but those that were to stay.
func Serve(ctx context.Context, port resync.Port, o Options) error {
	l := resync.Listen(port)
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	s := &server{Options: o, config: sshConfig(o.Secret), environment: environment(o.Path)}
	defer s.connections.Wait()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("agent port: %w", err)
		}
		s.connections.Go(func() { s.serve(ctx, conn) })
	}
}

type server struct {
	Options
	config      *ssh.ServerConfig
	environment []string
	connections sync.WaitGroup
}

// sshConfig lets in who holds the secret. One key exchange and the ciphers that are cheap where a processor is emulated: the
// stream never leaves the machine.
func sshConfig(secret guest.Secret) *ssh.ServerConfig {
	known := string(secret.ClientKey().PublicKey().Marshal())
	config := &ssh.ServerConfig{
		ServerVersion: "SSH-2.0-debcloud",
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if string(key.Marshal()) != known {
				return nil, errors.New("the key is not of this VM's secret")
			}
			return nil, nil
		},
	}
	config.KeyExchanges = []string{ssh.KeyExchangeCurve25519}
	config.Ciphers = []string{ssh.CipherAES128GCM}
	config.AddHostKey(secret.HostKey())
	return config
}

// environment is all that a command gets to know of this process's.
func environment(path []string) []string {
	all := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for i := len(path) - 1; i >= 0; i-- {
		all = path[i] + ":" + all
	}
	home := "/root"
	if os.Geteuid() != 0 { // where somebody tries it
		home, _ = os.UserHomeDir()
	}
	return []string{"PATH=" + all, "HOME=" + home, "USER=root", "LOGNAME=root", "SHELL=/bin/bash", "LANG=C.UTF-8"}
}

// connection is one host's. Its end is the end of what it started.
type connection struct {
	*server
	conn   *watched
	ssh    *ssh.ServerConn
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	over    bool
	running map[*process]bool
	sockets map[string]net.Listener
}

func (s *server) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	w := &watched{Conn: conn}
	sc, channels, requests, err := ssh.NewServerConn(w, s.config)
	if err != nil {
		slog.InfoContext(ctx, "connection refused", "reason", err)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &connection{server: s, conn: w, ssh: sc, ctx: ctx, cancel: cancel, running: map[*process]bool{}, sockets: map[string]net.Listener{}}
	slog.InfoContext(ctx, "connected")
	go c.answer(requests)
	for n := range channels {
		go c.open(n)
	}
	c.end()
	slog.InfoContext(ctx, "disconnected")
}

// watched remembers that a connection ended before SSH knows: it tells readers of its channels no more than that they are
// at the end.
type watched struct {
	net.Conn
	gone atomic.Bool
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil {
		w.gone.Store(true)
	}
	return n, err
}

func (c *connection) open(n ssh.NewChannel) {
	switch n.ChannelType() {
	case "session":
		c.session(n)
	case "direct-streamlocal@openssh.com":
		c.dialSocket(n)
	default:
		_ = n.Reject(ssh.UnknownChannelType, fmt.Sprintf("no channels of type %q", n.ChannelType()))
	}
}

// answer serves global requests.
func (c *connection) answer(requests <-chan *ssh.Request) {
	for r := range requests {
		var err error
		switch r.Type {
		case guest.PingRequest:
		case guest.IdentityRequest:
			err = setIdentity(c.Root, r.Payload)
		case "streamlocal-forward@openssh.com":
			err = c.listenSocket(r.Payload)
		case "cancel-streamlocal-forward@openssh.com":
			err = c.closeSocket(r.Payload)
		default:
			err = fmt.Errorf("no requests of type %q", r.Type)
		}
		var reason []byte
		if err != nil {
			slog.InfoContext(c.ctx, "request refused", "type", r.Type, "reason", err)
			reason = []byte(err.Error())
		}
		if r.WantReply {
			_ = r.Reply(err == nil, reason)
		}
	}
}

// end ends what the connection started.
func (c *connection) end() {
	c.mu.Lock()
	c.over = true
	running, sockets := c.running, c.sockets
	c.running, c.sockets = nil, nil
	c.mu.Unlock()
	for p := range running {
		p.abandon()
	}
	for _, l := range sockets {
		_ = l.Close()
	}
	c.cancel()
}
