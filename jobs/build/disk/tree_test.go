package disk

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// specOf returns a Spec on a small tree that holds all that Write needs: the machine's own GRUB tools and modules, a
// shell, a stand-in for grub-mkconfig, and invented kernels and signed loaders. It skips without root or GRUB.
func specOf(t testing.TB) Spec {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("GRUB's tools run in a chroot: needs root")
	}
	if _, err := os.Stat(filepath.Join(modules, "boot.img")); err != nil {
		t.Skip("GRUB's modules are missing: install grub-pc-bin")
	}
	tree := treeOf(t)
	put(t, tree, "usr/sbin/grub-mkconfig", mkconfig, 0o755)
	put(t, tree, "usr/sbin/grub-probe", "#!/bin/sh\nexit 1\n", 0o755)
	put(t, tree, "usr/bin/grub-mkrelpath", "#!/bin/sh\nexit 1\n", 0o755)
	for _, name := range []string{"kernel.img", "diskboot.img", "lzma_decompress.img", "boot.img", "moddep.lst",
		"biosdisk.mod", "part_gpt.mod", "ext2.mod", "search_fs_uuid.mod"} {
		transplant(t, tree, filepath.Join(modules, name))
	}
	deps, err := os.ReadFile(filepath.Join(modules, "moddep.lst"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range dependencies(string(deps), "biosdisk", "part_gpt", "ext2", "search_fs_uuid") {
		transplant(t, tree, filepath.Join(modules, name+".mod"))
	}
	for _, program := range []string{"sh", "grub-mkimage", "readlink"} {
		transplantProgram(t, tree, program)
	}
	link(t, tree, "usr/bin", "bin")
	return Spec{Tree: tree, Size: 200 << 20, Arch: "amd64", Seed: "test", Time: time.Unix(1750000000, 0)}
}

const modules = "/usr/lib/grub/i386-pc"

// treeOf returns a tree with all files that Write asks for, none of which runs.
func treeOf(t testing.TB) string {
	t.Helper()
	tree := t.TempDir()
	for _, name := range []string{"boot/vmlinuz-6.1", "boot/initrd.img-6.1",
		"usr/sbin/grub-mkconfig", "usr/bin/grub-mkimage", "usr/lib/grub/i386-pc/boot.img", "usr/lib/grub/x86_64-efi/normal.mod",
		"usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", "usr/lib/shim/shimx64.efi.signed.latest",
		"usr/lib/shim/mmx64.efi.signed", "usr/lib/shim/BOOTX64.CSV"} {
		put(t, tree, name, "content of "+name, 0o644)
	}
	link(t, tree, "/etc/alternatives/shim", "usr/lib/shim/shimx64.efi.signed")
	link(t, tree, "/usr/lib/shim/shimx64.efi.signed.latest", "etc/alternatives/shim")
	return tree
}

// dependencies returns the modules that the named ones need, by GRUB's moddep.lst.
func dependencies(list string, names ...string) []string {
	var all []string
	for _, line := range strings.Split(list, "\n") {
		name, needs, _ := strings.Cut(line, ":")
		if slices.Contains(names, name) {
			all = append(all, dependencies(list, strings.Fields(needs)...)...)
			all = append(all, strings.Fields(needs)...)
		}
	}
	return all
}

// mkconfig asks what the real one asks. It fails where the link of udev is missing that the real one looks for.
const mkconfig = `#!/bin/sh
set -eu
. /etc/default/grub.d/60_root_by_partuuid.cfg
device=$(/usr/sbin/grub-probe --target=device /)
uuid=$(/usr/sbin/grub-probe --device "$device" --target=partuuid)
test -e "/dev/disk/by-partuuid/$uuid"
test "$GRUB_DISABLE_LINUX_UUID" = true
echo "search --fs-uuid $(/usr/sbin/grub-probe -d "$device" -t fs_uuid)" >"$2"
echo "linux $(/usr/bin/grub-mkrelpath /boot/vmlinuz-6.1) root=PARTUUID=$uuid" >>"$2"
`

func put(t testing.TB, tree, name, text string, mode os.FileMode) {
	t.Helper()
	file := filepath.Join(tree, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(file, []byte(text), mode), os.Chmod(file, mode)); err != nil {
		t.Fatal(err)
	}
}

func link(t testing.TB, tree, target, name string) {
	t.Helper()
	file := filepath.Join(tree, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, file); err != nil {
		t.Fatal(err)
	}
}

// transplantProgram copies a program of this machine and its libraries into the tree.
func transplantProgram(t testing.TB, tree, program string) {
	t.Helper()
	file, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("%s is not installed", program)
	}
	out, err := exec.Command("ldd", file).Output()
	if err != nil {
		t.Fatalf("ldd %s: %v", file, err)
	}
	for _, field := range strings.Fields(string(out)) {
		if strings.HasPrefix(field, "/") {
			transplant(t, tree, field)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	put(t, tree, "usr/bin/"+program, string(text), 0o755)
}

// transplant copies a file of this machine to the same place in the tree.
func transplant(t testing.TB, tree, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	put(t, tree, file, string(text), 0o755)
}

func TestDemandFiles(t *testing.T) {
	tests := []struct{ summary, remove, want string }{
		{"a complete tree", "", ""},
		{"no kernel", "boot/vmlinuz-6.1", "has no kernel"},
		{"no initrd", "boot/initrd.img-6.1", "boot/initrd.img-6.1 is missing"},
		{"no GRUB for BIOS", "usr/lib/grub/i386-pc/boot.img", "package grub-pc-bin"},
		{"no signed GRUB", "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", "package grub-efi-amd64-signed"},
		{"shim's alternative points nowhere", "usr/lib/shim/shimx64.efi.signed.latest", "package shim-signed"},
		{"no grub-mkconfig", "usr/sbin/grub-mkconfig", "package grub2-common"},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			tree := treeOf(t)
			if test.remove != "" {
				if err := os.Remove(filepath.Join(tree, test.remove)); err != nil {
					t.Fatal(err)
				}
			}
			err := demandFiles(tree, "amd64")
			if test.want == "" && err != nil {
				t.Errorf("demandFiles = %v", err)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("demandFiles = %v, want an error with %q", err, test.want)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	tree := t.TempDir()
	put(t, tree, "usr/lib/real", "", 0o644)
	link(t, tree, "/usr/lib/real", "absolute")
	link(t, tree, "../../../../usr/lib/real", "usr/lib/climbing")
	link(t, tree, "b", "a")
	link(t, tree, "a", "b")
	for name, want := range map[string]string{
		"usr/lib/real": "usr/lib/real", "absolute": "usr/lib/real", "usr/lib/climbing": "usr/lib/real",
		"../../etc/passwd": "etc/passwd",
	} {
		if got := resolve(tree, name); got != filepath.Join(tree, want) {
			t.Errorf("resolve(%q) = %q, want %q in the tree", name, got, want)
		}
	}
	if _, err := os.Stat(resolve(tree, "a")); err == nil {
		t.Error("a link that ends in itself was resolved")
	}
}

func TestMeasureCountsLinkedFilesOnce(t *testing.T) {
	tree := t.TempDir()
	put(t, tree, "a", string(bytes.Repeat([]byte("x"), 5000)), 0o644)
	if err := os.Link(filepath.Join(tree, "a"), filepath.Join(tree, "b")); err != nil {
		t.Fatal(err)
	}
	got, err := measure(tree)
	if want := (usage{bytes: 3 * blockSize, inodes: 2}); err != nil || got != want {
		t.Errorf("measure = %+v, %v, want %+v", got, err, want)
	}
}
