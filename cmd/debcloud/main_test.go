package main

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"debcloud": main, "play-runner": playRunner})
}

// TestScripts runs the real program by testdata/*.txtar; -update rewrites what it compares with.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
		},
	})
}

// exits runs a command and demands its exit code: exits 2 debcloud plan --type nonsense.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARG…]")
	}
	code := "0"
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[interface {
			error
			ExitCode() int
		}](err)
		if !ok {
			ts.Fatalf("%v: %v", args[1:], err)
		}
		code = fmt.Sprint(exit.ExitCode())
	}
	if code != args[0] {
		ts.Fatalf("%v ended with exit code %s, not %s", args[1:], code, args[0])
	}
}

func TestExitCode(t *testing.T) {
	for _, row := range []struct {
		summary string
		err     error
		code    int
	}{
		{"a broken build is the work's own failure", errors.New("build failed"), 1},
		{"a wrong argument is the user's to change", fault.Inputf("no release %q", "trixy"), 2},
		{"a mirror that does not answer is worth a retry", fault.Outsidef("no answer"), 3},
		{"a wrapped error keeps its kind", fmt.Errorf("build: %w", fault.Outsidef("no answer")), 3},
		{"a hint keeps the kind", fault.WithHint(fault.Inputf("x"), "do y"), 2},
		{"the outermost kind wins", fault.Inputf("matrix: %w", os.ErrNotExist), 2},
	} {
		if got := exitCode(row.err); got != row.code {
			t.Errorf("%s: exit code %d, want %d", row.summary, got, row.code)
		}
	}
}

func TestEveryCommandHasAnExample(t *testing.T) {
	root := newRootCommand(nil)
	for commands := root.Commands(); len(commands) > 0; commands = commands[1:] {
		c := commands[0]
		commands = append(commands, c.Commands()...)
		if c.Short == "" || c.Example == "" {
			t.Errorf("%s --help has no short text or no example", c.CommandPath())
		}
	}
}
