package azure

import (
	"encoding/binary"
	"time"

	"github.com/google/uuid"

	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

const (
	mib = 1 << 20

	footerSize = 512
	// smallest is the least that Azure takes for a managed disk: 20 MiB and the footer.
	smallest = 20 * mib
)

// vhdSize is the size in bytes of the disk in a fixed VHD of an image of size bytes: whole MiB, which Azure demands. What is
// added are zeros.
func vhdSize(size int64) int64 { return max(smallest, (size+mib-1)/mib*mib) }

// footer returns the last sector of a fixed VHD whose disk has size bytes ("Virtual Hard Disk Image Format Specification",
// version 1.0, Microsoft 2006). The same image gives the same footer: its identifier follows from digest, its time is made.
func footer(size int64, digest manifest.Digest, made time.Time) []byte {
	f := make([]byte, footerSize)
	be := binary.BigEndian
	copy(f, "conectix")
	be.PutUint32(f[8:], 2)            // features: the reserved bit, always set
	be.PutUint32(f[12:], 0x0001_0000) // version of the format
	be.PutUint64(f[16:], ^uint64(0))  // data offset: none in a fixed disk
	be.PutUint32(f[24:], uint32(made.Unix()-time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Unix()))
	// QEMU's name for "the current size counts, not the geometry", which cannot express most sizes (QEMU, block/vpc.c).
	copy(f[28:], "qem2")
	be.PutUint32(f[32:], 0x0005_0003) // version of that
	copy(f[36:], "Wi2k")
	be.PutUint64(f[40:], uint64(size)) // original
	be.PutUint64(f[48:], uint64(size)) // current
	cylinders, heads, sectors := geometry(size)
	be.PutUint16(f[56:], cylinders)
	f[58], f[59] = heads, sectors
	be.PutUint32(f[60:], 2) // fixed
	id := uuid.NewSHA1(uuid.NameSpaceURL, digest[:])
	copy(f[68:], id[:])
	be.PutUint32(f[64:], checksum(f))
	return f
}

// checksum is the one's complement of the sum of all bytes, those of the checksum taken as zero.
func checksum(f []byte) uint32 {
	var sum uint32
	for i, b := range f {
		if i < 64 || i >= 68 {
			sum += uint32(b)
		}
	}
	return ^sum
}

// geometry is the specification's appendix "CHS Calculation".
func geometry(size int64) (cylinders uint16, heads, sectors uint8) {
	total := min(size/512, 65535*16*255)
	var perCylinder, s, h int64 // cylinders times heads
	if total >= 65535*16*63 {
		s, h = 255, 16
		perCylinder = total / s
	} else {
		s = 17
		perCylinder = total / s
		h = max(4, (perCylinder+1023)/1024)
		if perCylinder >= h*1024 || h > 16 {
			s, h = 31, 16
			perCylinder = total / s
		}
		if perCylinder >= h*1024 {
			s, h = 63, 16
			perCylinder = total / s
		}
	}
	return uint16(perCylinder / h), uint8(h), uint8(s)
}
