package vm

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"libvirt.org/go/libvirtxml"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// EnsureNAT makes, where there is none of the name, a libvirt network behind NAT with the addresses of a subnet, and the
// filter for its ports. It returns what joins a domain to both. An operator who has defined the network keeps it as it is,
// with the addresses that it has; the filter is always ours.
func (n *Node) EnsureNAT(ctx context.Context, name, filter, subnet string) (Attachment, error) {
	prefix, err := ParseSubnet(subnet)
	if err != nil {
		return Attachment{}, err
	}
	if err := n.conn.ensureFilter(ctx, filter, filterXML); err != nil {
		return Attachment{}, err
	}
	text, err := natXML(name, prefix)
	if err != nil {
		return Attachment{}, err
	}
	is, err := n.conn.ensureNetwork(ctx, name, text)
	if err != nil {
		return Attachment{}, err
	}
	gateway, err := gatewayOf(is)
	if err != nil {
		return Attachment{}, fault.WithHint(fault.Outsidef("libvirt's network %q: %w", name, err),
			"give it an <ip>, or remove it: then one behind NAT is made")
	}
	return Attachment{Network: name, Filter: filter, Gateway: gateway}, nil
}

// benchmarks is the block for benchmarks of networks (RFC 2544), which nobody routes: private addresses could be somebody's.
// The filter forbids guests all of both.
var benchmarks = netip.MustParsePrefix("198.18.0.0/15")

// Bounds of a subnet: it has addresses for a few guests, and leaves some to other networks.
const (
	widestSubnet   = 16
	narrowestMask  = 28
	subnetExamples = "198.18.0.0/22 or 10.99.0.0/24"
)

// ParseSubnet reads the addresses that a network behind NAT may have.
func ParseSubnet(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil || !p.Addr().Is4():
		return p, fault.Inputf("%q is no IPv4 subnet such as %s", text, subnetExamples)
	case p != p.Masked():
		return p, fault.Inputf("%q is an address in a subnet: the subnet is %v", text, p.Masked())
	case p.Bits() < widestSubnet || p.Bits() > narrowestMask:
		return p, fault.Inputf("%q is not between a /%d and a /%d", text, widestSubnet, narrowestMask)
	case !p.Addr().IsPrivate() && !p.Overlaps(benchmarks):
		return p, fault.Inputf("%q is neither private nor for benchmarks (%v), so it may be somebody's on the Internet", text, benchmarks)
	}
	return p, nil
}

// natXML gives the first address of the subnet to this host, and by DHCP the others to guests.
func natXML(name string, subnet netip.Prefix) (string, error) {
	gateway := subnet.Addr().Next()
	mask := net.CIDRMask(subnet.Bits(), 32)
	last := subnet.Addr().As4()
	for i := range last {
		last[i] |= ^mask[i]
	}
	pool := libvirtxml.NetworkDHCPRange{Start: gateway.Next().String(), End: netip.AddrFrom4(last).Prev().String()}
	x := libvirtxml.Network{
		Name:    name,
		Forward: &libvirtxml.NetworkForward{Mode: "nat"},
		Bridge:  &libvirtxml.NetworkBridge{STP: "off", Delay: "0"},
		IPs: []libvirtxml.NetworkIP{{
			Address: gateway.String(), Netmask: net.IP(mask).String(),
			DHCP: &libvirtxml.NetworkDHCP{Ranges: []libvirtxml.NetworkDHCPRange{pool}},
		}},
		// dnsmasq would ping an address for three seconds before it offers it: the ports are isolated, nobody there can have taken it.
		DnsmasqOptions: &libvirtxml.NetworkDnsmasqOptions{Option: []libvirtxml.NetworkDnsmasqOption{{Value: "no-ping"}}},
	}
	return x.Marshal()
}

// gatewayOf returns the address of this host in a network, where guests find DHCP and name server: of several, the one with
// DHCP.
func gatewayOf(text string) (string, error) {
	var x libvirtxml.Network
	if err := x.Unmarshal(text); err != nil {
		return "", err
	}
	gateway := ""
	for _, ip := range x.IPs {
		a, err := netip.ParseAddr(ip.Address)
		if err == nil && a.Is4() && (gateway == "" || ip.DHCP != nil) {
			gateway = ip.Address
		}
	}
	if gateway == "" {
		return "", errors.New("this host has no IPv4 address in it, so the filter cannot let guests reach its DHCP and name server alone")
	}
	return gateway, nil
}

