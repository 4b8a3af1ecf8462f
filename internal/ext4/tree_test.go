package ext4

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"
)

// describe gives one line on every file below root of a file system, and the digest of its content.
func describe(fsys fs.FS, owner func(fs.FileInfo) (uid, gid, device uint32)) (map[string]string, error) {
	lines := map[string]string{}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "lost+found" || name == "." { // mkfs.ext4 makes these two itself
			return err
		}
		i, err := d.Info()
		if err != nil {
			return err
		}
		uid, gid, device := owner(i)
		line := fmt.Sprintf("%v %d:%d %s", i.Mode(), uid, gid, i.ModTime().UTC().Format(time.RFC3339))
		switch {
		case i.Mode().IsRegular():
			f, err := fsys.Open(name)
			if err != nil {
				return err
			}
			h := md5.New()
			n, err := io.Copy(h, f)
			f.Close()
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			line += fmt.Sprintf(" %d bytes, read %d, %x", i.Size(), n, h.Sum(nil))
		case i.Mode()&fs.ModeSymlink != 0:
			target, err := fs.ReadLink(fsys, name)
			if err != nil {
				return err
			}
			line += " → " + target
		case i.Mode()&fs.ModeDevice != 0:
			line += fmt.Sprintf(" %d", device)
		}
		lines[name] = line
		return nil
	})
	return lines, err
}

func ownerOnHost(i fs.FileInfo) (uid, gid, device uint32) {
	s := i.Sys().(*syscall.Stat_t)
	return s.Uid, s.Gid, uint32(s.Rdev>>8&0xfff<<20 | s.Rdev&0xff | s.Rdev>>12&0xfff00)
}

func ownerInImage(i fs.FileInfo) (uid, gid, device uint32) {
	n := i.Sys().(*Inode)
	return n.UID, n.GID, n.Device
}

// makeImage runs mkfs.ext4 -d on tree.
func makeImage(t testing.TB, tree, size string, options ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ext4.raw")
	run(t, "mkfs.ext4", append(append([]string{"-q", "-F", "-d", tree}, options...), path, size)...)
	return path
}

// run runs a tool of e2fsprogs. e2fsck exits with 1 when it changed something.
func run(t testing.TB, tool string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + tool)
	}
	if err != nil {
		t.Skipf("no %s: install e2fsprogs", tool)
	}
	c := exec.Command(path, args...)
	if out, err := c.CombinedOutput(); err != nil && !(tool == "e2fsck" && c.ProcessState.ExitCode() == 1) {
		t.Fatalf("%s: %v\n%s", tool, err, out)
	}
}

