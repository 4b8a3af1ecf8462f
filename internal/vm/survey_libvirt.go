//go:build cgo && libvirt_dlopen

package vm

import (
	"context"
	"fmt"

	"libvirt.org/go/libvirt"
)

func (c *connection) survey(ctx context.Context) (Survey, error) {
	return bounded(ctx, "look around", func() (Survey, error) {
		s := Survey{Pools: make(map[string]bool), Networks: make(map[string]bool), Filters: make(map[string]bool)}
		for _, step := range []func(*Survey) error{c.surveyVersions, c.surveyPools, c.surveyNetworks, c.surveyFilters} {
			if err := step(&s); err != nil {
				return s, err
			}
		}
		return s, nil
	})
}

func (c *connection) surveyVersions(s *Survey) error {
	l, err := c.c.GetLibVersion()
	if err != nil {
		return err
	}
	q, err := c.c.GetVersion()
	s.Libvirt, s.QEMU = dotted(l), dotted(q)
	return err
}

// dotted writes a version as libvirt counts it: 1000000 × major + 1000 × minor + release.
func dotted(v uint32) string { return fmt.Sprintf("%d.%d.%d", v/1_000_000, v/1000%1000, v%1000) }

func (c *connection) surveyPools(s *Survey) error {
	all, err := c.c.ListAllStoragePools(0)
	for i := range all {
		note(s.Pools, &all[i])
	}
	return err
}

func (c *connection) surveyNetworks(s *Survey) error {
	all, err := c.c.ListAllNetworks(0)
	for i := range all {
		note(s.Networks, &all[i])
	}
	return err
}

func (c *connection) surveyFilters(s *Survey) error {
	all, err := c.c.ListAllNWFilters(0)
	for i := range all {
		if name, err := all[i].GetName(); err == nil {
			s.Filters[name] = true
		}
		_ = all[i].Free()
	}
	if hasCode(err, libvirt.ERR_NO_SUPPORT) {
		return nil // a daemon without that driver has none
	}
	return err
}

// object is a storage pool or a network.
type object interface {
	GetName() (string, error)
	IsActive() (bool, error)
	Free() error
}

// note leaves out what is gone meanwhile.
func note(found map[string]bool, o object) {
	name, err := o.GetName()
	active, err2 := o.IsActive()
	if err == nil && err2 == nil {
		found[name] = active
	}
	_ = o.Free()
}
