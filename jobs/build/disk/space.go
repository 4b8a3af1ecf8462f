package disk

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// demandSpace refuses a tree that does not fit into its partition, and an output file system that cannot hold the image.
func demandSpace(ctx context.Context, tree string, l *Layout, path string) error {
	u, err := measure(tree)
	if err != nil {
		return err
	}
	if err := demandFit(u, l.of(roleRoot).Size); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &st); err != nil {
		return fault.Inputf("the image cannot be written: %w", err)
	}
	need, free := u.bytes+u.inodes*256+imageOverhead, int64(st.Bavail)*st.Bsize
	if need > free {
		return fault.WithHint(
			fault.Outsidef("the image needs about %s, %s has %s free", mebibytes(need), filepath.Dir(path), mebibytes(free)),
			"free space there, or choose another output directory")
	}
	return ctx.Err()
}

// demandFit compares what a tree needs with a root partition of size bytes.
func demandFit(u usage, size int64) error {
	room, inodes := max(roomOf(size)-bootFiles, 0), size/bytesPerInode
	if u.bytes <= room && u.inodes <= inodes {
		return nil
	}
	return fault.WithHint(fault.Inputf("the tree needs %s and %d inodes, a root partition of %s holds %s and %d",
		mebibytes(u.bytes), u.inodes, mebibytes(size), mebibytes(room), inodes), tooLarge)
}

const tooLarge = "give the vendor a larger disk in the matrix, or install less"

// imageOverhead is what an image takes besides the tree as it comes: boot loaders, group descriptors, bitmaps.
const imageOverhead = 40 << 20

// bootFiles is what Write itself adds to the tree, GRUB's modules above all.
const bootFiles = 8 << 20

// roomOf estimates how many bytes of files an ext4 file system of size bytes holds: what its inode tables, its
// journal (libext2fs, ext2fs_default_journal_size) and its descriptors leave.
func roomOf(size int64) int64 {
	journal := int64(1024)
	for blocks, j := range map[int64]int64{32768: 4096, 262144: 8192, 524288: 16384, 1 << 22: 32768, 1 << 23: 65536, 1 << 24: 131072, 1 << 25: 262144} {
		if size/blockSize >= blocks {
			journal = max(journal, j)
		}
	}
	return size - size/bytesPerInode*256 - journal*blockSize - size/100
}

// full turns into a sentence what the system and the tools say when a file system is full: that of dir, or the image's.
func full(err error, dir string) error {
	var tool *toolError
	said := errors.As(err, &tool) && strings.Contains(strings.ToLower(tool.output), syscall.ENOSPC.Error())
	if tool != nil && strings.Contains(tool.output, "Could not allocate") { // libext2fs: no free block or inode
		return fault.WithHint(fault.Inputf("the tree does not fit into the disk: %w", err), tooLarge)
	}
	if said || errors.Is(err, syscall.ENOSPC) {
		return fault.WithHint(fault.Outsidef("no space is left in %s: %w", dir, err),
			"free space there, or choose another output directory")
	}
	return err
}
