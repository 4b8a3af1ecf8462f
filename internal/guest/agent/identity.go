package agent

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/atomicfile"
	"salsa.debian.org/cloud-team/debcloud/internal/guest"
	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
)

var (
	hostnameForm  = lazyregexp.New(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
	machineIDForm = lazyregexp.New(`^[0-9a-f]{32}$`)
)

// setIdentity does what an Identity in JSON says. All of it is checked before any is done.
func setIdentity(root string, payload []byte) error {
	var id guest.Identity
	if err := json.Unmarshal(payload, &id); err != nil {
		return err
	}
	switch {
	case id.Hostname != "" && !hostnameForm.MatchString(id.Hostname):
		return fmt.Errorf("%q is no host name", id.Hostname)
	case id.MachineID != "" && !machineIDForm.MatchString(id.MachineID):
		return fmt.Errorf("%q is no machine ID: 32 hexadecimal digits", id.MachineID)
	case !id.Time.IsZero() && id.Time.Year() < 2020:
		return fmt.Errorf("%s cannot be the time", id.Time)
	}
	kernel := root == ""
	if kernel {
		root = "/"
	}
	var errs []error
	if id.Hostname != "" {
		errs = append(errs, setHostname(root, id.Hostname, kernel))
	}
	if id.MachineID != "" {
		errs = append(errs, setMachineID(root, id.MachineID, kernel))
	}
	if kernel && len(id.Entropy) > 0 {
		errs = append(errs, addEntropy(id.Entropy))
	}
	if kernel && !id.Time.IsZero() {
		errs = append(errs, setClock(id.Time))
	}
	return errors.Join(errs...)
}

func setHostname(root, name string, kernel bool) error {
	if kernel {
		if err := unix.Sethostname([]byte(name)); err != nil {
			return fmt.Errorf("host name: %w", err)
		}
	}
	if err := replace(filepath.Join(root, "etc/hostname"), name+"\n"); err != nil {
		return err
	}
	hosts := filepath.Join(root, "etc/hosts")
	text, err := os.ReadFile(hosts)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return replace(hosts, withOwnName(string(text), name))
}

// withOwnName gives 127.0.1.1, Debian's address of a machine's own name (Debian Reference, 5.1.1), a new one.
func withOwnName(hosts, name string) string {
	var b strings.Builder
	for line := range strings.Lines(hosts) {
		if fields := strings.Fields(line); len(fields) == 0 || fields[0] != "127.0.1.1" {
			b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	return b.String() + "127.0.1.1\t" + name + "\n"
}

// setMachineID replaces the file that systemd may have mounted over /etc/machine-id until it can be written.
func setMachineID(root, id string, kernel bool) error {
	path := filepath.Join(root, "etc/machine-id")
	if kernel {
		_ = unix.Unmount(path, unix.MNT_DETACH) // an error: nothing is mounted there
	}
	return replace(path, id+"\n")
}

func replace(path, text string) error {
	return atomicfile.WriteMode(path, []byte(text), 0o644)
}

// addEntropy gives the kernel random bytes that it counts in full, and makes it use them at once (random(4)): VMs restored
// from one memory image would else draw the same numbers.
func addEntropy(b []byte) error {
	b = b[:min(len(b), 512)]
	f, err := os.OpenFile("/dev/random", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// struct rand_pool_info: entropy_count in bits, buf_size in bytes, then the bytes.
	info := binary.NativeEndian.AppendUint32(nil, uint32(len(b)*8))
	info = binary.NativeEndian.AppendUint32(info, uint32(len(b)))
	info = append(info, b...)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info[0])))
	runtime.KeepAlive(info)
	if errno != 0 {
		return fmt.Errorf("add entropy: %w", errno)
	}
	if _, _, errno = unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDRESEEDCRNG, 0); errno != 0 {
		return fmt.Errorf("reseed the kernel's random numbers: %w", errno)
	}
	return nil
}

func setClock(t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}
