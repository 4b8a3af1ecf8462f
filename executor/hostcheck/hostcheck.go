// Package hostcheck tells what a host lacks to run the executor with its settings. It changes nothing; only the answer
// whether KVM works is remembered, as always.
package hostcheck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/admission"
	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/vm"
)

// State is how grave a finding is.
type State string

const (
	OK    State = "ok"
	Warns State = "warning" // it works, and somebody should know
	Lacks State = "lacks"   // jobs would fail
)

// Finding is one thing that was looked at.
type Finding struct {
	Subject string `json:"subject"`
	State   State  `json:"state"`
	Says    string `json:"says"`
	// Hint is what to do about it.
	Hint string `json:"hint,omitempty"`
}

// Host is where Check looks. Zero values get the default that is named.
type Host struct {
	// RunnerConfig is gitlab-runner's configuration. Default /etc/gitlab-runner/config.toml.
	RunnerConfig string
	// LibvirtConfig is the directory of libvirt's configuration. Default /etc/libvirt.
	LibvirtConfig string
	// Imported finds the pool's image of that name, or with that digest. Nil: not looked at.
	Imported func(pool, name, digest string) (path, format string, err error)
}

// Check looks at everything that the settings need. What cannot be looked at is a finding too.
func Check(ctx context.Context, s *settings.Settings, h Host) []Finding {
	if h.RunnerConfig == "" {
		h.RunnerConfig = "/etc/gitlab-runner/config.toml"
	}
	if h.LibvirtConfig == "" {
		h.LibvirtConfig = "/etc/libvirt"
	}
	c := &check{ctx: ctx, settings: s, host: h}
	for _, look := range []func(){c.tools, c.libvirt, c.accelerator, c.runner, c.runnerConfig, c.images, c.budget, c.directories, c.console, c.outputs, c.units} {
		look()
	}
	return c.findings
}

// Lacking tells whether jobs would fail.
func Lacking(findings []Finding) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return f.State == Lacks })
}

type check struct {
	ctx      context.Context
	settings *settings.Settings
	host     Host
	findings []Finding
	// qemuUser is the uid as which libvirt runs QEMU. 0: root's, or libvirt was not asked.
	qemuUser int
}

func (c *check) ok(subject, format string, args ...any) { c.note(subject, OK, "", format, args...) }
func (c *check) warn(subject, hint, format string, args ...any) {
	c.note(subject, Warns, hint, format, args...)
}
func (c *check) lack(subject, hint, format string, args ...any) {
	c.note(subject, Lacks, hint, format, args...)
}

func (c *check) note(subject string, state State, hint, format string, args ...any) {
	c.findings = append(c.findings, Finding{subject, state, fmt.Sprintf(format, args...), hint})
}

// tools are programs by the Debian package that has them.
func (c *check) tools() {
	wanted := [][2]string{{"qemu-system-x86_64", "qemu-system-x86"}, {"qemu-img", "qemu-utils"}}
	if len(c.natNetworks()) > 0 {
		wanted = append(wanted, [2]string{"dnsmasq", "dnsmasq-base"}, [2]string{"ebtables", "iptables"})
	}
	for _, tool := range wanted {
		path, err := lookPath(tool[0])
		if err != nil {
			c.lack(tool[0], "apt-get install "+tool[1], "is not installed")
			continue
		}
		c.ok(tool[0], "%s", path)
	}
}

// lookPath also finds what only root's PATH has.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if err == nil {
			break
		}
		path, err = exec.LookPath(filepath.Join(dir, name))
	}
	return path, err
}

// natNetworks are the libvirt networks of the ref classes, each once.
func (c *check) natNetworks() map[string]settings.Network {
	n := c.settings.Networks
	found := make(map[string]settings.Network)
	for _, network := range []settings.Network{n.Protected, n.Unprotected, n.Fork} {
		if network.Mode == settings.NAT {
			found[network.Name] = network
		}
	}
	return found
}

func (c *check) libvirt() {
	s, err := vm.LookAround(c.ctx, c.settings.Libvirt.URI)
	if err != nil {
		c.lack("libvirtd", "apt-get install libvirt-daemon-system, and systemctl start libvirtd", "does not answer: %v", err)
		return
	}
	c.ok("libvirtd", "libvirt %s, QEMU %s", s.Libvirt, s.QEMU)
	c.qemuUser = s.User
	c.defined("storage pool "+c.settings.Pool.Name, s.Pools, c.settings.Pool.Name)
	nat := c.natNetworks()
	for _, name := range slices.Sorted(maps.Keys(nat)) {
		c.network(name, nat[name].Subnet, s)
		c.defined("nwfilter "+nat[name].Filter, s.Filters, nat[name].Filter)
	}
}

