package boot

import (
	"encoding/json"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
	"salsa.debian.org/cloud-team/debcloud/internal/usernet"
)

// resolvable is a name that the test's network answers for, with its own address.
const resolvable = "resolvable." + domainName

func judgeNetwork(o *observation) verdict {
	l, err := ethernet(o.out("addresses"))
	if err != nil {
		return failed("%v", err)
	}
	var routes, routes6 []route
	if err := json.Unmarshal([]byte(o.out("routes")), &routes); err != nil {
		return failed("ip route: %v: %s", err, o.out("routes"))
	}
	if out := o.out("routes6"); out != "" {
		if err := json.Unmarshal([]byte(out), &routes6); err != nil {
			return failed("ip -6 route: %v: %s", err, out)
		}
	}
	leased, announced := "", ""
	for _, a := range l.Addresses {
		address, err := netip.ParseAddr(a.Local)
		switch {
		case err == nil && address == usernet.Guest && a.Dynamic:
			leased = a.Local
		case err == nil && usernet.Prefix6.Contains(address):
			announced = a.Local
		}
	}
	switch {
	case leased == "":
		return failed("%s did not take the address %s that DHCP offers: %s", l.Name, usernet.Guest, o.out("addresses"))
	case announced == "":
		return failed("%s made itself no address in the prefix %s that is announced: %s", l.Name, usernet.Prefix6, o.out("addresses"))
	case l.MTU != usernet.MTU:
		return failed("%s has an MTU of %d, where the network's is %d", l.Name, l.MTU, usernet.MTU)
	case len(routes) != 1 || routes[0].Gateway != usernet.Gateway.String():
		return failed("the IPv4 default route should go through %s: %s", usernet.Gateway, o.out("routes"))
	case len(routes6) != 1 || routes6[0].Dev != l.Name:
		return failed("there should be one IPv6 default route, the announced one: %s", o.out("routes6"))
	}
	return passed("%s has %s by DHCP and %s by announcement, MTU %d, default routes through %s and %s",
		l.Name, leased, announced, l.MTU, routes[0].Gateway, routes6[0].Gateway)
}

func judgeDNS(o *observation) verdict {
	p := o.probes["resolve"]
	if p.exit != 0 || !strings.HasPrefix(p.out, usernet.Gateway.String()+" ") {
		return failed("%s should resolve to %s: exit code %d, %s\n%s", resolvable, usernet.Gateway, p.exit, p.out, o.out("resolver"))
	}
	return passed("%s is %s", resolvable, usernet.Gateway)
}

// kernelName matches what the kernel calls an interface before udev gives it a predictable name (systemd.net-naming-scheme(7)).
var kernelName = lazyregexp.New(`^(eth|wlan|usb)\d+$`)

func judgeInterfaceName(o *observation) verdict {
	l, err := ethernet(o.out("addresses"))
	if err != nil {
		return failed("%v", err)
	}
	if kernelName.MatchString(l.Name) {
		return failed("the interface is called %s, which depends on the order of discovery; kernel command line: %s", l.Name, o.out("cmdline"))
	}
	return passed("%s", l.Name)
}

// listeners may listen on any address, and any process on the loopback ones.
var listeners = []struct{ proto, port, process string }{
	{"tcp", "22", "sshd"},
	{"tcp", "22", "systemd"},           // socket activation
	{"udp", "68", "systemd-network"},   // DHCP, client side; ss prints 15 letters
	{"udp", "5355", "systemd-resolve"}, // LLMNR (RFC 4795), on in Debian's systemd-resolved
	{"tcp", "5355", "systemd-resolve"},
	{"udp", "546", "systemd-network"}, // DHCPv6, client side
	{"udp", "68", "dhclient"},
	{"udp", "68", "dhcpcd"},
	{"udp", "546", "dhcpcd"},
}

