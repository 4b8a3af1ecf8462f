package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func TestConsole(t *testing.T) {
	here, machine := net.Pipe()
	c := NewConsole(here)
	defer c.Close()
	go func() {
		// In pieces that cut escape sequences apart, as a serial port does.
		for _, piece := range []string{"\x1b[0", ";32mDebian\x1b[0m GNU/", "Linux 13\r\n\r\nlocalhost \x1b]0;ti", "tle\x07lo", "gin: "} {
			io.WriteString(machine, piece)
		}
		buf := make([]byte, 100)
		n, _ := machine.Read(buf)
		fmt.Fprintf(machine, "got %q\r\n# ", buf[:n])
	}()
	prompt := regexp.MustCompile(`login: $`)
	i, text, err := c.Expect(within(t, 5*time.Second), regexp.MustCompile(`emergency mode`), prompt)
	if err != nil || i != 1 || text != "Debian GNU/Linux 13\n\nlocalhost login: " {
		t.Fatalf("%d, %q, %v", i, text, err)
	}
	if err := c.Send(within(t, 5*time.Second), "root\n"); err != nil {
		t.Fatal(err)
	}
	if _, text, err = c.Expect(within(t, 5*time.Second), regexp.MustCompile(`# $`)); err != nil || text != "got \"root\\r\"\n# " {
		t.Errorf("%q, %v", text, err)
	}

	// What was matched once does not match again; a hang is bounded and shows the last lines.
	go io.WriteString(machine, "and then silence")
	_, _, err = c.Expect(within(t, 200*time.Millisecond), prompt)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "and then silence") {
		t.Errorf("a hang: %v", err)
	}
	machine.Close()
	if _, _, err := c.Expect(within(t, 5*time.Second), prompt); err == nil || !strings.Contains(err.Error(), "the machine stopped") {
		t.Errorf("a machine that stops: %v", err)
	}
}

func TestExpectEarliest(t *testing.T) {
	here, machine := net.Pipe()
	c := NewConsole(here)
	defer c.Close()
	go io.WriteString(machine, "panic, then login: ")
	time.Sleep(50 * time.Millisecond)
	i, text, err := c.Expect(within(t, 5*time.Second), regexp.MustCompile(`login:`), regexp.MustCompile(`panic`))
	if err != nil || i != 1 || text != "panic" {
		t.Errorf("%d, %q, %v", i, text, err)
	}
}

func TestPlain(t *testing.T) {
	for _, row := range []struct{ summary, in, want string }{
		{"colours", "[\x1b[0;32m  OK  \x1b[0m] Started", "[  OK  ] Started"},
		{"carriage returns and NULs", "a\r\nb\x00c", "a\nbc"},
		{"a terminal's title", "\x1b]0;title\x07text", "text"},
		{"a title that ends as in ECMA-48", "\x1b]0;title\x1b\\text", "text"},
		{"a title without an end loses its line", "\x1b]0;title\ntext", "text"},
		{"character sets and keypad modes", "\x1b(B\x1b=text\x1b7", "text"},
		{"systemd's question for the terminal's size", "\x1b[32766;32766H\x1b[6n\x1b[!p", ""},
		{"UTF-8 stays", "Grüße …", "Grüße …"},
		{"tabs stay", "a\tb", "a\tb"},
	} {
		if got := Plain([]byte(row.in)); got != row.want {
			t.Errorf("%s: %q", row.summary, got)
		}
	}
}

func TestTail(t *testing.T) {
	if got := Tail([]byte("1\r\n2\r\n3\r\n\r\n"), 2); got != "2\n3" {
		t.Errorf("%q", got)
	}
	if got := Tail(nil, 2); got != "" {
		t.Errorf("%q", got)
	}
}

func TestConsoleHostKeys(t *testing.T) {
	first, second, old := newSigner(t).PublicKey(), newSigner(t).PublicKey(), newSigner(t).PublicKey()
	line := func(k ssh.PublicKey) string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k))) }
	block := func(lines ...string) string {
		return "-----BEGIN SSH HOST KEY KEYS-----\r\n" + strings.Join(lines, "\r\n") + "\r\n-----END SSH HOST KEY KEYS-----\r\n"
	}
	for _, row := range []struct {
		summary, console string
		want             []ssh.PublicKey
	}{
		{"nothing yet", "Booting\r\n", nil},
		{"two keys with their comments", block(line(first)+" root@probe", line(second)+" root@probe"), []ssh.PublicKey{first, second}},
		{"a prefix of cloud-init and colours", block("\x1b[0mcloud-init[345]: " + line(first)), []ssh.PublicKey{first}},
		{"a kernel message between", block(line(first), "[   12.3] random: crng init done", line(second)), []ssh.PublicKey{first, second}},
		{"a torn key is none", block(line(first)[:40], line(second)), []ssh.PublicKey{second}},
		{"not complete yet", "-----BEGIN SSH HOST KEY KEYS-----\r\n" + line(first) + "\r\n", nil},
		{"the last of two boots counts", block(line(old)) + "reboot\r\n" + block(line(first)), []ssh.PublicKey{first}},
		{"the fingerprints' block is another", "-----BEGIN SSH HOST KEY FINGERPRINTS-----\r\n" + line(old) + "\r\n-----END SSH HOST KEY FINGERPRINTS-----\r\n" + block(line(first)), []ssh.PublicKey{first}},
	} {
		keys := ConsoleHostKeys([]byte(row.console))
		if len(keys) != len(row.want) {
			t.Errorf("%s: %d keys", row.summary, len(keys))
			continue
		}
		for i, k := range row.want {
			if line(keys[i]) != line(k) {
				t.Errorf("%s: key %d is %s", row.summary, i, line(keys[i]))
			}
		}
	}
	accept := HostKeys{first}.Callback()
	if err := accept("", nil, first); err != nil {
		t.Error(err)
	}
	if err := accept("", nil, old); err == nil || !strings.Contains(err.Error(), ssh.FingerprintSHA256(first)) {
		t.Errorf("a strange key: %v", err)
	}
}
