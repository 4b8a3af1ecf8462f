// Package loopback tells whose a connection is. A port of 127.0.0.1 is open to each user of this machine; QEMU's network interface
// connects to one, and can neither take a UNIX socket from libvirt nor prove who it is.
package loopback

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Accept returns the next connection that a process of a user of this machine has made by IPv4, and closes all others. The error is
// the listener's.
func Accept(l net.Listener, uid int) (net.Conn, error) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return nil, err
		}
		// Once more, because the kernel reads uid and inode one after the other, and what is closed between them looks like
		// root's.
		if err = belongs(conn, uid); err == nil {
			err = belongs(conn, uid)
		}
		if err == nil {
			return conn, nil
		}
		slog.Warn("a stranger's connection is refused", "address", l.Addr(), "want-uid", uid, "error", err)
		_ = conn.Close()
	}
}

// belongs demands that the other end of a connection is open in a process of the user.
func belongs(conn net.Conn, uid int) error {
	owner, err := ownerOf(conn.RemoteAddr(), conn.LocalAddr())
	if err == nil && owner != uid {
		err = fault.Inputf("it is of uid %d", owner)
	}
	return err
}

// tcpTable has a line for each IPv4 socket (proc_net_tcp, Linux documentation).
const tcpTable = "/proc/net/tcp"

// Fields of a line.
const (
	localField  = 1
	remoteField = 2
	uidField    = 7
	inodeField  = 9
)

// ownerOf returns the uid of the socket between two addresses. One that its process has closed is nobody's: the kernel calls it
// root's, with inode 0.
func ownerOf(local, remote net.Addr) (int, error) {
	table, err := os.ReadFile(tcpTable)
	if err != nil {
		return 0, err
	}
	from, to := field(local), field(remote)
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) <= inodeField || f[localField] != from || f[remoteField] != to {
			continue
		}
		if f[inodeField] == "0" {
			return 0, fault.Inputf("%v is closed already", local)
		}
		return strconv.Atoi(f[uidField])
	}
	return 0, fault.Inputf("%s has no socket of %v", tcpTable, local)
}

// field is an address as the table has it: the four bytes as this machine reads a number, "" for what is no IPv4.
func field(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || tcp.IP.To4() == nil {
		return ""
	}
	return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(tcp.IP.To4()), tcp.Port)
}
