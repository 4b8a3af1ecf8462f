package hostcheck

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/executor/settings"
)

// What holds where virtlogd.conf and qemu.conf say nothing.
const (
	defaultLogSize    = 2 << 20
	defaultLogBackups = 3
	defaultStdio      = "logd"
)

// console holds what virtlogd keeps of a console against its cap. A guest may print without end.
func (c *check) console() {
	const subject = "console"
	virtlogd, qemu := filepath.Join(c.host.LibvirtConfig, "virtlogd.conf"), filepath.Join(c.host.LibvirtConfig, "qemu.conf")
	of, err := libvirtConfig(virtlogd)
	ofQEMU, err2 := libvirtConfig(qemu)
	if err := errors.Join(err, err2); err != nil {
		c.warn(subject, "", "nobody knows how large one may become: %v", err)
		return
	}
	const bound = "a console may become as large as the file system"
	if h := valueOr(ofQEMU, "stdio_handler", defaultStdio); h != defaultStdio {
		c.warn(subject, "leave it out, and restart libvirtd; VMs that run keep what they have", "stdio_handler is %q in %s, so %s", h, qemu, bound)
		return
	}
	size, err := strconv.ParseUint(valueOr(of, "max_size", strconv.Itoa(defaultLogSize)), 10, 48)
	backups, err2 := strconv.ParseUint(valueOr(of, "max_backups", strconv.Itoa(defaultLogBackups)), 10, 14)
	if err := errors.Join(err, err2); err != nil {
		c.warn(subject, "", "%s: %v", virtlogd, err)
		return
	}
	wanted := "set max_size and max_backups such that max_size * (max_backups + 1) is at most " + strconv.FormatInt(int64(c.settings.Console.Cap), 10) +
		", and systemctl reload-or-restart virtlogd"
	switch most := settings.Size(size) * settings.Size(backups+1); {
	case size == 0:
		c.warn(subject, wanted, "max_size is 0 in %s, so %s", virtlogd, bound)
	case most > c.settings.Console.Cap:
		c.warn(subject, wanted+"; or raise console.cap", "%s lets one become %v, and console.cap is %v", virtlogd, most, c.settings.Console.Cap)
	default:
		c.ok(subject, "at most %v of each are kept", most)
	}
}

func valueOr(of map[string]string, key, otherwise string) string {
	if v, ok := of[key]; ok {
		return v
	}
	return otherwise
}

// libvirtConfig reads the lines "key = value" of a configuration of libvirt's. A file that is not there says nothing.
func libvirtConfig(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	found := make(map[string]string)
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		line, _, _ := strings.Cut(s.Text(), "#")
		if key, value, ok := strings.Cut(line, "="); ok {
			found[strings.TrimSpace(key)] = strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	return found, nil
}
