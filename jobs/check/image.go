package check

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
	"github.com/diskfs/go-diskfs/partition/gpt"

	"salsa.debian.org/cloud-team/debcloud/internal/ext4"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// subject is the image under test.
type subject struct {
	build      *manifest.Build
	root       fs.FS // follows links as a chroot does
	esp        fs.FS // nil where the image has none
	partitions []partition
	bootCode   bool // the first sector holds code that a BIOS starts

	packages func() (*packages, error) // read once
}

// partition is an entry of the partition table. GUIDs are in lower case.
type partition struct {
	Number      int
	Type, GUID  string
	Start, Size int64 // bytes
}

// Type GUIDs of partitions (UEFI specification, table 5.7; GRUB manual, "BIOS installation").
const (
	typeESP  = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	typeBIOS = "21686148-6449-6e6f-744e-656564454649"
)

func newSubject(build *manifest.Build, root fs.FS) *subject {
	s := &subject{build: build, root: root}
	s.packages = sync.OnceValues(func() (*packages, error) { return readPackages(root) })
	return s
}

// has tells whether the image was built with a FAI class. Build documents of other tools do not name classes.
func (s *subject) has(class string) bool { return slices.Contains(s.build.Data.Classes, class) }

// nocloud tells whether the image has no cloud-init: a human logs in on its console.
func (s *subject) nocloud() bool {
	return s.has("NOCLOUD") || slices.Contains([]string{"nocloud", "raspi"}, s.build.Data.Info.Vendor)
}

func (s *subject) partition(typeGUID string) *partition {
	for i := range s.partitions {
		if s.partitions[i].Type == typeGUID {
			return &s.partitions[i]
		}
	}
	return nil
}

// openImage reads the partition table and opens the file systems. The caller calls closeImage at the end.
func openImage(path string, build *manifest.Build) (s *subject, closeImage func(), err error) {
	arch, ok := image.NamesOf(build.Data.Info.Arch)
	if !ok {
		return nil, nil, fmt.Errorf("the build document names the unknown architecture %q", build.Data.Info.Arch)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	partitions, err := readPartitions(f)
	if err != nil {
		return nil, nil, err
	}
	s = newSubject(build, nil)
	s.partitions = partitions
	p := s.partition(arch.Root)
	if p == nil {
		return nil, nil, fmt.Errorf("no partition has type %s, that of a root file system for %s", arch.Root, arch.Debian)
	}
	root, err := ext4.New(io.NewSectionReader(f, p.Start, p.Size), p.Size)
	if err != nil {
		return nil, nil, fmt.Errorf("root file system, partition %d: %w", p.Number, err)
	}
	s.root = root
	s.packages = sync.OnceValues(func() (*packages, error) { return readPackages(root) })
	if p := s.partition(typeESP); p != nil {
		if s.esp, err = openFAT(f, p); err != nil {
			return nil, nil, fmt.Errorf("EFI system partition, partition %d: %w", p.Number, err)
		}
	}
	if s.bootCode, err = hasBootCode(f); err != nil {
		return nil, nil, err
	}
	return s, func() { f.Close() }, nil
}

// recovered makes an error of a panic: go-diskfs takes what stands in a damaged table on trust.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("it is damaged: %v", p)
	}
}

func readPartitions(f *os.File) (partitions []partition, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("the image has no partition table of type GPT that can be read: %w", err)
		}
	}()
	defer recovered(&err)
	table, err := gpt.Read(f, 512, 512)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	for _, p := range table.Partitions {
		if p.Type == gpt.Unused {
			continue
		}
		if p.Start == 0 || p.End < p.Start || p.End >= uint64(info.Size()/512) {
			return nil, fmt.Errorf("partition %d lies from sector %d to %d of %d", p.Index, p.Start, p.End, info.Size()/512)
		}
		partitions = append(partitions, partition{
			Number: int(p.Index), Type: strings.ToLower(string(p.Type)), GUID: strings.ToLower(p.GUID),
			Start: int64(p.Start) * 512, Size: int64(p.End-p.Start+1) * 512,
		})
	}
	return partitions, nil
}

func openFAT(f *os.File, p *partition) (fsys fs.FS, err error) {
	defer recovered(&err)
	if err := soundFAT(f, p); err != nil {
		return nil, err
	}
	return fat32.Read(file.New(f, true), p.Size, p.Start, 512)
}

// soundFAT holds the sizes in a FAT32 boot sector to that of the partition: go-diskfs reads as large a table as the
// sector claims (Microsoft's FAT specification, section 3).
func soundFAT(f *os.File, p *partition) error {
	b := make([]byte, 512)
	if _, err := f.ReadAt(b, p.Start); err != nil {
		return err
	}
	sector, reserved, tables := int64(binary.LittleEndian.Uint16(b[11:])), int64(binary.LittleEndian.Uint16(b[14:])), int64(b[16])
	total, table := int64(binary.LittleEndian.Uint32(b[32:])), int64(binary.LittleEndian.Uint32(b[36:]))
	if sector != 512 || b[13] == 0 || tables == 0 || total > p.Size/512 || table == 0 || reserved+tables*table > total {
		return fmt.Errorf("it is no FAT32 file system of at most %d sectors", p.Size/512)
	}
	return nil
}

// hasBootCode reads the 440 bytes of the first sector that a BIOS runs.
func hasBootCode(f *os.File) (bool, error) {
	b := make([]byte, 440)
	if _, err := f.ReadAt(b, 0); err != nil {
		return false, err
	}
	return slices.ContainsFunc(b, func(c byte) bool { return c != 0 }), nil
}

// readable walks the whole root file system, so that damage is told once and clearly, wherever it is.
func readable(ctx context.Context, s *subject, f *findings) error {
	for _, p := range s.partitions {
		f.sawf("partition %d: type %s, GUID %s, %d MiB", p.Number, p.Type, p.GUID, p.Size>>20)
	}
	count := map[fs.FileMode]int{}
	err := fs.WalkDir(s.root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			f.wrongf("%s", err)
			return nil
		}
		if d.Type() == fs.ModeSymlink {
			if _, err := fs.ReadLink(s.root, name); err != nil {
				f.wrongf("%s", err)
			}
		}
		count[d.Type()]++
		return context.Cause(ctx)
	})
	f.sawf("%d files, %d directories, %d links", count[0], count[fs.ModeDir], count[fs.ModeSymlink])
	return err
}

// exists tells whether something has this name, a dangling link too.
func (s *subject) exists(name string) (bool, error) {
	_, err := fs.Lstat(s.root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// text reads a file; it is "" where there is none.
func (s *subject) text(name string) (string, error) {
	b, err := fs.ReadFile(s.root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(b), err
}
