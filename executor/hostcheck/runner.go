package hostcheck

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
	"salsa.debian.org/cloud-team/debcloud/internal/vm"
)

var runnerVersion = lazyregexp.New(`(?m)^Version:[ \t]+(\S+)`)

func (c *check) runner() {
	ctx, cancel := context.WithTimeout(c.ctx, 20*time.Second)
	defer cancel()
	path := c.settings.GitlabRunner
	out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	m := runnerVersion.FindSubmatch(out)
	switch {
	case err != nil:
		c.lack("gitlab-runner", "install it, or name it with gitlab_runner", "%s --version: %v", path, err)
	case m == nil:
		c.lack("gitlab-runner", "", "%s --version does not tell its version", path)
	case version(string(m[1])) < 14_010:
		c.lack("gitlab-runner", "install 14.10 or later", "version %s has no JOB_RESPONSE_FILE, by which a job is known", m[1])
	default:
		c.ok("gitlab-runner", "version %s", m[1])
	}
}

// version makes a number of the first two parts: 18.2.0 is 18002.
func version(text string) int {
	var major, minor int
	_, _ = fmt.Sscanf(text, "%d.%d", &major, &minor)
	return major*1000 + minor
}

// runnerFile is what the executor cares about of gitlab-runner's configuration.
// https://docs.gitlab.com/runner/configuration/advanced-configuration/
type runnerFile struct {
	Concurrent      int             `toml:"concurrent"`
	ShutdownTimeout *int            `toml:"shutdown_timeout"`
	Runners         []runnerSection `toml:"runners"`
}

type runnerSection struct {
	Name        string        `toml:"name"`
	Executor    string        `toml:"executor"`
	Environment []string      `toml:"environment"`
	Custom      customSection `toml:"custom"`
}

// customSection has times in seconds; nil is Runner's default.
type customSection struct {
	ConfigExec      string   `toml:"config_exec"`
	ConfigArgs      []string `toml:"config_args"`
	PrepareExec     string   `toml:"prepare_exec"`
	PrepareArgs     []string `toml:"prepare_args"`
	PrepareTimeout  *int     `toml:"prepare_exec_timeout"`
	RunExec         string   `toml:"run_exec"`
	RunArgs         []string `toml:"run_args"`
	CleanupExec     string   `toml:"cleanup_exec"`
	CleanupArgs     []string `toml:"cleanup_args"`
	CleanupTimeout  *int     `toml:"cleanup_exec_timeout"`
	GracefulTimeout *int     `toml:"graceful_kill_timeout"`
	ForceTimeout    *int     `toml:"force_kill_timeout"`
}

// Runner's defaults, in seconds.
const (
	defaultExecTimeout = 3600
	defaultGraceful    = 600
	defaultForce       = 10
	defaultShutdown    = 30
)

func (c *check) runnerConfig() {
	const example = "the package's example is /usr/share/doc/debcloud/examples/config.toml"
	path := c.host.RunnerConfig
	var f runnerFile
	if _, err := toml.DecodeFile(path, &f); err != nil {
		c.lack("runner configuration", example, "%v", err)
		return
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		c.warn("runner configuration", "chmod 600 "+path, "%s holds tokens and can be read by others", path)
	}
	ours, abort := 0, 0
	for _, r := range f.Runners {
		if r.Executor == "custom" && isOurs(r.Custom.PrepareExec, r.Custom.PrepareArgs, "prepare") {
			ours++
			c.runnerSection("runner "+r.Name, r)
			abort = max(abort, r.Custom.abort())
		}
	}
	if ours == 0 {
		c.lack("runner configuration", example, "%s has no runner whose prepare_exec is debcloud", path)
		return
	}
	if t := orElse(f.ShutdownTimeout, defaultShutdown); t < abort {
		c.warn("runner configuration", fmt.Sprintf("shutdown_timeout = %d", abort+30),
			"shutdown_timeout is %d s, and a job that SIGTERM aborts may take %d s: Runner would be gone before its cleanup, and the reaper does it", t, abort)
	}
	if f.Concurrent <= 1 {
		c.warn("runner configuration", "raise concurrent: the budget is what bounds jobs", "concurrent is %d, so jobs run one after the other", max(1, f.Concurrent))
	}
}

func isOurs(program string, args []string, call string) bool {
	at := slices.Index(args, "executor")
	return strings.HasPrefix(filepath.Base(program), "debcloud") && at >= 0 && slices.Contains(args[at:], call)
}

// runnerSection holds one runner against what the custom executor's traps demand.
func (c *check) runnerSection(subject string, r runnerSection) {
	before := len(c.findings)
	for _, e := range []struct {
		call, program string
		args          []string
	}{{"config", r.Custom.ConfigExec, r.Custom.ConfigArgs}, {"run", r.Custom.RunExec, r.Custom.RunArgs}, {"cleanup", r.Custom.CleanupExec, r.Custom.CleanupArgs}} {
		if !isOurs(e.program, e.args, e.call) {
			c.lack(subject, fmt.Sprintf(`%s_exec = "/usr/bin/debcloud", %s_args = ["executor", %q]`, e.call, e.call, e.call), "%s_exec is not debcloud executor %s", e.call, e.call)
		}
	}
	if t := orElse(r.Custom.GracefulTimeout, defaultGraceful); t >= 300 {
		c.lack(subject, "graceful_kill_timeout = 120", "graceful_kill_timeout is %d s: from 300 s on Runner cleans up beside a stage that still runs", t)
	}
	if need := c.longestPrepare(); time.Duration(orElse(r.Custom.PrepareTimeout, defaultExecTimeout))*time.Second < need {
		c.lack(subject, fmt.Sprintf("prepare_exec_timeout = %d", int(need.Seconds())+60), "prepare_exec_timeout is %d s, and prepare may wait %v for room and boot",
			orElse(r.Custom.PrepareTimeout, defaultExecTimeout), need)
	}
	if t := orElse(r.Custom.CleanupTimeout, defaultExecTimeout); time.Duration(t)*time.Second < vm.RemoveLimit {
		c.lack(subject, "cleanup_exec_timeout = 120", "cleanup_exec_timeout is %d s, and to remove a VM may take %v", t, vm.RemoveLimit)
	}
	if !slices.ContainsFunc(r.Environment, func(e string) bool { return strings.HasPrefix(e, "CI_DISPOSABLE_ENVIRONMENT=") }) {
		c.lack(subject, `environment = ["CI_DISPOSABLE_ENVIRONMENT=true"]`, "jobs are not told CI_DISPOSABLE_ENVIRONMENT, without which some refuse to mount")
	}
	if len(c.findings) == before {
		c.ok(subject, "calls debcloud, and its limits hold")
	}
}

// longestPrepare is the wait for room, and the limit of a boot three times: for the agent, for its identity, for the rest
// of the system. Where VMs stand ready, one may have been tried in vain before, for its agent and its identity.
func (c *check) longestPrepare() time.Duration {
	boots := 3
	if len(c.settings.WarmPool.VMs) > 0 {
		boots = 5
	}
	a := c.settings.Agent
	return c.settings.Deadlines.Admission + time.Duration(boots)*max(a.Boot, a.BootEmulated)
}

// abort is how many seconds Runner may need to end a job whose stage does not end by itself.
func (s customSection) abort() int {
	return orElse(s.GracefulTimeout, defaultGraceful) + orElse(s.ForceTimeout, defaultForce) + orElse(s.CleanupTimeout, defaultExecTimeout)
}

func orElse(v *int, otherwise int) int {
	if v == nil {
		return otherwise
	}
	return *v
}
