package runnertest

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

//go:embed image.sh
var imageScript string

// kernelPackage is Debian's kernel for virtual machines.
const kernelPackage = "linux-image-cloud-amd64"

// Image returns the path of a disk image (qcow2) of a tiny guest that boots in seconds, also emulated: Debian's cloud kernel
// and busybox, bash and git, and the programs of a directory in /usr/local/bin, of which debcloud is its agent. It is made
// once for the same programs and kept in the user's cache, of which this is a copy that QEMU's user reaches.
func Image(t testing.TB, programs string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("the test guest's image is made by root")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "debcloud", "test-guest")
	image := filepath.Join(dir, "guest-"+fingerprint(t, programs)+".qcow2")
	if _, err := os.Stat(image); err != nil {
		makeImage(t, dir, programs, image)
	}
	copied := filepath.Join(OpenDir(t), filepath.Base(image))
	output(t, "", "cp", "--reflink=auto", image, copied)
	return copied
}

func makeImage(t testing.TB, dir, programs, image string) {
	t.Helper()
	kernel := kernelDir(t, dir)
	old, _ := filepath.Glob(filepath.Join(dir, "guest-*.qcow2"))
	for _, path := range old { // younger ones may be in use beside us
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > 24*time.Hour {
			_ = os.Remove(path)
		}
	}
	output(t, "", "sh", "-c", imageScript, "image.sh", kernel, programs, image)
}

// fingerprint tells images with other contents apart.
func fingerprint(t testing.TB, programs string) string {
	t.Helper()
	sum := sha256.New()
	_, _ = io.WriteString(sum, imageScript)
	paths, _ := filepath.Glob(filepath.Join(programs, "*"))
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(sum, filepath.Base(path))
		_, err = io.Copy(sum, f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)[:6])
}

// kernelDir unpacks the kernel's package, without installing it, once.
func kernelDir(t testing.TB, cache string) string {
	t.Helper()
	dir := filepath.Join(cache, "kernel")
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	work, err := os.MkdirTemp(cache, "kernel-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(work)
	_, name, found := strings.Cut(output(t, work, "apt-cache", "depends", kernelPackage), "Depends: ")
	if !found {
		t.Fatalf("apt knows no package %s", kernelPackage)
	}
	name, _, _ = strings.Cut(name, "\n")
	output(t, work, "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", name)
	output(t, work, "sh", "-c", "dpkg-deb -x ./*.deb root && rm -f ./*.deb")
	if err := os.Rename(filepath.Join(work, "root"), dir); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	return dir
}

// output runs a program of the host that must succeed.
func output(t testing.TB, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "LC_ALL=C")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, stderr.String())
	}
	return string(out)
}

// Raw writes an image (qcow2) as a raw one.
func Raw(t testing.TB, image, path string) {
	t.Helper()
	output(t, "", "qemu-img", "convert", "-O", "raw", image, path)
}

// rootOffset is where the root file system begins in the image, in bytes.
const rootOffset = 83968 * 512

// Changed writes a copy (raw) of an image whose guest runs the shell script before its agent starts.
func Changed(t testing.TB, image, path, script string) {
	t.Helper()
	Raw(t, image, path)
	hook := filepath.Join(t.TempDir(), "rc.local")
	if err := os.WriteFile(hook, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	root := fmt.Sprintf("%s?offset=%d", path, rootOffset)
	output(t, "", "debugfs", "-w", "-R", "write "+hook+" /etc/rc.local", root)
	output(t, "", "debugfs", "-w", "-R", "sif /etc/rc.local mode 0100755", root)
}
