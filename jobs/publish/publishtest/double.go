package publishtest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// Serve runs a double that others wrote until the test ends, and returns its address on loopback, HOST:PORT, when it accepts
// connections. command makes its command line for a free port. The error says that the program ended, and what it printed.
func Serve(t testing.TB, command func(port string) *exec.Cmd) (address string, err error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	address = l.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	l.Close()
	c := command(port)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		return "", err
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait(); close(ended) }()
	t.Cleanup(func() {
		syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		<-ended
		if t.Failed() {
			t.Logf("%s said: %s", c.Path, said.String())
		}
	})
	for deadline := time.After(5 * time.Minute); ; {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return address, nil
		}
		select {
		case err := <-ended:
			return "", fmt.Errorf("%s ended: %w: %s", c.Path, err, said.String())
		case <-deadline:
			return "", errors.New(c.Path + " does not answer")
		case <-time.After(100 * time.Millisecond):
		}
	}
}
