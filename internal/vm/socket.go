package vm

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// systemURI is the daemon that runs the VMs of a host, and socketDir where it listens.
const (
	systemURI = "qemu:///system"
	socketDir = "/run/libvirt"
)

// CheckURI refuses what is no libvirt URI of this host's system daemon.
func CheckURI(uri string) error {
	_, _, err := daemonSocket(uri)
	return err
}

// daemonSocket finds the UNIX socket that a libvirt URI means, and the name by which the daemon behind it knows itself:
// "qemu:///system", with "?socket=PATH" where the daemon listens elsewhere, and "+unix" where one likes to say so.
// Without a socket, it is QEMU's own daemon where that listens, else the one for all (https://libvirt.org/uri.html).
func daemonSocket(uri string) (path, name string, err error) {
	u, err := url.Parse(uri)
	if err != nil {
		return "", "", fault.Inputf("%q is no libvirt URI: %w", uri, err)
	}
	driver, _ := strings.CutSuffix(u.Scheme, "+unix")
	if driver != "qemu" || u.Host != "" || u.Path != "/system" {
		return "", "", fault.WithHint(fault.Inputf("libvirt URI %q is no system daemon of this host", uri), "qemu:///system is one, and qemu:///system?socket=PATH")
	}
	query := u.Query()
	path = query.Get("socket")
	delete(query, "socket")
	for key := range query {
		return "", "", fault.WithHint(fault.Inputf("libvirt URI %q: parameter %q is not known", uri, key), "socket=PATH is the only one")
	}
	if path == "" {
		path = systemSocket(socketDir)
	}
	return path, systemURI, nil
}

func systemSocket(dir string) string {
	if own := filepath.Join(dir, "virtqemud-sock"); exists(own) {
		return own
	}
	return filepath.Join(dir, "libvirt-sock")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
