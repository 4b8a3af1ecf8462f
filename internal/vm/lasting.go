package vm

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// LastingSpec describes a domain that outlives this process.
type LastingSpec struct {
	// Name is the domain's whole name. A second domain of that name is refused.
	Name string
	// Metadata says whose the domain is: an XML element in the Node's namespace, without a prefix.
	Metadata []byte

	// Image is the disk to boot from: the backing file of the overlay that takes the writes.
	Image string
	// ImageFormat is "raw" or "qcow2". Default qcow2.
	ImageFormat string
	// DiskSize grows the disk that the guest sees to so many bytes. 0: as large as the image.
	DiskSize int64
	// Disks are further disks.
	Disks []Disk
	// Seed writes one more read-only disk, which is removed with the domain. Nil: none.
	Seed func(path string) error

	Firmware   Firmware
	SecureBoot bool
	MemoryMiB  int
	CPUs       int

	// Channel is the name of a virtio-serial port, at which ChannelSocket leads into the guest. Empty: none.
	Channel string
	// Paused starts it with halted processors, for Resume.
	Paused bool
	// Interactive gives the serial console a UNIX socket, ConsoleSocket, beside its log.
	Interactive bool
	Network     Attachment
	SMBIOS      SMBIOS
}

// Create defines a domain, makes its overlay and powers it on. Whatever this process dies of, the domain's definition is there
// before anything else that belongs to it, and Remove removes it last: so the metadata lead to everything.
func (n *Node) Create(ctx context.Context, s LastingSpec) error {
	if err := s.check(); err != nil {
		return err
	}
	pool, err := n.Pool(ctx)
	if err != nil {
		return err
	}
	text, err := n.lastingXML(ctx, s, pool)
	if err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := n.conn.define(ctx, text); err != nil {
		return fmt.Errorf("virtual machine %s is not defined: %w", s.Name, err)
	}
	if err := n.bringUp(ctx, s, pool); err != nil {
		if said := qemuErrors(n.DaemonLog(s.Name)); said != "" {
			err = fmt.Errorf("%w; QEMU said: %s", err, said)
		}
		return errors.Join(fmt.Errorf("virtual machine %s does not start: %w", s.Name, err), n.Remove(context.WithoutCancel(ctx), s.Name))
	}
	return nil
}

