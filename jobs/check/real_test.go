package check

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// testImage returns the image that make test builds, and its Build document.
func testImage(t *testing.T) (string, *manifest.Build) {
	path := os.Getenv("DEBCLOUD_TEST_IMAGE")
	if path == "" {
		t.Skip("DEBCLOUD_TEST_IMAGE is not set: run make test")
	}
	build, err := manifest.ReadBuild(path)
	if err != nil {
		t.Fatal(err)
	}
	return build.ImagePath(path), build
}

// failures returns the numbers of the checks that fail, and their evidence.
func failures(t *testing.T, raw string, build *manifest.Build) (map[string]bool, string) {
	t.Helper()
	suite, err := runChecks(context.Background(), raw, build, catalogue)
	if err != nil {
		t.Fatal(err)
	}
	failed, evidence := map[string]bool{}, ""
	for _, c := range suite.Failures() {
		failed[c.ID] = true
		evidence += c.ID + ": " + c.Evidence + "\n"
	}
	return failed, evidence
}

// A real image passes, and what is done to a copy fails exactly the checks that are there for it.
func TestRealImage(t *testing.T) {
	raw, build := testImage(t)
	if failed, evidence := failures(t, raw, build); len(failed) > 0 {
		t.Fatalf("the image itself fails:\n%s", evidence)
	}
	offend(t, raw, build)
}

func offend(t *testing.T, raw string, build *manifest.Build) {
	before, _ := failures(t, raw, build)
	copied := filepath.Join(t.TempDir(), "copy.raw")
	if out, err := exec.Command("cp", "--sparse=always", "--reflink=auto", raw, copied).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s, closeImage, err := openImage(copied, build)
	if err != nil {
		t.Fatal(err)
	}
	defer closeImage()
	passwd, err := fs.ReadFile(s.root, "etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	content := func(text string) string { return write(t, text) }
	commands := []string{
		"write " + content("x") + " var/tmp/left",
		"write " + content("x") + " etc/mailname",
		"write " + content("log") + " var/log/dpkg.log",
		"write " + content("secret") + " etc/ssh/ssh_host_rsa_key",
		"rm etc/passwd", "write " + content(string(passwd)+"vagrant:x:1000:1000::/home/vagrant:/bin/bash\n") + " etc/passwd",
		"rm usr/bin/ls", "write " + content("malice") + " usr/bin/ls",
	}
	script := content(strings.Join(commands, "\n") + "\n")
	root := s.partition(s.arch().Root)
	tool(t, "debugfs", "-w", "-f", script, fmt.Sprintf("%s?offset=%d", copied, root.Start))

	after, evidence := failures(t, copied, build)
	want := map[string]bool{
		"1-empty-directories": true, "2-no-strays": true, "9-accounts": true, "10-shells": true, "12-logs": true,
		"14-host-keys": true, "18-debsums": true,
	}
	for id := range after {
		if !before[id] && !want[id] {
			t.Errorf("%s fails, too:\n%s", id, evidence)
		}
	}
	for id := range want {
		if !after[id] {
			t.Errorf("%s did not notice", id)
		}
	}
	for _, offence := range []string{"/var/tmp/left", "/etc/mailname", "/var/log/dpkg.log", "/etc/ssh/ssh_host_rsa_key", `"vagrant"`, "/usr/bin/ls of package coreutils was changed"} {
		if !strings.Contains(evidence, offence) {
			t.Errorf("no evidence names %s:\n%s", offence, evidence)
		}
	}
}

// write returns the path of a file with the text.
func write(t *testing.T, text string) string {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// BenchmarkChecks reads a whole image, from the page cache after the first round; its digest is not part of it.
func BenchmarkChecks(b *testing.B) {
	path := os.Getenv("DEBCLOUD_TEST_IMAGE")
	if path == "" {
		b.Skip("DEBCLOUD_TEST_IMAGE is not set: run make test")
	}
	build, err := manifest.ReadBuild(path)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := runChecks(context.Background(), build.ImagePath(path), build, catalogue); err != nil {
			b.Fatal(err)
		}
	}
}
