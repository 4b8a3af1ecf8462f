package agent

import (
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/guest"
)

// session serves one channel: a command or SFTP.
func (c *connection) session(n ssh.NewChannel) {
	channel, requests, err := n.Accept()
	if err != nil {
		return
	}
	var p *process
	stays, taken := false, false
	for r := range requests {
		ok := false
		switch {
		case r.Type == guest.StaysRequest:
			ok, stays = true, true
		case r.Type == "exec" && !taken:
			if p, err = c.start(channel, stringOf(r.Payload), stays); err != nil {
				slog.WarnContext(c.ctx, "command cannot start", "reason", err)
			}
			ok = err == nil
			taken = ok
		case r.Type == "subsystem" && !taken && stringOf(r.Payload) == "sftp":
			ok, taken = true, true
			go serveSFTP(channel)
		case r.Type == "signal" && p != nil:
			ok = p.signal(stringOf(r.Payload)) == nil
		}
		if r.WantReply {
			_ = r.Reply(ok, nil)
		}
		if ok && r.Type == "exec" {
			go p.run()
		}
	}
	switch {
	case p == nil:
		_ = channel.Close()
	case !p.hasEnded():
		p.abandon()
	}
}

// stringOf reads a payload that is one string of SSH's; "" where it is something else.
func stringOf(payload []byte) string {
	var s struct{ Text string }
	if ssh.Unmarshal(payload, &s) != nil {
		return ""
	}
	return s.Text
}

func serveSFTP(channel ssh.Channel) {
	defer channel.Close()
	s, err := sftp.NewServer(channel, sftp.WithServerWorkingDirectory("/"))
	if err != nil {
		return
	}
	if err := s.Serve(); err != nil && !errors.Is(err, io.EOF) {
		slog.Info("SFTP ended", "reason", err)
		return
	}
	_, _ = channel.SendRequest("exit-status", false, make([]byte, 4))
}

// process is one command, with what it has started, in a session and, where there are any, a control group of its own.
type process struct {
	connection *connection
	channel    ssh.Channel
	cmd        *exec.Cmd
	group      *group
	stays      bool

	stdin          *os.File // our ends
	stdout, stderr *os.File

	mu    sync.Mutex
	ended bool // and waited for
	told  bool // to end: then what it has started ends with it
}

// start starts a command line in a shell. The process is halted by nothing but a full pipe until run.
func (c *connection) start(channel ssh.Channel, line string, stays bool) (*process, error) {
	p := &process{connection: c, channel: channel, stays: stays}
	p.cmd = exec.Command("/bin/sh", "-c", ordinary+line)
	p.cmd.Env = c.environment
	p.cmd.Dir = "/"
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var err error
	if p.group, err = c.Groups.open(); err != nil {
		return nil, err
	}
	p.group.attach(p.cmd.SysProcAttr)
	theirs, err := p.pipes()
	if err == nil {
		err = p.cmd.Start()
	}
	p.group.attached()
	for _, f := range theirs {
		_ = f.Close()
	}
	if err == nil && !c.add(p) {
		err = errors.New("the connection has ended")
		p.kill()
		_ = p.cmd.Wait()
	}
	if err != nil {
		p.close()
		p.group.close()
		return nil, err
	}
	return p, nil
}

// ordinary begins every command line: what makes the kernel spare the agent when memory runs out is not for commands.
var ordinary = func() string {
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil || len(own) == 0 || own[0] != '-' {
		return ""
	}
	return "echo 0 >/proc/self/oom_score_adj\n"
}()

// pipes makes the command's standard streams and returns its ends of them.
func (p *process) pipes() (theirs []*os.File, err error) {
	open := func() (r, w *os.File) {
		if err == nil {
			r, w, err = os.Pipe()
		}
		return r, w
	}
	stdin, ours := open()
	p.stdin = ours
	var stdout, stderr *os.File
	p.stdout, stdout = open()
	p.stderr, stderr = open()
	for _, f := range []*os.File{stdin, stdout, stderr} {
		if f != nil {
			theirs = append(theirs, f)
		}
	}
	if err == nil {
		p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = stdin, stdout, stderr
	}
	return theirs, err
}

func (p *process) close() {
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// add is false where the connection is over.
func (c *connection) add(p *process) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return false
	}
	c.running[p] = true
	return true
}