// forbiddenNetworks are where a job has no business: private, shared, link-local (RFC 6890), this host, multicast and what
// is reserved.
var forbiddenNetworks = [][2]string{
	{"0.0.0.0", "8"}, {"10.0.0.0", "8"}, {"100.64.0.0", "10"}, {"127.0.0.0", "8"}, {"169.254.0.0", "16"}, {"172.16.0.0", "12"},
	{"192.0.0.0", "24"}, {"192.168.0.0", "16"}, {"198.18.0.0", "15"}, {"224.0.0.0", "3"},
}

// filterXML lets a guest speak for itself alone, to the name server and the DHCP server of its network and to the Internet.
// All its rules are of the link layer: those of IP layer, of iptables, see what comes from a bridge only where the host
// has loaded br_netfilter.
//
// What it says of $IP, libvirt fills in with what DHCP gave the guest, until when it lets DHCP through and nothing else.
// $DHCPSERVER and $HOST are the port's own: one filter serves all networks.
//
// uuid is that of the filter of this name, if there is one already.
func filterXML(name, uuid string) (string, error) {
	rules := []libvirtxml.NWFilterRule{
		{Action: "drop", MAC: &libvirtxml.NWFilterRuleMAC{Match: "no", NWFilterRuleCommonMAC: libvirtxml.NWFilterRuleCommonMAC{SrcMACAddr: variable("MAC")}}},
		{Action: "drop", ARP: &libvirtxml.NWFilterRuleARP{Match: "no", ARPSrcMACAddr: variable("MAC")}},
		{Action: "drop", ARP: &libvirtxml.NWFilterRuleARP{Match: "no", ARPSrcIPAddr: variable("IP")}},
		{Action: "accept", MAC: &libvirtxml.NWFilterRuleMAC{ProtocolID: text("arp")}},
		{Action: "accept", IP: &libvirtxml.NWFilterRuleIP{SrcIPAddr: text("0.0.0.0"), Protocol: text("udp"), NWFilterRuleCommonPort: ports(68, 67)}},
		{Action: "drop", IP: &libvirtxml.NWFilterRuleIP{Match: "no", SrcIPAddr: variable("IP")}},
	}
	for _, service := range []struct {
		protocol string
		port     uint
	}{{"udp", 53}, {"tcp", 53}, {"udp", 67}} {
		rules = append(rules, libvirtxml.NWFilterRule{Action: "accept", IP: &libvirtxml.NWFilterRuleIP{
			DstIPAddr: variable("DHCPSERVER"), Protocol: text(service.protocol), NWFilterRuleCommonPort: ports(0, service.port),
		}})
	}
	for _, network := range forbiddenNetworks {
		rules = append(rules, libvirtxml.NWFilterRule{Action: "drop", IP: &libvirtxml.NWFilterRuleIP{DstIPAddr: text(network[0]), DstIPMask: text(network[1])}})
	}
	rules = append(rules,
		libvirtxml.NWFilterRule{Action: "drop", IP: &libvirtxml.NWFilterRuleIP{DstIPAddr: variable("HOST")}},
		libvirtxml.NWFilterRule{Action: "accept", MAC: &libvirtxml.NWFilterRuleMAC{ProtocolID: text("ipv4")}},
		libvirtxml.NWFilterRule{Action: "drop", MAC: &libvirtxml.NWFilterRuleMAC{}}, // IPv6, VLANs and what else there is
	)
	f := libvirtxml.NWFilter{Name: name, UUID: uuid, Chain: "root"}
	for i := range rules {
		rules[i].Direction, rules[i].Priority = "out", -900+10*i // in this order
		f.Entries = append(f.Entries, libvirtxml.NWFilterEntry{Rule: &rules[i]})
	}
	return f.Marshal()
}

// variable is not a field's Var, of which libvirtxml writes the dollar sign alone.
func variable(name string) libvirtxml.NWFilterField { return text("$" + name) }
func text(value string) libvirtxml.NWFilterField    { return libvirtxml.NWFilterField{Str: value} }

// ports of source and destination; 0 is any.
func ports(from, to uint) libvirtxml.NWFilterRuleCommonPort {
	p := libvirtxml.NWFilterRuleCommonPort{DstPortStart: libvirtxml.NWFilterField{Uint: &to}}
	if from != 0 {
		p.SrcPortStart = libvirtxml.NWFilterField{Uint: &from}
	}
	return p
}
