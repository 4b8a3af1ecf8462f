package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// demandCommand holds that a command line of the package is one of this program's.
func demandCommand(t *testing.T, where string, args []string) {
	t.Helper()
	c, rest, err := newRootCommand(nil).Find(args)
	if err != nil || len(rest) > 0 || !c.Runnable() || c.HasSubCommands() {
		t.Errorf("%s calls debcloud %s, which is no command: %v", where, strings.Join(args, " "), err)
	}
}

func TestUnits(t *testing.T) {
	units, err := filepath.Glob("../../packaging/systemd/*")
	if err != nil || len(units) < 3 {
		t.Fatalf("%v, %v", units, err)
	}
	calls := 0
	for _, path := range units {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^Exec\w+=/usr/bin/debcloud (.*)$`).FindAllStringSubmatch(string(text), -1) {
			calls++
			demandCommand(t, filepath.Base(path), strings.Fields(m[1]))
		}
		if strings.HasSuffix(path, ".service") && !strings.Contains(string(text), "NoNewPrivileges=yes") {
			t.Errorf("%s is not hardened", path)
		}
	}
	if calls != 2 {
		t.Errorf("the units make %d calls", calls)
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	out, _ := exec.Command(analyze, append([]string{"verify"}, units...)...).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		// The package is not installed here.
		if !strings.Contains(line, "/usr/bin/debcloud is not executable") && !strings.Contains(line, "man debcloud(1)") && strings.Contains(line, "debcloud") {
			t.Error(line)
		}
	}
}

func TestRunnerExampleCallsCommands(t *testing.T) {
	text, err := os.ReadFile("../../packaging/gitlab-runner/config.toml")
	if err != nil {
		t.Fatal(err)
	}
	calls := regexp.MustCompile(`(?m)^\s*\w+_args = \["(.*)"\]$`).FindAllStringSubmatch(string(text), -1)
	if len(calls) != 4 {
		t.Fatalf("the example has %d calls", len(calls))
	}
	for _, m := range calls {
		demandCommand(t, "config.toml", strings.Split(m[1], `", "`))
	}
}
