package boot

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// judgeCloudInit shows what cloud-init calls recoverable, such as a deprecated key, and fails where it was an error.
func judgeCloudInit(o *observation) verdict {
	stages, err := parseCloudStatus(o.out("cloud_status"))
	if err != nil {
		return failed("%v", err)
	}
	var bad, told []string
	for _, name := range cloudStages {
		s := stages[name]
		if s.Finished == nil {
			bad = append(bad, name+" did not finish")
		}
		for _, e := range s.Errors {
			bad = append(bad, name+": "+e)
		}
		for _, level := range slices.Sorted(maps.Keys(s.Recoverable)) {
			for _, m := range s.Recoverable[level] {
				told = append(told, name+": "+level+": "+m)
				if level == "ERROR" || level == "CRITICAL" {
					bad = append(bad, m)
				}
			}
		}
	}
	log := o.probes["cloud_init_log"]
	if log.exit != 0 {
		bad = append(bad, "cloud-init.log: "+log.out)
	}
	if len(bad) > 0 {
		return failed("%s", strings.Join(append(bad, told...), "\n"))
	}
	return passed("%s", strings.Join(append([]string{"every stage finished"}, told...), "\n"))
}

func judgeDatasource(o *observation) verdict {
	var result struct {
		V1 struct {
			Datasource string   `json:"datasource"`
			Errors     []string `json:"errors"`
		} `json:"v1"`
	}
	if err := json.Unmarshal([]byte(o.out("cloud_result")), &result); err != nil {
		return failed("/run/cloud-init/result.json: %v: %s", err, o.out("cloud_result"))
	}
	if !strings.HasPrefix(result.V1.Datasource, "DataSourceNoCloud ") {
		return failed("cloud-init read %q, where the VM has a NoCloud seed", result.V1.Datasource)
	}
	return passed("%s", result.V1.Datasource)
}

func judgeSchema(o *observation) verdict {
	p := o.probes["schema"]
	if p.exit != 0 || strings.Contains(p.out, "Invalid") {
		return failed("cloud-init schema --system exits with %d: %s", p.exit, p.out)
	}
	return passed("%s", p.out)
}

func judgeUserData(o *observation) verdict {
	marker := o.seed.marker
	written := strings.Split(o.out("written"), "\n")
	switch {
	case written[0] != marker:
		return failed("%s holds %q, where write_files put %q", writtenPath, written[0], marker)
	case len(written) < 2 || written[1] != "640 root:root":
		return failed("%s is %q, where write_files asked for 640 root:root", writtenPath, written[1:])
	case o.out("ran") != marker:
		return failed("%s holds %q, where runcmd put %q", ranPath, o.out("ran"), marker)
	}
	return passed("%s and %s hold this run's marker %s", writtenPath, ranPath, marker)
}

func judgeHostname(o *observation) verdict {
	want := o.seed.hostname + "\n" + o.seed.fqdn()
	if o.vendor() == "nocloud" {
		want = o.out("hostname") // nobody gives such an image a name: it only has to keep the one that it took
	}
	if got := o.out("hostname"); got != want || got == "" {
		return failed("host name and FQDN are %q, where the seed says %q", got, want)
	}
	again, rebooted := o.probes["again/hostname"]
	switch {
	case rebooted && again.out != want:
		return failed("host name and FQDN %q became %q by a reboot", want, again.out)
	case !rebooted && o.fault != nil:
		return skipped("%q at the first boot; the second was not reached", want)
	case !rebooted:
		return passed("%q; this VM was not rebooted", want)
	}
	return passed("%q, also after the reboot", want)
}

// judgeHosts wants localhost on both loopback addresses, this host's name on one, and no name on any other address.
func judgeHosts(o *observation) verdict {
	names := map[string][]string{}
	for line := range strings.SplitSeq(o.out("hosts"), "\n") {
		line, _, _ = strings.Cut(line, "#")
		if f := strings.Fields(line); len(f) > 1 {
			names[f[0]] = append(names[f[0]], f[1:]...)
		}
	}
	if !slices.Contains(names["127.0.0.1"], "localhost") {
		return failed("127.0.0.1 is not localhost:\n%s", o.out("hosts"))
	}
	if !slices.Contains(names["::1"], "localhost") {
		return failed("::1 is not localhost:\n%s", o.out("hosts"))
	}
	for address := range names {
		if !strings.HasPrefix(address, "127.") && !isLocal6(address) {
			return failed("%s is in /etc/hosts, which came with the image:\n%s", address, o.out("hosts"))
		}
	}
	host := firstLine(o.out("hostname"))
	if o.vendor() != "nocloud" && !slices.Contains(names["127.0.1.1"], host) {
		return failed("127.0.1.1 is not %s:\n%s", host, o.out("hosts"))
	}
	return passed("localhost %v %v, this host %v", names["127.0.0.1"], names["::1"], names["127.0.1.1"])
}

// isLocal6 tells the loopback address and the prefixes that Debian's default /etc/hosts names.
func isLocal6(address string) bool {
	return slices.Contains([]string{"::1", "fe00::0", "ff00::0", "ff02::1", "ff02::2", "ff02::3"}, address)
}
