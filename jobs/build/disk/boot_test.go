package disk

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// memory is a disk of a few MiB.
type memory []byte

func (m memory) WriteAt(p []byte, at int64) (int, error) { return copy(m[at:], p), nil }

func TestEmbedCore(t *testing.T) {
	tree := t.TempDir()
	core := bytes.Repeat([]byte("core"), 5000)
	put(t, tree, "usr/lib/grub/i386-pc/boot.img", strings.Repeat("b", 512), 0o644)
	put(t, tree, "boot/grub/i386-pc/core.img", string(core), 0o644)
	disk := make(memory, 4<<20)
	bios := &Partition{Start: 2048 * SectorSize, Size: 6144 * SectorSize}
	if err := embedCore(disk, tree, bios); err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	if got := le.Uint64(disk[0x5c:]); got != 2048 {
		t.Errorf("the boot code loads sector %d, want 2048", got)
	}
	if disk[0x64] != 0xff || disk[0x66] != 0x90 || disk[0x67] != 0x90 {
		t.Errorf("the boot code takes another drive than the BIOS named: % x", disk[0x64:0x68])
	}
	if !bytes.Equal(disk[440:512], make([]byte, 72)) {
		t.Error("the boot code runs into the partition table")
	}
	if got := le.Uint64(disk[2048*512+500:]); got != 2049 {
		t.Errorf("the core's rest is read from sector %d, want 2049", got)
	}
	if !bytes.Equal(disk[2048*512+512:2048*512+len(core)], core[512:]) {
		t.Error("the core's rest is not in the partition")
	}
	bios.Size = 4096
	if err := embedCore(disk, tree, bios); err == nil || !strings.Contains(err.Error(), "the BIOS boot partition only 4096") {
		t.Errorf("a core too large for its partition: %v", err)
	}
	put(t, tree, "boot/grub/i386-pc/core.img", "", 0o644)
	if err := embedCore(disk, tree, bios); err == nil {
		t.Error("an empty core was embedded")
	}
}

func TestInodeTimes(t *testing.T) {
	for _, want := range []time.Time{
		time.Unix(0, 0), time.Unix(-1, 999999999), time.Unix(1<<31-1, 1), time.Unix(1<<31, 0), time.Unix(1<<33+5, 7),
	} {
		inode := make([]byte, 256)
		encodeTime(inode, inodeMTime, inodeMTimeExtra, want)
		if got := decodeTime(inode, inodeMTime, inodeMTimeExtra); !got.Equal(want) {
			t.Errorf("an inode's time %v is read back as %v", want.UTC(), got.UTC())
		}
	}
}

func TestEnvironmentBlockIsOneKibibyte(t *testing.T) {
	if got := environmentBlock(); len(got) != 1024 || !strings.HasPrefix(got, "# GRUB Environment Block\n") {
		t.Errorf("the environment block has %d bytes", len(got))
	}
}

func TestRunNamesTheMissingPackage(t *testing.T) {
	t.Setenv("PATH", filepath.Join(t.TempDir(), "empty"))
	packages["no-such-program"] = "no-such-package"
	defer delete(packages, "no-such-program")
	_, err := run(t.Context(), command(t.Context(), nil, "no-such-program"))
	if err == nil || !strings.Contains(err.Error(), "install the Debian package no-such-package") {
		t.Errorf("run = %v", err)
	}
}