func (n *Node) bringUp(ctx context.Context, s LastingSpec, pool string) error {
	if err := n.conn.createVolume(ctx, n.options.Pool, s.overlayXML()); err != nil {
		return err
	}
	if s.Seed != nil {
		if err := s.Seed(filepath.Join(pool, s.Name+seedSuffix)); err != nil {
			return err
		}
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return n.conn.start(ctx, s.Name, s.Paused)
}

func (s *LastingSpec) check() error {
	s.ImageFormat = orDefault(s.ImageFormat, "qcow2")
	if len(s.Metadata) == 0 {
		return fmt.Errorf("virtual machine %s has no metadata", s.Name)
	}
	plain := Spec{
		Name: s.Name, Image: s.Image, ImageFormat: s.ImageFormat, Firmware: s.Firmware, SecureBoot: s.SecureBoot,
		MemoryMiB: s.MemoryMiB, CPUs: s.CPUs,
	}
	return errors.Join(plain.check(), plain.hasRoom())
}

// overlayXML describes the volume. libvirt lets qemu-img make it.
func (s LastingSpec) overlayXML() string {
	v := volume{Name: s.Name + overlaySuffix, Capacity: s.DiskSize}
	v.Target.Format.Type = "qcow2"
	v.Target.Permissions.Mode = "0600"
	v.Backing.Path = s.Image
	v.Backing.Format.Type = s.ImageFormat
	b, _ := xml.Marshal(v) // of strings and numbers: it cannot fail
	return string(b)
}

// volume is what libvirt's schema for volumes calls so; libvirtxml's type cannot leave the capacity out.
type volume struct {
	XMLName  xml.Name `xml:"volume"`
	Name     string   `xml:"name"`
	Capacity int64    `xml:"capacity"`
	Target   struct {
		Format      volumeFormat `xml:"format"`
		Permissions struct {
			Mode string `xml:"mode"`
		} `xml:"permissions"`
	} `xml:"target"`
	Backing struct {
		Path   string       `xml:"path"`
		Format volumeFormat `xml:"format"`
	} `xml:"backingStore"`
}

type volumeFormat struct {
	Type string `xml:"type,attr"`
}

// qemuErrors picks QEMU's own lines from a domain's log.
func qemuErrors(log string) string {
	var said []string
	for line := range strings.Lines(log) {
		if line = strings.TrimSpace(line); strings.Contains(line, "qemu-system-x86_64: ") || strings.HasPrefix(line, "KVM ") {
			said = append(said, line)
		}
	}
	return strings.Join(said[max(0, len(said)-3):], "; ")
}

// Lasting is one domain as its daemon knows it.
type Lasting struct {
	Name string
	// State is Stopped for a domain that was never started, too.
	State State
	// Reason is why it has that state, in libvirt's words: "booted", "crashed", "shutdown", "destroyed", "failed" …
	Reason    string
	CPUs      int
	MemoryMiB int
	// Metadata is the element that Create was given.
	Metadata []byte
}

// Stopping is the reason of a domain that is about to stop, before it is known why.
const Stopping = "stopping"

// List returns the Node's domains, running or not, in no order. Domains without metadata of its namespace are not listed.
func (n *Node) List(ctx context.Context) ([]Lasting, error) {
	return n.conn.list(ctx, n.options.Namespace)
}

// Disks lists the files that any domain of the daemon has as a disk, also those that are not this Node's.
func (n *Node) Disks(ctx context.Context) ([]string, error) { return n.conn.disks(ctx) }

// SetMetadata replaces a domain's metadata.
func (n *Node) SetMetadata(ctx context.Context, name string, element []byte) error {
	return n.conn.setMetadata(ctx, name, n.options.Namespace, string(element))
}

// Remove cuts a domain's power and removes it with everything that belongs to it but the log of its console. It may be called
// again after it failed or while another process does the same. A domain that is gone is no error; one that is not this Node's is
// refused. Libvirt's own log of it goes last, and that it stays is no error.
func (n *Node) Remove(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), RemoveLimit)
	defer cancel()
	if err := n.remove(ctx, name); err != nil {
		return err
	}
	n.removeDaemonLog(ctx, name)
	return nil
}

func (n *Node) remove(ctx context.Context, name string) error {
	switch _, err := n.conn.look(ctx, name, n.options.Namespace); {
	case err == nil:
	case unmarked(err):
		return fault.Inputf("virtual machine %s is not ours: it stays", name)
	case absent(err):
		return n.removeRest(ctx, name)
	default:
		return err
	}
	if err := n.conn.destroy(ctx, name); err != nil {
		return n.removePhantom(ctx, name, err)
	}
	if err := n.removeRest(ctx, name); err != nil {
		return err
	}
	if err := n.conn.undefine(ctx, name); err != nil {
		return err
	}
	_ = os.Remove(n.conn.statusFile(name, phantomSuffix)) // libvirt was restarted since
	return nil
}

// RemoveLimit bounds Remove. libvirt gives QEMU 10 s before it kills it, and 30 s after.
const RemoveLimit = time.Minute

func (n *Node) removeRest(ctx context.Context, name string) error {
	pool, err := n.Pool(ctx)
	if err != nil {
		return err
	}
	if err := n.conn.deleteVolume(ctx, n.options.Pool, name+overlaySuffix); err != nil {
		return err
	}
	return n.removeFiles(pool, name)
}

// Strays returns the names of domains that are gone although files of theirs are still there. A killed libvirtd can leave
// such; prefix is how all names of the Node's domains begin.
func (n *Node) Strays(ctx context.Context, prefix string) ([]string, error) {
	pool, err := n.Pool(ctx)
	if err != nil {
		return nil, err
	}
	files := n.filesOf(pool, prefix) // before the domains: a new one's definition comes first
	all, err := n.conn.names(ctx)
	if err != nil {
		return nil, err
	}
	var strays []string
	for name := range files {
		if !all[name] {
			strays = append(strays, name)
		}
	}
	return strays, nil
}

