// Package loopbacktest connects to ports of this machine as somebody else.
package loopbacktest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
)

// Nobody is Debian's uid and gid of that name.
const Nobody = 65534

// Stranger is a process of nobody's that has connected to a port of 127.0.0.1. It ends with success when the other side hangs up,
// and without after a minute. Only root can start it.
func Stranger(ctx context.Context, address string) (*exec.Cmd, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "bash", "-c", `exec 3<>"/dev/tcp/127.0.0.1/$1" && echo connected && { read -r -t 60 -u 3; [ $? = 1 ]; }`, "bash", port)
	cmd.Dir, cmd.Stderr = "/", os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: Nobody, Gid: Nobody}}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(out, make([]byte, len("connected\n"))); err != nil {
		return nil, errors.Join(err, cmd.Wait())
	}
	return cmd, nil
}
