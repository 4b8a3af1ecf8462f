package executor

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/guest"
	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
	"salsa.debian.org/cloud-team/debcloud/internal/vm"
)

// agent connects to a VM's agent within a limit. The error has the end of the console where the VM does not get so far.
func (d *Driver) agent(ctx context.Context, name string, secret guest.Secret, limit time.Duration) (*guest.SSH, error) {
	bounded, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it did not answer within %v", limit))
	defer cancel()
	stopped := d.node.Watch(bounded, name)
	s, err := guest.DialAgent(bounded, guest.Socket(d.node.ChannelSocket(name)), secret, stopped)
	if err == nil {
		return s, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, d.diagnose(ctx, name, fmt.Errorf("no connection to the agent: %w", err))
}

// diagnose says what became of a VM that failed, with the end of its console.
func (d *Driver) diagnose(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	what := "the virtual machine failed"
	switch l, known, lookErr := d.settled(ctx, name); {
	case lookErr != nil:
		what = "the virtual machine failed and libvirt does not answer"
	case !known:
		what = "the virtual machine was taken away"
	case l.State != vm.Running && l.Reason == "shutdown":
		what = "the virtual machine has powered itself off"
	case l.State != vm.Running:
		what = "the virtual machine has stopped (" + l.Reason + ")"
	default:
		if on, err := d.node.ChannelConnected(ctx, name, guest.AgentPort); err == nil && !on {
			what = "nobody in the virtual machine answers"
		}
	}
	d.Log.ErrorContext(ctx, "a virtual machine failed", "domain", name, "what", what, "error", err, "qemu", d.node.DaemonLog(name))
	failed := fault.Outsidef("%s: %w", what, err)
	if tail := d.consoleTail(name); tail != "" {
		return fault.Outsidef("%w\nthe last lines of its console:\n%s", failed, tail)
	}
	return failed
}

// settled looks at a VM, after a while where it is just about to stop.
func (d *Driver) settled(ctx context.Context, name string) (l vm.Lasting, known bool, err error) {
	for range 30 {
		l, known, err = d.node.Look(ctx, name)
		if err != nil || !known || l.Reason != vm.Stopping {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return l, known, err
}

// consoleTail is the end of a VM's console, made harmless for a log: the guest may print what it likes.
func (d *Driver) consoleTail(name string) string {
	return lastWords(string(d.node.ConsoleTail(name, 8<<10)))
}

// dying is what a kernel prints before the stack and the registers that it dies with, which may fill the end of a console.
var dying = lazyregexp.New(`Kernel panic - not syncing|Oops: |\bBUG: |kernel BUG at `)

// lastWords returns the last 15 lines of a console's text, and before them up to three earlier ones that say of what a kernel died.
func lastWords(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(plain(line)); line != "" {
			lines = append(lines, "  "+line[:min(len(line), 300)])
		}
	}
	end := max(0, len(lines)-15)
	causes := slices.DeleteFunc(slices.Clone(lines[:end]), func(line string) bool { return !dying.MatchString(line) })
	return strings.Join(append(causes[:min(len(causes), 3)], lines[end:]...), "\n")
}

// plain drops escape sequences (ECMA-48, those of CSI) and control characters.
func plain(line string) string {
	line = strings.ToValidUTF8(line, "")
	var b strings.Builder
	for i := 0; i < len(line); {
		if strings.HasPrefix(line[i:], "\x1b[") {
			for i += 2; i < len(line) && (line[i] < 0x40 || line[i] > 0x7e); i++ {
			}
			i++
			continue
		}
		b.WriteByte(line[i])
		i++
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '\t' {
			return r
		}
		return -1
	}, b.String())
}

// adoptWarm makes a claimed VM this job's: from now on its metadata say so.
func (d *Driver) adoptWarm(ctx context.Context, name string, m Mark) (Mark, error) {
	l, known, err := d.node.Look(ctx, name)
	if err != nil {
		return m, err
	}
	if !known {
		return m, fault.Outsidef("the claimed virtual machine %s is gone", name)
	}
	was, err := parseMark(l.Metadata)
	if err != nil {
		return m, err
	}
	m.Secret, m.Created = was.Secret, was.Created // its agent knows no other
	element, err := m.element()
	if err != nil {
		return m, err
	}
	return m, d.node.SetMetadata(ctx, name, element)
}

// newIdentity is what no two VMs may share that were booted from one image and wait in the pool.
func newIdentity(i guest.Identity) guest.Identity {
	id, entropy := make([]byte, 16), make([]byte, 64)
	_, _ = rand.Read(id) // it never fails
	_, _ = rand.Read(entropy)
	i.MachineID, i.Entropy = hex.EncodeToString(id), entropy
	return i
}
