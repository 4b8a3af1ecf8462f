package tools

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs"

	"salsa.debian.org/cloud-team/debcloud/internal/ext4"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/hold"
)

// writeProgram writes the header of a static program of x86, and size bytes after it.
func writeProgram(t *testing.T, path string, fill byte, size int) {
	t.Helper()
	var b bytes.Buffer
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT), Ehsize: 64, Phentsize: 56, Shentsize: 64,
	}
	_ = binary.Write(&b, binary.LittleEndian, header) // a buffer takes everything
	b.Write(bytes.Repeat([]byte{fill}, size))
	if err := os.WriteFile(path, b.Bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
}

func programsIn(t *testing.T, dir string) Spec {
	t.Helper()
	s := Spec{Debcloud: filepath.Join(dir, "agent"), Runner: filepath.Join(dir, "runner"), Dir: filepath.Join(dir, "disks")}
	writeProgram(t, s.Debcloud, 1, 3_000_000)
	writeProgram(t, s.Runner, 2, 5_000_001)
	return s
}

func TestMake(t *testing.T) {
	s := programsIn(t, t.TempDir())
	d, err := Make(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("/sbin/e2fsck", "-fn", d.Path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v: %s", err, out)
	}
	f, err := os.Open(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stat, _ := f.Stat()
	disk, err := ext4.New(f, stat.Size())
	if err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"debcloud": s.Debcloud, "gitlab-runner": s.Runner} {
		want, _ := os.ReadFile(path)
		if got, err := disk.ReadFile(name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s on the disk differs, %v", name, err)
		}
		info, err := disk.Stat(name)
		if err != nil || info.Mode() != 0o755 || info.ModTime().Year() != 2020 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if info, _ := os.Stat(d.Path); info.Mode() != 0o444 || info.Size() > 14<<20 {
		t.Errorf("mode %v, %d bytes", info.Mode(), info.Size())
	}
	demandOnly(t, s.Dir, filepath.Base(d.Path), stampsAt)

	before, _ := os.Stat(d.Path)
	again, err := Make(t.Context(), s)
	after, _ := os.Stat(d.Path)
	if err != nil || again != d || !os.SameFile(before, after) {
		t.Errorf("made again: %+v, %v", again, err)
	}
}

func demandOnly(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, _ := os.ReadDir(dir)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s holds %q, not %q", dir, got, want)
	}
}

// The same programs give the same bytes, wherever they lie, whenever the disk is made.
func TestSameBytes(t *testing.T) {
	var sums [][32]byte
	for range 2 {
		d, err := Make(t.Context(), programsIn(t, t.TempDir()))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(d.Path)
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, sha256.Sum256(b))
		time.Sleep(1100 * time.Millisecond)
	}
	if sums[0] != sums[1] {
		t.Error("two disks of the same programs differ")
	}
}

