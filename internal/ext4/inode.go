package ext4

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"time"
)

// Inode is what the file system keeps of a file besides its name; fs.FileInfo.Sys returns a *Inode.
type Inode struct {
	Number   uint32
	UID, GID uint32
	Links    uint16
	Device   uint32 // major<<20 | minor, of a device node

	mode       uint16
	size       int64
	modified   time.Time
	flags      uint32
	generation uint32
	sectors    uint64 // 512-byte units
	attributes bool   // has a block of extended attributes, which counts in sectors
	block      [60]byte
}

// Flags of an inode.
const (
	flagEncrypted  = 0x800
	flagExtents    = 0x80000
	flagInlineData = 0x10000000
)

func (f *FS) inode(number uint32) (*Inode, error) {
	if number == 0 || number > f.inodes {
		return nil, damagedf("inode %d of %d", number, f.inodes)
	}
	group, index := (number-1)/f.inodesPerGroup, (number-1)%f.inodesPerGroup
	if int(group) >= len(f.inodeTables) {
		return nil, damagedf("inode %d is in group %d of %d", number, group, len(f.inodeTables))
	}
	b := make([]byte, f.inodeSize)
	if _, err := f.r.ReadAt(b, int64(f.inodeTables[group])*f.blockSize+int64(index)*f.inodeSize); err != nil {
		return nil, fmt.Errorf("read inode %d: %w", number, err)
	}
	if err := f.verifyInode(number, b); err != nil {
		return nil, err
	}
	return f.parseInode(number, b)
}

func (f *FS) verifyInode(number uint32, b []byte) error {
	if !f.checksums {
		return nil
	}
	want, zero := uint32(le16(b, 0x7c)), []byte{0, 0}
	parts := [][]byte{binary.LittleEndian.AppendUint32(nil, number), b[0x64:0x68], b[:0x7c], zero, b[0x7e:0x80]}
	mask := uint32(0xffff)
	if len(b) > 128 {
		if le16(b, 0x80) >= 4 { // i_extra_isize reaches over i_checksum_hi
			want |= uint32(le16(b, 0x82)) << 16
			mask = ^uint32(0)
			parts = append(parts, b[0x80:0x82], zero, b[0x84:])
		} else {
			parts = append(parts, b[0x80:])
		}
	}
	if checksum(f.seed, parts...)&mask != want {
		return damagedf("the checksum of inode %d does not match", number)
	}
	return nil
}

func (f *FS) parseInode(number uint32, b []byte) (*Inode, error) {
	i := &Inode{
		Number:     number,
		UID:        uint32(le16(b, 0x2)) | uint32(le16(b, 0x78))<<16,
		GID:        uint32(le16(b, 0x18)) | uint32(le16(b, 0x7a))<<16,
		Links:      le16(b, 0x1a),
		mode:       le16(b, 0),
		size:       int64(uint64(le32(b, 0x4)) | uint64(le32(b, 0x6c))<<32),
		flags:      le32(b, 0x20),
		generation: le32(b, 0x64),
		sectors:    uint64(le32(b, 0x1c)) | uint64(le16(b, 0x74))<<32,
		attributes: le32(b, 0x68) != 0 || le16(b, 0x76) != 0,
	}
	copy(i.block[:], b[0x28:])
	seconds, nanoseconds := int64(int32(le32(b, 0x10))), int64(0)
	if len(b) >= 0x8c && le16(b, 0x80) >= 0xc {
		extra := le32(b, 0x88)
		seconds += int64(extra&3) << 32
		nanoseconds = int64(extra >> 2)
	}
	i.modified = time.Unix(seconds, nanoseconds).UTC()
	if i.mode == 0 || i.Links == 0 {
		return nil, damagedf("inode %d is not in use", number)
	}
	if i.size < 0 || i.size > f.blockSize<<32 {
		return nil, damagedf("inode %d has %d bytes", number, i.size)
	}
	if t := i.fileMode() & fs.ModeType; t&fs.ModeDevice != 0 {
		i.Device = deviceNumber(le32(i.block[:], 0), le32(i.block[:], 4))
	}
	return i, nil
}

// deviceNumber decodes i_block of a device node: the old 8:8 form, or the new one where the old is 0.
func deviceNumber(old, new uint32) uint32 {
	if old != 0 {
		return old>>8&0xff<<20 | old&0xff
	}
	return new>>8&0xfff<<20 | new&0xff | new>>12&0xfff00
}

func (i *Inode) fileMode() fs.FileMode {
	m := fs.FileMode(i.mode & 0o777)
	for _, bit := range []struct {
		ext4 uint16
		mode fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}} {
		if i.mode&bit.ext4 != 0 {
			m |= bit.mode
		}
	}
	switch i.mode & 0xf000 {
	case 0x8000:
	case 0x4000:
		m |= fs.ModeDir
	case 0xa000:
		m |= fs.ModeSymlink
	case 0x2000:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case 0x6000:
		m |= fs.ModeDevice
	case 0x1000:
		m |= fs.ModeNamedPipe
	case 0xc000:
		m |= fs.ModeSocket
	default:
		m |= fs.ModeIrregular
	}
	return m
}

// info is an Inode under one of its names.
type info struct {
	name string
	*Inode
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.fileMode() }
func (i info) ModTime() time.Time { return i.modified }
func (i info) IsDir() bool        { return i.fileMode().IsDir() }
func (i info) Sys() any           { return i.Inode }
