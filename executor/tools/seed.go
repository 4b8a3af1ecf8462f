package tools

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/nocloud"
	"salsa.debian.org/cloud-team/debcloud/vmimages"
)

// Files of the runner image that a plain cloud image lacks, and where they go.
var seedFiles = []struct{ from, to, mode string }{
	{"runner/files/usr/local/lib/debcloud/mount-tools/RUNNER", "/usr/local/lib/debcloud/mount-tools", "0755"},
	{"runner/files/etc/systemd/system/debcloud-agent.service/RUNNER", "/etc/systemd/system/debcloud-agent.service", "0644"},
}

// WriteSeed writes a NoCloud seed disk with which a plain Debian cloud image mounts the tools disk and starts the agent. Its
// network is asked for by DHCP and waited for by nobody. The disk at path must not exist.
func WriteSeed(path, hostname string) error {
	script, err := seedScript()
	if err != nil {
		return err
	}
	return nocloud.Write(path, map[string]string{
		"user-data":      script,
		"meta-data":      fmt.Sprintf("{\"instance-id\": %q, \"local-hostname\": %q}\n", "debcloud-"+hostname, hostname),
		"network-config": networkConfig,
	})
}

// networkConfig is version 2 of cloud-init's. optional: no unit waits for it.
const networkConfig = `version: 2
ethernets:
  all:
    match: {name: "e*"}
    dhcp4: true
    optional: true
`

// seedScript is a boothook: what cloud-init runs first of all that comes from user data.
func seedScript() (string, error) {
	var b strings.Builder
	b.WriteString("#cloud-boothook\n#!/bin/sh\nset -eu\nmkdir -p /usr/local/lib/debcloud\n")
	for _, f := range seedFiles {
		text, err := fs.ReadFile(vmimages.Runner, f.from)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "echo %s | base64 -d >%s\nchmod %s %[2]s\n", base64.StdEncoding.EncodeToString(text), f.to, f.mode)
	}
	b.WriteString("systemctl daemon-reload\nsystemctl start --no-block debcloud-agent.service\n")
	return b.String(), nil
}