func judgeSockets(o *observation) verdict {
	var good, bad []string
	for _, s := range parseSockets(o.out("sockets")) {
		if isExpected(s) {
			good = append(good, s.String())
		} else {
			bad = append(bad, s.String())
		}
	}
	if len(bad) > 0 {
		return failed("these listen and are not on the list: %s", strings.Join(bad, ", "))
	}
	return passed("%s", strings.Join(good, ", "))
}

func isExpected(s socket) bool {
	address, _, _ := strings.Cut(strings.Trim(s.address, "[]"), "%")
	if strings.HasPrefix(address, "127.") || address == "::1" {
		return true
	}
	return slices.ContainsFunc(listeners, func(l struct{ proto, port, process string }) bool {
		return l.proto == s.proto && l.port == s.port && l.process == s.process
	})
}

// timeDaemons are systemd's unit and the FAI class that asks for it.
var timeDaemons = map[string]string{"TIME_CHRONY": "chrony", "TIME_SYSTEMD": "systemd-timesyncd"}

func judgeTimeSource(o *observation) verdict {
	units := properties(o.out("time_source"))
	var wanted string
	for class, daemon := range timeDaemons {
		if slices.Contains(o.build.Data.Classes, class) {
			wanted = daemon
		}
	}
	var active []string
	for _, daemon := range timeDaemons {
		if units[daemon+".service"]["ActiveState"] == "active" {
			active = append(active, daemon)
		}
	}
	slices.Sort(active)
	switch {
	case len(active) != 1:
		return failed("one of chrony and systemd-timesyncd should run; running: %q", active)
	case wanted != "" && active[0] != wanted:
		return failed("%s runs, where the image's classes ask for %s", active[0], wanted)
	case active[0] == "chrony" && !strings.Contains(o.out("time_source"), "\nchrony "):
		return failed("chrony runs and has no source")
	}
	sources := configured(o.out("time_source"), strings.TrimPrefix(active[0], "systemd-"))
	if sources == "" {
		sources = "the sources that are compiled in, and those of DHCP"
	}
	return passed("%s, with %s", active[0], sources)
}

// configured returns the lines that the probe printed for a daemon.
func configured(output, daemon string) string {
	var found []string
	for line := range strings.SplitSeq(output, "\n") {
		if rest, ok := strings.CutPrefix(line, daemon+" "); ok {
			found = append(found, rest)
		}
	}
	return strings.Join(found, ", ")
}

// releaseURI is how "apt-get --print-uris update" names the release file of a suite.
var releaseURI = lazyregexp.New(`^'([^']+?)/dists/([^']+)/InRelease'`)

// parseSources reads the probe "sources": the suites, and the URLs of the mirrors, also where they stand in a list of mirrors.
func parseSources(output string) (suites, mirrors []string) {
	for line := range strings.SplitSeq(output, "\n") {
		if m := releaseURI.FindStringSubmatch(line); m != nil {
			suites = append(suites, m[2])
			if !strings.HasPrefix(m[1], "mirror") {
				mirrors = append(mirrors, m[1])
			}
			continue
		}
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[0], "/") { // FILE URL [priority]
			mirrors = append(mirrors, f[1])
		}
	}
	slices.Sort(mirrors)
	return suites, slices.Compact(mirrors)
}

