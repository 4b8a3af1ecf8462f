package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// needed lists by architecture what must be in a tree: a glob, and what is missing where nothing matches it.
var needed = map[string][][2]string{
	"amd64": {
		{"usr/sbin/grub-mkconfig", "grub-mkconfig (package grub2-common)"},
		{"usr/bin/grub-mkimage", "grub-mkimage (package grub-common)"},
		{"usr/lib/grub/i386-pc/boot.img", "GRUB for BIOS (package grub-pc-bin)"},
		{"usr/lib/grub/x86_64-efi/normal.mod", "GRUB for UEFI (package grub-efi-amd64-bin)"},
		{"usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", "signed GRUB (package grub-efi-amd64-signed)"},
		{"usr/lib/shim/shimx64.efi.signed", "signed shim (package shim-signed)"},
	},
}

// demandFiles refuses a tree that could not boot, and names what it lacks.
func demandFiles(tree, arch string) error {
	kernels, err := filepath.Glob(filepath.Join(tree, "boot/vmlinuz-*"))
	if err != nil || len(kernels) == 0 {
		return fmt.Errorf("tree %s has no kernel: nothing is called boot/vmlinuz-*", tree)
	}
	for _, kernel := range kernels {
		version := strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")
		if _, err := os.Stat(filepath.Join(tree, "boot/initrd.img-"+version)); err != nil {
			return fmt.Errorf("tree %s has no initrd for kernel %s: boot/initrd.img-%[2]s is missing", tree, version)
		}
	}
	for _, n := range needed[arch] {
		if _, err := os.Stat(resolve(tree, n[0])); err != nil {
			return fmt.Errorf("tree %s has no %s: %s is missing", tree, n[1], n[0])
		}
	}
	return nil
}

// resolve returns the path, outside the tree, of what name means inside it: absolute symbolic links, such as those
// of update-alternatives, begin at the tree. A link that ends nowhere or in itself gives a path that does not exist.
func resolve(tree, name string) string {
	name = path.Clean("/" + name)
	for range 16 {
		target, err := os.Readlink(filepath.Join(tree, name))
		if err != nil {
			break
		}
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(name), target)
		}
		name = path.Clean("/" + target)
	}
	return filepath.Join(tree, name)
}

// completeTree writes what belongs to the disk into the tree, before GRUB's configuration is made.
func completeTree(tree string, l *Layout) error {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Remove("etc/fstab"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	files := map[string]string{
		"etc/fstab": l.fstab(),
		"etc/default/grub.d/60_root_by_partuuid.cfg": rootByPARTUUID,
		"boot/grub/grubenv":                          environmentBlock(),
	}
	if bios := l.of(roleBIOS); bios != nil {
		files["boot/grub/i386-pc/load.cfg"] = searchRoot(l)
	}
	// grub-cloud-amd64 installs GRUB anew when a package of it is upgraded, for BIOS and UEFI both, but only where
	// this file says that the system is not being built any more.
	if _, err := root.Stat("usr/share/doc/grub-cloud-amd64"); err == nil {
		files["etc/grub.d/enable_cloud"] = ""
	}
	for name, text := range files {
		if err := writeFile(root, name, []byte(text)); err != nil {
			return err
		}
	}
	return errors.Join(root.MkdirAll("boot/efi", 0o755), copyGRUB(root, tree, l))
}

// writeFile writes a file that everybody may read in a directory that everybody may enter, whatever the umask.
func writeFile(root *os.Root, name string, text []byte) error {
	dir := path.Dir(name)
	if err := root.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := root.WriteFile(name, text, 0o644); err != nil {
		return err
	}
	return errors.Join(root.Chmod(dir, 0o755), root.Chmod(name, 0o644))
}

// copyGRUB puts GRUB's modules and font where grub-install does.
func copyGRUB(root *os.Root, tree string, l *Layout) error {
	copies := map[string]string{"usr/share/grub/unicode.pf2": "boot/grub/fonts/unicode.pf2"}
	for _, platform := range l.grub {
		for _, pattern := range []string{"*.mod", "*.lst", "*.img"} {
			found, _ := filepath.Glob(filepath.Join(tree, "usr/lib/grub", platform, pattern)) // the pattern is well-formed
			for _, file := range found {
				copies[path.Join("usr/lib/grub", platform, filepath.Base(file))] = path.Join("boot/grub", platform, filepath.Base(file))
			}
		}
	}
	for from, to := range copies {
		text, err := root.ReadFile(from)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the font alone can be missing: a serial console needs none
		}
		if err == nil {
			err = writeFile(root, to, text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// usage is what a tree needs of a file system with 4 KiB blocks.
type usage struct {
	bytes  int64 // of file content, directories and long symbolic links
	inodes int64
}

const blockSize = 4096

// measure walks the tree. A file with several names counts once.
func measure(tree string) (usage, error) {
	var u usage
	type inode struct{ dev, ino uint64 }
	linked := map[inode]bool{}
	err := filepath.WalkDir(tree, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && !d.IsDir() && st.Nlink > 1 {
			key := inode{st.Dev, st.Ino}
			if linked[key] {
				return nil
			}
			linked[key] = true
		}
		u.inodes++
		switch {
		case d.IsDir():
			u.bytes += blockSize
		case d.Type().IsRegular():
			u.bytes += (info.Size() + blockSize - 1) / blockSize * blockSize
		case d.Type() == fs.ModeSymlink && info.Size() >= 60: // shorter ones live in the inode
			u.bytes += blockSize
		}
		return nil
	})
	return u, err
}
