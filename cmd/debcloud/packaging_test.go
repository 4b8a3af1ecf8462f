package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/executor/settings"
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

// A unit may write wherever the default settings, and libvirt, put what belongs to a VM that it removes.
func TestUnitsMayRemove(t *testing.T) {
	s, err := settings.Load("../../packaging/executor.yaml")
	if err != nil {
		t.Fatal(err)
	}
	places := []string{s.State, s.Run, s.Pool.Path, s.Console.Dir, "/var/log/libvirt/qemu"}
	for _, file := range []string{s.Log.File, s.Metrics.Textfile, exampleTextfile(t)} {
		if file != "" {
			places = append(places, filepath.Dir(file))
		}
	}
	for unit, more := range map[string][]string{"reap": {"/tmp"}, "pool": nil} {
		text, err := os.ReadFile("../../packaging/systemd/debcloud-executor-" + unit + ".service")
		if err != nil {
			t.Fatal(err)
		}
		writable := unitValues(string(text), "ReadWritePaths")
		for _, place := range append(more, places...) {
			if !slices.ContainsFunc(writable, func(dir string) bool {
				dir = strings.TrimPrefix(dir, "-")
				return place == dir || strings.HasPrefix(place, dir+"/")
			}) {
				t.Errorf("%s may not write to %s: %q", unit, place, writable)
			}
		}
		// Files of other users, and what belongs to libvirtd and Runner behind /proc/PID/root.
		for _, capability := range []string{"CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_SYS_PTRACE"} {
			if !slices.Contains(unitValues(string(text), "CapabilityBoundingSet"), capability) {
				t.Errorf("%s lacks %s", unit, capability)
			}
		}
	}
}

// exampleTextfile is what the settings propose.
func exampleTextfile(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../packaging/executor.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^#  textfile: (/.*)$`).FindStringSubmatch(string(text))
	if m == nil {
		t.Fatal("the settings have no example of metrics.textfile")
	}
	return m[1]
}

// unitValues are the words of all lines of a unit that set a directive.
func unitValues(unit, directive string) []string {
	var words []string
	for line := range strings.Lines(unit) {
		if value, ok := strings.CutPrefix(line, directive+"="); ok {
			words = append(words, strings.Fields(value)...)
		}
	}
	return words
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
