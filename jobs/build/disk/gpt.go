package disk

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"unicode/utf16"

	"github.com/google/uuid"
)

// Sizes of a GUID partition table with the customary 128 entries (UEFI specification, 5.3).
const (
	tableEntries  = 128
	entrySize     = 128
	entrySectors  = tableEntries * entrySize / SectorSize
	backupSectors = entrySectors + 1 // the second table, at the end of the disk
)

type gptHeader struct {
	Signature      [8]byte
	Revision, Size uint32
	CRC, Reserved  uint32
	This, Other    uint64
	First, Last    uint64
	Disk           [16]byte
	EntriesAt      uint64
	Entries, Each  uint32
	EntriesCRC     uint32
}

type gptEntry struct {
	Type, GUID  [16]byte
	First, Last uint64
	Attributes  uint64
	Name        [36]uint16
}

// writeTable writes the protective MBR, without boot code, and both copies of the table onto a disk of size bytes.
func writeTable(w io.WriterAt, size int64, l *Layout) error {
	last := uint64(size/SectorSize) - 1
	entries := encodeEntries(l)
	primary := gptHeader{This: 1, Other: last, EntriesAt: 2}
	backup := gptHeader{This: last, Other: 1, EntriesAt: last - entrySectors}
	for _, h := range []gptHeader{primary, backup} {
		h.First, h.Last = 2+entrySectors, last-backupSectors
		if _, err := w.WriteAt(h.encode(l.DiskGUID, entries), int64(h.This)*SectorSize); err != nil {
			return err
		}
		if _, err := w.WriteAt(entries, int64(h.EntriesAt)*SectorSize); err != nil {
			return err
		}
	}
	_, err := w.WriteAt(protectiveMBR(last), 440)
	return err
}

func (h gptHeader) encode(disk string, entries []byte) []byte {
	copy(h.Signature[:], "EFI PART")
	h.Revision, h.Size = 1<<16, uint32(binary.Size(h))
	h.Disk = mixedEndian(disk)
	h.Entries, h.Each, h.EntriesCRC = tableEntries, entrySize, crc32.ChecksumIEEE(entries)
	h.CRC = crc32.ChecksumIEEE(littleEndian(h))
	return append(littleEndian(h), make([]byte, SectorSize-h.Size)...)
}

func encodeEntries(l *Layout) []byte {
	table := make([]byte, tableEntries*entrySize)
	for _, p := range l.Partitions {
		e := gptEntry{Type: mixedEndian(p.Type), GUID: mixedEndian(p.GUID)}
		e.First, e.Last = uint64(p.Start/SectorSize), uint64((p.Start+p.Size)/SectorSize)-1
		copy(e.Name[:], utf16.Encode([]rune(p.Label)))
		copy(table[(p.Number-1)*entrySize:], littleEndian(e))
	}
	return table
}

// protectiveMBR returns bytes 440 to 511 of the first sector: one partition of type 0xEE over the whole disk
// (UEFI specification, 5.2.3).
func protectiveMBR(last uint64) []byte {
	b := make([]byte, 512-440)
	entry := b[446-440:]
	copy(entry, []byte{0x00, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(entry[8:], 1)
	binary.LittleEndian.PutUint32(entry[12:], uint32(min(last, 0xffffffff)))
	b[510-440], b[511-440] = 0x55, 0xaa
	return b
}

// mixedEndian encodes a GUID as the table holds it, its first three fields little endian.
func mixedEndian(text string) [16]byte {
	u := uuid.MustParse(text) // layoutOf made it, or a constant of this program is wrong
	u[0], u[1], u[2], u[3] = u[3], u[2], u[1], u[0]
	u[4], u[5] = u[5], u[4]
	u[6], u[7] = u[7], u[6]
	return u
}

func littleEndian(v any) []byte {
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, v) // into memory, of types of fixed size: it cannot fail
	return b.Bytes()
}
