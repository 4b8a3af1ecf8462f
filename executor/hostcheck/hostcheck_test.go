package hostcheck

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/vm"
)

const exampleConfig = "../../packaging/gitlab-runner/config.toml"

// runnerPath returns the real program where GITLAB_RUNNER_BIN names one, else one that tells its version as that does.
func runnerPath(t *testing.T, version string) string {
	t.Helper()
	if path := os.Getenv("GITLAB_RUNNER_BIN"); path != "" && version == "" {
		return path
	}
	if version == "" {
		version = "18.2.0"
	}
	path := filepath.Join(t.TempDir(), "gitlab-runner")
	script := "#!/bin/sh\nprintf 'Version:      " + version + "\\nGit revision: 1a2b3c4d\\nOS/Arch:      linux/amd64\\n'\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func newCheck(t *testing.T, s *settings.Settings, h Host) *check {
	return &check{ctx: t.Context(), settings: s, host: h}
}

// says joins the findings of a state.
func says(findings []Finding, state State) string {
	var lines []string
	for _, f := range findings {
		if f.State == state {
			lines = append(lines, f.Subject+": "+f.Says)
		}
	}
	return strings.Join(lines, "\n")
}

func TestRunnerVersion(t *testing.T) {
	for _, row := range []struct{ summary, version, lacks string }{
		{"today's", "", ""},
		{"the first with a job response file", "14.10.0", ""},
		{"one that is too old", "14.9.1", "version 14.9.1 has no JOB_RESPONSE_FILE"},
		{"one that tells nothing", "\\nx", "does not tell its version"},
	} {
		s := settings.Default()
		s.GitlabRunner = runnerPath(t, row.version)
		c := newCheck(t, s, Host{})
		c.runner()
		if got := says(c.findings, Lacks); (got == "") != (row.lacks == "") || !strings.Contains(got, row.lacks) {
			t.Errorf("%s: %s", row.summary, got)
		}
	}
	s := settings.Default()
	s.GitlabRunner = "/nowhere/gitlab-runner"
	c := newCheck(t, s, Host{})
	if c.runner(); !strings.Contains(says(c.findings, Lacks), "/nowhere/gitlab-runner --version") {
		t.Errorf("none at all: %+v", c.findings)
	}
}

