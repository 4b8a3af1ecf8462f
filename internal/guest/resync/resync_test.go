package resync_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/guest/porttest"
	"salsa.debian.org/cloud-team/debcloud/internal/guest/resync"
)

func begin(t *testing.T, p *porttest.Port) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := p.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return resync.Begin(c)
}

// echo answers each connection with what it says, until it is at its end.
func echo(t *testing.T, p *porttest.Port) *resync.Listener {
	t.Helper()
	l := resync.Listen(p)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	return l
}

func demandEcho(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	failed := time.AfterFunc(20*time.Second, func() { c.Close() })
	defer failed.Stop()
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("said %q, heard %q, %v", text, got, err)
	}
}

func TestConnectionsFollowEachOther(t *testing.T) {
	for _, row := range []struct {
		summary         string
		toGuest, toHost string
	}{
		{"a quiet port", "", ""},
		{"bytes of an earlier connection both ways", "old to guest", "old to host"},
		{"a torn marker before", "\x00debcloud-hel", "\x00debcloud-ready:0123"},
		{"a marker without a nonce", "\x00debcloud-hello:Zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz\n", ""},
		{"a marker without an end", "\x00debcloud-hello:00000000000000000000000000000000!", ""},
		{"a marker that nobody waits for", "\x00debcloud-hello:00000000000000000000000000000000\nSSH-2.0-old\r\n", ""},
		{"a marker in a marker", "\x00debcloud-hello:000\x00debcloud-hello:00000000000000000000000000000000\n", ""},
		{"the echo of another nonce", "", "\x00debcloud-ready:00000000000000000000000000000000\nSSH-2.0-old\r\n"},
	} {
		t.Run(row.summary, func(t *testing.T) {
			p := porttest.New()
			p.Inject([]byte(row.toGuest), []byte(row.toHost))
			echo(t, p)
			for range 3 {
				c := begin(t, p)
				demandEcho(t, c, "hello, port")
				demandEcho(t, c, "again")
				_, _ = io.WriteString(c, "and nobody waits for the answer")
				c.Close()
			}
		})
	}
}

// What might begin a marker is not held back: the other side may wait for just that byte.
func TestNothingIsHeldBack(t *testing.T) {
	p := porttest.New()
	echo(t, p)
	c := begin(t, p)
	defer c.Close()
	const marker = "\x00debcloud-hello:0123456789abcdef0123456789abcdef"
	for i := range len(marker) {
		demandEcho(t, c, marker[:i+1])
	}
}

// The host goes and comes back before the guest has read anything: it sees one stream.
func TestMarkerInTheMiddle(t *testing.T) {
	p := porttest.New()
	l := resync.Listen(p)
	defer l.Close()
	first := begin(t, p)
	go io.WriteString(first, "first")
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "first" {
		t.Fatalf("%q, %v", got, err)
	}
	p.Inject([]byte("the rest of it \x00deb\x00debcloud-hello:0123456789abcdef0123456789abcdef\nsecond"), nil)
	rest, err := io.ReadAll(c)
	if err != nil || string(rest) != "the rest of it \x00deb" {
		t.Errorf("the first connection ends with %q, %v", rest, err)
	}
	if _, err := c.Write([]byte("too late")); err == nil {
		t.Error("the first connection still writes")
	}
	c2, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	got = make([]byte, 6)
	if _, err := io.ReadFull(c2, got); err != nil || string(got) != "second" {
		t.Errorf("%q, %v", got, err)
	}
}

// A guest that starts anew tells a host that believes in its connection.
func TestGuestStartsAnew(t *testing.T) {
	p := porttest.New()
	l := resync.Listen(p)
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.Copy(c, c)
		}
	}()
	c := begin(t, p)
	demandEcho(t, c, "hello")
	l.Close()
	p.Reopen()
	echo(t, p)
	got := make([]byte, 16)
	n, err := io.ReadAtLeast(c, got, 4)
	if err != nil || !bytes.HasPrefix(got[:n], []byte("\x00deb")) {
		t.Errorf("heard %q, %v", got[:n], err)
	}
	c.Close()
	demandEcho(t, begin(t, p), "hello again")
}

// An agent that was about to end takes the first marker with it.
func TestMarkerIsLost(t *testing.T) {
	p := porttest.New()
	c := begin(t, p)
	defer c.Close()
	if _, err := io.WriteString(c, "first words"); err != nil {
		t.Fatal(err)
	}
	for taken := 0; taken < len("first words")+40; {
		n, err := p.Read(make([]byte, 1000))
		if err != nil {
			t.Fatal(err)
		}
		taken += n
	}
	echo(t, p)
	got := make([]byte, 11)
	failed := time.AfterFunc(20*time.Second, func() { c.Close() })
	defer failed.Stop()
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "first words" {
		t.Errorf("%q, %v", got, err)
	}
	demandEcho(t, c, "and more")
}

func TestPortFails(t *testing.T) {
	p := porttest.New()
	l := resync.Listen(p)
	p.Close()
	if _, err := l.Accept(); err == nil {
		t.Error("a closed port accepts")
	}
}

// FuzzListen cuts a stream with garbage in it into pieces of any size: a connection that begins after it is whole.
func FuzzListen(f *testing.F) {
	f.Add([]byte("\x00debcloud-hello:\x00debcloud-hello:0"), uint8(1))
	f.Add([]byte("\x00\x00\x00debcloud-hello:00000000000000000000000000000000\n"), uint8(7))
	f.Add(bytes.Repeat([]byte("\x00debcloud-hello:"), 40), uint8(3))
	f.Fuzz(func(t *testing.T, garbage []byte, piece uint8) {
		if len(garbage) > 10_000 {
			return
		}
		stream := append(bytes.Clone(garbage), "\x00debcloud-hello:0123456789abcdef0123456789abcdef\nwhole"...)
		p := &pieces{rest: stream, size: int(piece%64) + 1, over: make(chan struct{})}
		l := resync.Listen(p)
		defer l.Close()
		for {
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			got, _ := io.ReadAll(c)
			if string(got) == "whole" {
				return
			}
		}
	})
}

// pieces is a port that gives a stream, and then nothing.
type pieces struct {
	rest []byte
	size int
	over chan struct{}
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		select {
		case <-p.over:
			return 0, net.ErrClosed
		default:
			return 0, io.EOF
		}
	}
	n := copy(b[:min(len(b), p.size)], p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *pieces) Write(b []byte) (int, error) { return len(b), nil }
func (p *pieces) Close() error                { close(p.over); return nil }
