//go:build !cgo || !libvirt_dlopen

package vm

import (
	"context"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// connection stands for libvirt's library in a binary without it, such as the static one for guests of any age.
type connection struct{}

func withoutLibvirt() error {
	return fault.WithHint(fault.Inputf("this binary was built without libvirt: it cannot start virtual machines"),
		"build it with cgo and -tags libvirt_dlopen")
}

func dial(context.Context, string) (*connection, error) { return nil, withoutLibvirt() }

func (c *connection) close()                                   {}
func (c *connection) create(context.Context, string) error     { return withoutLibvirt() }
func (c *connection) resume(context.Context, string) error     { return withoutLibvirt() }
func (c *connection) pressPower(context.Context, string) error { return withoutLibvirt() }
func (c *connection) reset(context.Context, string) error      { return withoutLibvirt() }
func (c *connection) destroy(context.Context, string) error    { return withoutLibvirt() }
func (c *connection) metadata(context.Context, string) (map[string]string, error) {
	return nil, withoutLibvirt()
}
