package vm

import (
	"context"
	"path/filepath"

	"libvirt.org/go/libvirtxml"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// lastingXML describes the machine to libvirt. Unlike a Host's domains it gets no security label of ours: QEMU runs as
// whom the daemon's configuration says, confined, and libvirt gives it the overlay.
func (n *Node) lastingXML(ctx context.Context, s LastingSpec, pool string) (string, error) {
	accel, _ := n.Accelerator(ctx)
	f := files{dir: pool, console: n.consoleSocket(s.Name)}
	inner := Spec{
		Image: s.Image, Disks: append([]Disk(nil), s.Disks...), DiskBus: "virtio", Firmware: s.Firmware, SecureBoot: s.SecureBoot,
		MemoryMiB: s.MemoryMiB, CPUs: s.CPUs, SMBIOS: s.SMBIOS,
	}
	if s.Seed != nil {
		inner.Disks = append(inner.Disks, Disk{Path: filepath.Join(pool, s.Name+seedSuffix)})
	}
	d := board(s.Name, inner, accel)
	d.Metadata = &libvirtxml.DomainMetadata{XML: string(s.Metadata)}
	d.OS = operatingSystem(inner, f)
	if s.Firmware == UEFI {
		d.OS.NVRam.NVRam = "" // in libvirt's own directory, from where undefine removes it
	}
	d.OnCrash = "destroy"
	d.Devices = devices(n.serial(s))
	d.Devices.Panics = []libvirtxml.DomainPanic{{Model: "isa"}} // a guest whose kernel panics ends, instead of hanging
	if s.Channel != "" {
		d.Devices.Channels = []libvirtxml.DomainChannel{n.channel(s)}
	}
	f.overlayPath = filepath.Join(pool, s.Name+overlaySuffix)
	if err := addDisks(d, inner, f); err != nil {
		return "", err
	}
	if err := s.Network.attach(d); err != nil {
		return "", err
	}
	return d.Marshal()
}

// serial is a console that virtlogd logs, in a file that it moves away when it is full: however much a guest prints, the
// log stays as small as the host's virtlogd.conf says.
func (n *Node) serial(s LastingSpec) libvirtxml.DomainSerial {
	x := libvirtxml.DomainSerial{
		Source: &libvirtxml.DomainChardevSource{Null: &libvirtxml.DomainChardevSourceNull{}},
		Target: &libvirtxml.DomainSerialTarget{Type: "isa-serial", Port: new(uint)},
		Log:    &libvirtxml.DomainChardevLog{File: n.consoleLog(s.Name), Append: "on"},
	}
	if s.Interactive {
		x.Source = &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{Mode: "bind", Path: n.consoleSocket(s.Name)}}
	}
	return x
}

func (n *Node) channel(s LastingSpec) libvirtxml.DomainChannel {
	return libvirtxml.DomainChannel{
		Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{Mode: "bind", Path: n.channelSocket(s.Name)}},
		Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: s.Channel}},
	}
}

// Attachment joins a lasting domain to a network. The zero value is none.
type Attachment struct {
	// Network is the name of a libvirt network whose ports are isolated from each other.
	Network string
	// Filter is the name of the nwfilter at the port. Empty: none.
	Filter string
	// Gateway is the host's address in the network: the filter lets the guest reach its DHCP and name server, and nothing
	// else of it.
	Gateway string
	// Forbidden are addresses that the filter keeps the guest from, beside the private ones: those of the host.
	Forbidden []string
	// User is QEMU's own network: the guest reaches what the host's user reaches.
	User bool
	// Client is a usernet's address, as in Interface.Addr.
	Client string
	// MAC defaults to a random address.
	MAC string
}

func (a Attachment) attach(d *libvirtxml.Domain) error {
	if a.Client != "" {
		return addInterface(d, &Interface{Addr: a.Client, MAC: a.MAC})
	}
	i := libvirtxml.DomainInterface{
		MAC:   &libvirtxml.DomainInterfaceMAC{Address: orDefault(a.MAC, randomMAC())},
		Model: &libvirtxml.DomainInterfaceModel{Type: "virtio"},
		ROM:   &libvirtxml.DomainROM{Enabled: "no"},
	}
	switch {
	case a.User && a.Network != "":
		return fault.Inputf("a virtual machine is either in the network %q or in QEMU's own", a.Network)
	case a.User:
		i.Source = &libvirtxml.DomainInterfaceSource{User: &libvirtxml.DomainInterfaceSourceUser{}}
	case a.Network != "":
		i.Source = &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: a.Network}}
		i.PortOptions = &libvirtxml.DomainInterfacePortOptions{Isolated: "yes"}
		if a.Filter != "" {
			i.FilterRef = a.filter()
		}
	default:
		return nil
	}
	d.Devices.Interfaces = []libvirtxml.DomainInterface{i}
	return nil
}

func (a Attachment) filter() *libvirtxml.DomainInterfaceFilterRef {
	ref := &libvirtxml.DomainInterfaceFilterRef{Filter: a.Filter}
	ref.Parameters = []libvirtxml.DomainInterfaceFilterParam{{Name: "CTRL_IP_LEARNING", Value: "dhcp"}, {Name: "DHCPSERVER", Value: a.Gateway}}
	for _, address := range append([]string{a.Gateway}, a.Forbidden...) { // the variable must have a value
		ref.Parameters = append(ref.Parameters, libvirtxml.DomainInterfaceFilterParam{Name: "HOST", Value: address})
	}
	return ref
}
