package vm

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const testNamespace = "https://salsa.debian.org/cloud-team/debcloud/test"

func startPrivate(t *testing.T, network bool) *Private {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a private libvirtd needs root")
	}
	dir, err := os.MkdirTemp("", "vmd-") // sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // for QEMU's user
		t.Fatal(err)
	}
	p, err := StartPrivate(testContext(t, time.Minute), dir, network)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		_ = os.RemoveAll(dir)
	})
	return p
}

func nodeOptions(p *Private) NodeOptions {
	return NodeOptions{
		URI: p.URI(), Namespace: testNamespace, PoolDir: filepath.Join(p.dir, "pool"), RunDir: filepath.Join(p.dir, "s"),
		LogDir: filepath.Join(p.dir, "console"), DaemonLogDir: p.LogDir(),
	}
}

func connect(t *testing.T, o NodeOptions) *Node {
	t.Helper()
	n, err := Connect(testContext(t, time.Minute), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

func mark(owner string) []byte {
	return fmt.Appendf(nil, `<job xmlns=%q id=%q/>`, testNamespace, owner)
}

func tinyMachine(t *testing.T, name string) LastingSpec {
	return LastingSpec{
		Name: name, Metadata: mark(name), Image: guestImage(t), ImageFormat: "raw", DiskSize: 2 << 20, MemoryMiB: 64, CPUs: 1,
		Channel: "org.debian.test.0",
		Seed:    func(path string) error { return os.WriteFile(path, make([]byte, 1<<20), 0o600) },
	}
}

func said(t *testing.T, n *Node, name, text string) {
	t.Helper()
	waitUntil(t, "the console says "+text, func() bool { return bytes.Contains(n.ConsoleTail(name, 1<<20), []byte(text)) })
}

func left(t *testing.T, o NodeOptions, name string) []string {
	t.Helper()
	var found []string
	for _, dir := range []string{o.PoolDir, o.RunDir, o.DaemonLogDir} {
		paths, _ := filepath.Glob(filepath.Join(dir, name+"*"))
		found = append(found, paths...)
	}
	return append(found, processesWith("guest="+name)...)
}

// One process makes a domain, another finds it by its metadata, and removes it with everything.
func TestLasting(t *testing.T) {
	o := nodeOptions(startPrivate(t, false))
	first := connect(t, o)
	start := time.Now()
	if err := first.Create(testContext(t, 30*time.Second), tinyMachine(t, "lasting-1")); err != nil {
		t.Fatal(err)
	}
	t.Logf("create: %v", time.Since(start))
	first.Close()
	n := connect(t, o)
	said(t, n, "lasting-1", "ready")
	all, err := n.List(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	if d := all[0]; d.Name != "lasting-1" || d.State != Running || d.CPUs != 1 || d.MemoryMiB != 64 || !bytes.Contains(d.Metadata, []byte(`id="lasting-1"`)) {
		t.Errorf("listed as %+v: %s", d, d.Metadata)
	}
	if err := n.SetMetadata(t.Context(), "lasting-1", mark("another")); err != nil {
		t.Fatal(err)
	}
	if d, known, err := n.Look(t.Context(), "lasting-1"); err != nil || !known || !bytes.Contains(d.Metadata, []byte(`id="another"`)) {
		t.Errorf("marked anew: %+v %v", d, err)
	}
	if on, err := n.ChannelConnected(t.Context(), "lasting-1", "org.debian.test.0"); err != nil || on {
		t.Errorf("channel of a guest that never opens it: %v %v", on, err)
	}
	if err := n.Create(testContext(t, 30*time.Second), tinyMachine(t, "lasting-1")); err == nil {
		t.Error("a second domain of the same name was made")
	} else if d, known, _ := n.Look(t.Context(), "lasting-1"); !known || d.State != Running {
		t.Fatalf("the refusal (%v) harmed the first: %+v", err, d)
	}
	for _, pid := range processesWith("guest=lasting-1") {
		var number int
		_, _ = fmt.Sscanf(pid, "/proc/%d/", &number)
		if group, _ := syscall.Getpgid(number); group == syscall.Getpgrp() {
			t.Error("QEMU is in our process group")
		}
	}
	stopped := n.Watch(t.Context(), "lasting-1")
	start = time.Now()
	if err := n.Remove(t.Context(), "lasting-1"); err != nil {
		t.Fatal(err)
	}
	t.Logf("remove: %v", time.Since(start))
	select {
	case <-stopped:
	case <-time.After(5 * time.Second):
		t.Error("nobody told the watcher")
	}
	if files := left(t, o, "lasting-1"); len(files) > 0 {
		t.Errorf("left behind: %q", files)
	}
	if err := n.Remove(t.Context(), "lasting-1"); err != nil {
		t.Error("removed twice:", err)
	}
}

// Libvirt's directory of logs is read-only for a service whose unit does not name it, with a log in it and without.
func TestRemoveWithoutLog(t *testing.T) {
	o := nodeOptions(startPrivate(t, false))
	o.DaemonLogDir = t.TempDir()
	if err := unix.Mount("logs", o.DaemonLogDir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("nothing can be mounted here:", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(o.DaemonLogDir, unix.MNT_DETACH) })
	if err := os.WriteFile(filepath.Join(o.DaemonLogDir, "logged-1.log"), []byte("QEMU says"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", o.DaemonLogDir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	n := connect(t, o)
	for _, name := range []string{"logged-1", "unlogged-1"} {
		if err := n.conn.define(t.Context(), fmt.Sprintf(`<domain type="qemu"><name>%s</name><memory unit="MiB">64</memory><os><type>hvm</type></os>
			<metadata><m:job xmlns:m=%q/></metadata></domain>`, name, testNamespace)); err != nil {
			t.Fatal(err)
		}
		if err := n.Remove(t.Context(), name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if all, err := n.List(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("still defined: %+v %v", all, err)
	}
}

// A domain survives its daemon, and a crashed one keeps its metadata.
func TestLastingAfterKills(t *testing.T) {
	p := startPrivate(t, false)
	o := nodeOptions(p)
	n := connect(t, o)
	if err := n.Create(testContext(t, 30*time.Second), tinyMachine(t, "killed-1")); err != nil {
		t.Fatal(err)
	}
	stopped := n.Watch(t.Context(), "killed-1")
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	select {
	case <-stopped:
		t.Fatal("the watcher believes that the domain ended with libvirtd")
	default:
	}
	n = connect(t, o)
	if d, known, err := n.Look(t.Context(), "killed-1"); err != nil || !known || d.State != Running {
		t.Fatalf("after libvirtd was killed: %+v %v %v", d, known, err)
	}
	kill(t, "guest=killed-1")
	// "daemon" where libvirtd noticed it while it still found its domains again.
	waitUntil(t, "the domain is known as crashed", func() bool {
		d, known, err := n.Look(t.Context(), "killed-1")
		return err == nil && known && d.State == Stopped && (d.Reason == "crashed" || d.Reason == "daemon")
	})
	select {
	case <-stopped:
	case <-time.After(5 * time.Second):
		t.Error("nobody told the watcher")
	}
	if err := n.Remove(t.Context(), "killed-1"); err != nil {
		t.Fatal(err)
	}
	if files := left(t, o, "killed-1"); len(files) > 0 {
		t.Errorf("left behind: %q", files)
	}
}

// TestPhantom makes what a libvirtd leaves that was killed while it started a domain: a status of a start without a process.
func TestPhantom(t *testing.T) {
	p := startPrivate(t, false)
	o := nodeOptions(p)
	n := connect(t, o)
	if err := n.Create(testContext(t, 30*time.Second), tinyMachine(t, "phantom-1")); err != nil {
		t.Fatal(err)
	}
	status := filepath.Join(p.dir, "run", "qemu", "phantom-1.xml")
	whileDown(t, p, func() {
		kill(t, "guest=phantom-1")
		text, err := os.ReadFile(status)
		if err != nil {
			t.Fatal(err)
		}
		text = regexp.MustCompile(`<domstatus [^>]*>`).ReplaceAll(text, []byte(`<domstatus state='paused' reason='starting up' pid='0'><job type='none' async='start' phase='none'/>`))
		if err := os.WriteFile(status, text, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	n = connect(t, o)
	if d, known, err := n.Look(t.Context(), "phantom-1"); err != nil || !known || d.State != Running {
		t.Fatalf("libvirt does not believe that it starts: %+v %v %v", d, known, err)
	}
	if err := n.Remove(t.Context(), "phantom-1"); err != nil {
		t.Fatal(err)
	}
	gone := func() {
		t.Helper()
		if all, err := n.List(t.Context()); err != nil || len(all) > 0 {
			t.Errorf("still listed: %+v %v", all, err)
		}
		if files := left(t, o, "phantom-1"); len(files) > 0 {
			t.Errorf("left behind: %q", files)
		}
		begun := time.Now()
		if err := n.Remove(t.Context(), "phantom-1"); err != nil || time.Since(begun) > 20*time.Second {
			t.Errorf("removed again: %v after %v", err, time.Since(begun))
		}
	}
	gone()
	whileDown(t, p, func() {})
	n = connect(t, o)
	if d, known, err := n.Look(t.Context(), "phantom-1"); err != nil || !known || d.State != Stopped {
		t.Errorf("after a restart, its definition is what should be left: %+v %v %v", d, known, err)
	}
	if err := n.Remove(t.Context(), "phantom-1"); err != nil {
		t.Error(err)
	}
	gone()
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(status), "*"+phantomSuffix)); len(left) > 0 {
		t.Errorf("left in libvirt's directory: %q", left)
	}
}

// whileDown kills libvirtd, and does something before it comes back.
func whileDown(t *testing.T, p *Private, do func()) {
	t.Helper()
	var loop int
	for _, pid := range p.Processes() {
		if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); string(name) == "sh\n" {
			loop = pid
		}
	}
	if loop == 0 {
		t.Fatal("nobody starts libvirtd again")
	}
	_ = syscall.Kill(loop, syscall.SIGSTOP)
	defer func() { _ = syscall.Kill(loop, syscall.SIGCONT) }()
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	do()
}

// kill kills the process with that on its command line.
func kill(t *testing.T, text string) {
	t.Helper()
	var pid int
	if found := processesWith(text); len(found) > 0 {
		_, _ = fmt.Sscanf(found[0], "/proc/%d/", &pid)
	}
	if pid == 0 {
		t.Fatalf("no process with %q runs", text)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

func TestLastingStartFails(t *testing.T) {
	o := nodeOptions(startPrivate(t, false))
	n := connect(t, o)
	s := tinyMachine(t, "fails-1")
	s.Seed = func(string) error { return fmt.Errorf("no seed today") }
	if err := n.Create(testContext(t, 30*time.Second), s); err == nil || !strings.Contains(err.Error(), "no seed today") {
		t.Errorf("got %v", err)
	}
	if files := left(t, o, "fails-1"); len(files) > 0 {
		t.Errorf("left behind: %q", files)
	}
	if all, err := n.List(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("left behind: %+v %v", all, err)
	}
}

// What belongs to others is neither listed nor removed.
func TestLastingOfOthers(t *testing.T) {
	o := nodeOptions(startPrivate(t, false))
	n := connect(t, o)
	if err := n.Create(testContext(t, 30*time.Second), tinyMachine(t, "theirs-1")); err != nil {
		t.Fatal(err)
	}
	o.Namespace += "/other"
	other := connect(t, o)
	if all, err := other.List(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("listed: %+v %v", all, err)
	}
	if err := other.Remove(t.Context(), "theirs-1"); err == nil {
		t.Error("removed another's domain")
	}
	if d, known, _ := n.Look(t.Context(), "theirs-1"); !known || d.State != Running {
		t.Errorf("harmed: %+v", d)
	}
	if err := n.Remove(t.Context(), "theirs-1"); err != nil {
		t.Error(err)
	}
}

// Files whose domain is gone are found.
func TestStrays(t *testing.T) {
	o := nodeOptions(startPrivate(t, false))
	n := connect(t, o)
	if err := n.Create(testContext(t, 30*time.Second), tinyMachine(t, "stray-1")); err != nil {
		t.Fatal(err)
	}
	if found, err := n.Strays(t.Context(), "stray-"); err != nil || len(found) > 0 {
		t.Errorf("%q %v", found, err)
	}
	if err := os.WriteFile(filepath.Join(o.PoolDir, "stray-2.overlay.qcow2"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := n.Strays(t.Context(), "stray-")
	if err != nil || len(found) != 1 || found[0] != "stray-2" {
		t.Errorf("%q %v", found, err)
	}
	if err := n.Remove(t.Context(), "stray-2"); err != nil {
		t.Error(err)
	}
	if files := left(t, o, "stray-2"); len(files) > 0 {
		t.Errorf("left behind: %q", files)
	}
}
