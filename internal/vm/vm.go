// Package vm runs disposable virtual machines: one domain on an overlay of an image that is never written to.
//
// It is the only package that speaks to libvirt. A Host is a connection to a libvirt daemon, which it starts itself
// where none runs; a Domain is one virtual machine on it. Nothing outlives Destroy and Close: no domain, process or
// file; what a killed process left behind, the next Open clears away.
package vm

import (
	"time"
)

// Options say where domains run.
type Options struct {
	// URI is libvirt's name of the daemon to use, such as "qemu:///system". Empty: the system's daemon where one
	// answers, else a private one, which Open starts and Close stops.
	URI string
	// Private starts a daemon of our own even where the system runs one.
	Private bool
	// Dir is an existing directory for the overlays, which can grow to the size of a disk. Empty: os.TempDir().
	Dir string
	// Emulated runs every guest without KVM.
	Emulated bool
	// Testbed is the UNIX socket of a host that runs the domains in this one's place (TestbedVariable). Empty: none.
	Testbed string
}

// Firmware is what starts the operating system.
type Firmware int

const (
	BIOS Firmware = iota // SeaBIOS
	UEFI                 // OVMF
)

func (f Firmware) String() string {
	if f == UEFI {
		return "UEFI"
	}
	return "BIOS"
}

// Accel is how guest code is executed.
type Accel int

const (
	TCG Accel = iota // QEMU translates it: slow, works everywhere
	KVM              // the processor runs it
)

func (a Accel) String() string {
	if a == KVM {
		return "KVM"
	}
	return "TCG"
}

// Spec describes one virtual machine. Zero values get a default where one is named.
type Spec struct {
	// Name starts the domain's name; a random suffix follows, so two domains may share it. Default "vm".
	Name string

	// Image is the disk to boot from. It is only read: writes go to an overlay that Destroy removes.
	// Empty: no boot disk (then Kernel is needed).
	Image string
	// ImageFormat is "raw" or "qcow2". Default raw.
	ImageFormat string
	// DiskSize grows the disk that the guest sees to so many bytes. 0: as large as the image.
	DiskSize int64
	// DiskBus is "virtio", "scsi" (virtio-scsi), "nvme" or "sata". Default virtio.
	DiskBus string
	// Disks are further disks, such as a cloud-init seed.
	Disks []Disk

	Firmware Firmware
	// SecureBoot enforces signatures, with Microsoft's keys enrolled. Needs UEFI.
	SecureBoot bool
	// MemoryMiB defaults to 1024.
	MemoryMiB int
	// CPUs defaults to 2.
	CPUs int

	// Network is the guest's network interface. Nil: it has none.
	Network *Interface

	// ConsoleLog keeps a copy of what the serial console prints, in a file that outlives the domain. Empty: it is
	// only in memory. Both keep the first and the last MaxConsole/2 bytes.
	ConsoleLog string
	// SMBIOS is what the machine says of itself; clouds are recognised by it.
	SMBIOS SMBIOS

	// Kernel, Initrd and Cmdline boot a kernel without a boot loader.
	Kernel, Initrd, Cmdline string
}

// Disk is one more disk of a domain.
type Disk struct {
	Path string
	// Format is "raw" or "qcow2". Default raw.
	Format string
	// Writable lets the guest change the file itself. Without it the disk is read-only.
	Writable bool
	// Bus as in Spec.DiskBus. Default virtio.
	Bus string
	// Serial is the disk's serial number, which the guest finds in /dev/disk/by-id.
	Serial string
}

// Interface joins a domain to a user-space network.
type Interface struct {
	// Addr is where the network listens for QEMU's framing ("127.0.0.1:4711"): usernet's Network.Addr.
	Addr string
	// MAC defaults to a random address.
	MAC string
}

// SMBIOS overrides fields of the machine's SMBIOS tables. Empty fields keep QEMU's values.
type SMBIOS struct {
	Manufacturer, Product, Version, Serial, UUID string // type 1, system
	BIOSVendor, BIOSVersion                      string // type 0
	ChassisAssetTag                              string // type 3
	// OEMStrings are strings of type 11, such as systemd's "io.systemd.credential:…".
	OEMStrings []string
}

// MaxConsole is how many bytes of a console's output are kept: the first and the last half of it.
const MaxConsole = 16 << 20

// State says whether a domain runs.
type State int

const (
	Running State = iota
	Stopped       // powered off by the guest, by a crash, or by Destroy
)

func (s State) String() string {
	if s == Running {
		return "running"
	}
	return "stopped"
}

// shutdownWait bounds Destroy's and Close's calls, which must work after their caller's context has ended.
const shutdownWait = 20 * time.Second
