package boot

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/guest"
)

// fakeTerminal answers on a serial console as a guest does: it prints greeting, and reply after the user name.
// Behind a root prompt it takes the probes and runs them with output.
func fakeTerminal(t *testing.T, greeting, reply, output string) *guest.Console {
	t.Helper()
	ours, theirs := net.Pipe()
	console := guest.NewConsole(ours)
	t.Cleanup(func() { console.Close(); theirs.Close() })
	go func() {
		fmt.Fprint(theirs, greeting)
		lines := bufio.NewScanner(keystrokes{theirs})
		if !lines.Scan() || lines.Text() != "root" {
			return
		}
		fmt.Fprint(theirs, "root\r\n"+reply)
		serveProbes(theirs, lines, output)
	}()
	return console
}

// keystrokes turns Enter into the line end that a terminal's line discipline makes of it.
type keystrokes struct{ net.Conn }

func (k keystrokes) Read(p []byte) (int, error) {
	n, err := k.Conn.Read(p)
	copy(p, bytes.ReplaceAll(p[:n], []byte("\r"), []byte("\n")))
	return n, err
}

func serveProbes(terminal net.Conn, lines *bufio.Scanner, output string) {
	var ready string
	prompt := "> " // PS2, in a here-document
	for lines.Scan() {
		switch line := lines.Text(); {
		case strings.Contains(line, "PS2=''"):
			prompt = ""
		case strings.HasPrefix(line, "base64 -d"):
			ready = line[strings.LastIndexByte(line, ' ')+1:]
		case line == "EOF":
			fmt.Fprintf(terminal, "%s\r\n%s\r\n", prompt, ready)
		case strings.HasPrefix(line, "echo; echo "):
			nonce := strings.TrimSuffix(strings.Fields(line)[2], "-begin;")
			text := packed(strings.ReplaceAll(output, "NONCE", nonce))
			fmt.Fprintf(terminal, "\r\n%s-begin\r\n[   99.0] kernel: a message in between\r\n%s%s-end\r\n", nonce, strings.ReplaceAll(text, "\n", "\r\n"), nonce)
		case ready != "" && base64Line.MatchString(line):
			fmt.Fprint(terminal, prompt)
		}
	}
}

func TestLoginSerial(t *testing.T) {
	const issue = "\r\nDebian GNU/Linux 13 localhost ttyS0\r\n\r\nlocalhost login: "
	for _, row := range []struct {
		summary, greeting, reply string
		want                     string // part of the error, "" where the login works
	}{
		{"root gets a shell at once", issue, "Linux localhost 6.12\r\n\x1b[?2004hroot@localhost:~# ", ""},
		{"a first-boot wizard asks before the login", "Welcome to your new installation of Debian GNU/Linux!\r\n-- Press any key to proceed --", "", "first-boot wizard"},
		{"a wizard asks for the locale", "\r\n‣ Please enter system locale name or number: ", "", "first-boot wizard"},
		{"root has a password", issue, "Password: ", "asked for a password"},
		{"root may not log in there", issue, "\r\nLogin incorrect\r\nlocalhost login: ", "cannot log in"},
		{"nothing ever asks", "[  OK  ] Reached target multi-user.target\r\n", "", "no login on the serial console"},
	} {
		t.Run(row.summary, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err := loginSerial(ctx, fakeTerminal(t, row.greeting, row.reply, ""))
			switch {
			case row.want == "" && err != nil:
				t.Errorf("login failed: %v", err)
			case row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)):
				t.Errorf("got %v, want an error with %q", err, row.want)
			}
		})
	}
}

func TestOverSerial(t *testing.T) {
	output := "@@NONCE begin boot_id\n2bf4eb11-9536-4ae2-9a31-a5896a85c92a\n\n@@NONCE end boot_id 0 3\n"
	console := fakeTerminal(t, "localhost login: ", "root@localhost:~# ", output)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := loginSerial(ctx, console); err != nil {
		t.Fatal(err)
	}
	run, err := overSerial(ctx, console)
	if err != nil {
		t.Fatal(err)
	}
	got, err := run(ctx, "abcd", []string{"boot_id"})
	if err != nil {
		t.Fatal(err)
	}
	want := probe{out: "2bf4eb11-9536-4ae2-9a31-a5896a85c92a", took: 30 * time.Millisecond}
	if p := parseProbes(got, "abcd")["boot_id"]; p != want {
		t.Errorf("got %+v, want %+v", p, want)
	}
}

func TestUnpackedDamage(t *testing.T) {
	good := "x\nabcd-begin\n" + packed("some text") + "abcd-end"
	if text, err := unpacked(good, "abcd"); err != nil || text != "some text" {
		t.Errorf("got %q, %v", text, err)
	}
	for summary, text := range map[string]string{
		"no begin":     packed("some text") + "abcd-end",
		"a lost line":  "abcd-begin\nabcd-end",
		"a lost byte":  strings.Replace(good, "A", "", 1),
		"another byte": "abcd-begin\nH4sIAAAAAAAA\nabcd-end",
	} {
		if _, err := unpacked(text, "abcd"); err == nil {
			t.Errorf("%s was not noticed", summary)
		}
	}
}
