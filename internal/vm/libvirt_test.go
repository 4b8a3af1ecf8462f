package vm

import (
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// TestDial meets daemons that hang, and that hang up.
func TestDial(t *testing.T) {
	for _, row := range []struct {
		summary string
		answer  func(net.Conn)
		says    string
	}{
		{"it never answers", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, "deadline exceeded"},
		{"it hangs up at once", func(c net.Conn) { _ = c.Close() }, ""},
		{"it hangs up when it was asked", func(c net.Conn) { _, _ = c.Read(make([]byte, 28)); _ = c.Close() }, ""},
		{"it answers half", func(c net.Conn) { _, _ = c.Write([]byte{0, 0, 0, 64, 0x20, 0, 0x80, 0x86}); _ = c.Close() }, ""},
	} {
		t.Run(row.summary, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "sock")
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				if c, err := l.Accept(); err == nil {
					row.answer(c)
				}
			}()
			uri := "qemu:///system?socket=" + path
			_, err = dial(testContext(t, time.Second), uri)
			if fault.KindOf(err) != fault.Outside || !strings.Contains(err.Error(), "connect to "+uri) || !strings.Contains(err.Error(), row.says) {
				t.Errorf("%v", err)
			}
			select {
			case <-gone: // the connection was closed
			case <-time.After(10 * time.Second):
				t.Error("the connection is still open")
			}
		})
	}
}

// TestHangUpOnceOpen holds, under the race detector, that a daemon may die as soon as it has let somebody in.
func TestHangUpOnceOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		const oneKind, noAuthentication = 1, 0
		answer(c, oneKind, noAuthentication)
		answer(c)
	}()
	c, err := dial(t.Context(), "qemu:///system?socket="+path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if err := c.destroy(t.Context(), "debcloud-job-1"); fault.KindOf(err) != fault.Outside {
		t.Errorf("%v", err)
	}
}

// answer reads a call of libvirt's protocol, and says that it went well.
func answer(c net.Conn, words ...uint32) {
	var length uint32
	if binary.Read(c, binary.BigEndian, &length) != nil {
		return
	}
	call := make([]byte, length-4)
	if _, err := io.ReadFull(c, call); err != nil {
		return
	}
	const reply = 1
	binary.BigEndian.PutUint32(call[12:], reply)
	packet := binary.BigEndian.AppendUint32(nil, uint32(4+24+4*len(words)))
	packet = append(packet, call[:24]...)
	for _, w := range words {
		packet = binary.BigEndian.AppendUint32(packet, w)
	}
	_, _ = c.Write(packet)
}
