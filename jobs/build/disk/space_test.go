package disk

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

func TestDemandFit(t *testing.T) {
	const size = 2943 << 20 // of a 3 GiB disk
	tests := []struct {
		summary string
		usage   usage
		want    string
	}{
		{"trixie genericcloud", usage{bytes: 560 << 20, inodes: 25000}, ""},
		{"all but the file system's own share", usage{bytes: 2780 << 20, inodes: 25000}, ""},
		{"more bytes than the partition has", usage{bytes: 3000 << 20, inodes: 25000}, "the tree needs 3000 MiB"},
		{"no room for the journal and inode tables", usage{bytes: 2900 << 20, inodes: 25000}, "a root partition of 2943 MiB holds 27"},
		{"too many small files", usage{bytes: 900 << 20, inodes: 200000}, "200000 inodes"},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			err := demandFit(test.usage, size)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("demandFit = %v, want %q", err, test.want)
			}
			if err != nil && (fault.KindOf(err) != fault.Input || fault.HintOf(err) == "") {
				t.Errorf("%v is of kind %d with hint %q", err, fault.KindOf(err), fault.HintOf(err))
			}
		})
	}
}

func TestFull(t *testing.T) {
	tests := []struct {
		summary string
		err     error
		kind    fault.Kind
		want    string
	}{
		{"the system says so", fmt.Errorf("write: %w", syscall.ENOSPC), fault.Outside, "no space is left in /out"},
		{"a tool says so", &toolError{"mkfs.ext4", errors.New("exit status 1"), "__populate_fs: No space left on device while writing"},
			fault.Outside, "no space is left in /out"},
		{"the image itself is full", &toolError{"mkfs.ext4", errors.New("exit status 1"), "__populate_fs: Could not allocate block in ext2 filesystem while writing"},
			fault.Input, "does not fit into the disk"},
		{"another failure", &toolError{"mkfs.ext4", errors.New("exit status 1"), "Bad magic"}, fault.Work, "Bad magic"},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			got := full(test.err, "/out")
			if fault.KindOf(got) != test.kind || !strings.Contains(got.Error(), test.want) {
				t.Errorf("full = %v of kind %d, want %q of kind %d", got, fault.KindOf(got), test.want, test.kind)
			}
		})
	}
}
