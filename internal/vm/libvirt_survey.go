package vm

import (
	"context"
	"errors"
	"fmt"

	"github.com/digitalocean/go-libvirt"
)

// survey leaves out what is gone between a list and a look at it.
func (c *connection) survey(ctx context.Context) (Survey, error) {
	return bounded(ctx, "look around", func() (Survey, error) {
		s := Survey{Pools: make(map[string]bool), Networks: make(map[string]bool), Filters: make(map[string]bool), Gateways: make(map[string]string)}
		for _, step := range []func(*Survey) error{c.surveyVersions, c.surveyUser, c.surveyPools, c.surveyNetworks, c.surveyFilters} {
			if err := step(&s); err != nil {
				return s, err
			}
		}
		return s, nil
	})
}

func (c *connection) surveyVersions(s *Survey) error {
	l, err := c.rpc.ConnectGetLibVersion()
	if err != nil {
		return err
	}
	q, err := c.rpc.ConnectGetVersion()
	s.Libvirt, s.QEMU = dotted(l), dotted(q)
	return err
}

// surveyUser leaves the uid 0 where libvirt names none, as its session daemons do.
func (c *connection) surveyUser(s *Survey) error {
	text, err := c.rpc.ConnectGetCapabilities()
	if err != nil {
		return err
	}
	s.User, _ = capableUser(text)
	return nil
}

// dotted writes a version as libvirt counts it: 1000000 × major + 1000 × minor + release.
func dotted(v uint64) string { return fmt.Sprintf("%d.%d.%d", v/1_000_000, v/1000%1000, v%1000) }

func (c *connection) surveyPools(s *Survey) error {
	all, _, err := c.rpc.ConnectListAllStoragePools(1, 0)
	for _, p := range all {
		if active, err := c.rpc.StoragePoolIsActive(p); err == nil {
			s.Pools[p.Name] = active != 0
		}
	}
	return err
}

func (c *connection) surveyNetworks(s *Survey) error {
	all, _, err := c.rpc.ConnectListAllNetworks(1, 0)
	for _, n := range all {
		if active, err := c.rpc.NetworkIsActive(n); err == nil {
			s.Networks[n.Name] = active != 0
		}
		if text, err := c.rpc.NetworkGetXMLDesc(n, 0); err == nil {
			s.Gateways[n.Name], _ = gatewayOf(text)
		}
	}
	return err
}

func (c *connection) surveyFilters(s *Survey) error {
	all, _, err := c.rpc.ConnectListAllNwfilters(1, 0)
	for _, f := range all {
		s.Filters[f.Name] = true
	}
	if hasCode(err, libvirt.ErrNoSupport) || errors.Is(err, libvirt.ErrUnsupported) {
		return nil // a daemon without that driver has none
	}
	return err
}
