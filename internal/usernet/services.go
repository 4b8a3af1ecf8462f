package usernet

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/miekg/dns"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Allow lets the guest reach one more destination, "host:port" (TCP), as Config.Allow does. It dials once before: an
// error of kind Outside says that this machine itself cannot reach the destination.
func (n *Network) Allow(ctx context.Context, destination string) error {
	d := net.Dialer{Timeout: 30 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", destination)
	if err != nil {
		return fault.Outsidef("%s cannot be reached from this machine: %w", destination, err)
	}
	_ = conn.Close()
	return n.open(destination)
}

// open gives the destination's name an address of this network and forwards its port through the host. An IP address is
// taken over as it is. What is open already stays so.
func (n *Network) open(destination string) error {
	host, port, err := net.SplitHostPort(destination)
	if _, err2 := strconv.ParseUint(port, 10, 16); err != nil || err2 != nil || host == "" {
		return fault.Inputf("allowed destination %q is not a host and a port", destination)
	}
	n.naming.Lock()
	defer n.naming.Unlock()
	if n.opened[destination] {
		return nil
	}
	at, err := netip.ParseAddr(host)
	if err != nil {
		known := false
		if at, known = n.names[canonical(host)]; !known {
			at, n.next = n.next, n.next.Next()
			n.names[canonical(host)] = at
		}
	}
	l, err := n.Listen("tcp", net.JoinHostPort(at.String(), port))
	if err != nil {
		return err
	}
	n.opened[destination] = true
	n.start(func() { n.forward(l, destination) })
	return nil
}

// canonical is a name as the table holds it.
func canonical(name string) string { return strings.TrimSuffix(strings.ToLower(name), ".") }

// forward joins each connection to a new one from the host to the destination.
func (n *Network) forward(l net.Listener, destination string) {
	for {
		inner, err := l.Accept()
		if err != nil {
			return
		}
		n.tasks.Go(func() {
			defer inner.Close()
			d := net.Dialer{Timeout: 30 * time.Second}
			outer, err := d.DialContext(n.ctx, "tcp", destination)
			if err != nil {
				slog.WarnContext(n.ctx, "guest's connection cannot be forwarded", "to", destination, "error", err)
				return
			}
			defer outer.Close()
			join(n.ctx, inner, outer)
		})
	}
}

// join copies both ways until both sides have ended or ctx has.
func join(ctx context.Context, a, b net.Conn) {
	stop := context.AfterFunc(ctx, func() { _, _ = a.Close(), b.Close() })
	defer stop()
	var both sync.WaitGroup
	oneWay := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
			_ = half.CloseWrite()
			return
		}
		_, _ = a.Close(), b.Close()
	}
	both.Go(func() { oneWay(a, b) })
	both.Go(func() { oneWay(b, a) })
	both.Wait()
}

// serveDHCP answers every client with the guest's address.
func (n *Network) serveDHCP() error {
	conn, err := n.broadcastSocket(dhcpv4.ServerPort)
	if err != nil {
		return err
	}
	n.tasks.Go(func() {
		buf := make([]byte, 4096)
		for {
			size, _, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			request, err := dhcpv4.FromBytes(buf[:size])
			if err != nil {
				continue
			}
			if reply := n.lease(request); reply != nil {
				_, _ = conn.WriteTo(reply.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ClientPort})
			}
		}
	})
	return nil
}

// broadcastSocket receives from and sends to clients that have no address yet.
func (n *Network) broadcastSocket(port uint16) (*gonet.UDPConn, error) {
	var queue waiter.Queue
	ep, err := n.stack.NewEndpoint(udp.ProtocolNumber, ipv4.ProtocolNumber, &queue)
	if err != nil {
		return nil, errors.New(err.String())
	}
	ep.SocketOptions().SetBroadcast(true)
	if err := ep.Bind(tcpip.FullAddress{NIC: nic, Port: port}); err != nil {
		ep.Close()
		return nil, errors.New(err.String())
	}
	conn := gonet.NewUDPConn(&queue, ep)
	n.atClose(conn.Close)
	return conn, nil
}

// lease is the answer to one DHCP message, nil where none is due.
func (n *Network) lease(request *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	answer := dhcpv4.MessageTypeAck
	switch request.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		answer = dhcpv4.MessageTypeOffer
	case dhcpv4.MessageTypeRequest:
		if asked := request.RequestedIPAddress(); asked != nil && !asked.Equal(Guest.AsSlice()) {
			answer = dhcpv4.MessageTypeNak
		}
	case dhcpv4.MessageTypeInform:
	default:
		return nil
	}
	gateway := net.IP(Gateway.AsSlice())
	options := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(answer),
		dhcpv4.WithServerIP(gateway),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(gateway)),
		dhcpv4.WithNetmask(net.CIDRMask(subnet.Bits(), 32)),
		dhcpv4.WithRouter(gateway),
		dhcpv4.WithDNS(gateway),
		dhcpv4.WithLeaseTime(24 * 60 * 60),
		dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{MTU >> 8, MTU & 0xff}),
	}
	if answer != dhcpv4.MessageTypeNak {
		options = append(options, dhcpv4.WithYourIP(Guest.AsSlice()))
	}
	if n.config.Hostname != "" {
		options = append(options, dhcpv4.WithOption(dhcpv4.OptHostName(n.config.Hostname)))
	}
	if n.config.Domain != "" {
		options = append(options, dhcpv4.WithOption(dhcpv4.OptDomainName(n.config.Domain)))
	}
	if n.config.NTP.IsValid() {
		options = append(options, dhcpv4.WithOption(dhcpv4.OptNTPServers(n.config.NTP.AsSlice())))
	}
	reply, err := dhcpv4.NewReplyFromRequest(request, options...)
	if err != nil {
		return nil
	}
	return reply
}

// serveDNS answers for the network's own names; no other exists.
func (n *Network) serveDNS() error {
	address := netip.AddrPortFrom(Gateway, 53).String()
	packets, err := n.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	streams, err := n.Listen("tcp", address)
	if err != nil {
		return err
	}
	for _, s := range []*dns.Server{{PacketConn: packets}, {Listener: streams}} {
		s.Handler = dns.HandlerFunc(n.resolve)
		n.tasks.Go(func() { _ = s.ActivateAndServe() })
		n.atClose(s.Shutdown)
	}
	return nil
}

func (n *Network) resolve(w dns.ResponseWriter, request *dns.Msg) {
	reply := new(dns.Msg)
	reply.SetReply(request)
	reply.Authoritative, reply.RecursionAvailable = true, true
	for _, q := range request.Question {
		n.naming.Lock()
		addr, known := n.names[canonical(q.Name)]
		n.naming.Unlock()
		if !known {
			reply.Rcode = dns.RcodeNameError
			slog.DebugContext(n.ctx, "guest asked for a name outside its network", "name", q.Name)
			continue
		}
		head := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 60}
		switch {
		case q.Qtype == dns.TypeA && addr.Is4():
			reply.Answer = append(reply.Answer, &dns.A{Hdr: head, A: addr.AsSlice()})
		case q.Qtype == dns.TypeAAAA && addr.Is6():
			reply.Answer = append(reply.Answer, &dns.AAAA{Hdr: head, AAAA: addr.AsSlice()})
		}
	}
	_ = w.WriteMsg(reply)
}
