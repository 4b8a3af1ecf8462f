package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Private is a libvirtd of this process for lasting domains: they outlive who made them, but not this process. It is for
// tests and benchmarks of what connects to a Node, on machines where no libvirtd runs.
type Private struct {
	daemon *daemon
	dir    string
}

// StartPrivate starts a libvirtd in an existing directory with a short path. With a network namespace its networks exist
// nowhere else. Stop it when done.
func StartPrivate(ctx context.Context, dir string, network bool) (*Private, error) {
	cache := filepath.Join(cacheDir(), "libvirt")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	accel := TCG
	if rememberedProbe(ctx, cacheDir()).KVM {
		accel = KVM
	}
	d, err := daemonOptions{run: dir, cache: cache, accel: accel, lasting: true, network: network}.start()
	if err != nil {
		return nil, err
	}
	p := &Private{daemon: d, dir: dir}
	conn, err := d.dial(ctx)
	if err != nil {
		_ = d.stop()
		return nil, err
	}
	conn.close()
	return p, nil
}

// URI is how Connect finds it.
func (p *Private) URI() string { return p.daemon.uri() }

// LogDir is where it keeps its log of each domain.
func (p *Private) LogDir() string { return filepath.Join(p.dir, "log", "qemu") }

// Init is the process whose namespaces it runs in.
func (p *Private) Init() int { return p.daemon.process.PID }

// Stop ends it and every domain.
func (p *Private) Stop() error { return p.daemon.stop() }

// Kill ends libvirtd alone, with SIGKILL. It comes back.
func (p *Private) Kill() error {
	for _, pid := range p.Processes() {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if strings.TrimSpace(string(name)) == "libvirtd" {
			return syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return fmt.Errorf("no libvirtd runs in %s", p.dir)
}

// Processes are those of its PID namespace: libvirtd, virtlogd, each QEMU.
func (p *Private) Processes() []int {
	namespace := func(pid string) string {
		link, _ := os.Readlink(filepath.Join("/proc", pid, "ns", "pid"))
		return link
	}
	own := namespace(strconv.Itoa(p.Init()))
	all, _ := filepath.Glob("/proc/[0-9]*")
	var found []int
	for _, path := range all {
		name := filepath.Base(path)
		pid, err := strconv.Atoi(name)
		if err != nil || own == "" || namespace(name) != own {
			continue
		}
		if b, _ := os.ReadFile(filepath.Join(path, "stat")); !bytes.Contains(b, []byte(") Z ")) {
			found = append(found, pid)
		}
	}
	return found
}
