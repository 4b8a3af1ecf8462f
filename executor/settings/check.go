package settings

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
	"salsa.debian.org/cloud-team/debcloud/internal/vm"
)

// maxRunPath leaves room for the names of sockets in it, which may have 108 bytes (unix(7)).
const maxRunPath = 60

var (
	imageName  = lazyregexp.New(`^[a-zA-Z0-9][a-zA-Z0-9._:/-]{0,99}$`)
	objectName = lazyregexp.New(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$`)
	digest     = lazyregexp.New(`^sha512:[0-9a-f]{128}$`)
)

// checker collects what is wrong, with the line where the file says it.
type checker struct {
	root   *yaml.Node
	faults []lineFault
}

type lineFault struct {
	line int // 0: the file does not say it
	text string
}

// bad notes a fault of the setting at a path such as "images.trixie.file".
func (c *checker) bad(setting, format string, args ...any) {
	f := lineFault{line: lineOf(c.root, strings.Split(setting, ".")), text: setting + ": " + fmt.Sprintf(format, args...)}
	if f.line > 0 {
		f.text = fmt.Sprintf("line %d: %s", f.line, f.text)
	}
	c.faults = append(c.faults, f)
}

// err joins the faults in the order of the file.
func (c *checker) err() error {
	slices.SortFunc(c.faults, func(a, b lineFault) int { return cmp.Or(a.line-b.line, strings.Compare(a.text, b.text)) })
	var all []error
	for _, f := range c.faults {
		all = append(all, errors.New(f.text))
	}
	return errors.Join(all...)
}

// lineOf follows keys and indexes as far as the document has them.
func lineOf(n *yaml.Node, keys []string) int {
	if n == nil || len(n.Content) == 0 && n.Line == 0 {
		return 0
	}
	if n.Kind == yaml.DocumentNode {
		return lineOf(n.Content[0], keys)
	}
	if len(keys) > 0 && n.Kind == yaml.MappingNode {
		// A key may have dots in it, such as an image's name.
		for length := len(keys); length > 0; length-- {
			if at := indexOfKey(n, strings.Join(keys[:length], ".")); at >= 0 {
				return max(n.Content[at].Line, lineOf(n.Content[at+1], keys[length:]))
			}
		}
		return 0
	}
	if len(keys) > 0 && n.Kind == yaml.SequenceNode {
		if i, err := strconv.Atoi(keys[0]); err == nil && i < len(n.Content) {
			return lineOf(n.Content[i], keys[1:])
		}
	}
	return n.Line
}

func indexOfKey(n *yaml.Node, key string) int {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return i
		}
	}
	return -1
}

func (s *Settings) check(root *yaml.Node) error {
	c := &checker{root: root}
	s.checkPlaces(c)
	s.checkNetworks(c)
	s.checkImages(c)
	s.checkLimits(c)
	s.checkTimes(c)
	s.checkWarmPool(c)
	s.checkOutputs(c)
	return c.err()
}

func (c *checker) absolute(setting, p string) {
	if !filepath.IsAbs(p) || filepath.Clean(p) != p || p == "/" {
		c.bad(setting, "%q is no absolute path without . and ..", p)
	}
}

func (c *checker) oneOf(setting, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		c.bad(setting, "%q is none of: %s", value, strings.Join(allowed, ", "))
	}
}

func (s *Settings) checkPlaces(c *checker) {
	if err := vm.CheckURI(s.Libvirt.URI); err != nil {
		c.bad("libvirt.uri", "%v: %s", err, fault.HintOf(err))
	}
	c.oneOf("libvirt.accelerator", s.Libvirt.Accelerator, "auto", "kvm", "tcg")
	for setting, p := range map[string]string{"state": s.State, "run": s.Run, "pool.path": s.Pool.Path,
		"console.dir": s.Console.Dir, "gitlab_runner": s.GitlabRunner, "guest.builds_dir": s.Guest.BuildsDir, "guest.cache_dir": s.Guest.CacheDir} {
		c.absolute(setting, p)
	}
	if len(s.Run) > maxRunPath {
		c.bad("run", "%q is longer than %d bytes, so names of sockets in it would be too long", s.Run, maxRunPath)
	}
	if !objectName.MatchString(s.Pool.Name) {
		c.bad("pool.name", "%q is no name for a storage pool", s.Pool.Name)
	}
	if s.Console.Cap < 64<<10 {
		c.bad("console.cap", "%v is too little of a console: at least 64KiB", s.Console.Cap)
	}
}

func (s *Settings) checkNetworks(c *checker) {
	classes := []string{Protected, Unprotected, Fork}
	for i, class := range classes {
		setting, n := "networks."+class, s.NetworkFor(class)
		c.oneOf(setting+".mode", n.Mode, NAT, None, User)
		if n.Mode != NAT {
			continue
		}
		if !objectName.MatchString(n.Name) {
			c.bad(setting+".name", "mode nat needs the name of a libvirt network, and %q is none", n.Name)
		}
		if !objectName.MatchString(n.Filter) {
			c.bad(setting+".filter", "mode nat needs the name of an nwfilter, and %q is none: without it a job reaches the host", n.Filter)
		}
		if _, err := vm.ParseSubnet(n.Subnet); err != nil {
			c.bad(setting+".subnet", "%v", err)
		}
		for _, other := range classes[:i] {
			c.apart(class, n, other, s.NetworkFor(other))
		}
	}
}

// apart holds that networks of different names have different addresses: of two that share some, libvirt starts only one.
func (c *checker) apart(class string, n Network, otherClass string, other Network) {
	setting := "networks." + class + ".subnet"
	a, err := vm.ParseSubnet(n.Subnet)
	b, err2 := vm.ParseSubnet(other.Subnet)
	switch {
	case other.Mode != NAT || err != nil || err2 != nil:
	case n.Name == other.Name && a != b:
		c.bad(setting, "is %v, and networks.%s gives the same network %s %v", a, otherClass, n.Name, b)
	case n.Name != other.Name && a.Overlaps(b):
		c.bad(setting, "%v of network %s overlaps %v of network %s, so libvirt would start only one of them: give each its own", a, n.Name, b, other.Name)
	}
}

func (s *Settings) checkImages(c *checker) {
	for _, name := range s.ImageNames() {
		setting, i := "images."+name, s.Images[name]
		if !imageName.MatchString(name) {
			c.bad(setting, "%q is no name for an image: letters, digits, and . _ : / -", name)
		}
		if i.Digest != "" && !digest.MatchString(i.Digest) {
			c.bad(setting+".digest", "%q is not sha512: and 128 hexadecimal digits", i.Digest)
		}
		if i.Digest != "" && i.File != "" {
			c.bad(setting, "has both a digest and a file")
		}
		if i.File != "" {
			c.absolute(setting+".file", i.File)
			c.oneOf(setting+".format", i.Format, "qcow2", "raw")
		}
		if i.File == "" && i.Format != "" {
			c.bad(setting+".format", "is for an image with a file only")
		}
		c.oneOf(setting+".firmware", i.Firmware, "bios", "uefi")
		c.oneOf(setting+".seed", i.Seed, "", "nocloud")
	}
	if len(s.Images) == 0 {
		c.bad("images", "is empty, so no job can run")
		return
	}
	if _, ok := s.Images[s.DefaultImage]; !ok {
		c.bad("default_image", "%q is none of: %s", s.DefaultImage, strings.Join(s.ImageNames(), ", "))
	}
}

func (s *Settings) checkLimits(c *checker) {
	c.limits("limits", s.Limits)
	for part, m := range map[string]Machine{"default": s.Limits.Default, "max": s.Limits.Max} {
		for what, said := range map[string]bool{"cpus": m.CPUs != 0, "memory": m.Memory != 0, "disk": m.Disk != 0} {
			if !said {
				c.bad("limits."+part+"."+what, "0 is no size: the budget counts what a VM may have")
			}
		}
	}
	for name, i := range s.Images {
		c.limits("images."+name+".limits", i.Limits)
	}
	for i, p := range s.Projects {
		setting := fmt.Sprintf("projects.%d", i)
		c.pattern(setting+".match", p.Match)
		c.limits(setting+".limits", p.Limits)
	}
	for i, p := range s.Testbed.Projects {
		c.pattern(fmt.Sprintf("testbed.projects.%d", i), p)
	}
	b, r, t := s.Budget, s.Budget.Reserve, s.Testbed.Budget
	c.natural("budget", b.CPUs, b.Memory, b.Disk, b.VMs)
	c.natural("budget.reserve", r.CPUs, r.Memory, r.Disk, 0)
	c.natural("testbed.budget", t.CPUs, t.Memory, t.Disk, t.VMs)
}

func (c *checker) natural(setting string, cpus int, memory, disk Size, vms int) {
	if cpus < 0 || memory < 0 || disk < 0 || vms < 0 {
		c.bad(setting, "has a number below zero")
	}
}

// leastMemory is less than any Debian boots with.
const leastMemory = 128 << 20

func (c *checker) limits(setting string, l Limits) {
	for part, m := range map[string]Machine{".default": l.Default, ".max": l.Max} {
		c.natural(setting+part, m.CPUs, m.Memory, m.Disk, 0)
		if m.Memory > 0 && m.Memory < leastMemory {
			c.bad(setting+part+".memory", "%v is too little for any VM: at least %v", m.Memory, Size(leastMemory))
		}
	}
	if d := l.Default; d != d.atMost(l.Max) {
		c.bad(setting+".default", "is more than %s.max", setting)
	}
}

func (c *checker) pattern(setting, pattern string) {
	if _, err := path.Match(strings.TrimSuffix(pattern, "/**"), ""); err != nil || pattern == "" || strings.HasPrefix(pattern, "/") {
		c.bad(setting, "%q is no pattern for the path of a project, such as group/* or group/**", pattern)
	}
}

func (s *Settings) checkTimes(c *checker) {
	for setting, d := range map[string]time.Duration{"agent.boot": s.Agent.Boot, "agent.boot_emulated": s.Agent.BootEmulated, "agent.connect": s.Agent.Connect,
		"deadlines.job": s.Deadlines.Job, "deadlines.grace": s.Deadlines.Grace, "deadlines.admission": s.Deadlines.Admission,
		"console.keep": s.Console.Keep, "warm_pool.max_age": s.WarmPool.MaxAge, "warm_pool.check": s.WarmPool.Check} {
		if d < time.Second {
			c.bad(setting, "%v is shorter than a second", d)
		}
	}
}

func (s *Settings) checkWarmPool(c *checker) {
	for i, w := range s.WarmPool.VMs {
		setting := fmt.Sprintf("warm_pool.vms.%d", i)
		if _, ok := s.Images[w.Image]; !ok {
			c.bad(setting+".image", "%q is none of: %s", w.Image, strings.Join(s.ImageNames(), ", "))
		}
		c.oneOf(setting+".refs", w.Refs, Protected, Unprotected, Fork)
		if w.Count < 0 || w.Count > 100 {
			c.bad(setting+".count", "%d is not between 0 and 100", w.Count)
		}
	}
}

func (s *Settings) checkOutputs(c *checker) {
	if t := s.Metrics.Textfile; t != "" {
		c.absolute("metrics.textfile", t)
		if filepath.Ext(t) != ".prom" {
			c.bad("metrics.textfile", "%q does not end in .prom, so node_exporter does not read it", t)
		}
	}
	if a := s.Metrics.Address; a != "" {
		host, port, err := net.SplitHostPort(a)
		ip, err2 := netip.ParseAddr(host)
		if _, err3 := strconv.ParseUint(port, 10, 16); err != nil || err3 != nil || host != "localhost" && (err2 != nil || !ip.IsLoopback()) {
			c.bad("metrics.address", "%q is no address on loopback, such as 127.0.0.1:9465", a)
		}
	}
	if s.Log.File != "" {
		c.absolute("log.file", s.Log.File)
	}
	c.oneOf("log.level", s.Log.Level, "debug", "info", "warn", "error")
}
