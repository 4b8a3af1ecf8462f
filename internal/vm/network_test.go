package vm

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFilter(t *testing.T) {
	text, err := filterXML("jobs", "0123")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"srcmacaddr=\"$MAC\"", "arpsrcipaddr=\"$IP\"", "srcipaddr=\"$IP\"", "dstipaddr=\"$HOST\"", "dstipaddr=\"$DHCPSERVER\"", "dstipaddr=\"169.254.0.0\"", "<uuid>0123</uuid>"} {
		if !strings.Contains(text, part) {
			t.Errorf("the filter lacks %s: %s", part, text)
		}
	}
}

func TestParseSubnet(t *testing.T) {
	for _, row := range []struct{ text, says string }{
		{"198.18.0.0/22", ""}, {"198.19.255.240/28", ""}, {"10.99.0.0/16", ""}, {"172.31.0.0/24", ""}, {"192.168.7.0/24", ""},
		{"", `"" is no IPv4 subnet such as 198.18.0.0/22`}, {"10.0.0.0", "is no IPv4 subnet"}, {"fd00::/64", "is no IPv4 subnet"},
		{"10.0.0.1/24", "the subnet is 10.0.0.0/24"}, {"10.0.0.0/15", "is not between a /16 and a /28"}, {"10.0.0.0/29", "is not between"},
		{"192.0.2.0/24", "is neither private nor for benchmarks"}, {"100.64.0.0/16", "is neither private"}, {"172.32.0.0/16", "is neither private"},
	} {
		_, err := ParseSubnet(row.text)
		if (err == nil) != (row.says == "") || err != nil && !strings.Contains(err.Error(), row.says) {
			t.Errorf("%q: %v; want %q", row.text, err, row.says)
		}
	}
}

func TestNATXML(t *testing.T) {
	for _, row := range []struct{ subnet, address, mask, first, last string }{
		{"198.18.0.0/22", "198.18.0.1", "255.255.252.0", "198.18.0.2", "198.18.3.254"},
		{"10.7.0.16/28", "10.7.0.17", "255.255.255.240", "10.7.0.18", "10.7.0.30"},
	} {
		text, err := natXML("jobs", netip.MustParsePrefix(row.subnet))
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{fmt.Sprintf("address=%q", row.address), fmt.Sprintf("netmask=%q", row.mask), fmt.Sprintf("<range start=%q end=%q>", row.first, row.last)} {
			if !strings.Contains(text, part) {
				t.Errorf("the network of %s lacks %s: %s", row.subnet, part, text)
			}
		}
		if gateway, err := gatewayOf(text); err != nil || gateway != row.address {
			t.Errorf("its gateway is %q (%v)", gateway, err)
		}
	}
}

// An operator's network may have other addresses, or none.
func TestGatewayOf(t *testing.T) {
	for _, row := range []struct{ summary, ips, want string }{
		{"one address", "<ip address='10.1.0.1' prefix='24'/>", "10.1.0.1"},
		{"of several, the one with DHCP", "<ip address='10.1.0.1' prefix='24'/><ip family='ipv6' address='fd00::1' prefix='64'><dhcp/></ip><ip address='10.2.0.1' prefix='24'><dhcp/></ip>", "10.2.0.1"},
		{"a bridge of the host's", "", ""},
	} {
		got, err := gatewayOf("<network><name>n</name>" + row.ips + "</network>")
		if got != row.want || (err == nil) != (row.want != "") {
			t.Errorf("%s: %q, %v", row.summary, got, err)
		}
	}
}

// TestTwoNetworks runs a guest in each of two networks behind NAT, with one filter that knows the gateway of each, and one
// in a network that an operator has made.
func TestTwoNetworks(t *testing.T) {
	if _, err := exec.LookPath("dnsmasq"); err != nil {
		t.Skip("dnsmasq is not installed")
	}
	p := startPrivate(t, true)
	n := connect(t, nodeOptions(p))
	theirs := "<network><name>theirs</name><forward mode='nat'/><ip address='10.77.0.33' prefix='24'><dhcp><range start='10.77.0.50' end='10.77.0.60'/></dhcp></ip></network>"
	if _, err := n.conn.ensureNetwork(t.Context(), "theirs", theirs); err != nil {
		t.Fatal(err)
	}
	gateways := map[string]string{"trusted": "198.18.0.1", "forks": "198.18.4.1", "theirs": "10.77.0.33"}
	for name, subnet := range map[string]string{"trusted": "198.18.0.0/22", "forks": "198.18.4.0/22", "theirs": "198.18.8.0/22"} {
		a, err := n.EnsureNAT(testContext(t, time.Minute), name, "jobs", subnet)
		if err != nil {
			t.Fatal(err)
		}
		if a.Gateway != gateways[name] {
			t.Errorf("network %s has gateway %s, want %s", name, a.Gateway, gateways[name])
		}
		if conf, err := os.ReadFile(filepath.Join(p.dir, "lib", "dnsmasq", name+".conf")); err != nil || strings.Contains(string(conf), "\nno-ping\n") != (name != "theirs") {
			t.Errorf("dnsmasq of network %s pings, or not, against our will: %v\n%s", name, err, conf)
		}
		s := tinyMachine(t, "in-"+name)
		s.Network = a
		if err := n.Create(testContext(t, time.Minute), s); err != nil {
			t.Fatal(err)
		}
	}
	rules, err := exec.Command("nsenter", "--target", fmt.Sprint(p.Init()), "--net", "ebtables", "-t", "nat", "-L").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, rules)
	}
	for name, gateway := range gateways {
		if !strings.Contains(string(rules), "-d Broadcast --ip-src "+gateway+" --ip-proto udp --ip-sport 67") {
			t.Errorf("no guest of %s gets an address from %s:\n%s", name, gateway, rules)
		}
	}
}

// TestFilterThatAnotherDefines lets another process define the filter between our look and our definition.
func TestFilterThatAnotherDefines(t *testing.T) {
	o := nodeOptions(startPrivate(t, true))
	n, other := connect(t, o), connect(t, o)
	raced := false
	describe := func(name, uuid string) (string, error) {
		if !raced {
			raced = true
			if err := other.conn.ensureFilter(context.WithoutCancel(t.Context()), name, filterXML); err != nil {
				return "", err
			}
		}
		return filterXML(name, uuid)
	}
	if err := n.conn.ensureFilter(testContext(t, time.Minute), "jobs", describe); err != nil {
		t.Error(err)
	}
}
