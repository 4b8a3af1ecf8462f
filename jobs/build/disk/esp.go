package disk

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// espFile is a file of the EFI system partition: one of the tree, or the text.
type espFile struct {
	name     string
	from     string
	optional bool
}

// espFiles are those that grub-install --uefi-secure-boot --no-nvram --force-extra-removable installs on amd64, in Debian 12 and
// 13: shim starts the GRUB beside it, whose prefix is /EFI/debian wherever it lies. shim's fallback, which writes boot
// entries and restarts the machine, stays out of EFI/BOOT.
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
	staging, err := os.MkdirTemp(filepath.Dir(file), ".esp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(staging)
	directories, err := stage(staging, s, l)
	if err != nil {
		return err
	}
	// Everything that mtools would stamp with the present it takes from SOURCE_DATE_EPOCH.
	env := []string{"SOURCE_DATE_EPOCH=" + strconv.FormatInt(s.Time.Unix(), 10), "MTOOLSRC=/dev/null", "MTOOLS_SKIP_CHECK=1"}
	sector := strconv.FormatInt(esp.Start/SectorSize, 10)
	mkfs := command(ctx, env, "mkfs.fat", "--invariant", "-F", "32", "-s", "1", "-i", strings.ReplaceAll(esp.FSUUID, "-", ""),
		"-h", sector, "--offset", sector, file, strconv.FormatInt(esp.Size/1024, 10))
	if _, err := run(ctx, mkfs); err != nil {
		return err
	}
	drive := fmt.Sprintf("%s@@%d", file, esp.Start)
	for _, d := range directories {
		if _, err := run(ctx, command(ctx, env, "mmd", "-i", drive, "::"+d.name)); err != nil {
			return err
		}
		if len(d.files) == 0 {
			continue
		}
		args := append([]string{"-i", drive, "-m"}, d.files...)
		if _, err := run(ctx, command(ctx, env, "mcopy", append(args, "::"+d.name)...)); err != nil {
			return err
		}
	}
	return nil
}

// espDirectory is a directory with the files that are staged for it, each in its order on the partition.
type espDirectory struct {
	name  string
	files []string
}

// stage copies the partition's files into the directory staging, with the times that they shall have.
func stage(staging string, s Spec, l *Layout) ([]espDirectory, error) {
	directories := []espDirectory{{name: "EFI"}, {name: "EFI/BOOT"}, {name: "EFI/debian"}}
	for _, f := range espFiles(l.efi) {
		text, modified := []byte(searchRoot(l)+"configfile $prefix/grub.cfg\n"), s.Time
		if f.from != "" {
			source := resolve(s.Tree, f.from)
			info, err := os.Stat(source)
			if os.IsNotExist(err) && f.optional {
				continue
			}
			if err != nil {
				return nil, err
			}
			if text, err = os.ReadFile(source); err != nil {
				return nil, err
			}
			if info.ModTime().Before(modified) {
				modified = info.ModTime().Truncate(2 * time.Second) // FAT's resolution
			}
		}
		copied := filepath.Join(staging, f.name)
		if err := os.MkdirAll(filepath.Dir(copied), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(copied, text, 0o644); err != nil {
			return nil, err
		}
		if err := os.Chtimes(copied, modified, modified); err != nil {
			return nil, err
		}
		for i := range directories {
			if directories[i].name == path.Dir(f.name) {
				directories[i].files = append(directories[i].files, copied)
			}
		}
	}
	return directories, nil
}
