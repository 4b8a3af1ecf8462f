//go:build cgo && libvirt_dlopen

package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// metadataPrefix is what libvirt writes before the names of our elements.
const metadataPrefix = "debcloud"

// unmarked tells a domain that has no metadata of a namespace.
func unmarked(err error) bool {
	e, ok := errors.AsType[*libvirtError](err)
	return ok && e.code == int(libvirt.ERR_NO_DOMAIN_METADATA)
}

func hasCode(err error, codes ...libvirt.ErrorNumber) bool {
	e, ok := errors.AsType[libvirt.Error](err)
	for _, c := range codes {
		if ok && e.Code == c {
			return true
		}
	}
	return false
}

// ensurePool returns the directory of a storage pool, and makes and starts it where that is needed.
func (c *connection) ensurePool(ctx context.Context, name, dir string) (string, error) {
	return bounded(ctx, "storage pool "+name, func() (string, error) {
		p, err := c.c.LookupStoragePoolByName(name)
		if hasCode(err, libvirt.ERR_NO_STORAGE_POOL) {
			p, err = c.definePool(name, dir)
		}
		if err != nil {
			return "", err
		}
		defer func() { _ = p.Free() }()
		if active, err := p.IsActive(); err != nil {
			return "", err
		} else if !active {
			if err := p.Create(libvirt.STORAGE_POOL_CREATE_WITH_BUILD); err != nil && !hasCode(err, libvirt.ERR_OPERATION_INVALID) {
				return "", err
			}
		}
		return poolPath(p)
	})
}

func (c *connection) definePool(name, dir string) (*libvirt.StoragePool, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	x := libvirtxml.StoragePool{Type: "dir", Name: name, Target: &libvirtxml.StoragePoolTarget{Path: dir}}
	text, err := x.Marshal()
	if err != nil {
		return nil, err
	}
	p, err := c.c.StoragePoolDefineXML(text, 0)
	if err != nil { // another process may have been faster
		return c.c.LookupStoragePoolByName(name)
	}
	_ = p.SetAutostart(true)
	return p, nil
}

func poolPath(p *libvirt.StoragePool) (string, error) {
	text, err := p.GetXMLDesc(0)
	if err != nil {
		return "", err
	}
	var x libvirtxml.StoragePool
	if err := x.Unmarshal(text); err != nil {
		return "", err
	}
	if x.Target == nil || x.Target.Path == "" {
		return "", fmt.Errorf("the pool has no directory")
	}
	return x.Target.Path, nil
}

// createVolume goes on when ctx ends: what libvirtd has begun, it finishes, and the caller removes it.
func (c *connection) createVolume(ctx context.Context, pool, text string) error {
	_, err := bounded(context.WithoutCancel(ctx), "create the overlay", func() (any, error) {
		p, err := c.c.LookupStoragePoolByName(pool)
		if err != nil {
			return nil, err
		}
		defer func() { _ = p.Free() }()
		v, err := p.StorageVolCreateXML(text, 0)
		if err != nil {
			return nil, err
		}
		return nil, v.Free()
	})
	return err
}

// deleteVolume removes a volume, also one that libvirt does not know because it was killed while it made it.
func (c *connection) deleteVolume(ctx context.Context, pool, name string) error {
	_, err := bounded(ctx, "delete volume "+name, func() (any, error) {
		p, err := c.c.LookupStoragePoolByName(pool)
		if err != nil {
			return nil, err
		}
		defer func() { _ = p.Free() }()
		v, err := p.LookupStorageVolByName(name)
		if hasCode(err, libvirt.ERR_NO_STORAGE_VOL) {
			return nil, c.deleteUnknown(p, name)
		}
		if err != nil {
			return nil, err
		}
		defer func() { _ = v.Free() }()
		if err := v.Delete(0); err != nil && !hasCode(err, libvirt.ERR_NO_STORAGE_VOL) {
			return nil, c.deleteUnknown(p, name)
		}
		return nil, nil
	})
	return err
}