func TestNewVersions(t *testing.T) {
	s := programsIn(t, t.TempDir())
	first, err := Make(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	writeProgram(t, s.Runner, 3, 5_000_001)
	second, err := Make(t.Context(), s)
	if err != nil || second.Path == first.Path {
		t.Fatalf("%+v, %v", second, err)
	}
	without := s
	without.Runner = ""
	third, err := Make(t.Context(), without)
	if err != nil || third.Path == first.Path {
		t.Fatalf("%+v, %v", third, err)
	}
	s.Runner = filepath.Join(filepath.Dir(s.Debcloud), "other")
	writeProgram(t, s.Runner, 4, 5_000_001)
	fourth, err := Make(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	killed, torn, young := filepath.Join(s.Dir, partial+"1"), filepath.Join(s.Dir, "."+stampsAt+"1"), filepath.Join(s.Dir, partial+"2")
	if err := errors.Join(os.Mkdir(killed, 0o700), os.WriteFile(torn, nil, 0o600), os.Mkdir(young, 0o700)); err != nil {
		t.Fatal(err)
	}
	for path, age := range map[string]time.Duration{killed: 2 * time.Hour, torn: 2 * time.Hour, first.Path: 25 * time.Hour, second.Path: 25 * time.Hour, fourth.Path: 25 * time.Hour} {
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	left := []string{filepath.Base(second.Path), filepath.Base(third.Path), filepath.Base(fourth.Path), filepath.Base(young), stampsAt}
	release, err := hold.Keep(t.Context(), first.Path)
	if err != nil {
		t.Fatal(err)
	}
	// A VM has the second one, also where the pool goes by another name; the third is young; the fourth is the one to use.
	inUse := func(context.Context) ([]string, error) { return []string{"/pool/" + filepath.Base(second.Path)}, nil }
	if removed, err := Prune(t.Context(), s, inUse); err != nil || len(removed) != 2 {
		t.Errorf("removed %q, %v", removed, err)
	}
	demandOnly(t, s.Dir, append(left, filepath.Base(first.Path))...)
	release()
	unknown := errors.New("libvirt does not answer")
	if removed, err := Prune(t.Context(), s, func(context.Context) ([]string, error) { return nil, unknown }); !errors.Is(err, unknown) || len(removed) > 0 {
		t.Errorf("removed %q, %v", removed, err)
	}
	if removed, err := Prune(t.Context(), s, inUse); err != nil || len(removed) != 1 {
		t.Errorf("removed %q, %v", removed, err)
	}
	demandOnly(t, s.Dir, left...)
}

func TestMakeRefuses(t *testing.T) {
	s := programsIn(t, t.TempDir())
	for _, row := range []struct {
		summary string
		change  func(*Spec)
		says    string
	}{
		{"no gitlab-runner where one is named", func(s *Spec) { s.Runner = "/nonexistent/gitlab-runner" }, `needs gitlab-runner, and "/nonexistent/gitlab-runner"`},
		{"no debcloud", func(s *Spec) { s.Debcloud = "" }, "needs debcloud"},
		{"a dynamic debcloud", func(s *Spec) { s.Debcloud = "/bin/ls" }, "linked dynamically"},
		{"a debcloud that is a script", func(s *Spec) { s.Debcloud = "tools.go" }, "no program of Linux"},
	} {
		bad := s
		row.change(&bad)
		_, err := Make(t.Context(), bad)
		if fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v", row.summary, err)
		}
	}
	demandOnly(t, s.Dir, stampsAt)
}

func TestSeed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seed.iso")
	if err := WriteSeed(path, "job-1"); err != nil {
		t.Fatal(err)
	}
	d, err := diskfs.Open(path, diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	disk, err := d.GetFilesystem(0)
	if err != nil {
		t.Fatal(err)
	}
	script, err := fs.ReadFile(disk, "user-data")
	if err != nil || !bytes.HasPrefix(script, []byte("#cloud-boothook\n")) {
		t.Fatalf("%.40q, %v", script, err)
	}
	// What it would write, somewhere else, and without starting anything.
	root := t.TempDir()
	text := strings.NewReplacer(">/", ">"+root+"/", "-p /", "-p "+root+"/", "chmod 0755 ", "chmod 0755 "+root, "chmod 0644 ", "chmod 0644 "+root, "systemctl", "true").Replace(string(script))
	if err := os.MkdirAll(filepath.Join(root, "etc/systemd/system"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sh", "-c", text).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	unit, err := os.ReadFile(filepath.Join(root, "etc/systemd/system/debcloud-agent.service"))
	if err != nil || !strings.Contains(string(unit), "ExecStart="+MountPoint+"/debcloud guest") {
		t.Errorf("%q, %v", unit, err)
	}
	mount, err := os.ReadFile(filepath.Join(root, "usr/local/lib/debcloud/mount-tools"))
	if err != nil || !strings.Contains(string(mount), Serial) || !strings.Contains(string(mount), MountPoint) {
		t.Errorf("%q, %v", mount, err)
	}
}
