package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

func TestWrite(t *testing.T) {
	t.Parallel()
	s := specOf(t)
	put(t, s.Tree, "etc/fstab", "# UNCONFIGURED FSTAB FOR BASE SYSTEM\n", 0o644)
	put(t, s.Tree, "usr/share/doc/grub-cloud-amd64/copyright", "", 0o644)
	old := time.Unix(1700000000, 0)
	if err := os.Chtimes(filepath.Join(s.Tree, "boot/vmlinuz-6.1"), old, old); err != nil {
		t.Fatal(err)
	}
	tool := filepath.Join(s.Tree, "usr/bin/readlink")
	netRaw := "\x01\x00\x00\x02\x00\x20\x00\x00" + strings.Repeat("\x00", 12) // cap_net_raw=ep (linux/capability.h)
	if err := errors.Join(os.Chown(tool, 7, 8), os.Chmod(tool, 0o755|fs.ModeSetuid), syscall.Setxattr(tool, "security.capability", []byte(netRaw), 0)); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "disk.raw")
	layout, err := Write(t.Context(), s, image)
	if err != nil {
		t.Fatal(err)
	}
	root, esp := layout.of(roleRoot), layout.of(roleESP)
	debugfs := func(request string) string {
		return output(t, "debugfs", "-R", request, fmt.Sprintf("%s?offset=%d", image, root.Start))
	}
	mtype := func(name string) string {
		return output(t, "mtype", "-i", fmt.Sprintf("%s@@%d", image, esp.Start), "::"+name)
	}
	wants := []struct{ summary, got, want string }{
		{"fstab names the root by PARTUUID", debugfs("cat /etc/fstab"),
			"PARTUUID=" + root.GUID + " / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1\n"},
		{"fstab names the ESP by PARTUUID", debugfs("cat /etc/fstab"), "PARTUUID=" + esp.GUID + " /boot/efi vfat umask=0077 0 0\n"},
		{"GRUB's configuration is what the probes' stand-ins make it", debugfs("cat /boot/grub/grub.cfg"),
			"search --fs-uuid " + root.FSUUID + "\nlinux /boot/vmlinuz-6.1 root=PARTUUID=" + root.GUID + "\n"},
		{"the probe of the tree is its own again", debugfs("cat /usr/sbin/grub-probe"), "exit 1"},
		{"modules for BIOS", debugfs("ls -p /boot/grub/i386-pc"), "/ext2.mod/"},
		{"modules for UEFI", debugfs("ls -p /boot/grub/x86_64-efi"), "/normal.mod/"},
		{"later upgrades install GRUB", debugfs("stat /etc/grub.d/enable_cloud"), "Type: regular"},
		{"owners", debugfs("stat /usr/bin/readlink"), "User:     7   Group:     8"},
		{"set-user-ID", debugfs("stat /usr/bin/readlink"), "Mode:  04755"},
		{"capabilities", debugfs("ea_list /usr/bin/readlink"), "security.capability (20) = 01 00 00 02 00 20"},
		{"an older file keeps its time", debugfs("stat /boot/vmlinuz-6.1"), "mtime: 0x6553f100:00000000"},
		{"a younger file has the latest time", debugfs("stat /boot/initrd.img-6.1"), "mtime: 0x684ee180:00000000"},
		{"change times do too", debugfs("stat /boot/initrd.img-6.1"), "ctime: 0x684ee180:00000000"},
		{"shim boots without an entry in the firmware", mtype("EFI/BOOT/BOOTX64.EFI"), "shimx64.efi.signed.latest"},
		{"GRUB lies beside shim", mtype("EFI/BOOT/grubx64.efi"), "grubx64.efi.signed"},
		{"shim under its own name", mtype("EFI/debian/shimx64.efi"), "shimx64.efi.signed.latest"},
		{"signed GRUB finds the root", mtype("EFI/debian/grub.cfg"), "search.fs_uuid " + root.FSUUID + " root \nset prefix=($root)'/boot/grub'\nconfigfile"},
		{"fallback's list", mtype("EFI/debian/BOOTX64.CSV"), "BOOTX64.CSV"},
	}
	for _, w := range wants {
		if !strings.Contains(w.got, w.want) {
			t.Errorf("%s: %q is not in\n%s", w.summary, w.want, w.got)
		}
	}
	demandClean(t, image, root)
	demandClean(t, image, esp)
	demandSparse(t, image, s.Size)
}

// demandClean copies a partition out of the image and lets its file system's own checker look at it.
func demandClean(t *testing.T, image string, p *Partition) {
	t.Helper()
	copied := filepath.Join(t.TempDir(), p.Label)
	output(t, "dd", "if="+image, "of="+copied, "bs=1M", fmt.Sprintf("skip=%d", p.Start>>20), fmt.Sprintf("count=%d", p.Size>>20), "conv=sparse")
	if p.FSType == "ext4" {
		output(t, "e2fsck", "-fn", copied)
		return
	}
	output(t, "fsck.fat", "-n", copied)
}

