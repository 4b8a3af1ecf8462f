package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The program without the clouds' SDKs goes on as the one that has them, with the same arguments, and says so where there is none.
func TestCloudsAreAnotherProgram(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "debcloud")
	buildProgram(t, program)
	if text := mustRun(t, ".", "go", "version", "-m", program); strings.Contains(text, "aws-sdk") || strings.Contains(text, "azure-sdk") {
		t.Error("it has a cloud's SDK")
	}
	args := []string{"publish", "whoami", "--to", "google", "--journal", filepath.Join(dir, "journal.db")}
	t.Setenv("DEBCLOUD_GOOGLE_PROJECT", "debian-cloud")
	t.Setenv("DEBCLOUD_GOOGLE_BUCKET", "debian-cloud-images")
	alone := exec.Command(program, args...)
	alone.Env = append(os.Environ(), "PATH="+dir)
	out, err := alone.CombinedOutput()
	if err == nil || alone.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "no program debcloud-clouds beside it") || !strings.Contains(string(out), "make debcloud-clouds") {
		t.Errorf("without the other: %v: %s", err, out)
	}
	script := "#!/bin/sh\necho \"$0: $*\"\nexit 3\n"
	for _, other := range []string{filepath.Join(dir, "debcloud-clouds"), filepath.Join(filepath.Dir(dir), "lib/debcloud/debcloud-clouds")} {
		write(t, other, script)
		if err := os.Chmod(other, 0o755); err != nil {
			t.Fatal(err)
		}
		both := exec.Command(program, args...)
		out, err := both.CombinedOutput()
		if both.ProcessState.ExitCode() != 3 || !strings.HasSuffix(string(out), ": "+strings.Join(args, " ")+"\n") {
			t.Errorf("with %s: %v: %s", other, err, out)
		}
		if err := os.Remove(other); err != nil {
			t.Fatal(err)
		}
	}
}
