package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"
	"time"

	"github.com/digitalocean/go-libvirt"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// connection speaks libvirt's remote protocol, with contexts: a call that was sent cannot be taken back.
//
// libvirt's own library would do the same, and cost each command that uses it 20 to 30 ms of processor time, for the fifty
// libraries that it stands on, and the program its cgo.
type connection struct {
	rpc  *libvirt.Libvirt
	conn net.Conn
}

// callLimit bounds each call. The slowest, a domain's start, takes a second on an idle machine.
const callLimit = 2 * time.Minute

// bounded runs a call and leaves it behind when ctx ends or callLimit is over.
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
		if errors.Is(r.err, libvirt.ErrInterrupted) || errors.Is(r.err, syscall.EINVAL) { // during the call, and before it
			return r.value, fault.Outsidef("libvirt: %s: libvirtd hung up: %w", what, r.err)
		}
		if r.err != nil {
			return r.value, fault.Outsidef("libvirt: %s: %w", what, r.err)
		}
		return r.value, nil
	case <-ctx.Done():
		var none T
		return none, fault.Outsidef("libvirt: %s: %w", what, context.Cause(ctx))
	}
}

// hasCode tells whether err is one of libvirt's own with one of those codes.
func hasCode(err error, codes ...libvirt.ErrorNumber) bool {
	e, ok := errors.AsType[libvirt.Error](err)
	return ok && slices.Contains(codes, libvirt.ErrorNumber(e.Code))
}

// absent tells that a domain is gone, or not running any more.
func absent(err error) bool {
	return hasCode(err, libvirt.ErrNoDomain, libvirt.ErrOperationInvalid) || errors.Is(err, errForgotten)
}

// noted is a connection that go-libvirt is told the end of only once it has noted that it is open: it does so last, and
// without a lock.
type noted struct {
	net.Conn
	open chan struct{}
}

// noteLimit bounds the wait for that: who hangs up before the connection is open would be waited for by everybody.
const noteLimit = 100 * time.Millisecond

func (c noted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		select {
		case <-c.open:
		case <-time.After(noteLimit):
		}
	}
	return n, err
}

// Dial is what go-libvirt calls for a connection: it is there already.
func (c noted) Dial() (net.Conn, error) { return c, nil }

// dial connects to the daemon that a URI means.
func dial(ctx context.Context, uri string) (*connection, error) {
	path, name, err := daemonSocket(uri)
	if err != nil {
		return nil, err
	}
	var c connection
	if c.conn, err = new(net.Dialer).DialContext(ctx, "unix", path); err != nil {
		return nil, fault.Outsidef("libvirt: connect to %s: %w", uri, err)
	}
	end := noted{c.conn, make(chan struct{})}
	c.rpc = libvirt.NewWithDialer(end)
	open := func() (any, error) {
		defer close(end.open)
		return nil, c.rpc.ConnectToURI(libvirt.ConnectURI(name))
	}
	if _, err = bounded(ctx, "connect to "+uri, open); err != nil {
		_ = c.conn.Close()
		return nil, err
	}
	return &c, nil
}

// closeLimit bounds the good-bye to a daemon that may hang.
const closeLimit = 5 * time.Second

func (c *connection) close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	_, _ = bounded(ctx, "disconnect", func() (any, error) { return nil, c.rpc.Disconnect() })
	_ = c.conn.Close()
}

// answers tells whether the daemon is still at the other end.
func (c *connection) answers(ctx context.Context) bool {
	_, err := bounded(ctx, "look whether it is there", func() (uint64, error) { return c.rpc.ConnectGetLibVersion() })
	return err == nil
}

// create starts a transient domain whose processors do not run yet. It is not left behind when ctx ends: what
// libvirtd has begun, it finishes, and the caller must be able to destroy it.
func (c *connection) create(ctx context.Context, xml string) error {
	_, err := bounded(context.WithoutCancel(ctx), "start the domain", func() (any, error) {
		_, err := c.rpc.DomainCreateXML(xml, libvirt.DomainStartPaused|libvirt.DomainStartValidate)
		return nil, err
	})
	return err
}

// with calls f with the domain of that name.
func (c *connection) with(ctx context.Context, what, name string, f func(libvirt.Domain) error) error {
	_, err := bounded(ctx, what+" "+name, func() (any, error) {
		d, err := c.rpc.DomainLookupByName(name)
		if err != nil {
			return nil, err
		}
		return nil, f(d)
	})
	return err
}

func (c *connection) resume(ctx context.Context, name string) error {
	return c.with(ctx, "run", name, c.rpc.DomainResume)
}

func (c *connection) pressPower(ctx context.Context, name string) error {
	return c.with(ctx, "press the power button of", name, func(d libvirt.Domain) error {
		return c.rpc.DomainShutdownFlags(d, libvirt.DomainShutdownAcpiPowerBtn)
	})
}

func (c *connection) reset(ctx context.Context, name string) error {
	return c.with(ctx, "reset", name, func(d libvirt.Domain) error { return c.rpc.DomainReset(d, 0) })
}

// destroy cuts the power. A domain that is gone is no error.
func (c *connection) destroy(ctx context.Context, name string) error {
	err := c.with(ctx, "destroy", name, c.rpc.DomainDestroy)
	if absent(err) {
		return nil
	}
	return err
}

// metadata returns the element of our namespace of each running domain that has one, by the domain's name.
func (c *connection) metadata(ctx context.Context, namespace string) (map[string]string, error) {
	return bounded(ctx, "list domains", func() (map[string]string, error) {
		all, _, err := c.rpc.ConnectListAllDomains(1, libvirt.ConnectListDomainsActive)
		if err != nil {
			return nil, err
		}
		found := make(map[string]string)
		for _, d := range all {
			if text, err := c.element(d, namespace, libvirt.DomainAffectLive); err == nil {
				found[d.Name] = text
			}
		}
		return found, nil
	})
}

// element returns the element of a domain's metadata that is of a namespace.
func (c *connection) element(d libvirt.Domain, namespace string, of libvirt.DomainModificationImpact) (string, error) {
	return c.rpc.DomainGetMetadata(d, int32(libvirt.DomainMetadataElement), libvirt.OptString{namespace}, of)
}
