package agent

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Groups makes control groups (cgroup v2, kernel documentation, admin-guide/cgroup-v2), one a command: no process can leave its
// own, so that killing reaches those too that made themselves a session. A nil Groups makes none.
//
// Under the agent's own group, which must hold nothing else (systemd: Delegate=yes), the agent moves to "agent" and commands go
// below "commands", which leaves enough processes and memory to the agent, however many they fork.
type Groups struct {
	dir  string // "commands"
	last atomic.Int64
}

// reserve is what commands together leave to the rest of the guest.
const (
	reservedProcesses = 256
	reservedMemory    = 96 << 20 // bytes
	smallMemory       = 384 << 20
)

// OpenGroups prepares the control groups, in the hierarchy that is mounted at root (/sys/fs/cgroup).
func OpenGroups(root string) (*Groups, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	path, ok := unifiedGroup(string(own))
	if !ok || path == "/" {
		return nil, errors.New("the agent has no control group (version 2) of its own")
	}
	base := filepath.Join(root, path)
	g := &Groups{dir: filepath.Join(base, "commands")}
	for _, dir := range []string{"agent", "commands"} {
		if err := os.Mkdir(filepath.Join(base, dir), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
	}
	if err := put(filepath.Join(base, "agent/cgroup.procs"), "0"); err != nil {
		return nil, err
	}
	for _, limit := range limits() {
		if err := limit.set(base); err != nil {
			slog.Warn("no limit for commands", "controller", limit.controller, "reason", err)
		}
	}
	return g, nil
}

// unifiedGroup finds the path in version 2's line of /proc/self/cgroup.
func unifiedGroup(text string) (string, bool) {
	for line := range strings.Lines(text) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSpace(path), true
		}
	}
	return "", false
}

type limit struct{ controller, file, value string }

func limits() []limit {
	all := []limit{{"cpu", "agent/cpu.weight", "10000"}}
	processes := min(readNumber("/proc/sys/kernel/threads-max"), readNumber("/proc/sys/kernel/pid_max"))
	if processes > 2*reservedProcesses {
		all = append(all, limit{"pids", "commands/pids.max", strconv.FormatInt(processes-reservedProcesses, 10)})
	}
	var info syscall.Sysinfo_t
	if syscall.Sysinfo(&info) == nil {
		if total := int64(info.Totalram) * int64(info.Unit); total > smallMemory {
			all = append(all, limit{"memory", "commands/memory.max", strconv.FormatInt(total-reservedMemory, 10)})
		}
	}
	return all
}

func (l limit) set(base string) error {
	if err := put(filepath.Join(base, "cgroup.subtree_control"), "+"+l.controller); err != nil {
		return err
	}
	return put(filepath.Join(base, l.file), l.value)
}

// put writes a file of the kernel's, which is there or is not.
func put(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// readNumber is 0 for a file without one.
func readNumber(path string) int64 {
	b, _ := os.ReadFile(path)
	n, _ := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
	return n
}

// group is the control group of one command; nil is none.
type group struct {
	dir  string
	open *os.File // until the command is in it
}

func (g *Groups) open() (*group, error) {
	if g == nil {
		return nil, nil
	}
	dir := filepath.Join(g.dir, strconv.FormatInt(g.last.Add(1), 10))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("control group of the command: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	return &group{dir: dir, open: f}, nil
}

// attach makes the command begin in the group (clone(2), CLONE_INTO_CGROUP, Linux 5.7).
func (g *group) attach(attr *syscall.SysProcAttr) {
	if g != nil {
		attr.UseCgroupFD, attr.CgroupFD = true, int(g.open.Fd())
	}
}

func (g *group) attached() {
	if g != nil {
		_ = g.open.Close()
	}
}

// kill ends all in the group. cgroup.kill is there since Linux 5.14; before, processes are killed until there are none.
func (g *group) kill() {
	if g == nil {
		return
	}
	if put(filepath.Join(g.dir, "cgroup.kill"), "1") == nil {
		return
	}
	for range 100 {
		text, _ := os.ReadFile(filepath.Join(g.dir, "cgroup.procs"))
		pids := strings.Fields(string(text))
		if len(pids) == 0 {
			return
		}
		for _, text := range pids {
			if pid, err := strconv.Atoi(text); err == nil && pid > 1 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// close removes the group once it is empty. Commands may have made groups below it.
func (g *group) close() {
	if g == nil {
		return
	}
	go func() {
		for pause := time.Millisecond; pause < 10*time.Second; pause *= 2 {
			if removeTree(g.dir) == nil {
				return
			}
			time.Sleep(pause)
		}
		slog.Warn("control group of a command stays", "directory", g.dir)
	}()
}

func removeTree(dir string) error {
	below, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range below {
		if e.IsDir() {
			_ = removeTree(filepath.Join(dir, e.Name()))
		}
	}
	return os.Remove(dir)
}
