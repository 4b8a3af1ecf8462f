package admission

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/vm"
)

// Host is what a machine has, and what of it nobody uses.
type Host struct {
	CPUs                       int
	Memory, Disk               settings.Size
	AvailableMemory, SpareDisk settings.Size
}

// Measure reads the host's processors and memory, and the file system of dir or, where that does not exist yet, of the
// nearest folder above.
func Measure(dir string) (Host, error) {
	h := Host{CPUs: runtime.NumCPU()}
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return h, fault.Outsidef("memory of this host: %w", err)
	}
	h.Memory, h.AvailableMemory = meminfo(text, "MemTotal:"), meminfo(text, "MemAvailable:")
	var st unix.Statfs_t
	for err = unix.Statfs(dir, &st); err == unix.ENOENT && dir != "/"; err = unix.Statfs(dir, &st) {
		dir = filepath.Dir(dir)
	}
	if err != nil {
		return h, fault.Outsidef("file system of %s: %w", dir, err)
	}
	h.Disk, h.SpareDisk = settings.Size(st.Blocks)*settings.Size(st.Bsize), settings.Size(st.Bavail)*settings.Size(st.Bsize)
	return h, nil
}

func meminfo(text []byte, key string) settings.Size {
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), key); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return settings.Size(kib) << 10
		}
	}
	return 0
}

// unlimited stands for no limit of VMs.
const unlimited = 1 << 20

// BudgetOf works out a budget: what the settings do not say is the host's, without the reserve.
func BudgetOf(b settings.Budget, h Host) settings.Resources {
	r := settings.Resources{CPUs: b.CPUs, Memory: b.Memory, Disk: b.Disk, VMs: b.VMs}
	if r.CPUs == 0 {
		r.CPUs = max(1, h.CPUs-b.Reserve.CPUs)
	}
	if r.Memory == 0 {
		r.Memory = max(0, h.Memory-b.Reserve.Memory)
	}
	if r.Disk == 0 {
		r.Disk = max(0, h.Disk-b.Reserve.Disk)
	}
	if r.VMs == 0 {
		r.VMs = unlimited
	}
	return r
}

// onDisk looks at the files in the pool.
func onDisk(s *settings.Settings) func(string) settings.Size {
	return func(id string) settings.Size { return settings.Size(vm.OnDisk(s.Pool.Path, id)) }
}

// spareOf looks at the host each time, because its other users come and go.
func spareOf(s *settings.Settings) func(context.Context) (settings.Resources, error) {
	return func(context.Context) (settings.Resources, error) {
		h, err := Measure(s.Pool.Path)
		if err != nil {
			return settings.Resources{}, fmt.Errorf("room on this host: %w", err)
		}
		return settings.Resources{Memory: h.AvailableMemory - s.Budget.Reserve.Memory, Disk: h.SpareDisk - s.Budget.Reserve.Disk}, nil
	}
}
