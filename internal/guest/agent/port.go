package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/guest"
)

// OpenPort opens a virtio-serial port of the guest and waits until it is there. path is /dev/virtio-ports/NAME, or a file that
// stands in for one; the name is looked for in sysfs too, because the link is udev's, which may not have come to it yet.
func OpenPort(ctx context.Context, path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(devicePath(path), os.O_RDWR, 0)
		if err == nil {
			return f, nil
		}
		// Busy: an agent before this one is about to end.
		if !errors.Is(err, fs.ErrNotExist) && !strings.Contains(err.Error(), "busy") {
			return nil, fmt.Errorf("agent port: %w", err)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("agent port: %w: last try: %w", context.Cause(ctx), err)
		}
	}
}

func devicePath(path string) string {
	if _, err := os.Stat(path); err == nil {
		return path
	}
	names, _ := filepath.Glob("/sys/class/virtio-ports/*/name") // the pattern is well-formed
	for _, name := range names {
		if text, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(text)) == filepath.Base(path) {
			return filepath.Join("/dev", filepath.Base(filepath.Dir(name)))
		}
	}
	return path
}

// ReadSecret finds the secret of this VM in its SMBIOS tables, as the kernel shows them at path
// (/sys/firmware/dmi/tables/DMI).
func ReadSecret(path string) (guest.Secret, error) {
	tables, err := os.ReadFile(path)
	if err != nil {
		return guest.Secret{}, fmt.Errorf("this machine's SMBIOS tables, which are to hold the secret of the VM: %w", err)
	}
	for _, text := range oemStrings(tables) {
		if secret, ok := guest.ParseOEMString(text); ok {
			return secret, nil
		}
	}
	return guest.Secret{}, fmt.Errorf("no SMBIOS OEM string in %s holds the secret of the VM: its domain needs one", path)
}

// oemStrings returns the strings of all structures of type 11 (DMTF DSP0134, SMBIOS, 6.1 and 7.12): a structure is a header
// with its length, the formatted area, and strings that end with a zero byte; another one ends the set.
func oemStrings(tables []byte) []string {
	const header, typeOEMStrings, typeEnd = 4, 11, 127
	var all []string
	for len(tables) >= header {
		kind, length := tables[0], int(tables[1])
		if kind == typeEnd || length < header || length > len(tables) {
			break
		}
		end := bytes.Index(tables[length:], []byte{0, 0})
		if end < 0 {
			break
		}
		if kind == typeOEMStrings {
			for s := range bytes.SplitSeq(tables[length:length+end], []byte{0}) {
				all = append(all, string(s))
			}
		}
		tables = tables[length+end+2:]
	}
	return all
}
