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

// others are architectures that Debian has or had, in a release or beside it, and of which nothing is built here.
var others = []string{"alpha", "arm", "armel", "armhf", "hppa", "hurd-amd64", "hurd-i386", "i386", "ia64", "kfreebsd-amd64", "kfreebsd-i386", "loong64", "m68k",
	"mips", "mips64el", "mipsel", "powerpc", "ppc64", "s390", "sh4", "sparc", "sparc64", "x32"}

// IsDebians tells whether Debian calls an architecture so, whether images can be built for it or not.
func IsDebians(name string) bool {
	_, known := NamesOf(name)
	return known || slices.Contains(others, name)
}

// NamesOf looks up the Debian name of an architecture that images are built for.
func NamesOf(debian string) (Names, bool) {
	i := slices.IndexFunc(names, func(n Names) bool { return n.Debian == debian })
	if i < 0 {
		return Names{}, false
	}
	return names[i], true
}
