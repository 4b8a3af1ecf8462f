package hostcheck

import (
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

// reach looks at whether QEMU, which libvirt runs as a user of its own, comes to the disks of VMs. libvirt gives it the files, but not the
// directories above them.
func (c *check) reach(subject, path string) {
	if closed := closedAbove(path, c.qemuUser); closed != "" {
		c.lack(subject, "chmod o+x "+closed, "QEMU runs as user %d, who does not come through %s to %s", c.qemuUser, closed, path)
	}
}

// closedAbove is the topmost directory on the way to a file, or into a directory, that a user may not go through, "" where there is none.
func closedAbove(path string, uid int) string {
	if uid == 0 {
		return ""
	}
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "" // that is said elsewhere
	}
	groups := groupsOf(uid)
	closed := ""
	dir := path
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		dir = filepath.Dir(path)
	}
	for ; ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && !mayPass(info, uid, groups) {
			closed = dir
		}
		if dir == filepath.Dir(dir) {
			return closed
		}
	}
}

// mayPass tells whether a user has the right to search a directory (path_resolution(7)).
func mayPass(info fs.FileInfo, uid int, groups []int) bool {
	s, mode := info.Sys().(*syscall.Stat_t), info.Mode().Perm()
	switch {
	case int(s.Uid) == uid:
		return mode&0o100 != 0
	case slices.Contains(groups, int(s.Gid)):
		return mode&0o010 != 0
	}
	return mode&0o001 != 0
}

func groupsOf(uid int) []int {
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return nil
	}
	names, _ := u.GroupIds()
	var groups []int
	for _, name := range names {
		if gid, err := strconv.Atoi(name); err == nil {
			groups = append(groups, gid)
		}
	}
	return groups
}
