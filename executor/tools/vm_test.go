package tools_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/tools"
	"salsa.debian.org/cloud-team/debcloud/internal/guest"
)

// machine is a VM with a tools disk, started with QEMU itself: what counts here is the device and the agent.
type machine struct {
	socket string
	secret guest.Secret
	qemu   *exec.Cmd
	off    chan struct{}
	start  time.Time
}

// bootMachine boots the image that DEBCLOUD_TEST_IMAGE names, by a seed, or the runner image in DEBCLOUD_TEST_RUNNER, without
// one.
func bootMachine(tb testing.TB) *machine {
	tb.Helper()
	image, seed := os.Getenv("DEBCLOUD_TEST_RUNNER"), false
	if image == "" {
		image, seed = strings.TrimSuffix(os.Getenv("DEBCLOUD_TEST_IMAGE"), ".build.json")+".raw", true
	}
	if image == ".raw" {
		tb.Skip("DEBCLOUD_TEST_IMAGE is not set: run make test")
	}
	image, err := filepath.Abs(image)
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	disk, err := tools.Make(tb.Context(), tools.Spec{Debcloud: buildStatic(tb), Dir: dir})
	if err != nil {
		tb.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlay.qcow2")
	run(tb, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", image, overlay)
	m := &machine{socket: filepath.Join(dir, "agent"), secret: guest.NewSecret(), off: make(chan struct{})}
	args := []string{
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024", "-nographic", "-monitor", "none", "-nodefaults",
		"-serial", "file:" + filepath.Join(dir, "console"), "-device", "virtio-rng-pci",
		"-drive", "if=none,id=root,format=qcow2,file=" + overlay, "-device", "virtio-blk-pci,drive=root,bootindex=1",
		"-drive", "if=none,id=tools,format=raw,readonly=on,file=" + disk.Path, "-device", "virtio-blk-pci,drive=tools,serial=" + tools.Serial,
		"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,server=on,wait=off,path=" + m.socket,
		"-device", "virtserialport,chardev=agent,name=" + guest.AgentPort,
		"-smbios", "type=11,value=another string", "-smbios", "type=11,value=" + m.secret.OEMString(),
	}
	if seed {
		path := filepath.Join(dir, "seed.iso")
		if err := tools.WriteSeed(path, "job-vm"); err != nil {
			tb.Fatal(err)
		}
		args = append(args, "-drive", "if=virtio,format=raw,readonly=on,file="+path)
	}
	m.power(tb, args, filepath.Join(dir, "console"))
	return m
}

func (m *machine) power(tb testing.TB, args []string, console string) {
	m.qemu = exec.Command("qemu-system-x86_64", args...)
	m.qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	m.qemu.Stderr = os.Stderr
	m.start = time.Now()
	if err := m.qemu.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		_ = m.qemu.Wait()
		close(m.off)
	}()
	tb.Cleanup(func() {
		_ = m.qemu.Process.Kill()
		<-m.off
		if tb.Failed() {
			text, _ := os.ReadFile(console)
			tb.Logf("console:\n%s", guest.Tail(text, 40))
		}
	})
}

// processors is how much processor time QEMU has used, in seconds: on a busy machine it tells more than the clock.
func (m *machine) processors(tb testing.TB) float64 {
	tb.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.qemu.Process.Pid))
	if err != nil {
		tb.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	var user, system float64
	if f := strings.Fields(rest); len(f) > 12 { // proc(5), fields 14 and 15, in ticks of 10 ms
		_, _ = fmt.Sscan(f[11]+" "+f[12], &user, &system)
	}
	return (user + system) / 100
}

func buildStatic(tb testing.TB) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "debcloud")
	build := exec.CommandContext(tb.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "salsa.debian.org/cloud-team/debcloud/cmd/debcloud")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		tb.Fatalf("%v: %s", err, out)
	}
	return path
}

