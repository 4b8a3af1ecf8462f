package vm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
)

// NodeOptions say where lasting domains live. Zero values get the default that is named.
type NodeOptions struct {
	// URI is libvirt's name of the daemon. Default "qemu:///system".
	URI string
	// Pool is the storage pool of the overlays. Default "debcloud".
	Pool string
	// PoolDir is where the pool is made when the daemon has none of that name. Default /var/lib/debcloud/pool.
	PoolDir string
	// RunDir holds the sockets of channels and consoles. Its path must be short: a socket's ends at 107 bytes.
	// Default /run/debcloud/executor.
	RunDir string
	// LogDir holds the logs of serial consoles. Default /var/log/debcloud.
	LogDir string
	// DaemonLogDir is where libvirt keeps its log of each domain. Default /var/log/libvirt/qemu.
	DaemonLogDir string
	// Namespace marks the domains that belong to this Node: no others are ever listed or touched. An URI.
	Namespace string
	// Emulated runs every guest without KVM.
	Emulated bool
}

func (o NodeOptions) withDefaults() NodeOptions {
	o.URI = orDefault(o.URI, systemURI)
	o.Pool = orDefault(o.Pool, "debcloud")
	o.PoolDir = orDefault(o.PoolDir, "/var/lib/debcloud/pool")
	o.RunDir = orDefault(o.RunDir, "/run/debcloud/executor")
	o.LogDir = orDefault(o.LogDir, "/var/log/debcloud")
	o.DaemonLogDir = orDefault(o.DaemonLogDir, "/var/log/libvirt/qemu")
	return o
}

// Node is a libvirt daemon whose domains outlive this process: what one process creates, another finds by its metadata,
// connects to and removes. A Node never starts a daemon.
type Node struct {
	options NodeOptions
	accel   Accel
	reason  string
	conn    *connection
}

// daemonPatience bounds the wait for a daemon that is being restarted.
const daemonPatience = 10 * time.Second

