// Package ext4 reads an ext4 file system out of a file, without mounting it and as an ordinary user.
//
// It reads what mkfs.ext4 writes today: extents, 64-bit block numbers, hashed directories, sparse files and metadata
// checksums, every one of which it verifies. It takes no byte on trust: a damaged file system gives an error that
// wraps ErrDamaged, never a panic or a loop without end.
//
// go-diskfs v1.9.4 was tried first. It reads a hole in a file as the block before the hole, and mkfs.ext4 -d makes a
// hole of every block of zeros: four of the first thousand files of a Debian tree came out wrong.
//
// The layout is that of the kernel's Documentation/filesystems/ext4.
package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
)

// ErrDamaged is wrapped by every error that says that the file system contradicts itself.
var ErrDamaged = errors.New("the file system is damaged")

// ErrUnsupported is wrapped by every error that says that the file system uses what this package does not read.
var ErrUnsupported = errors.New("the file system has a feature that is not supported")

// damagedf is fmt.Errorf with ErrDamaged in the chain.
func damagedf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrDamaged}, args...)...)
}

// Features that must be known to read the file system (s_feature_incompat, s_feature_ro_compat).
const (
	incompatFiletype   = 0x2
	incompatRecover    = 0x4
	incompatExtents    = 0x40
	incompat64bit      = 0x80
	incompatFlexBG     = 0x200
	incompatEAInode    = 0x400
	incompatCsumSeed   = 0x2000
	incompatLargeDir   = 0x4000
	incompatCasefold   = 0x20000
	incompatUnderstood = incompatFiletype | incompatExtents | incompat64bit | incompatFlexBG | incompatEAInode |
		incompatCsumSeed | incompatLargeDir | incompatCasefold

	roCompatMetadataCsum = 0x400
)

const rootInode = 2

