//go:build cgo && libvirt_dlopen

package vm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"libvirt.org/go/libvirt"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// connection is libvirt's library with contexts: its own calls cannot be interrupted.
type connection struct{ c *libvirt.Connect }

// callLimit bounds each call. The slowest, a domain's start, takes a second on an idle machine.
const callLimit = 2 * time.Minute

// bounded runs a call of the library and leaves it behind when ctx ends or callLimit is over.
func bounded[T any](ctx context.Context, what string, call func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	ctx, cancel := context.WithTimeoutCause(ctx, callLimit, fmt.Errorf("no answer within %v", callLimit))
	defer cancel()
	done := make(chan result, 1)
	go func() {
		v, err := call()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return r.value, fault.Outsidef("libvirt: %s: %w", what, plain(r.err))
		}
		return r.value, nil
	case <-ctx.Done():
		var none T
		return none, fault.Outsidef("libvirt: %s: %w", what, context.Cause(ctx))
	}
}

// plain keeps libvirt's message without its numbers for code and domain.
func plain(err error) error {
	if e, ok := errors.AsType[libvirt.Error](err); ok {
		return &libvirtError{text: e.Message, code: int(e.Code)}
	}
	return err
}

type libvirtError struct {
	text string
	code int
}

func (e *libvirtError) Error() string { return e.text }

// absent tells that a domain is gone, or not running any more.
func absent(err error) bool {
	e, ok := errors.AsType[*libvirtError](err)
	return ok && (e.code == int(libvirt.ERR_NO_DOMAIN) || e.code == int(libvirt.ERR_OPERATION_INVALID))
}

func dial(ctx context.Context, uri string) (*connection, error) {
	return bounded(ctx, "connect to "+uri, func() (*connection, error) {
		openLibrary()
		c, err := libvirt.NewConnect(uri)
		if err != nil {
			return nil, err
		}
		return &connection{c}, nil
	})
}

func (c *connection) close() { _, _ = c.c.Close() }

// create starts a transient domain whose processors do not run yet. It is not left behind when ctx ends: what
// libvirtd has begun, it finishes, and the caller must be able to destroy it.
func (c *connection) create(ctx context.Context, xml string) error {
	_, err := bounded(context.WithoutCancel(ctx), "start the domain", func() (any, error) {
		d, err := c.c.DomainCreateXML(xml, libvirt.DOMAIN_START_PAUSED|libvirt.DOMAIN_START_VALIDATE)
		if err != nil {
			return nil, err
		}
		return nil, d.Free()
	})
	return err
}

// with calls f with the domain of that name.
func (c *connection) with(ctx context.Context, what, name string, f func(*libvirt.Domain) error) error {
	_, err := bounded(ctx, what+" "+name, func() (any, error) {
		d, err := c.c.LookupDomainByName(name)
		if err != nil {
			return nil, err
		}
		defer func() { _ = d.Free() }()
		return nil, f(d)
	})
	return err
}

func (c *connection) resume(ctx context.Context, name string) error {
	return c.with(ctx, "run", name, (*libvirt.Domain).Resume)
}

func (c *connection) pressPower(ctx context.Context, name string) error {
	return c.with(ctx, "press the power button of", name, func(d *libvirt.Domain) error {
		return d.ShutdownFlags(libvirt.DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
	})
}

func (c *connection) reset(ctx context.Context, name string) error {
	return c.with(ctx, "reset", name, func(d *libvirt.Domain) error { return d.Reset(0) })
}

// destroy cuts the power. A domain that is gone is no error.
func (c *connection) destroy(ctx context.Context, name string) error {
	err := c.with(ctx, "destroy", name, (*libvirt.Domain).Destroy)
	if absent(err) {
		return nil
	}
	return err
}

// metadata returns the element of our namespace of each running domain that has one, by the domain's name.
func (c *connection) metadata(ctx context.Context, namespace string) (map[string]string, error) {
	return bounded(ctx, "list domains", func() (map[string]string, error) {
		all, err := c.c.ListAllDomains(libvirt.CONNECT_LIST_DOMAINS_ACTIVE)
		if err != nil {
			return nil, err
		}
		found := make(map[string]string)
		for i := range all {
			name, err := all[i].GetName()
			text, err2 := all[i].GetMetadata(libvirt.DOMAIN_METADATA_ELEMENT, namespace, libvirt.DOMAIN_AFFECT_LIVE)
			if err == nil && err2 == nil {
				found[name] = text
			}
			_ = all[i].Free()
		}
		return found, nil
	})
}
