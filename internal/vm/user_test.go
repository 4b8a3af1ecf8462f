package vm

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

func TestCapableUser(t *testing.T) {
	const form = "<capabilities><host><secmodel><model>apparmor</model><doi>0</doi></secmodel>%s</host></capabilities>"
	for _, row := range []struct {
		models, says string
		want         int
	}{
		{"<secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>+64055:+64055</baselabel><baselabel type='qemu'>+64055:+64055</baselabel></secmodel>", "", 64055},
		{"<secmodel><model>dac</model><baselabel type='kvm'>+0:+0</baselabel></secmodel>", "", 0},
		{"<secmodel><model>dac</model><baselabel type='kvm'>root:root</baselabel></secmodel>", `"root:root"`, 0},
		{"<secmodel><model>dac</model><baselabel type='kvm'>-1:+0</baselabel></secmodel>", `"-1:+0"`, 0},
		{"<secmodel><model>dac</model></secmodel>", "does not say", 0},
		{"", "does not say", 0},
	} {
		uid, err := capableUser(fmt.Sprintf(form, row.models))
		if uid != row.want || (err == nil) != (row.says == "") || err != nil && (fault.KindOf(err) != fault.Outside || !strings.Contains(err.Error(), row.says)) {
			t.Errorf("%s: %d, %v", row.models, uid, err)
		}
	}
	if _, err := capableUser("<capabilities>"); err == nil {
		t.Error("half of a document was read")
	}
}

// What libvirt says is as whom QEMU runs.
func TestUser(t *testing.T) {
	p := startPrivate(t, false)
	n := connect(t, nodeOptions(p))
	if err := n.Create(testContext(t, time.Minute), tinyMachine(t, "user")); err != nil {
		t.Fatal(err)
	}
	uid, err := n.User(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := false
	for _, pid := range p.Processes() {
		if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); !strings.Contains(string(line), "guest=user") {
			continue
		}
		var st syscall.Stat_t
		if err := syscall.Stat(fmt.Sprintf("/proc/%d", pid), &st); err != nil || int(st.Uid) != uid {
			t.Errorf("QEMU runs as %d, and libvirt says %d: %v", st.Uid, uid, err)
		}
		seen = true
	}
	if !seen {
		t.Error("no QEMU runs")
	}
}
