package vm

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// metadataPrefix is what libvirt writes before the names of our elements.
const metadataPrefix = "debcloud"

// unmarked tells a domain that has no metadata of a namespace.
func unmarked(err error) bool { return hasCode(err, libvirt.ErrNoDomainMetadata) }

// ensurePool returns the directory of a storage pool, and makes and starts it where that is needed.
func (c *connection) ensurePool(ctx context.Context, name, dir string) (string, error) {
	return bounded(ctx, "storage pool "+name, func() (string, error) {
		p, err := c.rpc.StoragePoolLookupByName(name)
		if hasCode(err, libvirt.ErrNoStoragePool) {
			p, err = c.definePool(name, dir)
		}
		if err != nil {
			return "", err
		}
		if active, err := c.rpc.StoragePoolIsActive(p); err != nil {
			return "", err
		} else if active == 0 {
			if err := c.rpc.StoragePoolCreate(p, libvirt.StoragePoolCreateWithBuild); err != nil && !hasCode(err, libvirt.ErrOperationInvalid) {
				return "", err
			}
		}
		return c.poolPath(p)
	})
}

func (c *connection) definePool(name, dir string) (p libvirt.StoragePool, err error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return p, err
	}
	x := libvirtxml.StoragePool{Type: "dir", Name: name, Target: &libvirtxml.StoragePoolTarget{Path: dir}}
	text, err := x.Marshal()
	if err != nil {
		return p, err
	}
	if p, err = c.rpc.StoragePoolDefineXML(text, 0); err != nil { // another process may have been faster
		return c.rpc.StoragePoolLookupByName(name)
	}
	_ = c.rpc.StoragePoolSetAutostart(p, 1)
	return p, nil
}

func (c *connection) poolPath(p libvirt.StoragePool) (string, error) {
	text, err := c.rpc.StoragePoolGetXMLDesc(p, 0)
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
		p, err := c.rpc.StoragePoolLookupByName(pool)
		if err != nil {
			return nil, err
		}
		_, err = c.rpc.StorageVolCreateXML(p, text, 0)
		return nil, err
	})
	return err
}

// deleteVolume removes a volume, also one that libvirt does not know because it was killed while it made it.
func (c *connection) deleteVolume(ctx context.Context, pool, name string) error {
	_, err := bounded(ctx, "delete volume "+name, func() (any, error) {
		p, err := c.rpc.StoragePoolLookupByName(pool)
		if err != nil {
			return nil, err
		}
		v, err := c.rpc.StorageVolLookupByName(p, name)
		if hasCode(err, libvirt.ErrNoStorageVol) {
			return nil, c.deleteUnknown(p, name)
		}
		if err != nil {
			return nil, err
		}
		if err := c.rpc.StorageVolDelete(v, 0); err != nil && !hasCode(err, libvirt.ErrNoStorageVol) {
			return nil, c.deleteUnknown(p, name)
		}
		return nil, nil
	})
	return err
}

func (c *connection) deleteUnknown(p libvirt.StoragePool, name string) error {
	dir, err := c.poolPath(p)
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
		_, err := c.rpc.DomainDefineXMLFlags(text, libvirt.DomainDefineValidate)
		return nil, err
	})
	return err
}

func (c *connection) start(ctx context.Context, name string, paused bool) error {
	var flags libvirt.DomainCreateFlags
	if paused {
		flags = libvirt.DomainStartPaused
	}
	return c.with(context.WithoutCancel(ctx), "start", name, func(d libvirt.Domain) error {
		_, err := c.rpc.DomainCreateWithFlags(d, uint32(flags))
		return err
	})
}

// undefine removes a domain's definition and its firmware's variables. A domain that is gone is no error.
func (c *connection) undefine(ctx context.Context, name string) error {
	err := c.with(ctx, "undefine", name, func(d libvirt.Domain) error { return c.rpc.DomainUndefineFlags(d, libvirt.DomainUndefineNvram) })
	if absent(err) {
		return nil
	}
	return err
}

