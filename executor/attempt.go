package executor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/metrics"
	"salsa.debian.org/cloud-team/debcloud/internal/process"
)

// attempt is one attempt of Runner to run a job: config, prepare, the stages, cleanup. A job whose prepare failed is
// attempted anew, in another directory. Its note tells the reaper of attempts that have no domain yet.
type attempt struct {
	// Dir is Runner's directory: it holds the job's token, and stays behind when Runner is killed.
	Dir     string     `json:"dir"`
	Runner  process.ID `json:"runner"`
	Job     int64      `json:"job,omitempty"`
	Project string     `json:"project,omitempty"`
	Started time.Time  `json:"started"`
	// Result is the worst that a call has ended with so far: "" where none has ended.
	Result metrics.Result `json:"result,omitempty"`
}

// domainName is what the VM of an attempt is called.
func (a attempt) domainName() string {
	sum := sha256.Sum256([]byte(a.Dir))
	return fmt.Sprintf("%s%d-%s", namePrefix, a.Job, hex.EncodeToString(sum[:4]))
}

// over tells that an attempt has ended: Runner is gone, or it has removed the directory, which it does last.
func (a attempt) over() bool {
	if !a.Runner.Runs() {
		return true
	}
	// Through Runner's root, because its /tmp can be one of its own (PrivateTmp= of systemd.exec(5)).
	_, err := os.Stat(filepath.Join(fmt.Sprintf("/proc/%d/root", a.Runner.PID), a.Dir))
	return errors.Is(err, fs.ErrNotExist)
}

// notes is the directory of the attempts' notes.
type notes struct{ dir string }

func (n notes) path(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return filepath.Join(n.dir, hex.EncodeToString(sum[:8])+".json")
}

// read returns the note about the attempt in dir, false where there is none.
func (n notes) read(dir string) (attempt, bool) {
	var a attempt
	b, err := os.ReadFile(n.path(dir))
	if err != nil || json.Unmarshal(b, &a) != nil {
		return a, false
	}
	return a, true
}

func (n notes) write(a attempt) error {
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return err
	}
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	path := n.path(a.Dir)
	temporary := fmt.Sprintf("%s.%d.new", path, os.Getpid())
	if err := os.WriteFile(temporary, b, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

func (n notes) remove(dir string) error {
	if err := os.Remove(n.path(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// all returns the notes, and removes those that a killed process has half written.
func (n notes) all() []attempt {
	paths, _ := filepath.Glob(filepath.Join(n.dir, "*.json"))
	var found []attempt
	for _, p := range paths {
		var a attempt
		if b, err := os.ReadFile(p); err == nil && json.Unmarshal(b, &a) == nil {
			found = append(found, a)
		}
	}
	torn, _ := filepath.Glob(filepath.Join(n.dir, "*.new"))
	for _, p := range torn {
		if info, err := os.Stat(p); err == nil && time.Since(info.ModTime()) > time.Minute {
			_ = os.Remove(p)
		}
	}
	return found
}

// resultOf says how a call ended. When ctx has ended, that was Runner: it sends SIGTERM for a job that was cancelled or has run for
// too long.
func resultOf(ctx context.Context, err error) metrics.Result {
	_, script := errors.AsType[*ScriptFailure](err)
	_, final := errors.AsType[refusal](err)
	switch {
	case err == nil:
		return metrics.Success
	case script:
		return metrics.ScriptFailure
	case final:
		return metrics.Refused
	case ctx.Err() != nil:
		return metrics.Cancelled
	default:
		return metrics.SystemFailure
	}
}

// worse is the worse of two results.
func worse(a, b metrics.Result) metrics.Result {
	rank := map[metrics.Result]int{"": 0, metrics.Success: 1, metrics.ScriptFailure: 2, metrics.Refused: 3, metrics.Cancelled: 4, metrics.SystemFailure: 5}
	if rank[b] > rank[a] {
		return b
	}
	return a
}

// runner finds the process that called the driver: the parent of the leader of its process group, because Runner gives each
// call a group of its own, in which a wrapper may come first.
func runner() process.ID {
	parent := process.Parent(syscall.Getpgrp())
	if parent <= 1 || syscall.Getpgrp() == parent {
		parent = os.Getppid()
	}
	if parent == 1 && !isRunner(parent) {
		return process.ID{} // killed before this process could ask: init has taken it up
	}
	return process.Of(parent)
}

// isRunner tells whether a process is gitlab-runner, which may be the first one of a container.
func isRunner(pid int) bool {
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return strings.HasPrefix(string(name), "gitlab-runner")
}

// removeAttemptDir removes the directory of an attempt that is over. It leaves what does not look like one.
func removeAttemptDir(dir string) error {
	if !filepath.IsAbs(dir) || !strings.HasPrefix(filepath.Base(dir), "custom-executor") {
		return nil
	}
	return os.RemoveAll(dir)
}
