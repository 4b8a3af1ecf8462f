package vm

import (
	"crypto/rand"
	"encoding/xml"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"libvirt.org/go/libvirtxml"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/process"
)

// metadataNamespace marks domains as ours.
const metadataNamespace = "https://salsa.debian.org/cloud-team/debcloud/vm"

// metadata says in a domain's description which process it belongs to and which directory goes with it.
//
// Its name is not in a tag: libvirt hands it back without the namespace.
type metadata struct {
	XMLName xml.Name
	process.ID
	Dir string `xml:"dir,attr"`
}

// files are the paths of one domain.
type files struct {
	dir     string // everything but the console's socket
	console string // UNIX socket of the serial port

	overlayPath string // empty: in dir
}

func (f files) overlay() string {
	return orDefault(f.overlayPath, filepath.Join(f.dir, "overlay.qcow2"))
}
func (f files) nvram() string { return filepath.Join(f.dir, "nvram.fd") }

// domainXML describes the machine to libvirt: a q35 board with virtio devices, a serial console and no USB.
func domainXML(name string, s Spec, f files, accel Accel, owner process.ID) (string, error) {
	mark, err := xml.Marshal(metadata{XMLName: xml.Name{Space: metadataNamespace, Local: "owner"}, ID: owner, Dir: f.dir})
	if err != nil {
		return "", err
	}
	d := board(name, s, accel)
	d.Metadata = &libvirtxml.DomainMetadata{XML: string(mark)}
	d.OS = operatingSystem(s, f)
	if os.Geteuid() == 0 {
		// QEMU runs as root: the image is read where it is, and libvirt must not give it another owner. AppArmor or
		// SELinux, where they are on, and QEMU's seccomp sandbox confine it all the same.
		d.SecLabel = []libvirtxml.DomainSecLabel{{Type: "static", Model: "dac", Relabel: "no", Label: "+0:+0"}}
	}
	d.Devices = devices(serialPort(f.console))
	if err := addDisks(d, s, f); err != nil {
		return "", err
	}
	if err := addInterface(d, s.Network); err != nil {
		return "", err
	}
	return d.Marshal()
}

// eachCPUFeature is libvirt's name of QEMU's ability to tell one by one which features a virtual processor has. With it libvirt
// asks QEMU 400 times while a domain starts, for half a second; without it, once (qemuProcessFetchGuestCPU). The answer serves checks
// and migration, which no domain here has. libvirt calls such a domain tainted in its log: custom-hypervisor-feature.
const eachCPUFeature = "cpu-unavailable-features"

// board is the machine without its devices and what it starts.
func board(name string, s Spec, accel Accel) *libvirtxml.Domain {
	d := &libvirtxml.Domain{
		Type:       "qemu",
		Name:       name,
		Memory:     &libvirtxml.DomainMemory{Value: uint(s.MemoryMiB), Unit: "MiB"},
		VCPU:       &libvirtxml.DomainVCPU{Value: uint(s.CPUs)},
		CPU:        &libvirtxml.DomainCPU{Mode: "maximum", Check: "none"},
		SysInfo:    sysInfo(s.SMBIOS),
		Features:   features(s),
		Clock:      &libvirtxml.DomainClock{Offset: "utc", Timer: []libvirtxml.DomainTimer{{Name: "hpet", Present: "no"}}},
		OnPoweroff: "destroy",
		OnReboot:   "restart",
		OnCrash:    "destroy",

		QEMUCapabilities: &libvirtxml.DomainQEMUCapabilities{Del: []libvirtxml.DomainQEMUCapabilitiesEntry{{Name: eachCPUFeature}}},
	}
	if accel == KVM {
		d.Type = "kvm"
		d.CPU = &libvirtxml.DomainCPU{Mode: "host-passthrough", Check: "none"}
	}
	return d
}

