// Package process names processes of this host so that they are not mistaken for others later.
package process

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// ID names one process of this host, also after its number was given to another.
type ID struct {
	PID   int    `json:"pid" xml:"pid,attr"`
	Start uint64 `json:"start" xml:"start,attr"` // clock ticks after the boot, field 22 of proc_pid_stat(5)
	Boot  string `json:"boot" xml:"boot,attr"`   // the kernel's boot_id
}

// This is the process that asks.
func This() ID { return Of(os.Getpid()) }

// Of names the process that has the number now.
func Of(pid int) ID {
	return ID{PID: pid, Start: startTime(pid), Boot: BootID()}
}

// Runs reports whether the process still exists. A zombie does not.
func (p ID) Runs() bool {
	return p.PID > 0 && p.Boot == BootID() && p.Start != 0 && startTime(p.PID) == p.Start
}

// Kill ends the process if it is still the same.
func (p ID) Kill() {
	if p.Runs() {
		_ = syscall.Kill(p.PID, syscall.SIGKILL)
	}
}

// stat returns the fields of proc_pid_stat(5) from the third on; none where the process does not run.
func stat(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	// The second field is the program's name in parentheses, which may hold anything.
	_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return nil
	}
	return fields
}

// startTime is 0 where the process does not run.
func startTime(pid int) uint64 {
	fields := stat(pid)
	if fields == nil {
		return 0
	}
	n, _ := strconv.ParseUint(fields[19], 10, 64)
	return n
}

// Parent is the number of a process's parent, 0 where it does not run.
func Parent(pid int) int {
	fields := stat(pid)
	if fields == nil {
		return 0
	}
	n, _ := strconv.Atoi(fields[1])
	return n
}

// BootID changes with each boot of the host.
func BootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}