// TestRunnerConfig holds that the package's example is right, and that each trap in it is found.
func TestRunnerConfig(t *testing.T) {
	example, err := os.ReadFile(exampleConfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ summary, old, new, lacks, warns string }{
		{"the example", "", "", "", ""},
		{"a grace in which Runner cleans up beside a stage", "graceful_kill_timeout = 120", "graceful_kill_timeout = 300", "graceful_kill_timeout is 300 s", "shutdown_timeout is 300 s, and a job that SIGTERM aborts may take 450 s"},
		{"Runner's default of it", "graceful_kill_timeout = 120", "", "graceful_kill_timeout is 600 s", "shutdown_timeout is 300 s, and a job that SIGTERM aborts may take 750 s"},
		{"a prepare that is killed while it waits for room", "prepare_exec_timeout = 6660", "", "prepare_exec_timeout is 3600 s, and prepare may wait 1h30m0s", ""},
		{"a prepare that is killed while the VM comes up", "prepare_exec_timeout = 6660", "prepare_exec_timeout = 5399", "prepare_exec_timeout is 5399 s, and prepare may wait 1h30m0s", ""},
		{"a cleanup that is killed", "cleanup_exec_timeout = 120", "cleanup_exec_timeout = 30", "cleanup_exec_timeout is 30 s, and to remove a VM may take 1m0s", ""},
		{"jobs that do not know where they are", "CI_DISPOSABLE_ENVIRONMENT", "CI_OTHER", "jobs are not told CI_DISPOSABLE_ENVIRONMENT", ""},
		{"another program's run", `run_args = ["executor", "run"]`, `run_args = ["run"]`, "run_exec is not debcloud executor run", ""},
		{"another executor", `executor = "custom"`, `executor = "shell"`, "has no runner whose prepare_exec is debcloud", ""},
		{"a shutdown that leaves no time for cleanup", "shutdown_timeout = 300", "shutdown_timeout = 269", "", "shutdown_timeout is 269 s, and a job that SIGTERM aborts may take 270 s"},
		{"Runner's default of it", "shutdown_timeout = 300", "", "", "shutdown_timeout is 30 s"},
		{"broken TOML", "concurrent", "concurrent concurrent", "expected", ""},
	} {
		path := filepath.Join(t.TempDir(), "config.toml")
		text := strings.Replace(string(example), row.old, row.new, 1)
		if text == string(example) && row.old != "" {
			t.Fatalf("%s: the example has no %q", row.summary, row.old)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c := newCheck(t, settings.Default(), Host{RunnerConfig: path})
		c.runnerConfig()
		if got := says(c.findings, Lacks); (got == "") != (row.lacks == "") || !strings.Contains(got, row.lacks) {
			t.Errorf("%s: %s", row.summary, got)
		}
		if got := says(c.findings, Warns); (got == "") != (row.warns == "") || !strings.Contains(got, row.warns) {
			t.Errorf("%s: warning: %s", row.summary, got)
		}
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLongestPrepare holds that ready VMs that fail are counted.
func TestLongestPrepare(t *testing.T) {
	s := settings.Default()
	s.Deadlines.Admission, s.Agent.Boot, s.Agent.BootEmulated = time.Hour, time.Minute, 10*time.Minute
	if got := newCheck(t, s, Host{}).longestPrepare(); got != 90*time.Minute {
		t.Errorf("without a warm pool: %v", got)
	}
	s.WarmPool.VMs = []settings.Warm{{Image: "runner", Refs: settings.Fork, Count: 1}}
	if got := newCheck(t, s, Host{}).longestPrepare(); got != 110*time.Minute {
		t.Errorf("with one: %v", got)
	}
}

func TestRunnerConfigThatOthersRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	text, err := os.ReadFile(exampleConfig)
	if err != nil {
		t.Fatal(err)
	}
	open := strings.Replace(string(text), "concurrent = 16", "", 1)
	if err := os.WriteFile(path, []byte(open), 0o644); err != nil {
		t.Fatal(err)
	}
	c := newCheck(t, settings.Default(), Host{RunnerConfig: path})
	c.runnerConfig()
	got := says(c.findings, Warns)
	if !strings.Contains(got, "holds tokens and can be read by others") || !strings.Contains(got, "concurrent is 1") {
		t.Errorf("warnings: %s", got)
	}
}

func TestDirectories(t *testing.T) {
	s := settings.Default()
	dir := t.TempDir()
	s.State, s.Run, s.Pool.Path, s.Console.Dir = filepath.Join(dir, "state"), filepath.Join(dir, "run"), filepath.Join(dir, "pool"), filepath.Join(dir, "none")
	for path, mode := range map[string]os.FileMode{s.State: 0o700, s.Run: 0o777} {
		if err := os.Mkdir(path, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.Pool.Path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := newCheck(t, s, Host{})
	c.directories()
	want := "directory run: " + s.Run + " can be written to by others: mode 0777\ndirectory pool: " + s.Pool.Path + " is no directory"
	if got := says(c.findings, Lacks); got != want {
		t.Errorf("lacks:\n%s\nwant:\n%s", got, want)
	}
	if got := says(c.findings, OK); !strings.Contains(got, "mode 0700") || !strings.Contains(got, "none is not there") {
		t.Errorf("ok:\n%s", got)
	}
}

func TestBudget(t *testing.T) {
	for _, row := range []struct {
		summary      string
		change       func(*settings.Settings)
		lacks, warns string
	}{
		{"what the host has", func(*settings.Settings) {}, "", ""},
		{"more memory than there is", func(s *settings.Settings) { s.Budget.Memory = 1 << 50 }, "memory: the budget has 1024TiB", ""},
		{"more disk than there is", func(s *settings.Settings) { s.Budget.Disk = 1 << 60 }, "disk: the budget has", ""},
		{"a budget without room for one VM", func(s *settings.Settings) { s.Limits.Default.CPUs, s.Limits.Max.CPUs = 10_000, 10_000 }, "default VM: 10000 processors", ""},
		{"limits beyond the budget", func(s *settings.Settings) { s.Limits.Max.CPUs = 10_000 }, "", "largest VM: "},
		{"more processors than there are", func(s *settings.Settings) { s.Budget.CPUs = 10_000 }, "", "processors: the budget has 10000"},
		{"a host whose memory others use", func(s *settings.Settings) {
			s.Limits.Default.Memory = 1 << 40
			s.Budget.Memory = 1 << 20
			s.Budget.Reserve.Memory = 0
		}, "default VM", "memory: the host has"},
	} {
		s := settings.Default()
		s.Pool.Path = t.TempDir()
		s.Limits.Default = settings.Machine{CPUs: 1, Memory: 1 << 20}
		s.Limits.Max = settings.Machine{CPUs: 1, Memory: 1 << 20, Disk: 1}
		s.Budget.Reserve = settings.Machine{}
		row.change(s)
		c := newCheck(t, s, Host{})
		c.budget()
		for state, want := range map[State]string{Lacks: row.lacks, Warns: row.warns} {
			if got := says(c.findings, state); (got == "") != (want == "") || !strings.Contains(got, want) {
				t.Errorf("%s: %s: %s", row.summary, state, got)
			}
		}
	}
}

func TestImages(t *testing.T) {
	s := settings.Default()
	dir, disk := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, make([]byte, 2<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	s.Images = map[string]settings.Image{"a": {}, "b": {}, "c": {File: dir}, "d": {File: dir + "/none"}, "e": {File: os.Args[0], Format: "raw"},
		"f": {File: disk, Format: "raw", Limits: settings.Limits{Default: settings.Machine{Disk: 1 << 20}}}, "g": {File: disk, Format: "qcow2"}}
	c := newCheck(t, s, Host{Imported: func(_, name, _ string) (string, string, error) {
		if name == "b" {
			return "", "", errors.New("the pool has no image b")
		}
		return disk, "raw", nil
	}})
	c.images()
	want := "image b: the pool has no image b\nimage c: " + dir + " is no regular file\nimage d: stat " + dir + "/none: no such file or directory" +
		"\nimage f: has a disk of 2MiB, and a job that asks for nothing gets 1MiB"
	got, unreadable, _ := strings.Cut(says(c.findings, Lacks), "\nimage g: ")
	if !strings.Contains(unreadable, "cannot be read as qcow2") {
		t.Errorf("of an image that is none it says %q", unreadable)
	}
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestNetwork(t *testing.T) {
	survey := vm.Survey{
		Networks: map[string]bool{"ours": true, "theirs": true, "bridge": true},
		Gateways: map[string]string{"ours": "198.18.0.1", "theirs": "10.1.0.1", "bridge": ""},
	}
	for _, row := range []struct {
		name  string
		state State
		says  string
	}{
		{"ours", OK, "is there"}, {"none", OK, "is not there; the next job makes it"},
		{"theirs", Warns, "keeps its address 10.1.0.1, and its subnet in the settings is 198.18.0.0/22"},
		{"bridge", Lacks, "has no IPv4 address in it"},
	} {
		c := newCheck(t, settings.Default(), Host{})
		c.network(row.name, "198.18.0.0/22", survey)
		if got := says(c.findings, row.state); !strings.Contains(got, row.says) || len(c.findings) != 1 {
			t.Errorf("%s: %+v", row.name, c.findings)
		}
	}
}

// TestLibvirt looks around a real daemon.
func TestLibvirt(t *testing.T) {
	s := settings.Default()
	s.Libvirt.URI = "qemu:///system?socket=/nowhere/libvirt-sock"
	c := newCheck(t, s, Host{})
	if c.libvirt(); !strings.Contains(says(c.findings, Lacks), "libvirtd: does not answer") {
		t.Errorf("without a daemon: %+v", c.findings)
	}
	if os.Geteuid() != 0 {
		t.Skip("a private libvirtd needs root")
	}
	dir, err := os.MkdirTemp("", "check-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	daemon, err := vm.StartPrivate(ctx, dir, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = daemon.Stop() }()
	s.Libvirt.URI, s.Pool.Name = daemon.URI(), "checked"
	c = newCheck(t, s, Host{})
	c.libvirt()
	got := says(c.findings, OK)
	if !strings.Contains(got, "libvirtd: libvirt ") || !strings.Contains(got, "storage pool checked: is not there") || says(c.findings, Lacks) != "" {
		t.Errorf("%+v", c.findings)
	}
	node, err := vm.Connect(ctx, vm.NodeOptions{URI: s.Libvirt.URI, Pool: "checked", PoolDir: dir + "/pool", RunDir: dir + "/run", LogDir: dir + "/log", Namespace: "urn:test"})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	if _, err := node.Pool(ctx); err != nil {
		t.Fatal(err)
	}
	c = newCheck(t, s, Host{})
	if c.libvirt(); !strings.Contains(says(c.findings, OK), "storage pool checked: is there") {
		t.Errorf("%+v", c.findings)
	}
}

// TestCheckAll goes over everything on this host, whatever it has, and holds that nothing was changed.
func TestCheckAll(t *testing.T) {
	s := settings.Default()
	s.State, s.Libvirt.URI, s.Libvirt.Accelerator = filepath.Join(t.TempDir(), "state"), "qemu:///system?socket=/nowhere/libvirt-sock", "tcg"
	found := Check(t.Context(), s, Host{RunnerConfig: exampleConfig})
	if !Lacking(found) || len(found) < 8 {
		t.Errorf("%+v", found)
	}
	if _, err := os.Stat(s.State); err == nil {
		t.Error("the state directory was made")
	}
}