// mirrorAddresses returns what the guest must reach, as host:port, each once.
func mirrorAddresses(mirrors []string) []string {
	var found []string
	for _, m := range mirrors {
		u, err := url.Parse(m)
		if err != nil || u.Hostname() == "" {
			continue
		}
		port := u.Port()
		switch {
		case port == "" && u.Scheme == "https":
			port = "443"
		case port == "":
			port = "80"
		}
		found = append(found, u.Hostname()+":"+port)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// mirrorUnreachable begins the evidence where the image is not to blame.
const mirrorUnreachable = "the mirror is unreachable from here"

func judgeApt(o *observation) verdict {
	suites, mirrors := parseSources(o.out("sources"))
	wanted := wantedSuites(o.build.Data.Info.Release)
	for _, suite := range wanted {
		if !slices.Contains(suites, suite) {
			return failed("the image's sources lack %s:\n%s", suite, o.out("sources"))
		}
	}
	if o.outside != nil {
		return failed("%s: %v", mirrorUnreachable, o.outside)
	}
	if p := o.probes["update"]; p.exit != 0 {
		return failed("apt-get update exits with %d: %s", p.exit, p.out)
	}
	keys := signedSuites(o.out("source_files"))
	for _, suite := range wanted {
		switch {
		case !slices.Contains(strings.Split(o.out("indexes"), "\n"), suite+" main"):
			return failed("%s main was not fetched:\n%s", suite, o.out("indexes"))
		case !keys[suite]:
			return failed("%s has no Signed-By:\n%s", suite, o.out("source_files"))
		}
	}
	return passed("%s, each with Signed-By, from %s", strings.Join(wanted, ", "), strings.Join(mirrors, ", "))
}

// optionalKey matches a source in one line (sources.list(5)), with its options and suite.
var optionalKey = lazyregexp.New(`^deb\s+\[([^]]*)\]\s+\S+\s+(\S+)`)

// signedSuites reads the probe "source_files", both formats of sources.list(5): the suites that name their key.
func signedSuites(output string) map[string]bool {
	signed := map[string]bool{}
	for file := range strings.SplitSeq("\n"+output, "\n== ") {
		for stanza := range strings.SplitSeq(file, "\n\n") {
			var suites []string
			key := false
			for line := range strings.SplitSeq(stanza, "\n") {
				if m := optionalKey.FindStringSubmatch(line); m != nil && strings.Contains(m[1], "signed-by=") {
					signed[m[2]] = true
				}
				name, value, _ := strings.Cut(line, ":")
				switch strings.ToLower(name) {
				case "suites":
					suites = strings.Fields(value)
				case "signed-by":
					key = true
				}
			}
			for _, suite := range suites {
				signed[suite] = signed[suite] || key
			}
		}
	}
	return signed
}

// wantedSuites returns the suites of a release; sid has no others.
func wantedSuites(release string) []string {
	base := strings.TrimSuffix(release, "-backports")
	if base == "sid" {
		return []string{base}
	}
	return []string{base, base + "-updates", base + "-security", base + "-backports"}
}

func judgeUpgrades(o *observation) verdict {
	out := o.out("upgrades")
	installed := strings.Contains(out, "unattended-upgrades installed")
	enabled := installed && strings.Contains(out, `APT::Periodic::Unattended-Upgrade "1"`)
	if o.vendor() == "nocloud" {
		if enabled {
			return failed("a nocloud image upgrades nothing unattended, but this does:\n%s", out)
		}
		return passed("none, as is nocloud's policy")
	}
	if !enabled || !strings.Contains(out, `APT::Periodic::Update-Package-Lists "1"`) {
		return failed("unattended upgrades are not enabled:\n%s", out)
	}
	timers := properties(out[strings.Index(out, "\n")+1:])
	for _, name := range []string{"apt-daily.timer", "apt-daily-upgrade.timer"} {
		t := timers[name]
		if t["UnitFileState"] != "enabled" || t["RandomizedDelayUSec"] == "" || t["RandomizedDelayUSec"] == "0" || t["TimersMonotonic"] != "" {
			return failed("%s should be enabled, by the calendar, and randomised: %v", name, t)
		}
	}
	for name, unit := range properties(o.out("at_boot")) {
		if at := unit["ExecMainStartTimestampMonotonic"]; at != "0" && at != "" {
			return failed("%s ran at boot, %s µs after its start", name, at)
		}
	}
	return passed("enabled; %s, %s", delayOf(timers, "apt-daily.timer"), delayOf(timers, "apt-daily-upgrade.timer"))
}

func delayOf(timers map[string]map[string]string, name string) string {
	return name + " within " + timers[name]["RandomizedDelayUSec"]
}
