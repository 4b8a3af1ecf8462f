package boot

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"salsa.debian.org/cloud-team/debcloud/internal/guest"
)

// Probes by the moment at which they can be asked. What cannot change any more is read while the boot still goes on,
// so that it costs no time of its own.
var (
	earlyProbes = []string{
		"boot_id", "machine_id", "cmdline", "efi", "serial", "root", "clock", "hostname", "hosts",
		"resolver", "resolve=" + resolvable, "swap", "upgrades", "time_source",
	}
	earlyCloudProbes = []string{"host_keys", "passwords", "sshd", "default_user"}
	settledProbes    = []string{"running", "failed_logs", "analyze", "addresses", "routes", "routes6", "sockets", "at_boot", "kernel_log", "useradd", "sources", "source_files"}
	cloudProbes      = []string{"cloud_units", "cloud_result", "cloud_status", "cloud_init_log", "written", "ran"}
	schemaProbes     = []string{"schema"}
	updateProbes     = []string{"update", "indexes"}
	againProbes      = []string{"boot_id", "machine_id", "hostname"}
)

// shell runs probes in the guest as root and returns what they printed.
type shell func(ctx context.Context, nonce string, probes []string) (string, error)

// overSSH runs them with sudo: that it asks for no password is one of the things that are tested.
func overSSH(s *guest.SSH) shell {
	return func(ctx context.Context, nonce string, probes []string) (string, error) {
		r, err := s.Run(ctx, "sudo -n sh -s -- "+nonce+" "+strings.Join(probes, " "), strings.NewReader(probeScript))
		if err == nil && r.Exit != 0 {
			err = fmt.Errorf("the probes end with exit code %d: %s", r.Exit, strings.TrimSpace(string(r.Stderr)))
		}
		return string(r.Stdout), err
	}
}

// collect runs probes and keeps what they printed, under prefix and their names.
func (m *machine) collect(ctx context.Context, run shell, prefix string, probes ...string) error {
	nonce := newNonce()
	output, err := run(ctx, nonce, probes)
	found := parseProbes(output, nonce)
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, p := range found {
		m.probes[prefix+name] = p
	}
	return err
}

func newNonce() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}

// exercise brings a VM with cloud-init through the test: log in, ask, update, restart, ask again.
func (m *machine) exercise(ctx context.Context) error {
	s, err := m.login(ctx)
	if err != nil {
		return err
	}
	defer func() { s.Close() }()
	if _, err := s.Output(ctx, "true"); err != nil {
		return err
	}
	m.marks.ssh = time.Now()
	m.task.Say("SSH after %.0f s", m.marks.after(m.marks.ssh))
	if m.raw {
		return nil
	}
	settled := slices.Concat(settledProbes, cloudProbes)
	if !m.elsewhere[schemaCheck] {
		settled = append(settled, schemaProbes...)
	}
	if err := m.interrogate(ctx, overSSH(s), slices.Concat(earlyCloudProbes, earlyProbes), settled); err != nil {
		return err
	}
	if !m.elsewhere[rebootCheck] {
		if err := m.reboot(ctx, s); err != nil {
			return err
		}
	}
	return m.powerOff(ctx)
}

// reboot restarts the guest and asks it again.
func (m *machine) reboot(ctx context.Context, s *guest.SSH) error {
	m.task.Say("rebooting")
	if _, err := s.Run(ctx, "sudo -n systemctl reboot", nil); err != nil && ctx.Err() != nil {
		return err // else the connection ended before the command did
	}
	if err := m.awaitClosed(ctx, s); err != nil {
		return fmt.Errorf("the reboot did not begin: %w", err)
	}
	return m.askAgain(ctx)
}

// interrogate asks what can be asked at the first boot. early is read while the boot goes on; settled waits for its end.
func (m *machine) interrogate(ctx context.Context, run shell, early, settled []string) error {
	sessions, inner := errgroup.WithContext(ctx)
	sessions.Go(func() error { return m.collect(inner, run, "", early...) })
	sessions.Go(func() error {
		err := m.collect(inner, run, "", append([]string{fmt.Sprintf("wait=%.0f", m.limit.Seconds())}, settled...)...)
		m.marks.settled = time.Now()
		return err
	})
	if err := sessions.Wait(); err != nil {
		return err
	}
	m.task.Say("settled after %.0f s, %d probes", m.marks.after(m.marks.settled), len(m.probes))
	if m.hostKey != "" {
		if err := m.verifyHostKey(ctx); err != nil {
			clear(m.probes)
			return err
		}
	}
	return m.update(ctx, run)
}

// update opens the way to the mirrors that the image's own sources name, to no other host, and runs apt-get update.
func (m *machine) update(ctx context.Context, run shell) error {
	if m.elsewhere[updateCheck] {
		return nil
	}
	m.task.Say("updating package lists")
	_, mirrors := parseSources(m.probes["sources"].out)
	m.outside = m.openMirrors(ctx, mirrorAddresses(mirrors))
	if m.outside != nil {
		m.probes["update"], m.probes["indexes"] = probe{out: m.outside.Error(), exit: 1}, probe{}
		return nil
	}
	probes := updateProbes
	if m.lean {
		probes = append([]string{"lean=1"}, probes...)
	}
	return m.collect(ctx, run, "", probes...)
}

func (m *machine) openMirrors(ctx context.Context, addresses []string) error {
	if len(addresses) == 0 {
		return errors.New("the image's sources name no mirror")
	}
	for _, a := range addresses {
		if err := m.network.Allow(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

// awaitClosed waits for the connection to end, as it does when the guest goes down.
func (m *machine) awaitClosed(ctx context.Context, s *guest.SSH) error {
	select {
	case <-s.Closed():
		return nil
	case <-m.domain.Stopped():
		return errors.New("the VM stopped")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// askAgain logs in after the reboot. The old system can still answer while it goes down, so it is asked for its boot ID.
func (m *machine) askAgain(ctx context.Context) error {
	before := m.probes["boot_id"].out
	for {
		s, err := m.login(ctx)
		if err != nil {
			return fmt.Errorf("after the reboot: %w", err)
		}
		err = m.collect(ctx, overSSH(s), "again/", againProbes...)
		s.Close()
		after := m.probes["again/boot_id"].out
		if err == nil && after != before {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the guest still has the boot ID %s of before the reboot: %w", before, context.Cause(ctx))
		}
		maps.DeleteFunc(m.probes, func(name string, _ probe) bool { return strings.HasPrefix(name, "again/") })
		time.Sleep(time.Second)
	}
}

// powerOff presses the power button. A guest that does not hear it is cut off by stop.
func (m *machine) powerOff(ctx context.Context) error {
	if m.elsewhere[powerOffCheck] {
		return nil
	}
	m.task.Say("powering off")
	bounded, cancel := context.WithTimeoutCause(ctx, m.limit, fmt.Errorf("it was still on after %s", m.limit))
	defer cancel()
	pressed := time.Now()
	if err := m.domain.Shutdown(bounded); err != nil {
		return fmt.Errorf("the guest does not power off: %w", err)
	}
	m.probes[offProbe] = probe{took: time.Since(pressed)}
	return nil
}
