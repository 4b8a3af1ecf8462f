package build

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// What a build needs, in bytes, with room for a kernel with all drivers.
const (
	treeNeeds  = 2200 << 20 // the tree while packages are being installed
	imageNeeds = 1500 << 20 // the sparse image, at most
	spareRAM   = 1 << 30    // what the build leaves to others when the tree is in memory
)

// place is where the tree is put together.
type place struct {
	inMemory bool
	size     int64 // bytes that a tree in memory may grow to
}

// choosePlace puts the tree into memory where that is ample, because a tree on a tmpfs is built in half the time, and
// refuses to begin where the disk cannot hold what the build will write.
func choosePlace(output string) (place, error) {
	p := place{size: treeNeeds}
	if available, err := availableMemory("/proc/meminfo"); err == nil && available > treeNeeds+spareRAM {
		p.inMemory = true
	}
	need := int64(imageNeeds)
	if !p.inMemory {
		need += treeNeeds
	}
	free, err := freeSpace(output)
	if err != nil {
		return p, err
	}
	return p, demandSpace(output, need, free)
}

func demandSpace(output string, need, free int64) error {
	if need <= free {
		return nil
	}
	return fault.WithHint(fault.Outsidef("a build needs %s in %s, which has %s free", mebibytes(need), output, mebibytes(free)),
		"free space there, or choose another --output")
}

func mebibytes(n int64) string { return strconv.FormatInt(n>>20, 10) + " MiB" }

func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// availableMemory reads MemAvailable (proc(5)), and the limit of this process's control group where that is lower.
func availableMemory(meminfo string) (int64, error) {
	text, err := os.ReadFile(meminfo)
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(text), "MemAvailable:")
	kib, err := parseKiB(after)
	if err != nil {
		return 0, fmt.Errorf("MemAvailable in %s: %w", meminfo, err)
	}
	return min(kib<<10, groupMemory("/sys/fs/cgroup")), nil
}

// parseKiB reads the number before " kB" that text begins with.
func parseKiB(text string) (int64, error) {
	number, _, _ := strings.Cut(strings.TrimSpace(text), " ")
	return strconv.ParseInt(number, 10, 64)
}

// groupMemory is what the control group may still take, or more than there is where it has no limit (cgroups v2).
func groupMemory(root string) int64 {
	const unlimited = 1 << 62
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return unlimited
	}
	_, group, ok := strings.Cut(string(own), "0::")
	if !ok {
		return unlimited
	}
	dir := filepath.Join(root, strings.TrimSpace(group))
	limit, err1 := readNumber(filepath.Join(dir, "memory.max"))
	used, err2 := readNumber(filepath.Join(dir, "memory.current"))
	if err1 != nil || err2 != nil {
		return unlimited
	}
	return limit - used
}

func readNumber(file string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}
