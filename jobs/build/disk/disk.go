// Package disk assembles a directory tree, as FAI leaves it, into a raw disk image that boots. It mounts no image and
// needs neither loop devices nor a device mapper: every file system is written in user space, at its offset.
package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/progress"
)

// Spec says what to assemble.
type Spec struct {
	Tree string    // root directory of the installed system; Write completes it with fstab and GRUB's files
	Size int64     // bytes of the whole disk, a multiple of 1 MiB
	Arch string    // Debian name
	Seed string    // every identifier derives from it: same seed, tree and version of e2fsprogs, same bytes
	Time time.Time // the latest time that a file in the image may have; whole seconds
}

// Write assembles s into a raw image at path, which appears by rename once it is complete. It writes into s.Tree what
// belongs to the disk: /etc/fstab, /boot/grub, and GRUB's choice of the root device in /etc/default/grub.d.
// It needs root, because GRUB's own tools run in the tree. Tools of the machine that it calls: mkfs.ext4, mkfs.fat,
// mmd and mcopy.
//
// Errors of kind Input mean that s cannot be met (an architecture without a layout, a disk too small for the tree),
// those of kind Outside that the output's file system is full; others, that the tree is incomplete or a tool failed.
func Write(ctx context.Context, s Spec, path string) (*Layout, error) {
	task := progress.Start(ctx, "disk", 0, false)
	defer task.Abort()
	layout, err := layoutOf(s)
	if err != nil {
		return nil, err
	}
	if err := demandFiles(s.Tree, s.Arch); err != nil {
		return nil, err
	}
	if err := demandSpace(ctx, s.Tree, layout, path); err != nil {
		return nil, err
	}
	task.Say("configuring GRUB")
	if err := configure(ctx, s.Tree, layout); err != nil {
		return nil, full(err, s.Tree)
	}
	partial := path + ".partial" // a fixed name, so that what a killed run left is overwritten by the next
	defer os.Remove(partial)
	if err := assemble(ctx, s, layout, partial, task); err != nil {
		return nil, full(err, filepath.Dir(path))
	}
	if err := os.Rename(partial, path); err != nil {
		return nil, err
	}
	task.Done()
	return layout, nil
}

// assemble writes every part of the image into a fresh sparse file.
func assemble(ctx context.Context, s Spec, layout *Layout, file string, task *progress.Task) error {
	if err := createSparse(file, s.Size); err != nil {
		return err
	}
	task.Say("writing the root file system")
	root := layout.of(roleRoot)
	if err := writeExt4(ctx, s, root, file); err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	task.Say("writing the EFI system partition")
	if err := writeESP(ctx, s, layout, file); err != nil {
		return fmt.Errorf("EFI system partition: %w", err)
	}
	task.Say("writing the partition table")
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := stampInodes(f, root.Start, s.Time); err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	if err := writeTable(f, s.Size, layout); err != nil {
		return fmt.Errorf("partition table: %w", err)
	}
	if err := embedCore(f, s.Tree, layout.of(roleBIOS)); err != nil {
		return fmt.Errorf("boot code: %w", err)
	}
	return errors.Join(ctx.Err(), f.Close())
}

func createSparse(file string, size int64) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return fault.Inputf("the image cannot be written: %w", err)
	}
	return errors.Join(f.Truncate(size), f.Close())
}
