package vm

import (
	"context"

	"libvirt.org/go/libvirtxml"
)

// EnsureNAT makes, where there is none of the name, a libvirt network behind NAT, and the filter for its ports. An operator
// who has defined the network keeps it as it is; the filter is always ours.
func (n *Node) EnsureNAT(ctx context.Context, name, filter string) error {
	if err := n.conn.ensureFilter(ctx, filter, filterXML); err != nil {
		return err
	}
	text, err := natXML(name)
	if err != nil {
		return err
	}
	return n.conn.ensureNetwork(ctx, name, text)
}

// The network of jobs. The addresses are from the block for benchmarks of networks (RFC 2544), which nobody routes: private
// ones could be somebody's, and the filter forbids them all.
const (
	natGateway = "198.18.0.1"
	natMask    = "255.255.252.0"
	natFirst   = "198.18.0.10"
	natLast    = "198.18.3.250"
)

func natXML(name string) (string, error) {
	x := libvirtxml.Network{
		Name:    name,
		Forward: &libvirtxml.NetworkForward{Mode: "nat"},
		Bridge:  &libvirtxml.NetworkBridge{STP: "off", Delay: "0"},
		IPs: []libvirtxml.NetworkIP{{
			Address: natGateway, Netmask: natMask,
			DHCP: &libvirtxml.NetworkDHCP{Ranges: []libvirtxml.NetworkDHCPRange{{Start: natFirst, End: natLast}}},
		}},
	}
	return x.Marshal()
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
			DstIPAddr: text(natGateway), Protocol: text(service.protocol), NWFilterRuleCommonPort: ports(0, service.port),
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