// setMetadata changes what is kept of the domain and, where it runs, what its daemon holds of it.
func (c *connection) setMetadata(ctx context.Context, name, namespace, element string) error {
	return c.with(ctx, "mark", name, func(d libvirt.Domain) error {
		flags := libvirt.DomainAffectConfig
		if active, err := c.rpc.DomainIsActive(d); err == nil && active != 0 {
			flags |= libvirt.DomainAffectLive
		}
		return c.rpc.DomainSetMetadata(d, int32(libvirt.DomainMetadataElement), libvirt.OptString{element}, libvirt.OptString{metadataPrefix}, libvirt.OptString{namespace}, flags)
	})
}

func (c *connection) list(ctx context.Context, namespace string) ([]Lasting, error) {
	return bounded(ctx, "list domains", func() ([]Lasting, error) {
		all, _, err := c.rpc.ConnectListAllDomains(1, 0)
		if err != nil {
			return nil, err
		}
		var found []Lasting
		for _, d := range all {
			if l, err := c.seen(d, namespace); err == nil { // else not ours, or gone meanwhile
				found = append(found, l)
			}
		}
		return found, nil
	})
}

func (c *connection) names(ctx context.Context) (map[string]bool, error) {
	return bounded(ctx, "list domains", func() (map[string]bool, error) {
		all, _, err := c.rpc.ConnectListAllDomains(1, 0)
		if err != nil {
			return nil, err
		}
		found := make(map[string]bool)
		for _, d := range all {
			found[d.Name] = true
		}
		return found, nil
	})
}

// disks lists the files that are disks of domains, of all that there are.
func (c *connection) disks(ctx context.Context) ([]string, error) {
	return bounded(ctx, "list the domains' disks", func() ([]string, error) {
		all, _, err := c.rpc.ConnectListAllDomains(1, 0)
		if err != nil {
			return nil, err
		}
		var found []string
		for _, d := range all {
			text, err := c.rpc.DomainGetXMLDesc(d, 0)
			if hasCode(err, libvirt.ErrNoDomain) {
				continue // gone meanwhile
			}
			if err != nil {
				return nil, err
			}
			files, err := diskFiles(text)
			if err != nil {
				return nil, err
			}
			found = append(found, files...)
		}
		return found, nil
	})
}

func diskFiles(text string) ([]string, error) {
	var d struct {
		Sources []struct {
			File string `xml:"file,attr"`
		} `xml:"devices>disk>source"`
	}
	err := xml.Unmarshal([]byte(text), &d)
	var files []string
	for _, s := range d.Sources {
		if s.File != "" {
			files = append(files, s.File)
		}
	}
	return files, err
}

func (c *connection) look(ctx context.Context, name, namespace string) (l Lasting, err error) {
	err = c.with(ctx, "look at", name, func(d libvirt.Domain) error {
		l, err = c.seen(d, namespace)
		return err
	})
	return l, err
}

func (c *connection) seen(d libvirt.Domain, namespace string) (Lasting, error) {
	text, err := c.element(d, namespace, libvirt.DomainAffectCurrent)
	if err != nil {
		return Lasting{}, err
	}
	_, maxKiB, _, cpus, _, err := c.rpc.DomainGetInfo(d)
	if err != nil {
		return Lasting{}, err
	}
	number, reason, err := c.rpc.DomainGetState(d, 0)
	if err != nil {
		return Lasting{}, err
	}
	state := libvirt.DomainState(number)
	if c.forgotten(d.Name, state, reason) {
		return Lasting{}, errForgotten
	}
	l := Lasting{Name: d.Name, State: Stopped, CPUs: int(cpus), MemoryMiB: int(maxKiB / 1024), Metadata: []byte(text)}
	if state == libvirt.DomainRunning || state == libvirt.DomainPaused || state == libvirt.DomainBlocked {
		l.State = Running
	}
	l.Reason = reasonWord(state, reason)
	return l, nil
}