func (c *connection) deleteUnknown(p *libvirt.StoragePool, name string) error {
	dir, err := poolPath(p)
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (c *connection) define(ctx context.Context, text string) error {
	_, err := bounded(context.WithoutCancel(ctx), "define the domain", func() (any, error) {
		d, err := c.c.DomainDefineXMLFlags(text, libvirt.DOMAIN_DEFINE_VALIDATE)
		if err != nil {
			return nil, err
		}
		return nil, d.Free()
	})
	return err
}

func (c *connection) start(ctx context.Context, name string, paused bool) error {
	var flags libvirt.DomainCreateFlags
	if paused {
		flags = libvirt.DOMAIN_START_PAUSED
	}
	return c.with(context.WithoutCancel(ctx), "start", name, func(d *libvirt.Domain) error { return d.CreateWithFlags(flags) })
}

// undefine removes a domain's definition and its firmware's variables. A domain that is gone is no error.
func (c *connection) undefine(ctx context.Context, name string) error {
	err := c.with(ctx, "undefine", name, func(d *libvirt.Domain) error { return d.UndefineFlags(libvirt.DOMAIN_UNDEFINE_NVRAM) })
	if absent(err) {
		return nil
	}
	return err
}

func (c *connection) metadataOf(ctx context.Context, name, namespace string) (text string, err error) {
	err = c.with(ctx, "look at", name, func(d *libvirt.Domain) error {
		text, err = d.GetMetadata(libvirt.DOMAIN_METADATA_ELEMENT, namespace, libvirt.DOMAIN_AFFECT_CURRENT)
		return err
	})
	return text, err
}

// setMetadata changes what is kept of the domain and, where it runs, what its daemon holds of it.
func (c *connection) setMetadata(ctx context.Context, name, namespace, element string) error {
	return c.with(ctx, "mark", name, func(d *libvirt.Domain) error {
		flags := libvirt.DOMAIN_AFFECT_CONFIG
		if active, err := d.IsActive(); err == nil && active {
			flags |= libvirt.DOMAIN_AFFECT_LIVE
		}
		return d.SetMetadata(libvirt.DOMAIN_METADATA_ELEMENT, element, metadataPrefix, namespace, flags)
	})
}

func (c *connection) list(ctx context.Context, namespace string) ([]Lasting, error) {
	return bounded(ctx, "list domains", func() ([]Lasting, error) {
		all, err := c.c.ListAllDomains(0)
		if err != nil {
			return nil, err
		}
		var found []Lasting
		for i := range all {
			if l, err := seen(&all[i], namespace); err == nil { // else not ours, or gone meanwhile
				found = append(found, l)
			}
			_ = all[i].Free()
		}
		return found, nil
	})
}

func (c *connection) names(ctx context.Context) (map[string]bool, error) {
	return bounded(ctx, "list domains", func() (map[string]bool, error) {
		all, err := c.c.ListAllDomains(0)
		if err != nil {
			return nil, err
		}
		found := make(map[string]bool)
		for i := range all {
			if name, err := all[i].GetName(); err == nil {
				found[name] = true
			}
			_ = all[i].Free()
		}
		return found, nil
	})
}

func (c *connection) look(ctx context.Context, name, namespace string) (l Lasting, err error) {
	err = c.with(ctx, "look at", name, func(d *libvirt.Domain) error {
		l, err = seen(d, namespace)
		return err
	})
	return l, err
}

func seen(d *libvirt.Domain, namespace string) (Lasting, error) {
	text, err := d.GetMetadata(libvirt.DOMAIN_METADATA_ELEMENT, namespace, libvirt.DOMAIN_AFFECT_CURRENT)
	if err != nil {
		return Lasting{}, err
	}
	name, err := d.GetName()
	if err != nil {
		return Lasting{}, err
	}
	info, err := d.GetInfo()
	if err != nil {
		return Lasting{}, err
	}
	state, reason, err := d.GetState()
	if err != nil {
		return Lasting{}, err
	}
	l := Lasting{Name: name, State: Stopped, CPUs: int(info.NrVirtCpu), MemoryMiB: int(info.MaxMem / 1024), Metadata: []byte(text)}
	if state == libvirt.DOMAIN_RUNNING || state == libvirt.DOMAIN_PAUSED || state == libvirt.DOMAIN_BLOCKED {
		l.State = Running
	}
	l.Reason = reasonWord(state, reason)
	return l, nil
}

var (
	offReasons = map[libvirt.DomainShutoffReason]string{
		libvirt.DOMAIN_SHUTOFF_SHUTDOWN: "shutdown", libvirt.DOMAIN_SHUTOFF_DESTROYED: "destroyed", libvirt.DOMAIN_SHUTOFF_CRASHED: "crashed",
		libvirt.DOMAIN_SHUTOFF_FAILED: "failed", libvirt.DOMAIN_SHUTOFF_DAEMON: "daemon",
	}
	onReasons = map[libvirt.DomainRunningReason]string{
		libvirt.DOMAIN_RUNNING_BOOTED: "booted", libvirt.DOMAIN_RUNNING_RESTORED: "restored", libvirt.DOMAIN_RUNNING_UNPAUSED: "unpaused",
	}
)

func reasonWord(state libvirt.DomainState, reason int) string {
	switch state {
	case libvirt.DOMAIN_SHUTOFF:
		return orDefault(offReasons[libvirt.DomainShutoffReason(reason)], "unknown")
	case libvirt.DOMAIN_RUNNING:
		return orDefault(onReasons[libvirt.DomainRunningReason(reason)], "unknown")
	case libvirt.DOMAIN_CRASHED:
		return "crashed"
	case libvirt.DOMAIN_SHUTDOWN:
		return Stopping
	case libvirt.DOMAIN_PAUSED:
		return "paused"
	}
	return "unknown"
}

func (c *connection) describe(ctx context.Context, name string) (text string, err error) {
	err = c.with(ctx, "describe", name, func(d *libvirt.Domain) error {
		text, err = d.GetXMLDesc(0)
		return err
	})
	return text, err
}

// ensureFilter defines an nwfilter, or brings it up to date.
func (c *connection) ensureFilter(ctx context.Context, name string, describe func(name, uuid string) (string, error)) error {
	_, err := bounded(ctx, "network filter "+name, func() (any, error) {
		uuid := ""
		if old, err := c.c.LookupNWFilterByName(name); err == nil {
			uuid, err = old.GetUUIDString()
			_ = old.Free()
			if err != nil {
				return nil, err
			}
		}
		text, err := describe(name, uuid)
		if err != nil {
			return nil, err
		}
		f, err := c.c.NWFilterDefineXML(text)
		if err != nil {
			return nil, err
		}
		return nil, f.Free()
	})
	return err
}

// ensureNetwork defines a network where there is none of that name, and starts it.
func (c *connection) ensureNetwork(ctx context.Context, name, text string) error {
	_, err := bounded(ctx, "network "+name, func() (any, error) {
		n, err := c.c.LookupNetworkByName(name)
		if hasCode(err, libvirt.ERR_NO_NETWORK) {
			if n, err = c.c.NetworkDefineXML(text); err == nil {
				_ = n.SetAutostart(true)
			} else { // another process may have been faster
				n, err = c.c.LookupNetworkByName(name)
			}
		}
		if err != nil {
			return nil, err
		}
		defer func() { _ = n.Free() }()
		if active, err := n.IsActive(); err != nil || active {
			return nil, err
		}
		if err := n.Create(); err != nil && !hasCode(err, libvirt.ERR_OPERATION_INVALID) {
			return nil, fault.WithHint(err, "libvirt's networks need the Debian packages dnsmasq-base and iptables")
		}
		return nil, nil
	})
	return err
}
