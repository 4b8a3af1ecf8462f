package vm

import (
	"context"
	"crypto/rand"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/process"
)

// Host runs domains.
type Host struct {
	options Options
	accel   Accel
	reason  string // why not KVM
	run     string // our directory of short paths
	cache   string
	conn    *connection
	daemon  *daemon    // nil: the daemon is not ours
	bed     *bedClient // nil: domains run here

	mu      sync.Mutex
	domains map[*Domain]struct{}
	closed  bool
}

// Open connects to libvirt and clears away what killed processes left behind. The error says which package is missing
// where one is.
func Open(ctx context.Context, o Options) (*Host, error) {
	if o.Testbed == "" {
		if err := need("qemu-system-x86_64", "qemu-img"); err != nil {
			return nil, err
		}
	}
	h := &Host{options: o, domains: make(map[*Domain]struct{})}
	if h.options.Dir == "" {
		h.options.Dir = os.TempDir()
	}
	var err error
	if h.options.Dir, err = filepath.Abs(h.options.Dir); err != nil {
		return nil, err
	}
	sweepDirectories(h.options.Dir)
	if err := h.makeDirectories(); err != nil {
		return nil, err
	}
	if o.Testbed != "" {
		if h.bed, h.accel, err = dialBed(ctx, o.Testbed); err != nil {
			return nil, errors.Join(err, h.Close())
		}
		return h, nil
	}
	h.chooseAccelerator(ctx)
	if err := h.connect(ctx); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	if err := h.sweepDomains(ctx); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// runRoot holds one directory for each Host of this machine. It is on a file system that a reboot empties.
func runRoot() string {
	if os.Geteuid() == 0 {
		return "/run/debcloud"
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("debcloud-%d", os.Geteuid()))
}

// cacheDir keeps what was learnt of this machine.
func cacheDir() string {
	cache, err := os.UserCacheDir()
	if err != nil { // no HOME, as in a bare system unit
		cache = "/var/cache"
	}
	return filepath.Join(cache, "debcloud", "vm")
}

func (h *Host) makeDirectories() error {
	h.cache = cacheDir()
	if err := os.MkdirAll(h.cache, 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(runRoot(), 0o700); err != nil {
		return err
	}
	var err error
	if h.run, err = os.MkdirTemp(runRoot(), "vm-"); err != nil {
		return err
	}
	return h.writeRecord()
}

func (h *Host) writeRecord() error {
	r := record{Owner: process.This()}
	if h.daemon != nil {
		r.Daemon = h.daemon.process
	}
	for d := range h.domains {
		r.Domains = append(r.Domains, d.files.dir)
	}
	return r.write(h.run)
}

func (h *Host) chooseAccelerator(ctx context.Context) {
	h.accel, h.reason = TCG, "asked for"
	if h.options.Emulated {
		return
	}
	v := rememberedProbe(ctx, h.cache)
	if v.KVM {
		h.accel, h.reason = KVM, ""
		return
	}
	h.reason = v.Reason
	slog.WarnContext(ctx, "guests run without KVM, many times slower", "reason", v.Reason)
}

// Accelerator says how this host's guests are executed. KVM is believed only after a guest has really run on it; the
// answer is kept until the host reboots.
func (h *Host) Accelerator() Accel { return h.accel }

// connect finds the daemon that the options ask for.
func (h *Host) connect(ctx context.Context) error {
	var err error
	if h.options.URI != "" {
		h.conn, err = dial(ctx, h.options.URI)
		return err
	}
	if !h.options.Private && systemDaemonListens() {
		if h.conn, err = dial(ctx, systemURI); err == nil {
			return nil
		}
		slog.InfoContext(ctx, "the system's libvirtd does not answer, starting a private one", "error", err)
	}
	h.daemon, err = startDaemon(h.run, filepath.Join(h.cache, "libvirt"), h.accel)
	if err != nil {
		return err
	}
	if err := h.writeRecord(); err != nil {
		return err
	}
	h.conn, err = h.daemon.dial(ctx)
	return err
}

// systemDaemonListens looks for a socket with somebody behind it: a dead one's file stays.
func systemDaemonListens() bool {
	c, err := net.DialTimeout("unix", systemSocket(socketDir), time.Second)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

// sweepDirectories removes what Hosts of dead processes left in the run directory and in dir.
func sweepDirectories(dir string) {
	for _, pattern := range []string{filepath.Join(runRoot(), "vm-*"), filepath.Join(dir, domainDirPrefix+"*")} {
		found, _ := filepath.Glob(pattern)
		for _, d := range found {
			r, err := readRecord(d)
			if err != nil || r.Owner.Runs() {
				// Without a record it is just being made, or not ours: keep it for a while.
				if info, err2 := os.Stat(d); err == nil || err2 != nil || time.Since(info.ModTime()) < time.Hour {
					continue
				}
			}
			slog.Info("removing what a killed process left", "directory", d, "pid", r.Owner.PID)
			r.Daemon.Kill()
			for _, sub := range r.Domains {
				removeDomainDir(sub)
			}
			_ = os.RemoveAll(d)
		}
	}
}

// removeDomainDir refuses a path that is not one of ours, whatever a record says.
func removeDomainDir(dir string) {
	if strings.HasPrefix(filepath.Base(dir), domainDirPrefix) {
		_ = os.RemoveAll(dir)
	}
}

// sweepDomains destroys domains whose owner is dead. A private daemon has none.
func (h *Host) sweepDomains(ctx context.Context) error {
	if h.daemon != nil {
		return nil
	}
	all, err := h.conn.metadata(ctx, metadataNamespace)
	if err != nil {
		return err
	}
	for name, text := range all {
		var m metadata
		if err := xml.Unmarshal([]byte(text), &m); err != nil || m.Runs() {
			continue
		}
		slog.InfoContext(ctx, "destroying a domain that a killed process left", "domain", name, "pid", m.PID)
		if err := h.conn.destroy(ctx, name); err != nil {
			return err
		}
		removeDomainDir(m.Dir)
	}
	return nil
}

// Start defines a domain on an overlay of the image and powers it on. Destroy it when done, also if ctx has ended.
func (h *Host) Start(ctx context.Context, s Spec) (*Domain, error) {
	s = s.withDefaults()
	if err := errors.Join(s.check(), h.hasRoom(s)); err != nil {
		return nil, err
	}
	d, err := h.newDomain(s)
	if err != nil {
		return nil, err
	}
	if err := d.powerOn(ctx); err != nil {
		if said := d.lastWords(); said != "" {
			err = fmt.Errorf("%w; QEMU said: %s", err, said)
		}
		return nil, errors.Join(fmt.Errorf("virtual machine %s does not start: %w", s.Name, err), d.Destroy(ctx))
	}
	slog.InfoContext(ctx, "virtual machine started", "domain", d.name, "firmware", s.Firmware, "accelerator", h.accel, "image", s.Image)
	slog.DebugContext(ctx, "the same machine without libvirt", "command", d.CommandLine())
	return d, nil
}

func (h *Host) newDomain(s Spec) (*Domain, error) {
	dir, err := os.MkdirTemp(h.options.Dir, domainDirPrefix)
	if err != nil {
		return nil, fault.Inputf("no place for an overlay: %w", err)
	}
	suffix := strings.ToLower(rand.Text()[:6])
	d := &Domain{
		host:  h,
		spec:  s,
		name:  "debcloud-" + s.Name + "-" + suffix,
		files: files{dir: dir, console: filepath.Join(h.run, suffix+".sock")},
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		_ = os.RemoveAll(dir)
		return nil, errors.New("the host is closed")
	}
	h.domains[d] = struct{}{}
	return d, errors.Join(record{Owner: process.This()}.write(dir), h.writeRecord())
}

func (h *Host) forget(d *Domain) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.domains, d)
	if !h.closed {
		_ = h.writeRecord()
	}
}

// Close destroys the domains that are left and stops the daemons that Open started. It may be called twice.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	var left []*Domain
	for d := range h.domains {
		left = append(left, d)
	}
	h.mu.Unlock()
	var errs []error
	for _, d := range left {
		errs = append(errs, d.Destroy(context.Background()))
	}
	if h.conn != nil {
		h.conn.close()
	}
	if h.daemon != nil {
		errs = append(errs, h.daemon.stop())
	}
	return errors.Join(append(errs, os.RemoveAll(h.run))...)
}
