package boot

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
)

//go:embed probes.sh
var probeScript string

// probe is what one probe of probes.sh printed.
type probe struct {
	out  string // without the final newline
	exit int
	took time.Duration
}

var probeMark = lazyregexp.New(`^@@([0-9a-f]+) (begin|end) ([a-z0-9_]+)(?: (\d+) (-?\d+))?$`)

// parseProbes reads the output of probes.sh. A probe whose end is missing, because the guest died or was too slow, is
// left out: the checks that read it count as not reached.
func parseProbes(output, nonce string) map[string]probe {
	found := map[string]probe{}
	var name string
	var lines []string
	for line := range strings.SplitSeq(strings.ReplaceAll(output, "\r\n", "\n"), "\n") {
		m := probeMark.FindStringSubmatch(line)
		switch {
		case m == nil || m[1] != nonce:
			lines = append(lines, line)
		case m[2] == "begin":
			name, lines = m[3], nil
		case m[3] == name:
			exit, _ := strconv.Atoi(m[4])
			hundredths, _ := strconv.Atoi(m[5])
			found[name] = probe{
				out:  strings.TrimRight(strings.Join(lines, "\n"), "\n"),
				exit: exit,
				took: time.Duration(max(hundredths, 0)) * 10 * time.Millisecond,
			}
		}
	}
	return found
}

// properties reads the output of "systemctl show --property", one map a unit, by its Id.
func properties(output string) map[string]map[string]string {
	units := map[string]map[string]string{}
	for block := range strings.SplitSeq(output, "\n\n") {
		unit := map[string]string{}
		for line := range strings.SplitSeq(block, "\n") {
			if key, value, ok := strings.Cut(line, "="); ok {
				if old := unit[key]; old != "" {
					value = old + "\n" + value
				}
				unit[key] = value
			}
		}
		if id := unit["Id"]; id != "" {
			units[id] = unit
		}
	}
	return units
}

// cloudStages are the stages of cloud-init by their names in its status file, in the order in which they run.
var cloudStages = []string{"init-local", "init", "modules-config", "modules-final"}

// cloudStage is how a stage went.
type cloudStage struct {
	Errors      []string            `json:"errors"`
	Recoverable map[string][]string `json:"recoverable_errors"` // by log level; from cloud-init 23.4 on
	Finished    *float64            `json:"finished"`           // seconds; nil until then
}

// parseCloudStatus reads /run/cloud-init/status.json, from which "cloud-init status" makes what it prints (cloud-init
// documentation, "Reported status"): the file costs an emulated guest nothing, the command many seconds.
func parseCloudStatus(output string) (map[string]cloudStage, error) {
	var file struct {
		V1 map[string]json.RawMessage `json:"v1"`
	}
	if err := json.Unmarshal([]byte(output), &file); err != nil {
		return nil, fmt.Errorf("/run/cloud-init/status.json: %w: %q", err, output)
	}
	stages := map[string]cloudStage{}
	for _, name := range cloudStages {
		var s cloudStage
		if err := json.Unmarshal(file.V1[name], &s); err != nil {
			return nil, fmt.Errorf("/run/cloud-init/status.json: stage %s: %w: %q", name, err, output)
		}
		stages[name] = s
	}
	return stages, nil
}

// link is an interface in the output of "ip -json address".
type link struct {
	Name      string `json:"ifname"`
	MTU       int    `json:"mtu"`
	Type      string `json:"link_type"`
	Addresses []struct {
		Local   string `json:"local"`
		Dynamic bool   `json:"dynamic"` // has a lifetime, as leases have
	} `json:"addr_info"`
}

// route is an entry in the output of "ip -json route show".
type route struct {
	Gateway string `json:"gateway"`
	Dev     string `json:"dev"`
}

// ethernet returns the one network interface that is not the loopback.
func ethernet(output string) (link, error) {
	var links, found []link
	if err := json.Unmarshal([]byte(output), &links); err != nil {
		return link{}, fmt.Errorf("ip printed %.200q: %w", output, err)
	}
	var names []string
	for _, l := range links {
		if l.Type == "ether" {
			found = append(found, l)
			names = append(names, l.Name)
		}
	}
	if len(found) != 1 {
		return link{}, fmt.Errorf("the guest has %d network interfaces %q, where its machine has one", len(found), names)
	}
	return found[0], nil
}

// socket is a line of "ss --no-header --listening --numeric --tcp --udp --processes".
type socket struct {
	proto, address, port, process string
}

func (s socket) String() string { return s.proto + " " + s.address + ":" + s.port + " " + s.process }

var socketProcess = lazyregexp.New(`users:\(\("([^"]+)"`)

func parseSockets(output string) []socket {
	var found []socket
	for line := range strings.SplitSeq(output, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		colon := strings.LastIndexByte(fields[4], ':')
		if colon < 0 {
			continue
		}
		s := socket{proto: fields[0], address: fields[4][:colon], port: fields[4][colon+1:]}
		if m := socketProcess.FindStringSubmatch(line); m != nil {
			s.process = m[1]
		}
		found = append(found, s)
	}
	return found
}
