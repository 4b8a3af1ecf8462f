package runnertest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/vm"
)

// Bed is a host for an executor under test: a libvirtd of its own, settings and directories, gone after the test.
type Bed struct {
	Daemon   *vm.Private
	Dir      string // short, for sockets
	Settings string // the settings' file
	Pool     string
	State    string
	Run      string
	Temp     string // where Runner makes its directories
	Log      string // of the host
}

// Options of a Bed. Zero values: one default image "tiny", no network, a wide budget.
type Options struct {
	Image string // path of the default image
	// Network is the mode of every ref class: "none" (default), "user", "nat".
	Network string
	// Namespace gives libvirtd a network namespace.
	Namespace bool
	// More is appended to the settings, YAML.
	More string
}

// OpenDir is a temporary directory whose files QEMU reaches, as a Bed's runs as a user of its own.
func OpenDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

// NewBed starts one.
func NewBed(t testing.TB, o Options) *Bed {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a private libvirtd needs root")
	}
	dir, err := os.MkdirTemp("", "bed-")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	daemon := filepath.Join(dir, "d")
	b := &Bed{
		Dir: dir, Settings: filepath.Join(dir, "executor.yaml"), Pool: filepath.Join(dir, "pool"), State: filepath.Join(dir, "state"),
		Run: filepath.Join(dir, "run"), Temp: filepath.Join(dir, "tmp"), Log: filepath.Join(dir, "host.log"),
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{daemon, b.Pool, b.State, b.Run, b.Temp} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if b.Daemon, err = vm.StartPrivate(ctx, daemon, o.Namespace); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Daemon.Stop(); err != nil {
			t.Error(err)
		}
		_ = os.RemoveAll(dir)
	})
	b.Write(t, b.text(o))
	return b
}

// Import brings a VM image into the pool: the one at a path, else the runner image, which it builds.
func (b *Bed) Import(t testing.TB, name, path string) {
	t.Helper()
	args := []string{"executor", "--settings", b.Settings, "image", "import", "--name", name, path}
	if path == "" {
		args = []string{"executor", "--settings", b.Settings, "image", "build", "--name", name, "--work", t.TempDir()}
	}
	begun := time.Now()
	output(t, b.Dir, "debcloud", args...)
	t.Logf("VM image %s: %v", name, time.Since(begun).Round(time.Second))
}

// Write replaces the settings.
func (b *Bed) Write(t testing.TB, text string) {
	t.Helper()
	if err := os.WriteFile(b.Settings, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Replace changes a text of the settings, which must be there.
func (b *Bed) Replace(t testing.TB, text, by string) {
	t.Helper()
	all, err := os.ReadFile(b.Settings)
	if err != nil || !strings.Contains(string(all), text) {
		t.Fatalf("the settings have no %q: %v", text, err)
	}
	b.Write(t, strings.Replace(string(all), text, by, 1))
}

func (b *Bed) text(o Options) string {
	network := "{mode: " + o.Network + "}"
	switch o.Network {
	case "":
		network = "{mode: none}"
	case "nat":
		network = "{mode: nat, name: debcloud, filter: debcloud-job}"
	}
	text := fmt.Sprintf(`libvirt: {uri: %q, accelerator: tcg}
state: %s
run: %s
pool: {name: debcloud, path: %s}
networks: {protected: %[5]s, unprotected: %[5]s, fork: %[5]s}
console: {dir: %s}
limits:
  default: {cpus: 1, memory: 256MiB, disk: 1GiB}
  max: {cpus: 4, memory: 4GiB, disk: 20GiB}
budget: {cpus: 64, memory: 20GiB, disk: 60GiB, vms: 16, reserve: {cpus: 0, memory: 0MiB, disk: 0MiB}}
agent: {boot_emulated: 5m, connect: 1m}
log: {file: %[7]s, level: debug}
`, b.Daemon.URI(), b.State, b.Run, b.Pool, network, filepath.Join(b.Dir, "console"), b.Log)
	if !strings.Contains(o.More, "images:") {
		text += fmt.Sprintf("images: {tiny: {file: %s}}\n", o.Image)
	}
	return text + o.More
}

// Left lists what is there that belongs to jobs: domains, files, also half written ones, notes of attempts and Runner's
// directories.
func (b *Bed) Left(t testing.TB, namespace string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	node, err := vm.Connect(ctx, vm.NodeOptions{URI: b.Daemon.URI(), Namespace: namespace, RunDir: b.Run, LogDir: filepath.Join(b.Dir, "console")})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	all, err := node.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, d := range all {
		found = append(found, "domain "+d.Name)
	}
	for _, pattern := range []string{filepath.Join(b.Pool, "debcloud-job-*"), filepath.Join(b.Pool, "seed-*"), filepath.Join(b.Pool, ".debcloud-tools-[0-9]*"), filepath.Join(b.Run, "debcloud-job-*"), filepath.Join(b.State, "attempts", "*"), filepath.Join(b.State, "admission", ".*"), filepath.Join(b.Temp, "*")} {
		paths, _ := filepath.Glob(pattern)
		found = append(found, paths...)
	}
	for _, pid := range b.Daemon.Processes() {
		if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.Contains(string(b), "guest=debcloud-job-") {
			found = append(found, fmt.Sprintf("process %d", pid))
		}
	}
	return found
}