// Connect opens a Node. It waits a little for a daemon that is just being restarted.
func Connect(ctx context.Context, o NodeOptions) (*Node, error) {
	if o.Namespace == "" {
		return nil, errors.New("a node needs the namespace of its metadata")
	}
	n := &Node{options: o.withDefaults()}
	for _, dir := range []string{n.options.RunDir, n.options.LogDir} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fault.Outsidef("no place for the sockets and logs of virtual machines: %w", err)
		}
	}
	if err := n.redial(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

// redial connects anew, as often as it takes.
func (n *Node) redial(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, daemonPatience, fmt.Errorf("libvirtd does not answer"))
	defer cancel()
	for {
		conn, err := dial(ctx, n.options.URI)
		if err == nil {
			n.conn = conn
			return nil
		}
		if fault.KindOf(err) == fault.Input {
			return err
		}
		select {
		case <-ctx.Done():
			return fault.WithHint(fault.Outsidef("no connection to libvirt: %w", err), "is libvirtd running? virsh -c %s list", n.options.URI)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Renew connects anew where the connection has ended, as it does when the daemon is restarted.
func (n *Node) Renew(ctx context.Context) error {
	if n.conn.answers(ctx) {
		return nil
	}
	dead := n.conn
	if err := n.redial(ctx); err != nil {
		return err
	}
	dead.close()
	return nil
}

// Close ends the connection. The domains stay.
func (n *Node) Close() {
	if n.conn != nil {
		n.conn.close()
		n.conn = nil
	}
}

// Accelerator says how guests are executed here and, where that is not KVM, why. What a
// guest has shown is kept until the host reboots.
func (n *Node) Accelerator(ctx context.Context) (Accel, string) {
	if n.reason == "" && n.accel == TCG {
		n.chooseAccelerator(ctx)
	}
	return n.accel, n.reason
}

func (n *Node) chooseAccelerator(ctx context.Context) {
	if n.options.Emulated {
		n.reason = "asked for"
		return
	}
	cache := cacheDir()
	if err := os.MkdirAll(cache, 0o755); err != nil {
		slog.WarnContext(ctx, "the answer whether KVM works cannot be kept", "error", err)
	}
	v := rememberedProbe(ctx, cache)
	if v.KVM {
		n.accel = KVM
		return
	}
	n.reason = orDefault(v.Reason, "unknown")
}

// Describe says where the Node is, for a log.
func (n *Node) String() string { return n.options.URI }

// Pool returns the directory of the storage pool, which is made where there is none.
func (n *Node) Pool(ctx context.Context) (string, error) {
	return n.conn.ensurePool(ctx, n.options.Pool, n.options.PoolDir)
}

// The paths of what belongs to a lasting domain: all can be told from its name, so that nothing is lost when a process
// is killed.
func (n *Node) channelSocket(name string) string {
	return filepath.Join(n.options.RunDir, name+".agent")
}
func (n *Node) consoleSocket(name string) string { return filepath.Join(n.options.RunDir, name+".tty") }
func (n *Node) consoleLog(name string) string {
	return filepath.Join(n.options.LogDir, name+".console.log")
}

const (
	overlaySuffix = ".overlay.qcow2"
	seedSuffix    = ".seed.img"
	// handedInfix is between the names of a domain and of a disk that it handed over.
	handedInfix = ".handed."
)

// HandedDisk is where a disk belongs that the guest of a domain hands over: it is removed with that domain.
func (n *Node) HandedDisk(ctx context.Context, name, disk string) (string, error) {
	pool, err := n.Pool(ctx)
	return filepath.Join(pool, name+handedInfix+disk), err
}

// OnDisk is how many bytes of a pool's file system a lasting domain's files take up: its overlay, its seed and the disks that
// it handed over.
func OnDisk(pool, name string) int64 {
	files, _ := filepath.Glob(filepath.Join(pool, name+".*"))
	var sum int64
	for _, f := range files {
		var st unix.Stat_t
		if unix.Lstat(f, &st) == nil { // else removed meanwhile
			sum += 512 * st.Blocks
		}
	}
	return sum
}

// ChannelSocket is the UNIX socket of a lasting domain's channel.
func (n *Node) ChannelSocket(name string) string { return n.channelSocket(name) }

// ConsoleSocket is the UNIX socket of a lasting domain's serial console, if it is interactive.
func (n *Node) ConsoleSocket(name string) string { return n.consoleSocket(name) }

// ConsoleTail returns the last bytes that a lasting domain's serial console printed, at most so many.
func (n *Node) ConsoleTail(name string, most int) []byte {
	var tail []byte
	path := n.consoleLog(name)
	// virtlogd moves a full log to PATH.0, that to PATH.1 and so on.
	for _, p := range []string{path, path + ".0"} {
		b, _ := readEnd(p, most-len(tail))
		tail = append(b, tail...)
		if len(tail) >= most {
			break
		}
	}
	return tail
}

// readEnd returns the last bytes of a file.
func readEnd(path string, most int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil || most <= 0 {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	from := max(0, info.Size()-int64(most))
	b := make([]byte, info.Size()-from)
	k, _ := f.ReadAt(b, from)
	return b[:k], nil
}

func (n *Node) daemonLog(name string) string {
	return filepath.Join(n.options.DaemonLogDir, name+".log")
}

// removeDaemonLog removes libvirt's log of a domain that is gone. It says so where it cannot, and that is all: the directory is
// libvirt's, and nobody misses the room. A log that is missing is not removed, which fails on a file system that is read-only.
func (n *Node) removeDaemonLog(ctx context.Context, name string) {
	path := n.daemonLog(name)
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		return
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		slog.WarnContext(ctx, "libvirt's log of a virtual machine that is gone stays", "domain", name, "error", err)
	}
}

// DaemonLog returns the end of what libvirt and QEMU wrote about a lasting domain: whole lines, and without its SMBIOS OEM strings,
// which are how secrets come into a guest.
func (n *Node) DaemonLog(name string) string {
	const most = 4096
	b, _ := readEnd(n.daemonLog(name), most)
	text := string(b)
	if len(text) == most { // the first line may have lost its beginning, by which a secret is known
		_, text, _ = strings.Cut(text, "\n")
	}
	return strings.TrimSpace(oemStrings.ReplaceAllString(text, "$1(hidden)"))
}

// oemStrings are those of QEMU's option -smbios, and what is called a secret, wherever that is.
var oemStrings = lazyregexp.New(`(type=11,value=|\.secret:)[^\s'"<]+`)

// SweepConsoles removes the logs of consoles to which nothing was written for so long. Remove leaves them, for those who
// ask later what happened.
func (n *Node) SweepConsoles(keep time.Duration) error {
	logs, _ := filepath.Glob(n.consoleLog("*") + "*")
	var errs []error
	for _, p := range logs {
		if info, err := os.Stat(p); err == nil && time.Since(info.ModTime()) > keep {
			errs = append(errs, os.Remove(p))
		}
	}
	return errors.Join(errs...)
}

// removeFiles removes what is not known to libvirt. Each may be missing.
func (n *Node) removeFiles(pool, name string) error {
	paths := []string{
		filepath.Join(pool, name+overlaySuffix), filepath.Join(pool, name+seedSuffix),
		n.channelSocket(name), n.consoleSocket(name),
	}
	handed, _ := filepath.Glob(filepath.Join(pool, name+handedInfix+"*"))
	var errs []error
	for _, p := range append(paths, handed...) {
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
