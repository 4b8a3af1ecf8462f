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

func (c *connection) ensurePool(context.Context, string, string) (string, error) {
	return "", withoutLibvirt()
}
func (c *connection) createVolume(context.Context, string, string) error { return withoutLibvirt() }
func (c *connection) deleteVolume(context.Context, string, string) error { return withoutLibvirt() }
func (c *connection) define(context.Context, string) error               { return withoutLibvirt() }
func (c *connection) start(context.Context, string, bool) error          { return withoutLibvirt() }
func (c *connection) undefine(context.Context, string) error             { return withoutLibvirt() }
func (c *connection) metadataOf(context.Context, string, string) (string, error) {
	return "", withoutLibvirt()
}
func (c *connection) setMetadata(context.Context, string, string, string) error {
	return withoutLibvirt()
}
func (c *connection) list(context.Context, string) ([]Lasting, error) { return nil, withoutLibvirt() }
func (c *connection) names(context.Context) (map[string]bool, error)  { return nil, withoutLibvirt() }
func (c *connection) look(context.Context, string, string) (Lasting, error) {
	return Lasting{}, withoutLibvirt()
}
func (c *connection) describe(context.Context, string) (string, error) { return "", withoutLibvirt() }
func (c *connection) ensureFilter(context.Context, string, func(name, uuid string) (string, error)) error {
	return withoutLibvirt()
}
func (c *connection) ensureNetwork(context.Context, string, string) error { return withoutLibvirt() }

func (c *connection) survey(context.Context) (Survey, error) { return Survey{}, withoutLibvirt() }

func absent(error) bool   { return false }
func unmarked(error) bool { return false }
