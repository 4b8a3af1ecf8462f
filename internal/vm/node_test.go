package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// QEMU's arguments have the secret of the guest's agent in them, and the host's log is read by others than root.
func TestDaemonLogHidesSecrets(t *testing.T) {
	const value = "S3cr_t-S3cr_t"
	arguments := "/usr/bin/qemu-system-x86_64 \\\n-name guest=a-1,debug-threads=on \\\n-smbios 'type=11,value=org.debian.debcloud.secret:" + value + "' \\\n-m size=64 \\\n"
	n := &Node{options: NodeOptions{DaemonLogDir: t.TempDir()}}
	for _, row := range []struct{ summary, log, want string }{
		{"arguments", arguments, "-smbios 'type=11,value=(hidden)' \\\n-m size=64 \\"},
		{"a complaint", "qemu-system-x86_64: -smbios type=11,value=org.debian.debcloud.secret:" + value + ": no\n", "qemu-system-x86_64: -smbios type=11,value=(hidden) no"},
		{"in another form", "<entry>org.debian.debcloud.secret:" + value + "</entry>\n", "<entry>org.debian.debcloud.secret:(hidden)</entry>"},
		{"its end is cut off", value + strings.Repeat("x", 5000) + " end\nnext\n", "next"},
		{"a short log", "terminating on signal 15", "terminating on signal 15"},
	} {
		if err := os.WriteFile(filepath.Join(n.options.DaemonLogDir, "a-1.log"), []byte(row.log), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := n.DaemonLog("a-1"); strings.Contains(got, value) || !strings.HasSuffix(got, row.want) {
			t.Errorf("%s: %q, want the end %q", row.summary, got, row.want)
		}
	}
	// Wherever the tail begins.
	for before := range len(arguments) {
		log := arguments + strings.Repeat("y", 4096-before)
		if err := os.WriteFile(filepath.Join(n.options.DaemonLogDir, "a-1.log"), []byte(log), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := n.DaemonLog("a-1"); strings.Contains(got, value[6:]) {
			t.Fatalf("the tail begins %d bytes before the end of the arguments: %q", before, got)
		}
	}
}