// FS is an ext4 file system. Its methods may be called from several goroutines.
type FS struct {
	r    io.ReaderAt
	size int64 // bytes

	blockSize      int64
	blocks         uint64
	inodes         uint32
	inodesPerGroup uint32
	inodeSize      int64
	checksums      bool
	seed           uint32
	inodeTables    []uint64 // first block, by group

	Label string
	UUID  [16]byte

	directories sync.Map // inode number → *listing, so that looking up a path reads a directory once
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is the CRC-32C as ext4 uses it, without the inversions of the usual one.
func checksum(seed uint32, parts ...[]byte) uint32 {
	c := ^seed
	for _, p := range parts {
		c = crc32.Update(c, castagnoli, p)
	}
	return ^c
}

// New reads the superblock and the group descriptors of the file system in the first size bytes of r.
func New(r io.ReaderAt, size int64) (*FS, error) {
	b := make([]byte, 1024)
	if _, err := r.ReadAt(b, 1024); err != nil {
		return nil, fmt.Errorf("read the superblock: %w", err)
	}
	if magic := le16(b, 0x38); magic != 0xef53 {
		return nil, damagedf("the superblock begins with %#04x where ext4 has 0xef53", magic)
	}
	f := &FS{r: r, size: size}
	if err := f.readSuperblock(b); err != nil {
		return nil, err
	}
	return f, f.readGroups(b)
}

func (f *FS) readSuperblock(b []byte) error {
	incompat, roCompat := le32(b, 0x60), le32(b, 0x64)
	f.checksums = roCompat&roCompatMetadataCsum != 0
	if f.checksums && checksum(^uint32(0), b[:0x3fc]) != le32(b, 0x3fc) {
		return damagedf("the superblock's checksum does not match")
	}
	if incompat&incompatRecover != 0 {
		return fmt.Errorf("%w: its journal was not replayed, as after a crash", ErrUnsupported)
	}
	if unknown := incompat &^ incompatUnderstood; unknown != 0 || incompat&incompatFiletype == 0 || incompat&incompatExtents == 0 {
		return fmt.Errorf("%w: incompatible features are %#x", ErrUnsupported, incompat)
	}
	logBlock := le32(b, 0x18)
	if logBlock > 6 {
		return damagedf("a block of 2^%d KiB", logBlock)
	}
	f.blockSize = 1024 << logBlock
	f.blocks = uint64(le32(b, 0x4))
	if incompat&incompat64bit != 0 {
		f.blocks |= uint64(le32(b, 0x150)) << 32
	}
	f.inodes, f.inodesPerGroup = le32(b, 0), le32(b, 0x28)
	f.inodeSize = int64(le16(b, 0x58))
	copy(f.UUID[:], b[0x68:])
	f.Label = cString(b[0x78:0x88])
	f.seed = checksum(^uint32(0), f.UUID[:])
	if incompat&incompatCsumSeed != 0 {
		f.seed = le32(b, 0x270)
	}
	switch {
	case f.blocks == 0 || f.blocks > uint64(f.size/f.blockSize):
		return damagedf("%d blocks of %d bytes, where the partition has %d bytes", f.blocks, f.blockSize, f.size)
	case f.inodeSize < 128 || f.inodeSize > f.blockSize || f.inodeSize&(f.inodeSize-1) != 0:
		return damagedf("inodes of %d bytes", f.inodeSize)
	case f.inodesPerGroup == 0 || f.inodes < rootInode:
		return damagedf("%d inodes, %d a group", f.inodes, f.inodesPerGroup)
	}
	return nil
}

// readGroups keeps the place of every group's inode table.
func (f *FS) readGroups(sb []byte) error {
	perGroup, first := uint64(le32(sb, 0x20)), uint64(le32(sb, 0x14))
	if perGroup == 0 || first >= f.blocks {
		return damagedf("%d blocks a group, the first is %d", perGroup, first)
	}
	groups := (f.blocks - first + perGroup - 1) / perGroup
	if want := uint64(f.inodes) / uint64(f.inodesPerGroup); want > groups {
		return damagedf("%d inodes do not fit into %d groups", f.inodes, groups)
	}
	size := uint64(32)
	if le32(sb, 0x60)&incompat64bit != 0 {
		size = uint64(le16(sb, 0xfe))
	}
	if size < 32 || size > 1024 || groups*size > uint64(f.size) {
		return damagedf("%d group descriptors of %d bytes", groups, size)
	}
	table := make([]byte, groups*size)
	if _, err := f.r.ReadAt(table, int64(first+1)*f.blockSize); err != nil {
		return fmt.Errorf("read the group descriptors: %w", err)
	}
	f.inodeTables = make([]uint64, groups)
	for g := range groups {
		d := table[g*size:][:size]
		if err := f.verifyGroup(uint32(g), d); err != nil {
			return err
		}
		block := uint64(le32(d, 0x8))
		if size >= 64 {
			block |= uint64(le32(d, 0x28)) << 32
		}
		if block >= f.blocks {
			return damagedf("group %d has its inodes in block %d of %d", g, block, f.blocks)
		}
		f.inodeTables[g] = block
	}
	return nil
}

func (f *FS) verifyGroup(g uint32, d []byte) error {
	if !f.checksums {
		return nil
	}
	number := binary.LittleEndian.AppendUint32(nil, g)
	if uint16(checksum(f.seed, number, d[:0x1e], []byte{0, 0}, d[0x20:])) != le16(d, 0x1e) {
		return damagedf("the checksum of group descriptor %d does not match", g)
	}
	return nil
}

// readBlock reads one block of metadata.
func (f *FS) readBlock(block uint64) ([]byte, error) {
	if block == 0 || block >= f.blocks {
		return nil, damagedf("block %d of %d", block, f.blocks)
	}
	b := make([]byte, f.blockSize)
	_, err := f.r.ReadAt(b, int64(block)*f.blockSize)
	return b, err
}

func le16(b []byte, at int) uint16 { return binary.LittleEndian.Uint16(b[at:]) }
func le32(b []byte, at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }

func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
