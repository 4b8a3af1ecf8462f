package boot

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/guest"
	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
)

// What a serial console can show that matters to somebody who wants to log in.
var (
	atLogin    = lazyregexp.New(`(?m)^\S+ login: `) // messages can follow on the same line
	atPassword = lazyregexp.New(`(?m)^Password: `)
	atRefusal  = lazyregexp.New(`(?m)^Login incorrect`)
	atPrompt   = lazyregexp.New(`(?m)^[^\n]*root@[^\n]*# $`)
)

// exerciseSerial brings an image without cloud-init through the test, on its serial console alone: a root login
// without any question, then the probes that apply, a reboot, and power-off.
func (m *machine) exerciseSerial(ctx context.Context) error {
	rw, err := m.domain.OpenConsole(ctx)
	if err != nil {
		return err
	}
	console := guest.NewConsole(rw)
	defer console.Close()
	if err := loginSerial(ctx, console); err != nil {
		return err
	}
	m.task.Say("root login after %.0f s", m.marks.after(time.Now()))
	run, err := overSerial(ctx, console)
	if err != nil {
		return err
	}
	if err := m.interrogateSerial(ctx, run); err != nil {
		return err
	}
	if !m.elsewhere[rebootCheck] {
		if err := m.rebootSerial(ctx, console); err != nil {
			return err
		}
	}
	return m.powerOff(ctx)
}

func (m *machine) rebootSerial(ctx context.Context, console *guest.Console) error {
	m.task.Say("rebooting")
	if err := console.Send(ctx, "systemctl reboot\n"); err != nil {
		return err
	}
	if err := loginSerial(ctx, console); err != nil {
		return fmt.Errorf("after the reboot: %w", err)
	}
	run, err := overSerial(ctx, console)
	if err != nil {
		return err
	}
	return m.collect(ctx, run, "again/", againProbes...)
}

// interrogateSerial is interrogate on one console, which takes one script at a time.
func (m *machine) interrogateSerial(ctx context.Context, run shell) error {
	if err := m.collect(ctx, run, "", earlyProbes...); err != nil {
		return err
	}
	wait := fmt.Sprintf("wait=%.0f", m.limit.Seconds())
	if err := m.collect(ctx, run, "", append([]string{wait}, settledProbes...)...); err != nil {
		return err
	}
	m.marks.settled = time.Now()
	m.task.Say("settled after %.0f s, %d probes", m.marks.after(m.marks.settled), len(m.probes))
	return m.update(ctx, run)
}

// loginSerial waits for the login prompt and logs in as root. A question before it, or a password, is a failure.
func loginSerial(ctx context.Context, console *guest.Console) error {
	which, text, err := console.Expect(ctx, wizard.Compiled(), atLogin.Compiled())
	if err != nil {
		return fmt.Errorf("no login on the serial console: %w", err)
	}
	if which == 0 {
		return fmt.Errorf("a first-boot wizard asks on the console, where nobody answers: %q", lastLine(text))
	}
	if err := console.Send(ctx, "root\n"); err != nil {
		return err
	}
	which, text, err = console.Expect(ctx, wizard.Compiled(), atPassword.Compiled(), atRefusal.Compiled(), atPrompt.Compiled())
	if err != nil {
		return fmt.Errorf("no shell after root logged in on the serial console: %w", err)
	}
	switch which {
	case 0:
		return fmt.Errorf("a wizard asks root on the console: %q", lastLine(text))
	case 1:
		return errors.New("root is asked for a password on the serial console")
	case 2:
		return fmt.Errorf("root cannot log in on the serial console: %q", text)
	}
	return nil
}

func lastLine(text string) string {
	text = strings.TrimRight(text, "\n ")
	return text[strings.LastIndexByte(text, '\n')+1:]
}

const scriptPath = "/run/debcloud-probes"

// overSerial brings the probes into the guest and returns a shell that runs them there. Script and output are
// packed, because a console changes line ends, breaks long lines, and carries other messages.
func overSerial(ctx context.Context, console *guest.Console) (shell, error) {
	ready := newNonce()
	// PS2 is asked for each line of the here-document, and would stand before what follows it.
	text := "stty -echo; dmesg --console-off; PS1='' PS2=''; bind 'set enable-bracketed-paste off'\n" +
		"base64 -d <<'EOF' | gzip -d >" + scriptPath + "; echo; echo " + ready + "\n" + packed(probeScript) + "EOF\n"
	if err := console.Send(ctx, text); err != nil {
		return nil, err
	}
	if _, _, err := console.Expect(ctx, regexp.MustCompile(`(?m)^`+ready+`$`)); err != nil {
		return nil, fmt.Errorf("send the probes over the serial console: %w", err)
	}
	return func(ctx context.Context, nonce string, probes []string) (string, error) {
		command := fmt.Sprintf("echo; echo %s-begin; sh %s %s %s 2>&1 | gzip | base64; echo %s-end\n", nonce, scriptPath, nonce, strings.Join(probes, " "), nonce)
		if err := console.Send(ctx, command); err != nil {
			return "", err
		}
		_, text, err := console.Expect(ctx, regexp.MustCompile(`(?m)^`+nonce+`-end$`))
		if err != nil {
			return "", fmt.Errorf("the probes on the serial console did not end: %w", err)
		}
		return unpacked(text, nonce)
	}, nil
}

func packed(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, text) // a bytes.Buffer takes everything
	_ = z.Close()
	encoded := base64.StdEncoding.EncodeToString(b.Bytes())
	var lines strings.Builder
	for len(encoded) > 76 {
		lines.WriteString(encoded[:76] + "\n")
		encoded = encoded[76:]
	}
	lines.WriteString(encoded + "\n")
	return lines.String()
}

var base64Line = lazyregexp.New(`^[A-Za-z0-9+/]+=*$`)

// unpacked finds what the guest packed between the two marks. Lines of other programs between them are passed over.
func unpacked(text, nonce string) (string, error) {
	_, text, found := strings.Cut(text, nonce+"-begin\n")
	if !found {
		return "", errors.New("the begin of the probes' output is missing on the serial console")
	}
	text, _, _ = strings.Cut(text, nonce+"-end")
	var encoded strings.Builder
	for line := range strings.SplitSeq(text, "\n") {
		if base64Line.MatchString(line) {
			encoded.WriteString(line)
		}
	}
	raw, err := base64.StdEncoding.DecodeString(encoded.String())
	if err != nil {
		return "", fmt.Errorf("the probes' output was damaged on the serial console: %w", err)
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return "", fmt.Errorf("the probes' output was damaged on the serial console: %w", err)
	}
	out, err := io.ReadAll(z)
	if err != nil {
		return "", fmt.Errorf("the probes' output was damaged on the serial console: %w", err)
	}
	return string(out), nil
}
