package check

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
)

// arch returns the names of the image's architecture, which openImage has found to be known.
func (s *subject) arch() image.Names {
	names, _ := image.NamesOf(s.build.Data.Info.Arch)
	return names
}

// kernels returns the releases of the kernels in /boot.
func (s *subject) kernels() ([]string, error) {
	var releases []string
	for _, pattern := range []string{"boot/vmlinuz-*", "boot/vmlinux-*"} { // the latter on ppc64el
		found, err := fs.Glob(s.root, pattern)
		if err != nil {
			return nil, err
		}
		for _, name := range found {
			_, release, _ := strings.Cut(path.Base(name), "-")
			releases = append(releases, release)
		}
	}
	slices.Sort(releases)
	return releases, nil
}

func kernel(ctx context.Context, s *subject, f *findings) error {
	releases, err := s.kernels()
	if err != nil {
		return err
	}
	if len(releases) != 1 {
		f.wrongf("%d kernels are in /boot, not one: %q", len(releases), releases)
	}
	grub, err := s.text("boot/grub/grub.cfg")
	if err != nil {
		return err
	}
	if grub == "" && withGRUB(s) == "" {
		f.wrongf("/boot/grub/grub.cfg is absent or empty")
	}
	for _, release := range releases {
		f.sawf("kernel %s", release)
		for _, name := range []string{"boot/initrd.img-" + release, "usr/lib/modules/" + release + "/modules.dep"} {
			if i, err := fs.Stat(s.root, name); err != nil || i.Size() == 0 {
				f.wrongf("/%s is absent or empty", name)
			}
		}
		if booted := strings.Contains(grub, "/vmlinuz-"+release) || strings.Contains(grub, "/vmlinux-"+release); grub != "" && !booted {
			f.wrongf("/boot/grub/grub.cfg does not name kernel %s", release)
		}
		if grub != "" && !strings.Contains(grub, "/initrd.img-"+release) {
			f.wrongf("/boot/grub/grub.cfg does not name initrd.img-%s", release)
		}
	}
	if want := s.build.Data.Versions["kernel"]; want != "" && !slices.Contains(releases, want) {
		f.wrongf("the build document names kernel %s", want)
	}
	return s.kernelRoot(grub, f)
}

// kernelRoot looks at what GRUB tells the kernel its root is: it must be the partition of this image.
func (s *subject) kernelRoot(grub string, f *findings) error {
	root := s.partition(s.arch().Root)
	for line := range strings.Lines(grub) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] != "linux" {
			continue
		}
		i := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, "root=") })
		switch {
		case i < 0:
			f.wrongf("/boot/grub/grub.cfg boots without root=: %s", strings.TrimSpace(line))
		case root != nil && !strings.EqualFold(words[i], "root=PARTUUID="+root.GUID):
			f.wrongf("/boot/grub/grub.cfg has %s where the root partition is PARTUUID=%s", words[i], root.GUID)
		}
	}
	return nil
}

// withGRUB says why an image has no GRUB: s390x boots with zipl, a Raspberry Pi with its own firmware.
func withGRUB(s *subject) string {
	if len(s.arch().GRUB) == 0 {
		return "GRUB does not exist for " + s.arch().Debian
	}
	if s.build.Data.Info.Vendor == "raspi" {
		return "a Raspberry Pi boots without GRUB"
	}
	return ""
}

func bootLoader(ctx context.Context, s *subject, f *findings) error {
	for _, name := range s.arch().GRUB {
		dir := "boot/grub/" + name
		modules, err := fs.Glob(s.root, dir+"/*.mod")
		if err != nil {
			return err
		}
		if len(modules) == 0 {
			f.wrongf("/%s has no modules of GRUB", dir)
		}
		f.sawf("/%s: %d modules", dir, len(modules))
		if name == "i386-pc" {
			s.biosBoot(f)
		}
		if strings.HasSuffix(name, "-efi") {
			if err := s.efiBoot(f); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *subject) biosBoot(f *findings) {
	if !s.bootCode {
		f.wrongf("the first sector holds no boot code for a BIOS")
	}
	if s.partition(typeBIOS) == nil {
		f.wrongf("no partition is a BIOS boot partition, type %s", typeBIOS)
	}
}

// efiBoot looks for the file that UEFI firmware starts from any disk (UEFI specification, 3.5.1.1) and for the
// configuration by which signed GRUB, whose prefix is fixed, finds the root file system.
func (s *subject) efiBoot(f *findings) error {
	if s.esp == nil {
		f.wrongf("no partition is an EFI system partition, type %s", typeESP)
		return nil
	}
	boot, err := readFAT(s.esp, "EFI/BOOT/BOOT"+s.arch().EFI+".EFI")
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(boot), "MZ") {
		f.wrongf("EFI/BOOT/BOOT%s.EFI on the EFI system partition is absent or no program", s.arch().EFI)
	}
	packages, err := s.packages()
	if err != nil {
		return err
	}
	if packages.installed("shim-signed") {
		config, err := readFAT(s.esp, "EFI/debian/grub.cfg")
		if err != nil {
			return err
		}
		if !strings.Contains(string(config), "/boot/grub") {
			f.wrongf("EFI/debian/grub.cfg on the EFI system partition does not lead to /boot/grub")
		}
	}
	f.sawf("EFI/BOOT/BOOT%s.EFI: %d bytes", s.arch().EFI, len(boot))
	return nil
}

// readFAT reads a small file, nil where there is none.
func readFAT(fsys fs.FS, name string) (b []byte, err error) {
	defer recovered(&err)
	b, err = fs.ReadFile(fsys, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

func fstab(ctx context.Context, s *subject, f *findings) error {
	if i, err := fs.Lstat(s.root, "etc/fstab"); err != nil || !i.Mode().IsRegular() {
		f.wrongf("/etc/fstab is not a file")
		return nil
	}
	text, err := s.text("etc/fstab")
	if err != nil {
		return err
	}
	mounted := map[string]bool{}
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) > 0 && !strings.HasPrefix(fields[0], "#") {
			f.sawf("%s", strings.Join(fields, " "))
			s.judgeMount(fields, f)
			if len(fields) > 1 {
				mounted[fields[1]] = true
			}
		}
	}
	if !mounted["/"] {
		f.wrongf("/etc/fstab does not mount the root file system")
	}
	return nil
}

func (s *subject) judgeMount(fields []string, f *findings) {
	if len(fields) < 4 {
		f.wrongf("/etc/fstab has a line of %d fields: %s", len(fields), strings.Join(fields, " "))
		return
	}
	source, target, options := fields[0], fields[1], strings.Split(fields[3], ",")
	guid, ok := strings.CutPrefix(source, "PARTUUID=")
	i := slices.IndexFunc(s.partitions, func(p partition) bool { return strings.EqualFold(p.GUID, guid) })
	switch {
	case !ok:
		f.wrongf("/etc/fstab mounts %s by %s, not by PARTUUID", target, source)
	case i < 0:
		f.wrongf("/etc/fstab mounts %s from %s, which is no partition of the image: the boot would wait for it", target, source)
	case target == "/" && s.partitions[i].Type != s.arch().Root:
		f.wrongf("/etc/fstab mounts / from partition %d, which is not the root partition", s.partitions[i].Number)
	}
	if target == "/" && !slices.Contains(options, "x-systemd.growfs") {
		f.wrongf("/etc/fstab does not grow /: option x-systemd.growfs is missing")
	}
}
