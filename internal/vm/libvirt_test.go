package vm

import (
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
