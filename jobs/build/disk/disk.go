// Package disk assembles a directory tree, as FAI leaves it, into a raw disk image that boots. It mounts nothing
// and needs neither loop devices nor a device mapper: file systems are written in user space, at their offsets.
package disk

import (
	"context"
	"errors"
	"time"
)

// Spec says what to assemble.
type Spec struct {
	Tree string    // root directory of the installed system; Write completes it with fstab and GRUB's files
	Size int64     // bytes of the whole disk
	Arch string    // Debian name
	Seed string    // every identifier derives from it: same seed and same tree, same bytes
	Time time.Time // of every file in the file systems that is younger
}

// Layout is what Write made.
type Layout struct {
	DiskGUID   string
	Partitions []Partition
}

// Partition is one entry of the partition table.
type Partition struct {
	Number int
	Label  string // GPT name: root, esp, bios
	Type   string // type GUID, lower case
	GUID   string // PARTUUID, lower case
	FSType string // ext4, vfat, "" for none
	FSUUID string // as blkid prints it, "" for none
	Start  int64  // bytes
	Size   int64  // bytes
}

// Write assembles s into a raw image at path.
func Write(ctx context.Context, s Spec, path string) (*Layout, error) {
	return nil, errors.ErrUnsupported
}
