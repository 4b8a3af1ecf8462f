package executor

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/admission"
	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/guest"
	"salsa.debian.org/cloud-team/debcloud/internal/process"
	"salsa.debian.org/cloud-team/debcloud/internal/vm"
)

// WarmSpec describes a VM of the warm pool.
type WarmSpec struct {
	// Image is a name of the settings.
	Image string
	// Class is whose network it is plugged into.
	Class string
	// Deadline is when reap takes it away, claimed by nobody.
	Deadline time.Time
}

// WarmVM is one VM of the warm pool.
type WarmVM struct {
	Domain, Image, Class string
	// Digest is that of the disk image, to tell when a newer one was imported. "" for a file.
	Digest            string
	Running           bool
	Created, Deadline time.Time
}

// BootWarm boots a VM that is nobody's yet, of its image's default size, and returns its domain when its agent answers. It
// does not wait for room on the host: the name is "" where there is none.
func (d *Driver) BootWarm(ctx context.Context, w WarmSpec) (domain string, err error) {
	if err := d.connect(ctx); err != nil {
		return "", err
	}
	name, image, err := d.Settings.ImageFor(w.Image)
	if err != nil {
		return "", err
	}
	size, err := d.Settings.MachineFor("", name, settings.Machine{})
	if err != nil {
		return "", err
	}
	defer d.letGo()
	base, err := d.heldBase(ctx, name, image)
	if err != nil {
		return "", err
	}
	mark := Mark{
		For: forPool, Image: name, Digest: base.Digest, Class: w.Class, Runner: process.This(), Created: time.Now(), Deadline: w.Deadline,
		DiskBytes: int64(size.Disk), Secret: guest.NewSecret(),
	}
	domain = namePrefix + "warm-" + strings.ToLower(rand.Text()[:8])
	spec, err := d.spec(ctx, domain, mark, base, image, size, d.Settings.NetworkFor(w.Class))
	if err != nil {
		return "", err
	}
	return d.bootWarm(ctx, spec, mark, settings.Resources{VMs: 1, CPUs: size.CPUs, Memory: size.Memory, Disk: size.Disk})
}

func (d *Driver) bootWarm(ctx context.Context, spec vm.LastingSpec, mark Mark, need settings.Resources) (string, error) {
	l, err := d.ledger()
	if err != nil {
		return "", err
	}
	grant, err := l.Try(ctx, admission.Request{ID: spec.Name, Class: admission.Warm, Need: need, For: "the warm pool"})
	if err != nil || grant == nil {
		return "", err
	}
	defer grant.Done()
	if err := d.node.Create(ctx, spec); err != nil {
		return "", errors.Join(err, d.remove(ctx, spec.Name))
	}
	s, err := d.agent(ctx, spec.Name, mark.Secret, d.bootLimit(ctx))
	if err == nil {
		err = d.outfit(ctx, s, spec.Name, mark.Image, d.Settings.NetworkFor(mark.Class))
		_ = s.Close()
	}
	if err != nil {
		return "", errors.Join(err, d.remove(ctx, spec.Name))
	}
	return spec.Name, nil
}

// Warm lists the VMs of the warm pool that nobody has claimed.
func (d *Driver) Warm(ctx context.Context) ([]WarmVM, error) {
	if err := d.connect(ctx); err != nil {
		return nil, err
	}
	all, err := d.machines(ctx)
	if err != nil {
		return nil, err
	}
	var found []WarmVM
	for _, m := range all {
		if m.For == forPool {
			found = append(found, WarmVM{
				Domain: m.Lasting.Name, Image: m.Image, Class: m.Class, Digest: m.Digest, Running: m.running(), Created: m.Created, Deadline: m.Deadline,
			})
		}
	}
	return found, nil
}

// Healthy says, as an error, why a warm VM is no good.
func (d *Driver) Healthy(ctx context.Context, domain string) error {
	m, err := d.warm(ctx, domain)
	if err != nil {
		return err
	}
	s, err := d.agent(ctx, domain, m.Secret, d.Settings.Agent.Connect)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Ping(ctx)
}

// Discard removes a warm VM with everything that belongs to it. A claimed one is refused; one that is gone is no error.
func (d *Driver) Discard(ctx context.Context, domain string) error {
	if err := d.connect(ctx); err != nil {
		return err
	}
	if l, known, err := d.node.Look(ctx, domain); err != nil {
		return err
	} else if m, err := parseMark(l.Metadata); known && (err != nil || m.For != forPool) {
		return fault.Inputf("virtual machine %s is not the warm pool's: it stays", domain)
	}
	return d.remove(ctx, domain)
}

func (d *Driver) warm(ctx context.Context, domain string) (Mark, error) {
	if err := d.connect(ctx); err != nil {
		return Mark{}, err
	}
	l, known, err := d.node.Look(ctx, domain)
	if err != nil {
		return Mark{}, err
	}
	m, err := parseMark(l.Metadata)
	if !known || err != nil || m.For != forPool {
		return m, fault.Inputf("there is no warm virtual machine %s", domain)
	}
	return m, nil
}

// Digest returns that of the disk image which an image of the settings is now, "" for a file.
func (d *Driver) Digest(ctx context.Context, image string) (string, error) {
	if err := d.connect(ctx); err != nil {
		return "", err
	}
	name, i, err := d.Settings.ImageFor(image)
	if err != nil {
		return "", err
	}
	b, err := d.base(ctx, name, i)
	return b.Digest, err
}

// Anew returns the same Driver with a connection of its own.
func (d *Driver) Anew() *Driver {
	other := *d
	other.node, other.held = nil, nil
	return &other
}