func openImage(t testing.TB, path string) *FS {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := New(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func write(t testing.TB, dir, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// oddTree has one of everything that a reader can get wrong.
func oddTree(t testing.TB) string {
	dir := t.TempDir()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir, "empty", nil)
	write(t, dir, strings.Repeat("n", 255), []byte("long name"))
	write(t, dir, strings.Repeat("deep/", 60)+"file", []byte("deep"))
	block := bytes.Repeat([]byte{7}, 4096)
	write(t, dir, "hole-inside", bytes.Join([][]byte{block, make([]byte, 3*4096), block, []byte("end")}, nil))
	write(t, dir, "hole-first", append(make([]byte, 8192), 1))
	write(t, dir, "hole-last", append(bytes.Clone(block), make([]byte, 10000)...))
	check(os.Truncate(write(t, dir, "hole-only", nil), 1<<20))
	var many []byte // each hole ends an extent: 2,000 of them need a tree of two levels
	for range 2000 {
		many = append(append(many, block...), make([]byte, 4096)...)
	}
	write(t, dir, "many-extents", many)
	for n := range 1200 {
		f, err := os.Create(filepath.Join(mkdir(t, dir, "large"), fmt.Sprintf("entry-%05d", n)))
		check(err)
		f.Close()
	}
	check(os.Symlink("empty", filepath.Join(dir, "link-fast")))
	check(os.Symlink(strings.Repeat("x", 59), filepath.Join(dir, "link-59")))
	check(os.Symlink(strings.Repeat("x", 60), filepath.Join(dir, "link-60")))
	check(os.Symlink(strings.Repeat("y", 900), filepath.Join(dir, "link-slow")))
	check(os.Symlink("/deep/../empty", filepath.Join(dir, "link-absolute")))
	check(os.Symlink("link-loop", filepath.Join(dir, "link-loop")))
	check(os.Symlink("../../../deep", filepath.Join(dir, "link-out")))
	check(os.Link(filepath.Join(dir, "empty"), filepath.Join(dir, "hard")))
	check(os.Chmod(write(t, dir, "setuid", []byte("x")), 0o755|fs.ModeSetuid|fs.ModeSetgid))
	check(os.Chmod(mkdir(t, dir, "sticky"), 0o777|fs.ModeSticky))
	check(syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	old := write(t, dir, "before-1970", nil)
	check(os.Chtimes(old, time.Time{}, time.Date(1966, 1, 2, 3, 4, 5, 0, time.UTC)))
	if err := syscall.Setxattr(old, "user.note", bytes.Repeat([]byte("long "), 100), 0); err != nil {
		t.Logf("no extended attributes here: %v", err)
	}
	if os.Geteuid() == 0 {
		check(os.Chown(write(t, dir, "owned", nil), 70000, 80000))
		check(syscall.Mknod(filepath.Join(dir, "device"), syscall.S_IFBLK|0o660, 259<<8|3|1<<20))
	}
	return dir
}

func mkdir(t testing.TB, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// The reader sees exactly what mkfs.ext4 was given, with every set of features that it writes.
func TestReadsWhatMkfsWrote(t *testing.T) {
	tree := oddTree(t)
	want, err := describe(os.DirFS(tree), ownerOnHost)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		summary string
		hashed  bool // mkfs.ext4 itself writes plain directories; e2fsck -D hashes them, as the kernel does
		options []string
	}{
		{"as mkfs.ext4 makes large file systems", false, []string{"-b", "4096"}},
		{"blocks of 1 KiB, where the superblock has a block of its own", false, []string{"-b", "1024"}},
		{"hashed directories", true, []string{"-b", "4096"}},
		{"hashed directories, deeper", true, []string{"-b", "1024"}},
		{"no metadata checksums, no 64 bit", true, []string{"-O", "^metadata_csum,^64bit"}},
		{"small inodes", false, []string{"-I", "128"}},
		{"a checksum seed of its own", true, []string{"-O", "metadata_csum_seed"}},
		{"no flexible groups, no hashed directories", false, []string{"-O", "^flex_bg,^dir_index"}},
	} {
		t.Run(row.summary, func(t *testing.T) {
			t.Parallel()
			image := makeImage(t, tree, "24m", append(row.options, "-N", "4000")...)
			if row.hashed {
				run(t, "e2fsck", "-fyD", image)
			}
			got, err := describe(openImage(t, image), ownerInImage)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, got, want)
		})
	}
}

func compare(t *testing.T, got, want map[string]string) {
	t.Helper()
	shown := 0
	for name, line := range want {
		if got[name] != line {
			if shown++; shown <= 10 {
				t.Errorf("%s\n got %s\nwant %s", name, got[name], line)
			}
		}
	}
	for name := range got {
		if want[name] == "" {
			t.Errorf("%s was read and never written", name)
		}
	}
	if len(want) < 100 {
		t.Errorf("only %d files were compared", len(want))
	}
}

func TestFollowsLinksAsInAChroot(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "empty", nil)
	write(t, dir, "deep/deep/file", nil)
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"link-absolute": "/deep/../empty", "link-loop": "link-loop", "link-out": "../../../deep",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	f := openImage(t, makeImage(t, dir, "4m"))
	for _, row := range []struct{ name, want string }{
		{"link-absolute", ""},
		{"link-out/deep/file", ""},
		{"link-out/empty", "open link-out/empty: file does not exist"},
		{"link-loop", "open link-loop: too many levels of symbolic links"},
		{"empty/below", "open empty/below: file does not exist"},
		{"/empty", "open /empty: invalid argument"},
		{"", "open : invalid argument"},
		{"fifo", "open fifo: neither a file nor a directory"},
	} {
		_, err := f.Open(row.name)
		if got := fmt.Sprint(err); got != row.want && !(row.want == "" && err == nil) {
			t.Errorf("%q: got %q, want %q", row.name, got, row.want)
		}
	}
}

// A name is bytes; io/fs itself knows only UTF-8.
func TestReadsNamesOfAnyBytes(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "latin1-\xe9/\xff", []byte("content"))
	got, err := openImage(t, makeImage(t, dir, "4m")).ReadFile("latin1-\xe9/\xff")
	if err != nil || string(got) != "content" {
		t.Errorf("got %q, %v", got, err)
	}
}

// testing/fstest holds the contract of io/fs.
func TestIsAnOrdinaryFS(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "etc/hostname", []byte("x\n"))
	write(t, dir, "usr/lib/a/b", bytes.Repeat([]byte("abc"), 9000))
	if err := os.Symlink("usr/lib", filepath.Join(dir, "lib")); err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(openImage(t, makeImage(t, dir, "4m")), "etc/hostname", "usr/lib/a/b", "lib"); err != nil {
		t.Fatal(err)
	}
}

// A whole Debian tree: DEBCLOUD_TEST_TREE names a directory that is packed and read back.
func TestReadsADebianTree(t *testing.T) {
	tree := os.Getenv("DEBCLOUD_TEST_TREE")
	if tree == "" {
		t.Skip("DEBCLOUD_TEST_TREE is not set: it names the tree of an image")
	}
	want, err := describe(os.DirFS(tree), ownerOnHost)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(makeImage(t, tree, "2900m"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f, err := New(file, 2900<<20)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	got, err := describe(f, ownerInImage)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d files in %s", len(got), time.Since(start))
	compare(t, got, want)
}
