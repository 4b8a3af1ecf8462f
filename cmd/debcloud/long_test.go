package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestLongCells takes each cell that can be built and booted here all the way. Under emulation that is hours, so it runs by
// `make test-long` only.
func TestLongCells(t *testing.T) {
	if os.Getenv("DEBCLOUD_TEST_LONG") != "1" {
		t.Skip("it takes hours: run make test-long")
	}
	program, err := filepath.Abs(filepath.Join("..", "..", "debcloud"))
	if err != nil {
		t.Fatal(err)
	}
	public := t.TempDir()
	for _, release := range []string{"trixie", "bookworm"} {
		for _, vendor := range []string{"genericcloud", "generic", "nocloud", "ec2", "gce", "azure"} {
			t.Run(release+" "+vendor, func(t *testing.T) {
				run := exec.CommandContext(t.Context(), program, "run", release, vendor, "amd64", "--dir", public, "--work", t.TempDir())
				out, err := run.CombinedOutput()
				t.Logf("%s", out)
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
}
