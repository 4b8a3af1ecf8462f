package vm

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// process names one process of this host, also after its number was given to another.
type process struct {
	PID   int    `json:"pid" xml:"pid,attr"`
	Start uint64 `json:"start" xml:"start,attr"` // clock ticks after the boot, field 22 of proc_pid_stat(5)
	Boot  string `json:"boot" xml:"boot,attr"`   // the kernel's boot_id
}

func thisProcess() process { return processOf(os.Getpid()) }

func processOf(pid int) process {
	return process{PID: pid, Start: startTime(pid), Boot: bootID()}
}

// runs reports whether the process still exists. A zombie does not.
func (p process) runs() bool {
	return p.PID > 0 && p.Boot == bootID() && p.Start != 0 && startTime(p.PID) == p.Start
}

// kill ends the process if it is still the same.
func (p process) kill() {
	if p.runs() {
		_ = syscall.Kill(p.PID, syscall.SIGKILL)
	}
}

// startTime is 0 where the process does not run.
func startTime(pid int) uint64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The second field is the program's name in parentheses, which may hold anything.
	_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0
	}
	n, _ := strconv.ParseUint(fields[19], 10, 64)
	return n
}

// bootID changes with each boot of the host.
func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}

// ownerFile says in a directory of ours which process it belongs to, so that a later one can tell what was left behind.
const ownerFile = "owner.json"

// record is the content of an owner file.
type record struct {
	Owner process `json:"owner"`
	// Daemon is the private daemon's init process.
	Daemon process `json:"daemon,omitzero"`
	// Domains are directories elsewhere that belong to the owner.
	Domains []string `json:"domains,omitempty"`
}

// write is not atomic for the sake of a power cut: only for readers that run meanwhile.
func (r record) write(dir string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, ownerFile)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func readRecord(dir string) (record, error) {
	var r record
	b, err := os.ReadFile(filepath.Join(dir, ownerFile))
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	return r, err
}