func (c *check) defined(subject string, there map[string]bool, name string) {
	switch active, known := there[name]; {
	case active:
		c.ok(subject, "is there")
	case known:
		c.ok(subject, "is stopped; the next job starts it")
	default:
		c.ok(subject, "is not there; the next job makes it")
	}
}

// network also holds the addresses of one that is there against the settings: it keeps its own.
func (c *check) network(name, subnet string, s vm.Survey) {
	subject := "network " + name
	wanted, err := vm.ParseSubnet(subnet)
	gateway, there := s.Gateways[name]
	has, err2 := netip.ParseAddr(gateway)
	switch {
	case err != nil:
		c.lack(subject, "", "%v", err)
	case there && err2 != nil:
		c.lack(subject, "give it an <ip>, or remove it: then one behind NAT is made", "this host has no IPv4 address in it, which jobs need")
	case there && !wanted.Contains(has):
		c.warn(subject, "set subnet to what it has, or virsh net-destroy and net-undefine it when no VM uses it: the next job makes it anew", "keeps its address %s, and its subnet in the settings is %v", gateway, wanted)
	default:
		c.defined(subject, s.Networks, name)
	}
}

func (c *check) accelerator() {
	accel, why := vm.TCG, "asked for"
	if c.settings.Libvirt.Accelerator != "tcg" {
		accel, why = vm.Verdict(c.ctx)
	}
	switch {
	case accel == vm.KVM:
		c.ok("KVM", "a guest has run on it")
	case c.settings.Libvirt.Accelerator == "kvm":
		c.lack("KVM", "libvirt.accelerator: auto does without", "%s", why)
	case c.settings.Libvirt.Accelerator == "tcg":
		c.ok("KVM", "is not used: libvirt.accelerator is tcg")
	default:
		c.warn("KVM", "guests are emulated, many times slower", "%s", why)
	}
}

func (c *check) images() {
	for _, name := range c.settings.ImageNames() {
		subject, i := "image "+name, c.settings.Images[name]
		if i.File != "" {
			if info, err := os.Stat(i.File); err != nil {
				c.lack(subject, "", "%v", err)
			} else if !info.Mode().IsRegular() {
				c.lack(subject, "", "%s is no regular file", i.File)
			} else {
				c.fits(subject, name, i.File, i.Format, i.File)
				c.reach(subject, i.File)
			}
			continue
		}
		if c.host.Imported == nil {
			continue
		}
		path, format, err := c.host.Imported(c.settings.Pool.Path, name, i.Digest)
		if err != nil {
			c.lack(subject, "debcloud executor image build, or import", "%v", err)
			continue
		}
		c.fits(subject, name, path, format, "is in the pool")
	}
}

// fits holds the disk of a job that asks for nothing against that of its image; says is what is said of one that is large enough.
func (c *check) fits(subject, name, path, format, says string) {
	m, err := c.settings.MachineFor("", name, settings.Machine{})
	size, err2 := vm.VirtualSize(c.ctx, path, format)
	switch err := errors.Join(err, err2); {
	case err != nil:
		c.lack(subject, "", "%v", err)
	case m.Disk > 0 && int64(m.Disk) < size:
		c.lack(subject, "raise disk in its limits, or in everybody's", "has a disk of %v, and a job that asks for nothing gets %v", settings.Size(size), m.Disk)
	default:
		c.ok(subject, "%s", says)
	}
}