// run carries the streams and reports the end.
func (p *process) run() {
	go p.feed()
	exited := make(chan struct{})
	var copies sync.WaitGroup
	copies.Go(func() { drain(p.channel, p.stdout, exited) })
	copies.Go(func() { drain(p.channel.Stderr(), p.stderr, exited) })
	_ = p.cmd.Wait() // the state tells it all
	p.mu.Lock()
	p.ended = true
	told := p.told
	p.mu.Unlock()
	if told {
		p.kill()
	}
	close(exited)
	_ = p.stdin.Close()
	copies.Wait()
	p.report()
	_ = p.channel.Close()
	p.close()
}

// feed hands standard input on. When the connection has gone in its middle, the command must not take that for its end: it is
// about to be killed.
func (p *process) feed() {
	_, err := io.Copy(p.stdin, p.channel)
	if err == nil && p.connection.conn.gone.Load() && !p.stays {
		return
	}
	_ = p.stdin.Close()
	_, _ = io.Copy(io.Discard, p.channel) // what nobody reads does not hold up other channels
}

// afterExit is how much is taken of a pipe that processes in the background may go on filling.
const afterExit = 1 << 20

// drain copies a pipe to its end or, once the command has exited, until it is empty.
func drain(to io.Writer, from *os.File, exited <-chan struct{}) {
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-exited:
			_ = from.SetReadDeadline(time.Now())
		case <-done:
		}
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if _, werr := to.Write(buf[:n]); werr != nil {
			return
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return
		}
	}
	for rest := afterExit; rest > 0; {
		n := readNow(from, buf)
		if n <= 0 {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
		rest -= n
	}
}

// readNow reads what is there, whatever the deadline.
func readNow(f *os.File, buf []byte) int {
	n := 0
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { n, _ = unix.Read(int(fd), buf) })
	}
	return n
}

// report sends how the command ended (RFC 4254, section 6.10).
func (p *process) report() {
	status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !status.Signaled() {
		_, _ = p.channel.SendRequest("exit-status", false, binary.BigEndian.AppendUint32(nil, uint32(status.ExitStatus())))
		return
	}
	name := signalName(status.Signal())
	_, _ = p.channel.SendRequest("exit-signal", false, ssh.Marshal(struct {
		Signal         string
		Core           bool
		Text, Language string
	}{name, status.CoreDump(), "", ""}))
}

// signals are those of RFC 4254, section 6.10.
var signals = map[string]syscall.Signal{
	"ABRT": syscall.SIGABRT, "ALRM": syscall.SIGALRM, "FPE": syscall.SIGFPE, "HUP": syscall.SIGHUP, "ILL": syscall.SIGILL,
	"INT": syscall.SIGINT, "KILL": syscall.SIGKILL, "PIPE": syscall.SIGPIPE, "QUIT": syscall.SIGQUIT, "SEGV": syscall.SIGSEGV,
	"TERM": syscall.SIGTERM, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
}

func signalName(s syscall.Signal) string {
	for name, number := range signals {
		if number == s {
			return name
		}
	}
	return unix.SignalName(s) // such as SIGBUS, which the RFC does not know
}

// signal sends a signal to the command's process group, and SIGKILL to all that it has started.
func (p *process) signal(name string) error {
	number, ok := signals[name]
	if !ok {
		return errors.New("unknown signal")
	}
	if number == syscall.SIGKILL {
		p.kill()
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return os.ErrProcessDone
	}
	p.told = p.told || number == syscall.SIGTERM || number == syscall.SIGINT || number == syscall.SIGQUIT || number == syscall.SIGHUP
	return syscall.Kill(-p.cmd.Process.Pid, number)
}

// kill ends the command and all that it has started.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	pid := p.cmd.Process.Pid
	if p.ended {
		// The number of a process is not given away while a group has it. So a process of that number is a new one, and
		// the group has gone.
		if _, err := os.Lstat("/proc/" + strconv.Itoa(pid)); err == nil {
			pid = 0
		}
	}
	if pid > 0 {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
	p.group.kill()
}

func (p *process) hasEnded() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

// abandon is for a command whose channel or connection has gone.
func (p *process) abandon() {
	if p.stays {
		return
	}
	p.kill()
	p.group.close()
}
