package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/guest"
)

// structure is one of SMBIOS: type, what is formatted, strings.
func structure(kind byte, formatted string, strs ...string) string {
	s := string([]byte{kind, byte(4 + len(formatted)), 1, 0}) + formatted
	if len(strs) == 0 {
		return s + "\x00\x00"
	}
	return s + strings.Join(strs, "\x00") + "\x00\x00"
}

func TestReadSecret(t *testing.T) {
	secret := guest.NewSecret()
	mine := secret.OEMString()
	for _, row := range []struct {
		summary, tables string
		found           bool
	}{
		{"among other strings", structure(0, "bios", "SeaBIOS") + structure(11, "\x02", "another", mine) + structure(127, ""), true},
		{"in the second structure of the type", structure(11, "\x01", "another") + structure(11, "\x01", mine), true},
		{"only of the right type", structure(1, "\x01", mine), false},
		{"not after the end", structure(127, "") + structure(11, "\x01", mine), false},
		{"a torn secret", structure(11, "\x01", mine[:40]), false},
		{"a structure without strings before it", structure(4, "cpu") + structure(11, "\x01", mine), true},
		{"nothing", "", false},
	} {
		path := filepath.Join(t.TempDir(), "DMI")
		if err := os.WriteFile(path, []byte(row.tables), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadSecret(path)
		if (err == nil) != row.found || row.found && got != secret {
			t.Errorf("%s: %v", row.summary, err)
		}
	}
}

func FuzzOEMStrings(f *testing.F) {
	f.Add([]byte(structure(11, "\x02", "one", "two")))
	f.Add([]byte("\x0b\xff\x00\x00"))
	f.Fuzz(func(_ *testing.T, tables []byte) { oemStrings(tables) })
}

func TestOpenPortWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "org.debian.none.0")
	short, cancel := context.WithTimeout(t.Context(), 120*time.Millisecond)
	defer cancel()
	if _, err := OpenPort(short, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	time.AfterFunc(100*time.Millisecond, func() { _ = os.WriteFile(path, nil, 0o600) })
	f, err := OpenPort(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func TestUnifiedGroup(t *testing.T) {
	for text, want := range map[string]string{
		"0::/system.slice/debcloud-agent.service\n": "/system.slice/debcloud-agent.service",
		"12:pids:/x\n1:name=systemd:/y\n0::/z\n":    "/z",
		"12:pids:/x\n":                              "",
		"":                                          "",
	} {
		if got, ok := unifiedGroup(text); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v", text, got, ok)
		}
	}
}

// A stand-in for the kernel's files shows what is written where.
func TestGroups(t *testing.T) {
	var none *Groups
	g, err := none.open()
	if g != nil || err != nil {
		t.Fatal(g, err)
	}
	g.kill() // nothing, and without a fault
	g.close()

	groups := &Groups{dir: t.TempDir()}
	g, err = groups.open()
	if err != nil {
		t.Fatal(err)
	}
	g.attached()
	kill := filepath.Join(g.dir, "cgroup.kill")
	if err := os.WriteFile(kill, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g.kill()
	if b, err := os.ReadFile(kill); err != nil || string(b) != "1" {
		t.Errorf("%q, %v", b, err)
	}
	_ = os.Remove(kill)
	if err := os.MkdirAll(filepath.Join(g.dir, "below/it"), 0o755); err != nil {
		t.Fatal(err)
	}
	g.close()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(g.dir); err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the group stays")
		}
	}
	var controllers []string
	for _, l := range limits() {
		controllers = append(controllers, l.controller)
		base := t.TempDir()
		if err := errors.Join(os.Mkdir(filepath.Join(base, "agent"), 0o755), os.Mkdir(filepath.Join(base, "commands"), 0o755), l.set(base)); err == nil {
			t.Errorf("%s: written where there is no control group", l.controller)
		}
	}
	if !slices.Contains(controllers, "pids") || !slices.Contains(controllers, "memory") {
		t.Errorf("limits of %q only", controllers)
	}
}
