package disk

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
)

// SectorSize is bytes of a logical sector, in which the partition table counts.
const SectorSize = 512

// alignment of the disk's size, which every cloud asks for (Azure: whole MiB), and of the last partition's end.
const alignment = 1 << 20

// Layout is what Write made.
type Layout struct {
	DiskGUID   string      // lower case
	Partitions []Partition // in the order in which they lie on the disk

	grub []string // GRUB's names of the architecture's firmwares
	efi  string   // suffix of UEFI's file names, "" without UEFI
}

// Partition is one entry of the partition table.
type Partition struct {
	Number int
	Label  string // its GPT name: bios, esp, root
	Type   string // type GUID, lower case
	GUID   string // what Linux calls PARTUUID, lower case
	FSType string // ext4, vfat, "" for none
	FSUUID string // as blkid prints it, "" for none
	Start  int64  // bytes
	Size   int64  // bytes
}

// Labels of partitions, by which the parts of this package find theirs.
const (
	roleBIOS = "bios"
	roleESP  = "esp"
	rolePReP = "prep"
	roleRoot = "root"
)

// Type GUIDs. The root's is the architecture's, in package image.
const (
	typeBIOS = "21686148-6449-6e6f-744e-656564454649" // GRUB manual, "BIOS installation"
	typeESP  = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" // UEFI specification, 5.3.3
	typePReP = "9e1a2f38-c612-4316-aa26-8b49521e5a8b" // Power Architecture, PReP boot
)

// slot is a partition's place in sectors; sectors 0 reaches to the end of the disk.
type slot struct {
	number         int
	role           string
	guid           string
	fs             string
	start, sectors int64
}

// layouts holds the places of Debian's cloud images, unchanged for years: tools and resize scripts count on them.
// s390x has none, it boots without a partition of its own from a DASD or a bootmap of zipl.
var layouts = map[string][]slot{
	"amd64": {
		{14, roleBIOS, typeBIOS, "", 2048, 6144},
		{15, roleESP, typeESP, "vfat", 8192, 253952},
		{1, roleRoot, "", "ext4", 262144, 0},
	},
	"arm64": {
		{15, roleESP, typeESP, "vfat", 2048, 260096},
		{1, roleRoot, "", "ext4", 262144, 0},
	},
	"riscv64": {
		{15, roleESP, typeESP, "vfat", 2048, 260096},
		{1, roleRoot, "", "ext4", 262144, 0},
	},
	"ppc64el": {
		{15, rolePReP, typePReP, "", 2048, 16384},
		{1, roleRoot, "", "ext4", 262144, 0},
	},
}

// bootable lists the architectures whose boot loader this package installs.
var bootable = map[string]bool{"amd64": true}

// layoutOf fills the architecture's layout with sizes and identifiers.
func layoutOf(s Spec) (*Layout, error) {
	names, known := image.NamesOf(s.Arch)
	slots, declared := layouts[s.Arch]
	switch {
	case !known:
		return nil, fault.Inputf("unknown architecture %q", s.Arch)
	case !declared:
		return nil, fault.Inputf("no disk layout is declared for architecture %q", s.Arch)
	case !bootable[s.Arch]:
		return nil, fault.Inputf("images of architecture %q cannot be assembled yet: its boot loader is not installed by debcloud", s.Arch)
	case s.Size%alignment != 0:
		return nil, fault.Inputf("disk size %d is no multiple of 1 MiB", s.Size)
	case s.Seed == "":
		return nil, fault.Inputf("no seed is given to derive the disk's identifiers from")
	}
	id := identifiers(s.Seed)
	l := &Layout{DiskGUID: id("disk").String(), grub: names.GRUB, efi: names.EFI}
	for _, p := range slots {
		part, err := p.place(s.Size, id)
		if err != nil {
			return nil, err
		}
		if p.role == roleRoot {
			part.Type = names.Root
		}
		l.Partitions = append(l.Partitions, part)
	}
	return l, nil
}

// place gives the slot its bytes and identifiers on a disk of size bytes.
func (p slot) place(size int64, id func(string) uuid.UUID) (Partition, error) {
	part := Partition{
		Number: p.number, Label: p.role, Type: p.guid, GUID: id("partition " + p.role).String(), FSType: p.fs,
		Start: p.start * SectorSize, Size: p.sectors * SectorSize,
	}
	if p.sectors == 0 {
		part.Size = (size-backupSectors*SectorSize)/alignment*alignment - part.Start
	}
	if part.Size <= 0 {
		return part, fault.Inputf("a disk of %s has no room for partition %q, which begins at %s",
			mebibytes(size), p.role, mebibytes(part.Start))
	}
	switch p.fs {
	case "ext4":
		part.FSUUID = id("file system " + p.role).String()
	case "vfat":
		serial := id("file system " + p.role)
		n := binary.BigEndian.Uint32(serial[:4])
		part.FSUUID = fmt.Sprintf("%04X-%04X", n>>16, n&0xffff)
	}
	return part, nil
}

// identifiers returns a function that derives the identifier of one thing on the disk from the seed (RFC 9562, version 5).
func identifiers(seed string) func(thing string) uuid.UUID {
	space := uuid.NewSHA1(uuid.NameSpaceURL, []byte("cloud.debian.org/disk/"+seed))
	return func(thing string) uuid.UUID { return uuid.NewSHA1(space, []byte(thing)) }
}

// of returns the partition of the given role, nil if the layout has none.
func (l *Layout) of(role string) *Partition {
	for i := range l.Partitions {
		if l.Partitions[i].Label == role {
			return &l.Partitions[i]
		}
	}
	return nil
}

// PartUUIDs returns each partition's PARTUUID by its label.
func (l *Layout) PartUUIDs() map[string]string {
	m := map[string]string{}
	for _, p := range l.Partitions {
		m[p.Label] = p.GUID
	}
	return m
}

// fstab mounts by PARTUUID, which is the image's own on every cloud; the root grows with its partition at boot.
func (l *Layout) fstab() string {
	var b strings.Builder
	fmt.Fprintf(&b, "PARTUUID=%s / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1\n", l.of(roleRoot).GUID)
	if esp := l.of(roleESP); esp != nil {
		fmt.Fprintf(&b, "PARTUUID=%s /boot/efi vfat umask=0077 0 0\n", esp.GUID)
	}
	return b.String()
}

func mebibytes(n int64) string { return fmt.Sprintf("%d MiB", (n+1<<20-1)>>20) }