func run(tb testing.TB, name string, args ...string) {
	tb.Helper()
	if out, err := exec.CommandContext(tb.Context(), name, args...).CombinedOutput(); err != nil {
		tb.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}

func (m *machine) connect(tb testing.TB) *guest.SSH {
	tb.Helper()
	s, err := guest.DialAgent(within(tb, 20*time.Minute), guest.Socket(m.socket), m.secret, m.off)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

func within(tb testing.TB, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(tb.Context(), limit)
	tb.Cleanup(cancel)
	return ctx
}

func sh(line string) guest.Command { return guest.Command{Args: []string{"sh", "-c", line}} }

// TestMachine boots a real image once and goes through what the executor needs of its agent.
func TestMachine(t *testing.T) {
	m := bootMachine(t)
	s := m.connect(t)
	if err := s.Exec(within(t, 5*time.Minute), sh("true")); err != nil {
		t.Fatal(err)
	}
	t.Logf("the agent ran its first command %.1f s after power-on, which took QEMU %.1f s of processors", time.Since(m.start).Seconds(), m.processors(t))
	if os.Getenv("DEBCLOUD_TEST_RUNNER") != "" {
		out, err := s.Output(within(t, 5*time.Minute), "systemctl is-system-running --wait; systemd-analyze; systemd-analyze critical-chain debcloud-agent.service; systemctl --failed --no-legend")
		t.Logf("the system is up %.1f s after power-on: %s %v", time.Since(m.start).Seconds(), out, err)
	}
	steps := []struct {
		name string
		do   func(*testing.T, *machine, *guest.SSH)
	}{
		{"results", testResults}, {"escape", testEscape}, {"copies", testCopies}, {"forward", testForward}, {"identity", testIdentity}, {"bomb", testBomb},
	}
	for _, step := range steps {
		begun := time.Now()
		t.Run(step.name, func(t *testing.T) { step.do(t, m, s) })
		t.Logf("%s: %.1f s", step.name, time.Since(begun).Seconds())
	}
	t.Run("broken connections", func(t *testing.T) { testBroken(t, m, s) })
	t.Run("the agent is killed", func(t *testing.T) { testKilled(t, m) })
	t.Run("the agent is restarted", func(t *testing.T) { testRestarted(t, m) })
}

func testResults(t *testing.T, _ *machine, s *guest.SSH) {
	var stdout, stderr bytes.Buffer
	script := "echo out; echo err >&2; id -u; command -v debcloud; cat /proc/self/oom_score_adj; exit 42\n"
	err := s.Exec(within(t, time.Minute), guest.Command{Args: []string{"bash"}, Stdin: strings.NewReader(script), Stdout: &stdout, Stderr: &stderr})
	exit, _ := errors.AsType[*guest.ExitError](err)
	if exit == nil || exit.Code != 42 || stderr.String() != "err\n" || stdout.String() != "out\n0\n"+tools.MountPoint+"/debcloud\n0\n" {
		t.Errorf("%v; %q, %q", err, stdout.String(), stderr.String())
	}
}

// A process that makes itself a session of its own still ends with the command that is told to end.
func testEscape(t *testing.T, _ *machine, s *guest.SSH) {
	ctx, cancel := context.WithCancel(within(t, time.Minute))
	started := make(chan struct{})
	c := sh("setsid sleep 4711 & sleep 1; echo; wait")
	c.Stdout = writerFunc(func() { close(started) })
	c.Grace = time.Second
	done := make(chan error, 1)
	go func() { done <- s.Exec(ctx, c) }()
	select {
	case <-started:
	case err := <-done:
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	r, err := s.Run(within(t, time.Minute), "sleep 1; pgrep -f 'sleep 471[1]'", nil)
	if err != nil || r.Exit != 1 {
		t.Errorf("it runs on: %q, exit %d, %v", r.Stdout, r.Exit, err)
	}
}

type writerFunc func()

func (f writerFunc) Write(p []byte) (int, error) { f(); return len(p), nil }

func testCopies(t *testing.T, _ *machine, s *guest.SSH) {
	content := make([]byte, 16<<20)
	_, _ = rand.Read(content)
	begun := time.Now()
	if err := s.Upload(within(t, 10*time.Minute), "/var/tmp/upload", 0o600, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	up := time.Since(begun)
	begun = time.Now()
	sum := sha256.New()
	if err := s.Download(within(t, 10*time.Minute), "/var/tmp/upload", sum); err != nil {
		t.Fatal(err)
	}
	t.Logf("16 MiB in %.1f s, out %.1f s", up.Seconds(), time.Since(begun).Seconds())
	if want := sha256.Sum256(content); !bytes.Equal(sum.Sum(nil), want[:]) {
		t.Error("came back differently")
	}
}

func testForward(t *testing.T, _ *machine, s *guest.SSH) {
	path := filepath.Join(t.TempDir(), "host")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			b, _ := io.ReadAll(c)
			_, _ = c.Write(bytes.ToUpper(b))
			c.Close()
		}
	}()
	const there = "/run/debcloud/testbed.sock"
	stop, err := s.Forward(within(t, time.Minute), there, guest.Socket(path))
	if err != nil {
		t.Fatal(err)
	}
	talk := `import socket; s = socket.socket(socket.AF_UNIX); s.connect("` + there + `"); s.sendall(b"hello"); s.shutdown(1); print(s.recv(100).decode())`
	if out, err := s.Output(within(t, 5*time.Minute), "python3 -c "+guest.Quote(talk)); err != nil || out != "HELLO\n" {
		t.Errorf("%q, %v", out, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func testIdentity(t *testing.T, _ *machine, s *guest.SSH) {
	const id = "0123456789abcdef0123456789abcdef"
	entropy := make([]byte, 64)
	_, _ = rand.Read(entropy)
	clock := time.Now().Add(48 * time.Hour).UTC()
	if err := s.Identify(within(t, time.Minute), guest.Identity{Hostname: "job-4711", MachineID: id, Entropy: entropy, Time: clock}); err != nil {
		t.Fatal(err)
	}
	out, err := s.Output(within(t, time.Minute), "hostname; cat /etc/hostname /etc/machine-id; grep -c job-4711 /etc/hosts; date -u +%F")
	if want := "job-4711\njob-4711\n" + id + "\n1\n" + clock.Format(time.DateOnly) + "\n"; err != nil || out != want {
		t.Errorf("%q, %v", out, err)
	}
}

// Forking without end and eating all memory harms neither the agent nor what comes after.
func testBomb(t *testing.T, _ *machine, s *guest.SSH) {
	for _, line := range []string{
		"bomb() { bomb | bomb & }; bomb; sleep 4711",
		"exec python3 -c 'x = []\nwhile True: x.append(bytearray(b\"x\") * (1 << 24))'",
		"exec yes",
	} {
		c := sh(line)
		c.Grace = time.Second
		err := s.Exec(within(t, 10*time.Second), c)
		if exit, ok := errors.AsType[*guest.ExitError](err); err == nil || ok && exit.Code < 128 && !strings.Contains(line, "python3") {
			t.Errorf("%s: %v", line, err)
		}
		t.Logf("%.20s: %v", line, err)
		begun := time.Now()
		if out, err := s.Output(within(t, 3*time.Minute), "echo alive"); err != nil || out != "alive\n" {
			t.Fatalf("after %s: %q, %v", line, out, err)
		}
		t.Logf("alive after %.1f s", time.Since(begun).Seconds())
	}
}

// However a connection breaks, the next one works.
func testBroken(t *testing.T, m *machine, s *guest.SSH) {
	done := make(chan error, 1)
	started := make(chan struct{}, 100)
	c := sh("echo; exec sleep 4712")
	c.Stdout = writerFunc(func() { started <- struct{}{} })
	go func() { done <- s.Exec(within(t, 5*time.Minute), c) }()
	<-started
	s.Close()
	if err := <-done; err == nil {
		t.Error("a broken connection is no success")
	}
	for n, text := range []string{"", "\x00debcloud-hello:", "SSH-2.0-x\r\n" + strings.Repeat("\xff", 100_000)} {
		conn, err := net.Dial("unix", m.socket)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, text)
		conn.Close()
		again := m.connect(t)
		if r, err := again.Run(within(t, 2*time.Minute), "pgrep -f 'sleep 471[2]'", nil); err != nil || r.Exit != 1 {
			t.Errorf("%d: %q, exit %d, %v", n, r.Stdout, r.Exit, err)
		}
		again.Close()
	}
}

func testKilled(t *testing.T, m *machine) {
	s := m.connect(t)
	err := s.Exec(within(t, 5*time.Minute), sh("kill -KILL $(pgrep -f 'debcloud gues[t]'); sleep 4713"))
	if _, ok := errors.AsType[*guest.ExitError](err); ok || err == nil {
		t.Errorf("the agent died, and the command is said to have ended: %v", err)
	}
	s.Close()
	s = m.connect(t)
	if r, err := s.Run(within(t, 2*time.Minute), "pgrep -f 'sleep 471[3]'", nil); err != nil || r.Exit != 1 {
		t.Errorf("%q, exit %d, %v", r.Stdout, r.Exit, err)
	}
	s.Close()
}

// An agent that is asked to end does so at once.
func testRestarted(t *testing.T, m *machine) {
	s := m.connect(t)
	if err := s.Exec(within(t, 5*time.Minute), sh("systemctl restart debcloud-agent.service; sleep 4714")); err == nil {
		t.Error("the command outlived its agent")
	}
	s.Close()
	s = m.connect(t)
	out, err := s.Output(within(t, 2*time.Minute), "journalctl --unit=debcloud-agent --output=cat | grep -c 'timed out\\|code=exited' || true")
	if err != nil || out != "0\n" {
		t.Errorf("%q, %v", out, err)
	}
	s.Close()
}

// BenchmarkMachine measures in a real VM: one connection with its handshake and one command after it, in milliseconds, and
// copies in and out, in MB/s.
func BenchmarkMachine(b *testing.B) {
	m := bootMachine(b)
	m.connect(b).Close()
	content := make([]byte, 32<<20)
	_, _ = rand.Read(content)
	var connects, commands []time.Duration
	var in, out float64
	for b.Loop() {
		for range 5 {
			begun := time.Now()
			s := m.connect(b)
			connects = append(connects, time.Since(begun))
			begun = time.Now()
			if err := s.Exec(b.Context(), sh("true")); err != nil {
				b.Fatal(err)
			}
			commands = append(commands, time.Since(begun))
			s.Close()
		}
		s := m.connect(b)
		begun := time.Now()
		if err := s.Upload(b.Context(), "/var/tmp/bench", 0o600, bytes.NewReader(content)); err != nil {
			b.Fatal(err)
		}
		in = float64(len(content)) / 1e6 / time.Since(begun).Seconds()
		begun = time.Now()
		if err := s.Download(b.Context(), "/var/tmp/bench", io.Discard); err != nil {
			b.Fatal(err)
		}
		out = float64(len(content)) / 1e6 / time.Since(begun).Seconds()
		s.Close()
	}
	b.ReportMetric(milliseconds(connects), "connect-ms")
	b.ReportMetric(milliseconds(commands), "exec-ms")
	b.ReportMetric(in, "in-MB/s")
	b.ReportMetric(out, "out-MB/s")
}

func milliseconds(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2].Microseconds()) / 1000
}