func (n *Node) filesOf(pool, prefix string) map[string]bool {
	found := make(map[string]bool)
	for _, place := range []struct{ dir, suffix string }{
		{pool, overlaySuffix}, {pool, seedSuffix}, {n.options.RunDir, ".agent"}, {n.options.RunDir, ".tty"},
	} {
		paths, _ := filepath.Glob(filepath.Join(place.dir, prefix+"*"+place.suffix))
		for _, p := range paths {
			found[strings.TrimSuffix(filepath.Base(p), place.suffix)] = true
		}
	}
	handed, _ := filepath.Glob(filepath.Join(pool, prefix+"*"+handedInfix+"*"))
	for _, p := range handed {
		name, _, _ := strings.Cut(filepath.Base(p), handedInfix)
		found[name] = true
	}
	return found
}

// Look returns one of the Node's domains, false if it has none of that name.
func (n *Node) Look(ctx context.Context, name string) (Lasting, bool, error) {
	d, err := n.conn.look(ctx, name, n.options.Namespace)
	if absent(err) || unmarked(err) {
		return Lasting{}, false, nil
	}
	return d, err == nil, err
}

// Watch returns a channel that is closed when the domain does not run any more. It ends with ctx. A daemon that does not
// answer for a while, because it is restarted, is no end: QEMU goes on without it.
func (n *Node) Watch(ctx context.Context, name string) <-chan struct{} {
	stopped := make(chan struct{})
	own := &Node{options: n.options} // a connection of its own, which it can replace
	go func() {
		defer func() { own.Close() }()
		for ctx.Err() == nil {
			if own.over(ctx, name) {
				close(stopped)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(watchPause):
			}
		}
	}()
	return stopped
}

// over tells that the domain does not run, or that its daemon stays away.
func (n *Node) over(ctx context.Context, name string) bool {
	if n.conn == nil {
		return n.redial(ctx) != nil && ctx.Err() == nil
	}
	d, known, err := n.Look(context.WithoutCancel(ctx), name)
	if err != nil {
		n.Close()
		return false
	}
	return !known || d.State != Running
}

const watchPause = time.Second

// ChannelConnected tells whether a program in the guest has the channel's port open.
func (n *Node) ChannelConnected(ctx context.Context, name, channel string) (bool, error) {
	text, err := n.conn.describe(ctx, name)
	if err != nil {
		return false, err
	}
	var d struct {
		Channels []struct {
			Target struct {
				Name  string `xml:"name,attr"`
				State string `xml:"state,attr"`
			} `xml:"target"`
		} `xml:"devices>channel"`
	}
	if err := xml.Unmarshal([]byte(text), &d); err != nil {
		return false, err
	}
	for _, c := range d.Channels {
		if c.Target.Name == channel {
			return c.Target.State == "connected", nil
		}
	}
	return false, fmt.Errorf("%s has no channel %s", name, channel)
}

// PowerOn starts a stopped domain anew, on the same overlay.
func (n *Node) PowerOn(ctx context.Context, name string) error { return n.conn.start(ctx, name, false) }

// Resume lets the processors of a domain run that was started Paused.
func (n *Node) Resume(ctx context.Context, name string) error { return n.conn.resume(ctx, name) }

// PowerOff cuts the power. The domain stays defined.
func (n *Node) PowerOff(ctx context.Context, name string) error { return n.conn.destroy(ctx, name) }

// PressPower presses the power button: a guest that listens shuts down.
func (n *Node) PressPower(ctx context.Context, name string) error {
	return n.conn.pressPower(ctx, name)
}

// Reset presses the reset button.
func (n *Node) Reset(ctx context.Context, name string) error { return n.conn.reset(ctx, name) }
