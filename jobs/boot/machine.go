package boot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"

	"salsa.debian.org/cloud-team/debcloud/internal/guest"
	"salsa.debian.org/cloud-team/debcloud/internal/progress"
	"salsa.debian.org/cloud-team/debcloud/internal/usernet"
	"salsa.debian.org/cloud-team/debcloud/internal/vm"
)

// machine is one VM under test with its network.
type machine struct {
	*observation
	domain  *vm.Domain
	network *usernet.Network
	task    *progress.Task
}

// start seeds and powers on a VM on an overlay of the image. Call stop whatever it returns.
func (m *machine) start(ctx context.Context, host *vm.Host, dir string, s vm.Spec) error {
	user, err := host.User(ctx)
	if err != nil {
		return err
	}
	m.network, err = usernet.New(ctx, usernet.Config{Hosts: map[string]netip.Addr{resolvable: usernet.Gateway}, User: user})
	if err != nil {
		return err
	}
	if m.vendor() != "nocloud" {
		path := filepath.Join(dir, m.firmware+"-seed.iso")
		if err := m.seed.writeDisk(path); err != nil {
			return err
		}
		s.Disks = []vm.Disk{{Path: path}}
	}
	s.Network = &vm.Interface{Addr: m.network.Addr()}
	m.domain, err = host.Start(ctx, s)
	if err != nil {
		return err
	}
	m.marks.on = time.Now()
	m.task.Say("powered on")
	return nil
}

// stop cuts the power and takes down the console.
func (m *machine) stop(ctx context.Context) error {
	var errs []error
	if m.domain != nil {
		errs = append(errs, m.domain.Destroy(context.WithoutCancel(ctx)))
		m.console = string(m.domain.Console())
	}
	if m.network != nil {
		errs = append(errs, m.network.Close())
	}
	return errors.Join(errs...)
}

// watch follows the console until ctx ends. It takes down when what appeared, and ends the boot by cancel when the
// console shows what no boot recovers from.
func (m *machine) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	seen := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.domain.Stopped():
			return
		case now := <-tick.C:
			text := m.domain.Console()
			if len(text) == seen {
				continue
			}
			if m.marks.kernel.IsZero() {
				if m.marks.observe(plain(string(text)), now); !m.marks.kernel.IsZero() {
					m.task.Say("kernel after %.0f s", m.marks.after(now))
				}
			}
			// What came since the last look, and the line before it.
			if f := hopeless(string(text[max(0, seen-200):])); f != "" {
				cancel(fmt.Errorf("the boot ended with %q", f))
				return
			}
			seen = len(text)
		}
	}
}

// hopeless returns the line of console text after which a boot never goes on by itself, "" where there is none.
func hopeless(text string) string {
	ends := []string{"no-boot-device", "secure-boot-denied", "grub-prompt", "kernel-panic", "no-root", "emergency-shell", "frozen", "wizard"}
	for _, f := range scan(text, nil, false, time.Now()) {
		for _, id := range ends {
			if f.alarm == id {
				return f.line
			}
		}
	}
	return ""
}

// keyPatience bounds the wait for the console to print the host key that SSH showed.
const keyPatience = 2 * time.Minute

// login waits until SSH answers. The host key of the first login is taken as it comes and compared with the console
// later, by verifyHostKey: cloud-init's one process for all stages prints the keys that it made only when it ends,
// long after sshd started. Until then nothing but this VM can answer, as the network is in this process, and
// nothing secret is said. Each later login must meet the same key.
func (m *machine) login(ctx context.Context) (*guest.SSH, error) {
	trust := func(_ string, _ net.Addr, key ssh.PublicKey) error {
		fingerprint := ssh.FingerprintSHA256(key)
		if m.hostKey != "" && m.hostKey != fingerprint {
			return fmt.Errorf("the SSH host key %s became %s", m.hostKey, fingerprint)
		}
		m.hostKey = fingerprint
		return nil
	}
	dial := func(ctx context.Context) (net.Conn, error) { return m.network.DialContext(ctx, "tcp", ":22") }
	return guest.Dial(ctx, dial, guest.Login{User: defaultUser, Signer: m.seed.signer, HostKey: trust}, m.domain.Stopped())
}

// verifyHostKey waits until the console has printed the host key that SSH showed.
func (m *machine) verifyHostKey(parent context.Context) error {
	ctx, cancel := context.WithTimeout(parent, keyPatience)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for !printedFingerprints(string(m.domain.Console()))[m.hostKey] {
		select {
		case <-ctx.Done():
			if parent.Err() != nil {
				return context.Cause(parent)
			}
			return fmt.Errorf("the SSH host key %s is none of those on the console: what was read over SSH is not believed", m.hostKey)
		case <-m.domain.Stopped():
			return errors.New("the VM stopped")
		case <-tick.C:
		}
	}
	return nil
}
