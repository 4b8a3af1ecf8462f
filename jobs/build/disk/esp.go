package disk

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// espFile is a file of the EFI system partition; from is its place in the tree, "" for GRUB's first configuration.
type espFile struct {
	name     string
	from     string
	optional bool
}

// espFiles are those that grub-install --uefi-secure-boot --no-nvram --force-extra-removable installs on amd64, in
// Debian 12 and 13, in the order in which they are written: shim starts the GRUB beside it, whose prefix is /EFI/debian
// wherever it lies. shim's fallback, which writes boot entries and restarts the machine, stays out of EFI/BOOT.
func espFiles(efi string) []espFile {
	small := strings.ToLower(efi)
	shim, mok := "usr/lib/shim/shim"+small+".efi.signed", "usr/lib/shim/mm"+small+".efi.signed"
	grub := "usr/lib/grub/x86_64-efi-signed/grub" + small + ".efi.signed"
	return []espFile{
		{"EFI/BOOT/BOOT" + efi + ".EFI", shim, false},
		{"EFI/BOOT/grub" + small + ".efi", grub, false},
		{"EFI/BOOT/mm" + small + ".efi", mok, true},
		{"EFI/debian/BOOT" + efi + ".CSV", "usr/lib/shim/BOOT" + efi + ".CSV", true},
		{"EFI/debian/fb" + small + ".efi", "usr/lib/shim/fb" + small + ".efi.signed", true},
		{"EFI/debian/grub" + small + ".efi", grub, false},
		{"EFI/debian/mm" + small + ".efi", mok, true},
		{"EFI/debian/shim" + small + ".efi", shim, false},
		{"EFI/debian/grub.cfg", "", false},
	}
}

// writeESP makes the EFI system partition in the file.
func writeESP(ctx context.Context, s Spec, l *Layout, file string) error {
	esp := l.of(roleESP)
	if esp == nil {
		return nil
	}
	w := espWriter{
		// Everything that would be stamped with the present is stamped with SOURCE_DATE_EPOCH.
		env:   []string{"SOURCE_DATE_EPOCH=" + strconv.FormatInt(s.Time.Unix(), 10), "MTOOLSRC=/dev/null", "MTOOLS_SKIP_CHECK=1"},
		drive: fmt.Sprintf("%s@@%d", file, esp.Start),
	}
	sector := strconv.FormatInt(esp.Start/SectorSize, 10)
	mkfs := command(ctx, w.env, "mkfs.fat", "--invariant", "-F", "32", "-s", "1", "-i", strings.ReplaceAll(esp.FSUUID, "-", ""),
		"-h", sector, "--offset", sector, file, strconv.FormatInt(esp.Size/1024, 10))
	if _, err := run(ctx, mkfs); err != nil {
		return err
	}
	mmd := command(ctx, w.env, "mmd", "-i", w.drive, "::EFI", "::EFI/BOOT", "::EFI/debian")
	if _, err := run(ctx, mmd); err != nil {
		return err
	}
	for _, f := range espFiles(l.efi) {
		if err := w.copy(ctx, s, f, searchRoot(l)+"configfile $prefix/grub.cfg\n"); err != nil {
			return err
		}
	}
	return nil
}

// espWriter calls mtools on one partition.
type espWriter struct {
	env   []string
	drive string // mtools' notation of the partition in the image
}

// copy writes f, or text where f is no file of the tree.
func (w espWriter) copy(ctx context.Context, s Spec, f espFile, text string) error {
	if f.from == "" {
		cmd := command(ctx, w.env, "mcopy", "-i", w.drive, "-", "::"+f.name)
		cmd.Stdin = strings.NewReader(text)
		_, err := run(ctx, cmd)
		return err
	}
	source := resolve(s.Tree, f.from)
	info, err := os.Stat(source)
	if os.IsNotExist(err) && f.optional {
		return nil
	}
	if err != nil {
		return err
	}
	args := []string{"-i", w.drive, source, "::" + f.name}
	if !info.ModTime().After(s.Time) {
		args = append([]string{"-m"}, args...)
	}
	_, err = run(ctx, command(ctx, w.env, "mcopy", args...))
	return err
}
