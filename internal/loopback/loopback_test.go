package loopback

import (
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/loopback/loopbacktest"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func dial(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func stranger(t *testing.T, l net.Listener) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	cmd, err := loopbacktest.Stranger(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return cmd
}

// acceptsOwn demands that the next connection of this process's user is the one that this makes now.
func acceptsOwn(t *testing.T, l net.Listener) {
	t.Helper()
	own := dial(t, l)
	conn, err := Accept(l, os.Geteuid())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if conn.RemoteAddr().String() != own.LocalAddr().String() {
		t.Errorf("accepted %v, want %v", conn.RemoteAddr(), own.LocalAddr())
	}
}

func TestAccept(t *testing.T) {
	t.Run("a stranger who is first is hung up on", func(t *testing.T) {
		l := listen(t)
		first := stranger(t, l)
		acceptsOwn(t, l)
		if err := first.Wait(); err != nil {
			t.Errorf("he was not hung up on: %v", err)
		}
	})
	t.Run("the user who is named counts", func(t *testing.T) {
		l := listen(t)
		dial(t, l)
		theirs := stranger(t, l)
		conn, err := Accept(l, loopbacktest.Nobody)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		if err := theirs.Wait(); err != nil {
			t.Errorf("the one who was waited for was refused: %v", err)
		}
	})
	t.Run("what a stranger has closed is not root's", func(t *testing.T) {
		l := listen(t)
		first := stranger(t, l)
		_ = first.Process.Kill()
		_ = first.Wait()
		acceptsOwn(t, l)
	})
	t.Run("an IPv6 socket is in another table", func(t *testing.T) {
		l := listen(t)
		connectMapped(t, l)
		acceptsOwn(t, l)
	})
	t.Run("the listener's end is the end", func(t *testing.T) {
		l := listen(t)
		refused := dial(t, l)
		go func() {
			_, _ = refused.Read(make([]byte, 1)) // until it is hung up on
			_ = l.Close()
		}()
		if conn, err := Accept(l, os.Geteuid()+1); err == nil {
			t.Errorf("accepted %v", conn.RemoteAddr())
		}
	})
}

// connectMapped reaches the port from a socket of the other family.
func connectMapped(t *testing.T, l net.Listener) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	to := &syscall.SockaddrInet6{Port: l.Addr().(*net.TCPAddr).Port}
	copy(to.Addr[:], net.IPv4(127, 0, 0, 1).To16())
	if err := syscall.Connect(fd, to); err != nil {
		t.Skip(err)
	}
}