// devices are those of every machine.
func devices(serial libvirtxml.DomainSerial) *libvirtxml.DomainDeviceList {
	return &libvirtxml.DomainDeviceList{
		Controllers: []libvirtxml.DomainController{
			{Type: "usb", Model: "none"},
			{Type: "scsi", Model: "virtio-scsi"},
		},
		Serials:    []libvirtxml.DomainSerial{serial},
		RNGs:       []libvirtxml.DomainRNG{randomSource()},
		Videos:     []libvirtxml.DomainVideo{{Model: libvirtxml.DomainVideoModel{Type: "vga"}}},
		MemBalloon: &libvirtxml.DomainMemBalloon{Model: "none"},
	}
}

func operatingSystem(s Spec, f files) *libvirtxml.DomainOS {
	x := &libvirtxml.DomainOS{
		Type:    &libvirtxml.DomainOSType{Arch: "x86_64", Machine: "q35", Type: "hvm"},
		Kernel:  s.Kernel,
		Initrd:  s.Initrd,
		Cmdline: s.Cmdline,
		SMBios:  &libvirtxml.DomainSMBios{Mode: "sysinfo"},
	}
	if s.Firmware != UEFI {
		x.BIOS = &libvirtxml.DomainBIOS{UseSerial: "yes"} // what SeaBIOS says, that no disk boots among it
		return x
	}
	code, vars, secure := ovmfCode, ovmfVars, ""
	if s.SecureBoot {
		code, vars, secure = ovmfSecureCode, ovmfSecureVars, "yes"
	}
	x.Loader = &libvirtxml.DomainLoader{Path: code, Readonly: "yes", Type: "pflash", Secure: secure}
	x.NVRam = &libvirtxml.DomainNVRam{NVRam: f.nvram(), Template: vars}
	return x
}

func features(s Spec) *libvirtxml.DomainFeatureList {
	list := &libvirtxml.DomainFeatureList{
		ACPI:   &libvirtxml.DomainFeature{},
		APIC:   &libvirtxml.DomainFeatureAPIC{},
		VMPort: &libvirtxml.DomainFeatureState{State: "off"},
	}
	if s.SecureBoot { // its variables are safe only in system management mode
		list.SMM = &libvirtxml.DomainFeatureSMM{State: "on"}
	}
	return list
}

// sysInfo keeps the order of entries, which libvirt's schema does not ask for, so that tests can compare.
func sysInfo(s SMBIOS) []libvirtxml.DomainSysInfo {
	entries := func(pairs ...string) (list []libvirtxml.DomainSysInfoEntry) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i+1] != "" {
				list = append(list, libvirtxml.DomainSysInfoEntry{Name: pairs[i], Value: pairs[i+1]})
			}
		}
		return list
	}
	tables := &libvirtxml.DomainSysInfoSMBIOS{}
	if e := entries("vendor", s.BIOSVendor, "version", s.BIOSVersion); e != nil {
		tables.BIOS = &libvirtxml.DomainSysInfoBIOS{Entry: e}
	}
	if e := entries("manufacturer", s.Manufacturer, "product", s.Product, "version", s.Version, "serial", s.Serial, "uuid", s.UUID); e != nil {
		tables.System = &libvirtxml.DomainSysInfoSystem{Entry: e}
	}
	if e := entries("asset", s.ChassisAssetTag); e != nil {
		tables.Chassis = &libvirtxml.DomainSysInfoChassis{Entry: e}
	}
	if len(s.OEMStrings) > 0 {
		tables.OEMStrings = &libvirtxml.DomainSysInfoOEMStrings{Entry: s.OEMStrings}
	}
	return []libvirtxml.DomainSysInfo{{SMBIOS: tables}}
}

func serialPort(socket string) libvirtxml.DomainSerial {
	return libvirtxml.DomainSerial{
		Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{Mode: "bind", Path: socket}},
		Target: &libvirtxml.DomainSerialTarget{Type: "isa-serial", Port: new(uint)},
	}
}

func randomSource() libvirtxml.DomainRNG {
	return libvirtxml.DomainRNG{
		Model:   "virtio",
		Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}},
	}
}

