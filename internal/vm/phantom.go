package vm

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/digitalocean/go-libvirt"
	"golang.org/x/sys/unix"
)

// A phantom is a domain that libvirt believes for ever to be starting. libvirtd writes a status file when it begins a
// start, and again when QEMU's process is there. Killed between the two, it reads that file when it is back, looks for no
// process because none is named (qemuProcessReconnectHelper in its qemu_process.c; seen with 9.0.0), and makes all who would
// end the domain wait for the end of its start. It knows nothing of the start when it is restarted without that file.

const (
	// statusDir is where libvirt's QEMU driver keeps the status of running domains, in files whose names end with statusSuffix.
	statusDir    = "/run/libvirt/qemu"
	statusSuffix = ".xml"
	// phantomSuffix is what the status of a removed phantom is renamed to, so that libvirt does not read it.
	phantomSuffix = ".debcloud-phantom"
)

// errForgotten is the answer about a phantom that was removed.
var errForgotten = errors.New("nothing of it runs, and libvirt will know when it is restarted")

// removePhantom removes all that there is of a domain that libvirt refuses to end, where that is a phantom; else it returns
// the refusal. libvirt goes on showing it, its Node does not.
func (n *Node) removePhantom(ctx context.Context, name string, refusal error) error {
	if !hasCode(refusal, libvirt.ErrOperationTimeout) || !n.conn.phantom(ctx, name) {
		return refusal
	}
	if err := n.removeRest(ctx, name); err != nil {
		return err
	}
	if err := os.Rename(n.conn.statusFile(name, statusSuffix), n.conn.statusFile(name, phantomSuffix)); err != nil {
		return fmt.Errorf("%w; %w", refusal, err)
	}
	slog.WarnContext(ctx, "libvirtd was killed while it started a domain, and shows it until it is restarted; nothing of it runs", "domain", name)
	return nil
}

// phantom tells that a domain is being started, and by nobody.
func (c *connection) phantom(ctx context.Context, name string) bool {
	starting := false
	err := c.with(ctx, "look at", name, func(d libvirt.Domain) error {
		state, reason, err := c.rpc.DomainGetState(d, 0)
		starting = isStarting(libvirt.DomainState(state), reason)
		return err
	})
	if err != nil || !starting {
		return false
	}
	b, err := os.ReadFile(c.statusFile(name, statusSuffix))
	if err != nil {
		return false
	}
	var status struct {
		PID *int `xml:"pid,attr"`
	}
	return xml.Unmarshal(b, &status) == nil && status.PID != nil && *status.PID == 0
}

// forgotten tells a phantom that was removed.
func (c *connection) forgotten(name string, state libvirt.DomainState, reason int32) bool {
	return isStarting(state, reason) && exists(c.statusFile(name, phantomSuffix))
}

func isStarting(state libvirt.DomainState, reason int32) bool {
	return state == libvirt.DomainPaused && libvirt.DomainPausedReason(reason) == libvirt.DomainPausedStartingUp
}

// statusFile is a domain's, as this process sees it: the daemon may live in a mount namespace of its own.
func (c *connection) statusFile(name, suffix string) string {
	return filepath.Join(rootOf(c.conn), statusDir, name+suffix)
}

// rootOf is the root directory of the process that listens behind a UNIX socket.
func rootOf(conn net.Conn) string {
	const own = "/"
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return own
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return own
	}
	root := own
	_ = raw.Control(func(fd uintptr) {
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil && peer.Pid > 0 {
			root = fmt.Sprintf("/proc/%d/root", peer.Pid)
		}
	})
	return root
}
