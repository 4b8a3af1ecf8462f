package usernet

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// gVisor's stack is a host: a router's one duty that guests rely on, to announce itself (RFC 4861), is here.

func isRouterSolicitation(frame []byte) bool {
	const start = header.EthernetMinimumSize
	return len(frame) > start+header.IPv6MinimumSize &&
		header.Ethernet(frame).Type() == header.IPv6ProtocolNumber &&
		frame[start+6] == uint8(header.ICMPv6ProtocolNumber) &&
		frame[start+header.IPv6MinimumSize] == uint8(header.ICMPv6RouterSolicit)
}

// routerAdvertisement is a frame to all nodes: a default router, a prefix in which each node chooses its address, and
// the MTU. It names no DNS server and no DHCPv6: both come by DHCP.
func routerAdvertisement() []byte {
	message := make([]byte, 16, 64)
	message[0] = uint8(header.ICMPv6RouterAdvert)
	message[4] = 64                                   // hop limit
	binary.BigEndian.PutUint16(message[6:], 9000)     // seconds as a default router, the most there is
	message = append(message, 1, 1)                   // option: source link-layer address
	message = append(message, []byte(gatewayMAC)...)  //
	message = append(message, 5, 1, 0, 0, 0, 0, 0, 0) // option: MTU
	binary.BigEndian.PutUint32(message[len(message)-4:], MTU)
	message = append(message, 3, 4, uint8(Prefix6.Bits()), 0xc0) // option: prefix, on-link, for autoconfiguration
	message = binary.BigEndian.AppendUint32(message, 86400)      // valid
	message = binary.BigEndian.AppendUint32(message, 86400)      // preferred
	message = binary.BigEndian.AppendUint32(message, 0)
	message = append(message, Prefix6.Addr().AsSlice()...)

	source, all := address(gateway6), header.IPv6AllNodesMulticastAddress
	sum := header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, source, all, uint16(len(message)))
	binary.BigEndian.PutUint16(message[2:], ^checksum.Checksum(message, sum))
	return ethernetIPv6(source, all, message)
}

// ethernetIPv6 puts the headers before an ICMPv6 message to a multicast address. Hop limit 255 proves that it comes from this link.
func ethernetIPv6(source, destination tcpip.Address, message []byte) []byte {
	frame := make([]byte, header.EthernetMinimumSize+header.IPv6MinimumSize, header.EthernetMinimumSize+header.IPv6MinimumSize+len(message))
	header.Ethernet(frame).Encode(&header.EthernetFields{
		SrcAddr: gatewayMAC,
		DstAddr: header.EthernetAddressFromMulticastIPv6Address(destination),
		Type:    header.IPv6ProtocolNumber,
	})
	header.IPv6(frame[header.EthernetMinimumSize:]).Encode(&header.IPv6Fields{
		PayloadLength:     uint16(len(message)),
		TransportProtocol: header.ICMPv6ProtocolNumber,
		HopLimit:          255,
		SrcAddr:           source,
		DstAddr:           destination,
	})
	return append(frame, message...)
}