func addInterface(d *libvirtxml.Domain, i *Interface) error {
	if i == nil {
		return nil
	}
	host, port, err := net.SplitHostPort(i.Addr)
	number, err2 := strconv.ParseUint(port, 10, 16)
	if err != nil || err2 != nil {
		return fault.Inputf("network address %q is not an address and a port", i.Addr)
	}
	d.Devices.Interfaces = []libvirtxml.DomainInterface{{
		MAC:    &libvirtxml.DomainInterfaceMAC{Address: orDefault(i.MAC, randomMAC())},
		Source: &libvirtxml.DomainInterfaceSource{Client: &libvirtxml.DomainInterfaceSourceClient{Address: host, Port: uint(number)}},
		Model:  &libvirtxml.DomainInterfaceModel{Type: "virtio"},
		ROM:    &libvirtxml.DomainROM{Enabled: "no"}, // firmware that boots from the network costs a second
	}}
	return nil
}

// randomMAC is of the block that QEMU and KVM use.
func randomMAC() string {
	var b [3]byte
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", b[0], b[1], b[2])
}

// addDisks attaches the overlay first, then the others.
func addDisks(d *libvirtxml.Domain, s Spec, f files) error {
	var all []Disk
	if s.Image != "" {
		all = append(all, Disk{Path: f.overlay(), Format: "qcow2", Writable: true, Bus: s.DiskBus})
	}
	all = append(all, s.Disks...)
	counts := make(map[string]int)
	for i, disk := range all {
		bus := disk.Bus
		if bus == "nvme" {
			addNVMe(d, disk, i)
			continue
		}
		prefix, known := map[string]string{"": "vd", "virtio": "vd", "scsi": "sd", "sata": "sd"}[bus]
		if !known {
			return fault.Inputf("disk bus %q is not virtio, scsi, nvme or sata", bus)
		}
		dev := prefix + string(rune('a'+counts[prefix]))
		counts[prefix]++
		x, err := diskXML(disk, dev)
		if err != nil {
			return err
		}
		if i == 0 && s.Image != "" && s.Kernel == "" {
			x.Boot = &libvirtxml.DomainDeviceBoot{Order: 1}
		}
		d.Devices.Disks = append(d.Devices.Disks, x)
	}
	return nil
}

func diskXML(disk Disk, dev string) (libvirtxml.DomainDisk, error) {
	path, err := filepath.Abs(disk.Path)
	if err != nil {
		return libvirtxml.DomainDisk{}, err
	}
	x := libvirtxml.DomainDisk{
		Device: "disk",
		// Nobody needs an overlay after a crash: its flushes are not worth their time.
		Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: orDefault(disk.Format, "raw"), Cache: "unsafe", Discard: "unmap"},
		Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: path}},
		Target: &libvirtxml.DomainDiskTarget{Dev: dev, Bus: orDefault(disk.Bus, "virtio")},
		Serial: disk.Serial,
	}
	if !disk.Writable {
		x.ReadOnly = &libvirtxml.DomainDiskReadOnly{}
	}
	if disk.Bus == "sata" && !disk.Writable { // an ATA disk cannot be read-only, a CD-ROM is
		x.Device, x.Driver.Discard = "cdrom", ""
	}
	return x, nil
}

// addNVMe goes past libvirt, which knows NVMe disks in files only from 11.5 on.
func addNVMe(d *libvirtxml.Domain, disk Disk, i int) {
	if d.QEMUCommandline == nil {
		d.QEMUCommandline = &libvirtxml.DomainQEMUCommandline{}
	}
	readOnly := "on"
	if disk.Writable {
		readOnly = "off"
	}
	boot := "" // before what libvirt numbers, from 1 on
	if i == 0 {
		boot = ",bootindex=0"
	}
	args := []string{
		"-drive", fmt.Sprintf("if=none,id=nvme%d,format=%s,cache=unsafe,discard=unmap,readonly=%s,file=%s", i, orDefault(disk.Format, "raw"), readOnly, escapeComma(disk.Path)),
		"-device", fmt.Sprintf("nvme,drive=nvme%d,serial=%s,addr=0x%x%s", i, orDefault(disk.Serial, fmt.Sprintf("debcloud%d", i)), 0x10+i, boot),
	}
	for _, a := range args {
		d.QEMUCommandline.Args = append(d.QEMUCommandline.Args, libvirtxml.DomainQEMUCommandlineArg{Value: a})
	}
}

func orDefault(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