func (c *check) budget() {
	s := c.settings
	h, err := admission.Measure(s.Pool.Path)
	if err != nil {
		c.lack("budget", "", "%v", err)
		return
	}
	b := admission.BudgetOf(s.Budget, h)
	c.ok("budget", "%d processors, %v memory, %v disk for all VMs together", b.CPUs, inGiB(b.Memory), inGiB(b.Disk))
	if b.CPUs > h.CPUs {
		c.warn("processors", "", "the budget has %d, the host %d: VMs share them", b.CPUs, h.CPUs)
	}
	c.compare("memory", s.Budget.Memory, h.Memory, h.AvailableMemory, s.Budget.Reserve.Memory)
	c.compare("disk", s.Budget.Disk, h.Disk, h.SpareDisk, s.Budget.Reserve.Disk)
	least := settings.Resources{VMs: 1, CPUs: s.Limits.Default.CPUs, Memory: s.Limits.Default.Memory, Disk: s.Limits.Default.Disk}
	if least.CPUs > b.CPUs || least.Memory > b.Memory || least.Disk > b.Disk {
		c.lack("default VM", "lower limits.default or raise the budget", "%d processors, %v memory and %v disk are more than the whole budget",
			least.CPUs, least.Memory, least.Disk)
	} else if most := s.Limits.Max; most.CPUs > b.CPUs || most.Memory > b.Memory || most.Disk > b.Disk {
		c.warn("largest VM", "lower limits.max", "a job that asks for all that limits.max allows is refused: it is more than the whole budget")
	}
}

// compare holds one part of the budget against what the host has, and has now.
func (c *check) compare(what string, budget, all, spare, reserve settings.Size) {
	if budget > all-reserve {
		c.lack(what, "lower budget."+what, "the budget has %v, the host %v, of which %v are reserved", budget, inGiB(all), reserve)
		return
	}
	need := c.settings.Limits.Default.Memory
	if what == "disk" {
		need = c.settings.Limits.Default.Disk
	}
	if spare-reserve < need {
		c.warn(what, "jobs wait until others free some", "the host has %v left, of which %v are reserved: a VM of %v does not fit now", inGiB(spare), reserve, need)
		return
	}
	c.ok(what, "%v of %v are free", inGiB(spare), inGiB(all))
}

// inGiB drops what nobody wants to read.
func inGiB(s settings.Size) settings.Size { return s >> 30 << 30 }

// directories looks at whether somebody else could put a VM's disk or a ledger under the executor.
func (c *check) directories() {
	for _, d := range [][2]string{{"state", c.settings.State}, {"run", c.settings.Run}, {"pool", c.settings.Pool.Path}, {"console", c.settings.Console.Dir}} {
		subject, dir := "directory "+d[0], d[1]
		info, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			c.ok(subject, "%s is not there; the next job makes it", dir)
			continue
		}
		if err != nil {
			c.lack(subject, "", "%v", err)
			continue
		}
		c.directory(subject, dir, info)
		if d[0] == "pool" {
			c.reach(subject, dir)
		}
	}
}

func (c *check) directory(subject, dir string, info fs.FileInfo) {
	owner := info.Sys().(*syscall.Stat_t).Uid
	switch {
	case !info.IsDir():
		c.lack(subject, "", "%s is no directory", dir)
	case info.Mode().Perm()&0o022 != 0:
		c.lack(subject, "chmod go-w "+dir, "%s can be written to by others: mode %04o", dir, info.Mode().Perm())
	case int(owner) != os.Geteuid() && owner != 0:
		c.lack(subject, fmt.Sprintf("chown root %s", dir), "%s belongs to user %d", dir, owner)
	case syscall.Access(dir, 2 /* W_OK */) != nil:
		c.lack(subject, "run this as root", "%s cannot be written to", dir)
	default:
		c.ok(subject, "%s, mode %04o", dir, info.Mode().Perm())
	}
}

func (c *check) outputs() {
	if t := c.settings.Metrics.Textfile; t != "" {
		if _, err := os.Stat(filepath.Dir(t)); err != nil {
			c.warn("metrics", "apt-get install prometheus-node-exporter", "the textfile cannot be written: %v", err)
		} else {
			c.ok("metrics", "%s", t)
		}
	}
}

// units asks systemd, where it runs, whether the reaper is awake.
func (c *check) units() {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		c.warn("reaper", "run debcloud executor reap each minute or so", "systemd does not run here, so no timer does")
		return
	}
	wanted := []string{"debcloud-executor-reap.timer"}
	if len(c.settings.WarmPool.VMs) > 0 {
		wanted = append(wanted, "debcloud-executor-pool.service")
	}
	for _, unit := range wanted {
		ctx, cancel := context.WithTimeout(c.ctx, 10*time.Second)
		out, _ := exec.CommandContext(ctx, "systemctl", "is-active", unit).Output()
		cancel()
		if state := strings.TrimSpace(string(out)); state == "active" {
			c.ok(unit, "active")
		} else {
			c.lack(unit, "systemctl enable --now "+unit, "%s", state)
		}
	}
}