var (
	offReasons = map[libvirt.DomainShutoffReason]string{
		libvirt.DomainShutoffShutdown: "shutdown", libvirt.DomainShutoffDestroyed: "destroyed", libvirt.DomainShutoffCrashed: "crashed",
		libvirt.DomainShutoffFailed: "failed", libvirt.DomainShutoffDaemon: "daemon",
	}
	onReasons = map[libvirt.DomainRunningReason]string{
		libvirt.DomainRunningBooted: "booted", libvirt.DomainRunningRestored: "restored", libvirt.DomainRunningUnpaused: "unpaused",
	}
)

func reasonWord(state libvirt.DomainState, reason int32) string {
	switch state {
	case libvirt.DomainShutoff:
		return orDefault(offReasons[libvirt.DomainShutoffReason(reason)], "unknown")
	case libvirt.DomainRunning:
		return orDefault(onReasons[libvirt.DomainRunningReason(reason)], "unknown")
	case libvirt.DomainCrashed:
		return "crashed"
	case libvirt.DomainShutdown:
		return Stopping
	case libvirt.DomainPaused:
		return "paused"
	}
	return "unknown"
}

func (c *connection) describe(ctx context.Context, name string) (text string, err error) {
	err = c.with(ctx, "describe", name, func(d libvirt.Domain) error {
		text, err = c.rpc.DomainGetXMLDesc(d, 0)
		return err
	})
	return text, err
}

// ensureFilter defines an nwfilter, or brings it up to date. Where another process was faster to define it, libvirt refuses a
// second one of that name, and takes it with the UUID that the filter has by then.
func (c *connection) ensureFilter(ctx context.Context, name string, describe func(name, uuid string) (string, error)) error {
	_, err := bounded(ctx, "network filter "+name, func() (any, error) {
		known, err := c.defineFilter(name, describe)
		if err != nil && !known {
			_, err = c.defineFilter(name, describe)
		}
		return nil, err
	})
	return err
}

// defineFilter also tells whether there was a filter of that name before.
func (c *connection) defineFilter(name string, describe func(name, uuid string) (string, error)) (known bool, err error) {
	id := ""
	if old, err := c.rpc.NwfilterLookupByName(name); err == nil {
		id = uuid.UUID(old.UUID).String()
	}
	text, err := describe(name, id)
	if err == nil {
		_, err = c.rpc.NwfilterDefineXML(text)
	}
	return id != "", err
}

// ensureNetwork defines a network where there is none of that name, starts it, and returns how it is defined.
func (c *connection) ensureNetwork(ctx context.Context, name, text string) (is string, err error) {
	return bounded(ctx, "network "+name, func() (string, error) {
		n, err := c.rpc.NetworkLookupByName(name)
		if hasCode(err, libvirt.ErrNoNetwork) {
			n, err = c.defineNetwork(name, text)
		}
		if err != nil {
			return "", err
		}
		if active, err := c.rpc.NetworkIsActive(n); err != nil {
			return "", err
		} else if active == 0 {
			if err := c.rpc.NetworkCreate(n); err != nil && !hasCode(err, libvirt.ErrOperationInvalid) {
				return "", fault.WithHint(err, "libvirt's networks need the Debian packages dnsmasq-base and iptables, and addresses that no interface of the host has")
			}
		}
		return c.rpc.NetworkGetXMLDesc(n, 0)
	})
}

func (c *connection) defineNetwork(name, text string) (libvirt.Network, error) {
	n, err := c.rpc.NetworkDefineXML(text)
	if err == nil {
		_ = c.rpc.NetworkSetAutostart(n, 1)
		return n, nil
	}
	if theirs, lookupErr := c.rpc.NetworkLookupByName(name); lookupErr == nil { // another process was faster
		return theirs, nil
	}
	return n, err
}
