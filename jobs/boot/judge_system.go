package boot

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

func judgeRunning(o *observation) verdict {
	state := firstLine(o.out("running"))
	if state == "running" && o.probes["running"].exit == 0 {
		return passed("systemctl is-system-running: %s", state)
	}
	return failed("systemctl is-system-running: %s\n%s", o.out("running"), o.out("failed_logs"))
}

func judgeBootTime(o *observation) verdict {
	t := bootTimes(o.marks, o.probes)
	split := fmt.Sprintf("%.1f s: firmware and loader %.1f s, kernel %.1f s, initrd %.1f s, userspace %.1f s (of it cloud-init %.1f s); SSH after %.1f s; limit %.0f s",
		t.Total, t.Firmware, t.Kernel, t.Initrd, t.Userspace, t.CloudInit, t.SSH, o.limit.Seconds())
	switch {
	case t.Userspace == 0:
		return failed("systemd-analyze tells no boot time: %s", o.out("analyze"))
	case t.Total > o.limit.Seconds():
		return failed("%s", split)
	}
	return passed("%s", split)
}

func judgeConsole(o *observation) verdict {
	var bad, excused []string
	for _, f := range scan(o.console, allowances, o.emulated, time.Now()) {
		if f.excuse == "" {
			bad = append(bad, f.String())
		} else {
			excused = append(excused, f.String())
		}
	}
	switch {
	case len(bad) > 0 && o.fault != nil:
		return failed("%s\n%v", strings.Join(bad, "\n"), o.fault)
	case len(bad) > 0 && o.emulated:
		lines := strings.Join(bad, "\n")
		return failed("%s\n%s", lines, hostFault(lines))
	case len(bad) > 0:
		return failed("%s", strings.Join(bad, "\n"))
	case strings.TrimSpace(plain(o.console)) == "":
		return failed("the console printed nothing")
	}
	seen := fmt.Sprintf("%d lines", strings.Count(plain(o.console), "\n"))
	if len(excused) > 0 {
		return passed("%s\n%s", seen, strings.Join(excused, "\n"))
	}
	return passed("%s", seen)
}

func judgeSerial(o *observation) verdict {
	host := askedLogin(o.console)
	switch {
	case !strings.Contains(o.console, "Linux version "):
		return failed("the serial console never showed the kernel's first line: is console=ttyS0 on its command line?\n%s", o.out("cmdline"))
	case host == "":
		return failed("the serial console never asked for a login: %s", o.out("serial"))
	}
	return passed("the kernel's first line, and at the end %q", host+" login:")
}

// judgeFirmware compares, because a machine with both can fall back from one to the other unnoticed.
func judgeFirmware(o *observation) verdict {
	lines := strings.Fields(o.out("efi"))
	got := "none told"
	if len(lines) > 0 {
		got = strings.ReplaceAll(lines[len(lines)-1], "efi", "uefi")
	}
	if got != o.firmware {
		return failed("the system was started by %s in a VM with %s", got, o.firmware)
	}
	return passed("%s", got)
}

func judgeSecureBoot(o *observation) verdict {
	var told []string
	for line := range strings.SplitSeq(o.out("efi"), "\n") {
		told = append(told, strings.Join(strings.Fields(line), " ")) // od aligns its numbers
	}
	if slices.Contains(told, "SecureBoot 1") && !slices.Contains(told, "SetupMode 1") {
		return passed("%s", strings.Join(told, ", "))
	}
	return failed("SecureBoot=1 and SetupMode=0 are expected: %s", strings.Join(told, ", "))
}

func judgeMachineID(o *observation) verdict {
	id := o.out("machine_id")
	if raw, err := hex.DecodeString(id); err != nil || len(raw) != 16 {
		return failed("/etc/machine-id holds %q, not 32 hexadecimal digits", id)
	}
	if again, ok := o.probes["again/machine_id"]; ok && again.out != id {
		return failed("the machine ID %s became %s by a reboot", id, again.out)
	}
	if o.peer == nil || o.peer.out("machine_id") == "" {
		return passed("%s; there is no other VM to compare with", id)
	}
	if other := o.peer.out("machine_id"); other == id {
		return failed("the %s VM has the same machine ID %s: it was baked into the image", o.peer.firmware, id)
	}
	return passed("%s, another than in the %s VM", id, o.peer.firmware)
}

func judgeReboot(o *observation) verdict {
	first, second := o.out("boot_id"), o.out("again/boot_id")
	switch {
	case first == "" || second == "":
		return failed("boot ID %q before, %q after the reboot", first, second)
	case first == second:
		return failed("the boot ID is still %s: the system was not restarted", first)
	}
	return passed("boot ID %s became %s", first, second)
}

// offProbe is no probe of the script: it stands for the power-off, the end of the test.
const offProbe = "off"

func judgePowerOff(o *observation) verdict {
	return passed("off %.1f s after the button", o.probes[offProbe].took.Seconds())
}

// judgeRoot wants both the partition to reach the end of the disk and the file system to fill the partition. ext4 keeps
// up to 7 % for itself on a disk of this size.
func judgeRoot(o *observation) verdict {
	var fsSize, partition, disk int64
	lines := strings.Split(o.out("root"), "\n")
	if f := strings.Fields(lines[0]); len(f) >= 3 {
		fsSize, _ = strconv.ParseInt(f[2], 10, 64)
	}
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		size, _ := strconv.ParseInt(f[2], 10, 64)
		switch f[1] {
		case "part":
			partition = size
		case "disk":
			disk = size
		}
	}
	const boot = 256 << 20 // what precedes the root partition, and the second partition table
	seen := fmt.Sprintf("disk %d bytes, root partition %d, file system %d", disk, partition, fsSize)
	switch {
	case disk != o.diskSize:
		return failed("%s; the VM's disk has %d", seen, o.diskSize)
	case partition < disk-boot:
		return failed("%s: the partition did not grow", seen)
	case fsSize < partition/100*93:
		return failed("%s: the file system did not grow", seen)
	}
	return passed("%s; the image has %d", seen, o.build.Data.Image.Size)
}

func judgeClock(o *observation) verdict {
	if strings.Contains(o.out("clock"), "UTC +0000") {
		return passed("%s", o.out("clock"))
	}
	return failed("the clock is not in UTC: %s", o.out("clock"))
}

func judgeSwap(o *observation) verdict {
	devices := strings.Split(o.out("swap"), "\n")[1:]
	if len(devices) > 0 {
		return failed("/proc/swaps lists %s", strings.Join(devices, ", "))
	}
	return passed("/proc/swaps is empty")
}

func judgeUseradd(o *observation) verdict {
	if o.probes["useradd"].exit != 0 {
		return failed("useradd, id, userdel: %s", o.out("useradd"))
	}
	return passed("%s", firstLine(o.out("useradd")))
}
