package vm

import (
	"context"
	"encoding/xml"
	"fmt"
	"os"
	"strconv"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// User is the uid that a domain's connections to networks of this process come from: QEMU's, and in a test bed's client this process's
// own, which joins them to what the bed hands on.
func (h *Host) User(ctx context.Context) (int, error) {
	if h.bed != nil || os.Geteuid() == 0 { // which labels its domains so
		return os.Geteuid(), nil
	}
	return h.conn.user(ctx)
}

// User is the uid as which QEMU runs a lasting domain.
func (n *Node) User(ctx context.Context) (int, error) { return n.conn.user(ctx) }

// user is the uid of domains that have no label of ours.
func (c *connection) user(ctx context.Context) (int, error) {
	text, err := bounded(ctx, "ask for its capabilities", c.rpc.ConnectGetCapabilities)
	if err != nil {
		return 0, err
	}
	return capableUser(text)
}

// capableUser reads the base label of the security model dac, "+UID:+GID", from libvirt's capabilities
// (https://libvirt.org/formatcaps.html).
func capableUser(text string) (int, error) {
	var x struct {
		Models []struct {
			Model  string   `xml:"model"`
			Labels []string `xml:"baselabel"`
		} `xml:"host>secmodel"`
	}
	if err := xml.Unmarshal([]byte(text), &x); err != nil {
		return 0, fmt.Errorf("libvirt's capabilities: %w", err)
	}
	for _, m := range x.Models {
		if m.Model != "dac" || len(m.Labels) == 0 {
			continue
		}
		uid, _, _ := strings.Cut(m.Labels[0], ":")
		if number, err := strconv.Atoi(strings.TrimPrefix(uid, "+")); err == nil && number >= 0 {
			return number, nil
		}
		return 0, fault.Outsidef("libvirt runs QEMU as %q, which is no uid and gid", m.Labels[0])
	}
	return 0, fault.WithHint(fault.Outsidef("libvirt does not say as whom it runs QEMU"), "virsh capabilities should show a secmodel dac")
}