func demandSparse(t *testing.T, image string, size int64) {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(image, &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != size || st.Blocks*512 > size/4 {
		t.Errorf("the image has %d bytes, %d of them on disk; want %d, and at most a quarter on disk", st.Size, st.Blocks*512, size)
	}
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program(name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func TestWriteIsDeterministic(t *testing.T) {
	t.Parallel()
	var images [2][]byte
	for i := range images {
		s := specOf(t) // the same files in another tree, made at another time
		path := filepath.Join(t.TempDir(), "disk.raw")
		// What a killed run left makes no difference either.
		if err := os.WriteFile(path+".partial", bytes.Repeat([]byte("killed"), i<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Write(t.Context(), s, path); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		images[i] = text
	}
	if at := difference(images[0], images[1]); at >= 0 {
		t.Errorf("two images of the same files differ at byte %d", at)
	}
}

func difference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

func TestWriteRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		summary string
		alter   func(t *testing.T, s *Spec)
		kind    fault.Kind
		want    string
	}{
		{"a tree larger than the disk", func(t *testing.T, s *Spec) {
			put(t, s.Tree, "var/big", "", 0o644)
			if err := os.Truncate(filepath.Join(s.Tree, "var/big"), 400<<20); err != nil {
				t.Fatal(err)
			}
		}, fault.Input, "the tree needs 4"},
		{"a disk without room for the root", func(_ *testing.T, s *Spec) { s.Size = 100 << 20 }, fault.Input, "has no room for partition \"root\""},
		{"an unknown architecture", func(_ *testing.T, s *Spec) { s.Arch = "amd46" }, fault.Input, "unknown architecture \"amd46\""},
		{"an architecture of later days", func(_ *testing.T, s *Spec) { s.Arch = "arm64" }, fault.Input, "\"arm64\" cannot be assembled yet"},
		{"an architecture without a layout", func(_ *testing.T, s *Spec) { s.Arch = "s390x" }, fault.Input, "no disk layout is declared for architecture \"s390x\""},
		{"a disk of half a mebibyte more", func(_ *testing.T, s *Spec) { s.Size += 1 << 19 }, fault.Input, "is no multiple of 1 MiB"},
		{"no seed", func(_ *testing.T, s *Spec) { s.Seed = "" }, fault.Input, "no seed"},
		{"a tree without a kernel", func(t *testing.T, s *Spec) { os.Remove(filepath.Join(s.Tree, "boot/vmlinuz-6.1")) }, fault.Work, "has no kernel"},
		{"grub-mkconfig that fails", func(t *testing.T, s *Spec) {
			put(t, s.Tree, "usr/sbin/grub-mkconfig", "#!/bin/sh\necho no theme >&2\nexit 4\n", 0o755)
		}, fault.Work, "no theme"},
		{"grub-mkconfig that names the root otherwise", func(t *testing.T, s *Spec) {
			put(t, s.Tree, "usr/sbin/grub-mkconfig", "#!/bin/sh\necho linux root=/dev/vda1 >$2\n", 0o755)
		}, fault.Work, "without root=PARTUUID="},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			s, dir := Spec{Tree: treeOf(t), Size: 200 << 20, Arch: "amd64", Seed: "test"}, t.TempDir()
			if strings.Contains(test.summary, "grub-mkconfig") {
				s = specOf(t)
			}
			test.alter(t, &s)
			_, err := Write(t.Context(), s, filepath.Join(dir, "disk.raw"))
			if err == nil || !strings.Contains(err.Error(), test.want) || fault.KindOf(err) != test.kind {
				t.Errorf("Write = %v (kind %d), want an error of kind %d with %q", err, fault.KindOf(err), test.kind, test.want)
			}
			demandNothingLeft(t, dir, s.Tree)
		})
	}
}

// demandNothingLeft fails if dir has files, or the tree mounts.
func demandNothingLeft(t *testing.T, dir, tree string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("left in the output directory: %v %v", entries, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(tree)) {
		t.Errorf("left mounted in the tree: %s %v", mounts, err)
	}
}

func TestWriteOnFullFileSystem(t *testing.T) {
	t.Parallel()
	s, dir := specOf(t), t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("a small tmpfs cannot be mounted: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	image := filepath.Join(dir, "disk.raw")
	t.Run("found before the work", func(t *testing.T) {
		_, err := Write(t.Context(), s, image)
		if err == nil || fault.KindOf(err) != fault.Outside || !strings.Contains(err.Error(), "has 2 MiB free") {
			t.Errorf("Write = %v, want an error of kind Outside that says what is free", err)
		}
	})
	t.Run("found in the middle", func(t *testing.T) {
		layout, err := layoutOf(s)
		if err != nil {
			t.Fatal(err)
		}
		err = full(assemble(t.Context(), s, layout, image, nil), dir)
		if err == nil || fault.KindOf(err) != fault.Outside || !strings.Contains(err.Error(), "no space is left in "+dir) {
			t.Errorf("assemble = %v, want an error of kind Outside that says that no space is left", err)
		}
	})
}

func TestWriteCancelled(t *testing.T) {
	t.Parallel()
	tests := []struct {
		summary string
		after   func(dir, tree string) bool // the state in which the context ends
	}{
		{"before it begins", func(string, string) bool { return true }},
		{"while GRUB is configured", func(_, tree string) bool { return exists(filepath.Join(tree, "boot/grub/started")) }},
		{"while the image is written", func(dir, _ string) bool { return exists(filepath.Join(dir, "disk.raw.partial")) }},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			s, dir := specOf(t), t.TempDir()
			if strings.Contains(test.summary, "GRUB") {
				put(t, s.Tree, "usr/sbin/grub-mkconfig", "#!/bin/sh\n: >/boot/grub/started\nwhile :; do :; done\n", 0o755)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			go func() {
				for !test.after(dir, s.Tree) && ctx.Err() == nil {
					time.Sleep(time.Millisecond)
				}
				cancel()
			}()
			_, err := Write(ctx, s, filepath.Join(dir, "disk.raw"))
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Write = %v, want context.Canceled", err)
			}
			demandNothingLeft(t, dir, s.Tree)
		})
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
