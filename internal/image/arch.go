package image

import "slices"

// Arch is an architecture under its Debian name, with what the configuration says of it.
type Arch struct {
	Name    string   // amd64, arm64, ppc64el, riscv64, s390x
	Azure   string   // name in Azure's compute gallery, "" where Azure has none
	OCI     string   // name in the Open Container Initiative's registry of GOARCH values
	Classes []string // FAI classes
}

// Names holds what the rest of the world calls an architecture. It is the only table of such names.
type Names struct {
	Debian  string
	Machine string // uname -m, also QEMU's and libvirt's
	EFI     string // suffix of the removable-media boot file (UEFI specification, 3.5.1.1), "" without UEFI
	GRUB    []string
	Root    string // type GUID of the root partition (Discoverable Partitions Specification)
}

var names = []Names{
	{"amd64", "x86_64", "X64", []string{"i386-pc", "x86_64-efi"}, "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"},
	{"arm64", "aarch64", "AA64", []string{"arm64-efi"}, "b921b045-1df0-41c3-af44-4c6f280d3fae"},
	{"ppc64el", "ppc64le", "", []string{"powerpc-ieee1275"}, "c31c45e6-3f39-412e-80fb-4809c4980599"},
	{"riscv64", "riscv64", "RISCV64", []string{"riscv64-efi"}, "72ec70a6-cf74-40e6-bd49-4bda08e8f224"},
	{"s390x", "s390x", "", nil, "5eead9a9-fe09-4a1e-a1d7-520d00531306"},
}

// NamesOf looks up a Debian architecture name.
func NamesOf(debian string) (Names, bool) {
	i := slices.IndexFunc(names, func(n Names) bool { return n.Debian == debian })
	if i < 0 {
		return Names{}, false
	}
	return names[i], true
}
