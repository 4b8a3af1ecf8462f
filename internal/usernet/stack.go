package usernet

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"salsa.debian.org/cloud-team/debcloud/internal/loopback"
)

// gatewayMAC is a locally administered address.
const gatewayMAC tcpip.LinkAddress = "\x52\x54\x00\xdc\x00\x01"

// newStack makes a router of one leg: what is addressed to one of its addresses reaches the process, for the rest it answers
// that the network is unreachable, so that the guest need not wait.
func newStack(l *link) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	sack := tcpip.TCPSACKEnabled(true)
	_ = s.SetTransportProtocolOption(tcp.ProtocolNumber, &sack)
	if err := s.CreateNIC(nic, ethernet.New(l.queue)); err != nil {
		return s, errors.New(err.String())
	}
	for _, p := range []tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber, ipv6.ProtocolNumber} {
		if err := s.SetForwardingDefaultAndAllNICs(p, true); err != nil {
			return s, errors.New(err.String())
		}
	}
	var routes []tcpip.Route
	for _, p := range []netip.Prefix{subnet, Prefix6, netip.MustParsePrefix("fe80::/64")} {
		destination, err := tcpip.NewSubnet(address(p.Addr()), tcpip.MaskFromBytes(net.CIDRMask(p.Bits(), p.Addr().BitLen())))
		if err != nil {
			return s, err
		}
		routes = append(routes, tcpip.Route{Destination: destination, NIC: nic})
	}
	s.SetRouteTable(routes)
	for _, p := range []netip.Prefix{
		netip.PrefixFrom(Gateway, subnet.Bits()),
		netip.PrefixFrom(gateway6, 64),
		netip.PrefixFrom(Prefix6.Addr().Next(), 64),
	} {
		if err := addAddress(s, p, true); err != nil {
			return s, err
		}
	}
	return s, nil
}

// addAddress makes the stack answer on an address. Only primary addresses are ever the source of its own connections.
func addAddress(s *stack.Stack, p netip.Prefix, primary bool) error {
	properties := stack.AddressProperties{PEB: stack.NeverPrimaryEndpoint}
	if primary {
		properties.PEB = stack.CanBePrimaryEndpoint
	}
	err := s.AddProtocolAddress(nic, tcpip.ProtocolAddress{
		Protocol:          protocolOf(p.Addr()),
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: address(p.Addr()), PrefixLen: p.Bits()},
	}, properties)
	if _, duplicate := err.(*tcpip.ErrDuplicateAddress); err != nil && !duplicate {
		return fmt.Errorf("address %s: %s", p, err)
	}
	return nil
}

// own makes an address one of the gateway's, so that the process can listen on it.
func (n *Network) own(addr string) (netip.AddrPort, error) {
	at, err := endpoint(addr, Gateway)
	if err != nil {
		return at, err
	}
	return at, addAddress(n.stack, netip.PrefixFrom(at.Addr(), at.Addr().BitLen()), false)
}

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func full(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: address(a.Addr()), Port: a.Port()}
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is6() {
		return ipv6.ProtocolNumber
	}
	return ipv4.ProtocolNumber
}

// link carries Ethernet frames between the stack and QEMU's socket netdev: each is preceded by its length in four bytes, most
// significant first (qemu, net/socket.c).
type link struct {
	n        *Network
	listener net.Listener
	queue    *channel.Endpoint

	mu     sync.Mutex
	conn   net.Conn
	closed bool
}

func listenForGuest(n *Network) (*link, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &link{n: n, listener: l, queue: channel.New(1024, MTU+header.EthernetMinimumSize, gatewayMAC)}, nil
}

// accept serves one QEMU after another: the network has one guest.
func (l *link) accept() {
	for {
		conn, err := loopback.Accept(l.listener, l.n.config.User)
		if err != nil || !l.hold(conn) {
			return
		}
		ctx, cancel := context.WithCancel(l.n.ctx)
		var sender sync.WaitGroup
		sender.Go(func() { l.send(ctx, conn) })
		err = l.receive(conn)
		cancel()
		_ = conn.Close()
		sender.Wait()
		slog.DebugContext(l.n.ctx, "guest left its network", "reason", err)
	}
}

// hold keeps the connection where close finds it.
func (l *link) hold(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = conn.Close()
		return false
	}
	l.conn = conn
	return true
}

// maxFrame is more than QEMU sends: its buffer is 68 KiB.
const maxFrame = 128 << 10

func (l *link) receive(conn net.Conn) error {
	var size [4]byte
	for {
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return err
		}
		length := binary.BigEndian.Uint32(size[:])
		if length > maxFrame {
			return fmt.Errorf("frame of %d bytes", length)
		}
		frame := make([]byte, length)
		if _, err := io.ReadFull(conn, frame); err != nil {
			return err
		}
		if len(frame) < header.EthernetMinimumSize {
			continue
		}
		if isRouterSolicitation(frame) {
			l.transmit(routerAdvertisement())
		}
		p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
		l.queue.InjectInbound(0, p) // the Ethernet layer reads the protocol
		p.DecRef()
	}
}

// send takes what the stack has queued to QEMU, in one write each.
func (l *link) send(ctx context.Context, conn net.Conn) {
	var frame []byte
	for {
		p := l.queue.ReadContext(ctx)
		if p == nil {
			return
		}
		frame = append(frame[:0], 0, 0, 0, 0)
		for _, part := range p.AsSlices() {
			frame = append(frame, part...)
		}
		p.DecRef()
		binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
		if _, err := conn.Write(frame); err != nil {
			_ = conn.Close() // ends receive too
			return
		}
	}
}

// transmit queues a whole frame that does not come from the stack.
func (l *link) transmit(frame []byte) {
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	defer p.DecRef()
	var list stack.PacketBufferList
	list.PushBack(p)
	_, _ = l.queue.WritePackets(list)
}

func (l *link) close() {
	_ = l.listener.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.conn != nil {
		_ = l.conn.Close()
	}
	l.queue.Close()
}
