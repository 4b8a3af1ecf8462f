package disk

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"
	"time"
)

// ext4Features are Debian 12's defaults, named one by one so that the machine's mke2fs.conf has no say: GRUB 2.06 and
// older kernels read them all, not so the newer metadata_csum_seed and orphan_file (Debian bugs 1030939, 1031325).
const ext4Features = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg," +
	"sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

// bytesPerInode is mke2fs's usual density.
const bytesPerInode = 16384

// writeExt4 makes the root file system of the tree in its partition of the file. Holes stay holes: inode tables and the journal
// are known to be zero.
func writeExt4(ctx context.Context, s Spec, root *Partition, file string) error {
	env := []string{
		"MKE2FS_CONFIG=/dev/null", "MKE2FS_SYNC=0",
		"E2FSPROGS_FAKE_TIME=" + strconv.FormatInt(s.Time.Unix(), 10),
		"SOURCE_DATE_EPOCH=" + strconv.FormatInt(s.Time.Unix(), 10),
	}
	extended := fmt.Sprintf("offset=%d,hash_seed=%s,root_owner=0:0,nodiscard,assume_storage_prezeroed=1", root.Start, root.FSUUID)
	cmd := command(ctx, env, "mkfs.ext4", "-q", "-F", "-O", ext4Features, "-E", extended, "-U", root.FSUUID,
		"-b", strconv.Itoa(blockSize), "-I", "256", "-i", strconv.Itoa(bytesPerInode), "-m", "5", "-e", "remount-ro",
		"-d", s.Tree, file, fmt.Sprintf("%dk", root.Size/1024))
	_, err := run(ctx, cmd)
	return err
}

// Offsets in ext4's structures (kernel documentation, filesystems/ext4).
const (
	superblockAt = 1024

	sbInodeCount = 0x00
	sbInodes     = 0x28 // of each group
	sbMagic      = 0x38
	sbInodeSize  = 0x58
	sbUUID       = 0x68

	groupSize       = 64 // with feature 64bit
	groupTable      = 0x08
	groupFlags      = 0x12
	groupUnused     = 0x1c
	groupTableHigh  = 0x28
	groupUnusedHigh = 0x32
	groupNoInodes   = 1 // flag: the table is not in use

	inodeMode       = 0x00
	inodeATime      = 0x08
	inodeCTime      = 0x0c
	inodeMTime      = 0x10
	inodeGeneration = 0x64
	inodeSumLow     = 0x7c
	inodeSumHigh    = 0x82
	inodeCTimeExtra = 0x84
	inodeMTimeExtra = 0x88
	inodeATimeExtra = 0x8c
	inodeBirth      = 0x90
	inodeBirthExtra = 0x94
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// extFS is what is needed of a superblock to reach every inode.
type extFS struct {
	disk      *os.File
	start     int64 // bytes
	perGroup  uint32
	inodeSize int64
	groups    int64
	seed      uint32 // of checksums
}

// stampInodes makes the file system in disk at start look as if all was written at the latest by t: modification times
// are kept where they are older, and access and change times follow them. mke2fs copies change times from the tree,
// where nobody can set them, so two builds of the same files would differ.
func stampInodes(disk *os.File, start int64, t time.Time) error {
	e, err := openExt(disk, start)
	if err != nil {
		return err
	}
	for g := range e.groups {
		if err := e.stampGroup(g, t); err != nil {
			return err
		}
	}
	return nil
}

func openExt(disk *os.File, start int64) (*extFS, error) {
	sb := make([]byte, 1024)
	if _, err := disk.ReadAt(sb, start+superblockAt); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if le.Uint16(sb[sbMagic:]) != 0xef53 {
		return nil, fmt.Errorf("no ext4 file system at byte %d", start)
	}
	e := &extFS{disk: disk, start: start, perGroup: le.Uint32(sb[sbInodes:]), inodeSize: int64(le.Uint16(sb[sbInodeSize:]))}
	e.groups = int64(le.Uint32(sb[sbInodeCount:]) / e.perGroup)
	e.seed = checksum(^uint32(0), sb[sbUUID:sbUUID+16])
	return e, nil
}

// checksum continues the CRC-32C sum as ext4 uses it, without inversion at either end.
func checksum(sum uint32, p []byte) uint32 { return ^crc32.Update(^sum, castagnoli, p) }

func (e *extFS) stampGroup(group int64, t time.Time) error {
	le := binary.LittleEndian
	d := make([]byte, groupSize)
	if _, err := e.disk.ReadAt(d, e.start+blockSize+group*groupSize); err != nil {
		return err
	}
	if le.Uint16(d[groupFlags:])&groupNoInodes != 0 {
		return nil
	}
	used := e.perGroup - (uint32(le.Uint16(d[groupUnused:])) | uint32(le.Uint16(d[groupUnusedHigh:]))<<16)
	at := e.start + (int64(le.Uint32(d[groupTable:]))|int64(le.Uint32(d[groupTableHigh:]))<<32)*blockSize
	table := make([]byte, int64(used)*e.inodeSize)
	if _, err := e.disk.ReadAt(table, at); err != nil && err != io.EOF {
		return err
	}
	for i := range int64(used) {
		e.stampInode(table[i*e.inodeSize:(i+1)*e.inodeSize], uint32(group)*e.perGroup+uint32(i)+1, t)
	}
	_, err := e.disk.WriteAt(table, at)
	return err
}

func (e *extFS) stampInode(inode []byte, number uint32, t time.Time) {
	le := binary.LittleEndian
	if le.Uint16(inode[inodeMode:]) == 0 {
		return
	}
	changed := decodeTime(inode, inodeMTime, inodeMTimeExtra)
	if changed.After(t) {
		changed = t
	}
	encodeTime(inode, inodeMTime, inodeMTimeExtra, changed)
	encodeTime(inode, inodeATime, inodeATimeExtra, changed)
	encodeTime(inode, inodeCTime, inodeCTimeExtra, changed)
	encodeTime(inode, inodeBirth, inodeBirthExtra, changed)

	le.PutUint16(inode[inodeSumLow:], 0)
	le.PutUint16(inode[inodeSumHigh:], 0)
	sum := checksum(e.seed, le.AppendUint32(nil, number))
	sum = checksum(sum, inode[inodeGeneration:inodeGeneration+4])
	sum = checksum(sum, inode)
	le.PutUint16(inode[inodeSumLow:], uint16(sum))
	le.PutUint16(inode[inodeSumHigh:], uint16(sum>>16))
}

// decodeTime reads a time: 32 signed bits of seconds, and in extra 30 bits of nanoseconds above 2 bits of epoch.
func decodeTime(inode []byte, at, extraAt int) time.Time {
	low := int64(int32(binary.LittleEndian.Uint32(inode[at:])))
	extra := binary.LittleEndian.Uint32(inode[extraAt:])
	return time.Unix(low+int64(extra&3)<<32, int64(extra>>2))
}

func encodeTime(inode []byte, at, extraAt int, t time.Time) {
	seconds := t.Unix()
	epoch := uint32((seconds-int64(int32(seconds)))>>32) & 3
	binary.LittleEndian.PutUint32(inode[at:], uint32(seconds))
	binary.LittleEndian.PutUint32(inode[extraAt:], uint32(t.Nanosecond())<<2|epoch)
}
