//go:build !clouds

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// cloudsProgram is this program with the clouds' SDKs, which are most of its size and start-up. It is a program of its own because
// every job and every call of the executor starts this one, and few of them publish to a cloud.
const cloudsProgram = "debcloud-clouds"

// becomeClouds goes on as cloudsProgram, with the same arguments. It returns only where that cannot be started.
func becomeClouds() error {
	path, err := findClouds()
	if err != nil {
		return fault.WithHint(fault.Inputf("this debcloud has no cloud's SDK, and there is no program %s beside it or in PATH", cloudsProgram),
			"run make debcloud-clouds, or install the Debian package debcloud")
	}
	return fmt.Errorf("start %s: %w", path, syscall.Exec(path, append([]string{cloudsProgram}, os.Args[1:]...), os.Environ()))
}

// findClouds looks beside this program, where make puts it, and where the Debian package has it.
func findClouds() (string, error) {
	own, err := os.Executable()
	if err != nil {
		return "", err
	}
	for _, dir := range []string{".", "../lib/debcloud"} {
		path := filepath.Join(filepath.Dir(own), dir, cloudsProgram)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return exec.LookPath(cloudsProgram)
}
