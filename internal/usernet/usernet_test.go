package usernet

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/miekg/dns"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
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
	"gvisor.dev/gvisor/pkg/waiter"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// testGuest is a machine on a network: a stack of its own that speaks QEMU's framing.
type testGuest struct {
	stack *stack.Stack
	conn  net.Conn
	queue *channel.Endpoint
}

func newTestGuest(t *testing.T, n *Network) *testGuest {
	t.Helper()
	conn, err := net.Dial("tcp", n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	g := &testGuest{conn: conn, queue: channel.New(256, MTU+header.EthernetMinimumSize, "\x52\x54\x00\x00\x00\x02")}
	g.stack = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol,
			ipv6.NewProtocolWithOptions(ipv6.Options{AutoGenLinkLocal: true, NDPConfigs: ipv6.NDPConfigurations{
				MaxRtrSolicitations: 3, RtrSolicitationInterval: 500 * time.Millisecond,
				HandleRAs: ipv6.HandlingRAsAlwaysEnabled, DiscoverDefaultRouters: true, AutoGenGlobalAddresses: true,
				DiscoverOnLinkPrefixes: true,
			}})},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{}, 2)
	go func() { g.receive(); done <- struct{}{} }()
	go func() { g.send(ctx); done <- struct{}{} }()
	if err := g.stack.CreateNIC(nic, ethernet.New(g.queue)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		conn.Close()
		<-done
		<-done
		g.stack.Destroy()
	})
	return g
}

func (g *testGuest) receive() {
	r := bufio.NewReader(g.conn)
	var size [4]byte
	for {
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return
		}
		frame := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(r, frame); err != nil {
			return
		}
		p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
		g.queue.InjectInbound(0, p)
		p.DecRef()
	}
}

func (g *testGuest) send(ctx context.Context) {
	for p := g.queue.ReadContext(ctx); p != nil; p = g.queue.ReadContext(ctx) {
		b := p.ToView().AsSlice()
		_, _ = g.conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
		p.DecRef()
	}
}

// configure sets what DHCP would give.
func (g *testGuest) configure(t *testing.T) {
	t.Helper()
	p := netip.PrefixFrom(Guest, subnet.Bits())
	if err := addAddress(g.stack, p, true); err != nil {
		t.Fatal(err)
	}
	destination, _ := tcpip.NewSubnet(address(p.Masked().Addr()), tcpip.MaskFromBytes(net.CIDRMask(24, 32)))
	g.stack.SetRouteTable([]tcpip.Route{
		{Destination: destination, NIC: nic},
		{Destination: header.IPv4EmptySubnet, Gateway: address(Gateway), NIC: nic},
	})
}

func (g *testGuest) dial(ctx context.Context, to string) (net.Conn, error) {
	return gonet.DialContextTCP(ctx, g.stack, full(netip.MustParseAddrPort(to)), ipv4.ProtocolNumber)
}

// http is a client that dials from the guest to a fixed address, whatever the URL says.
func (g *testGuest) http(address string) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return g.dial(ctx, address)
	}}}
}

// lookup asks the network's name server.
func (g *testGuest) lookup(t *testing.T, name string, kind uint16) *dns.Msg {
	t.Helper()
	to := full(netip.AddrPortFrom(Gateway, 53))
	conn, err := gonet.DialUDP(g.stack, nil, &to, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	question := new(dns.Msg)
	question.SetQuestion(dns.Fqdn(name), kind)
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	c := &dns.Conn{Conn: conn}
	if err := c.WriteMsg(question); err != nil {
		t.Fatal(err)
	}
	answer, err := c.ReadMsg()
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func newNetwork(t *testing.T, c Config) *Network {
	t.Helper()
	c.User = os.Geteuid()
	n, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestDialGuest(t *testing.T) {
	n := newNetwork(t, Config{})
	g := newTestGuest(t, n)
	g.configure(t)
	l, err := gonet.ListenTCP(g.stack, full(netip.AddrPortFrom(Guest, 22)), ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err == nil {
			fmt.Fprintf(c, "hello %s", c.RemoteAddr())
			c.Close()
		}
	}()
	c, err := n.DialContext(testContext(t), "tcp", ":22")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(b), "hello "+Gateway.String()) {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestDialNobody(t *testing.T) {
	n := newNetwork(t, Config{})
	if c, err := n.DialContext(testContext(t), "tcp", ":22"); err == nil {
		t.Error("connected to", c.RemoteAddr())
	}
	if _, err := n.DialContext(testContext(t), "tcp", "guest.example:22"); err == nil {
		t.Error("a name is no address")
	}
}

func TestMetadata(t *testing.T) {
	n := newNetwork(t, Config{})
	// Larger than a window, so that frames of full size go by.
	body := strings.Repeat("0123456789abcdef", 1<<16)
	err := n.HandleMetadata(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path+body) }))
	if err != nil {
		t.Fatal(err)
	}
	g := newTestGuest(t, n)
	g.configure(t)
	r, err := g.http("169.254.169.254:80").Get("http://169.254.169.254/latest")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if b, err := io.ReadAll(r.Body); err != nil || string(b) != "/latest"+body {
		t.Errorf("got %d bytes, %v", len(b), err)
	}
}

func TestAllowList(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "from outside") }))
	defer server.Close()
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	n := newNetwork(t, Config{
		Allow: []string{"localhost:" + port},
		Hosts: map[string]netip.Addr{"Metadata.Cloud.Example.": Metadata, "six.example": Prefix6.Addr().Next()},
	})
	g := newTestGuest(t, n)
	g.configure(t)

	answer := g.lookup(t, "LocalHost", dns.TypeA)
	if len(answer.Answer) != 1 {
		t.Fatalf("allowed name: %v", answer)
	}
	at := answer.Answer[0].(*dns.A).A.String()
	r, err := g.http(at + ":" + port).Get("http://localhost/")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if b, _ := io.ReadAll(r.Body); string(b) != "from outside" {
		t.Errorf("got %q", b)
	}

	for _, row := range []struct {
		summary, name string
		kind          uint16
		code, answers int
	}{
		{"a name of our own", "metadata.cloud.example", dns.TypeA, dns.RcodeSuccess, 1},
		{"it has no IPv6 address, but exists", "metadata.cloud.example", dns.TypeAAAA, dns.RcodeSuccess, 0},
		{"an IPv6 name", "six.example", dns.TypeAAAA, dns.RcodeSuccess, 1},
		{"no other name exists", "elsewhere.example", dns.TypeA, dns.RcodeNameError, 0},
	} {
		if m := g.lookup(t, row.name, row.kind); m.Rcode != row.code || len(m.Answer) != row.answers {
			t.Errorf("%s: %s: %v", row.summary, row.name, m)
		}
	}
	for _, row := range []struct{ summary, to string }{
		{"another port of an allowed host", at + ":9"},
		{"the host's own services", "127.0.0.1:" + port},
		{"the same service by the gateway's address", Gateway.String() + ":" + port},
		{"any other address is unreachable at once", "192.0.2.1:80"},
	} {
		start := time.Now()
		if c, err := g.dial(testContext(t), row.to); err == nil {
			c.Close()
			t.Errorf("%s: connected to %s", row.summary, row.to)
		} else if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: %v after %v", row.summary, err, took)
		}
	}
}

func TestAllowLater(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "from outside") }))
	defer server.Close()
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	n := newNetwork(t, Config{})
	g := newTestGuest(t, n)
	g.configure(t)

	if answer := g.lookup(t, "localhost", dns.TypeA); answer.Rcode != dns.RcodeNameError {
		t.Fatalf("a name that is not allowed yet: %v", answer)
	}
	for range 2 { // what is open already stays so
		if err := n.Allow(t.Context(), "localhost:"+port); err != nil {
			t.Fatal(err)
		}
	}
	answer := g.lookup(t, "localhost", dns.TypeA)
	if len(answer.Answer) != 1 {
		t.Fatalf("allowed name: %v", answer)
	}
	r, err := g.http(answer.Answer[0].(*dns.A).A.String() + ":" + port).Get("http://localhost/")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	server.Close()
	if err := n.Allow(t.Context(), "localhost:"+port); fault.KindOf(err) != fault.Outside {
		t.Errorf("a destination that this machine cannot reach: %v", err)
	}
}

func TestAllowListRefusesNonsense(t *testing.T) {
	for _, bad := range []string{"mirror.example", "mirror.example:http", ":80", "mirror.example:70000"} {
		if n, err := New(t.Context(), Config{Allow: []string{bad}}); err == nil {
			n.Close()
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestDHCP(t *testing.T) {
	n := newNetwork(t, Config{Hostname: "probe", Domain: "cloud.example", NTP: Gateway})
	g := newTestGuest(t, n)
	g.configure(t) // a stack without an address cannot send; DHCP itself does not care
	var queue waiter.Queue
	ep, terr := g.stack.NewEndpoint(udp.ProtocolNumber, ipv4.ProtocolNumber, &queue)
	if terr != nil {
		t.Fatal(terr)
	}
	ep.SocketOptions().SetBroadcast(true)
	if err := ep.Bind(tcpip.FullAddress{NIC: nic, Port: dhcpv4.ClientPort}); err != nil {
		t.Fatal(err)
	}
	conn := gonet.NewUDPConn(&queue, ep)
	defer conn.Close()
	ask := func(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
		t.Helper()
		if _, err := conn.WriteTo(m.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ServerPort}); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 2000)
		size, _, err := conn.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := dhcpv4.FromBytes(buf[:size])
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	discover, _ := dhcpv4.NewDiscovery(net.HardwareAddr("\x52\x54\x00\x00\x00\x02"))
	offer := ask(discover)
	request, _ := dhcpv4.NewRequestFromOffer(offer)
	ack := ask(request)
	if ack.MessageType() != dhcpv4.MessageTypeAck || ack.YourIPAddr.String() != Guest.String() || ack.HostName() != "probe" ||
		ack.DomainName() != "cloud.example" || len(ack.NTPServers()) != 1 || len(ack.DNS()) != 1 || len(ack.Router()) != 1 {
		t.Errorf("lease: %s", ack.Summary())
	}
	if mtu := ack.Options.Get(dhcpv4.OptionInterfaceMTU); binary.BigEndian.Uint16(mtu) != MTU {
		t.Errorf("MTU option %v", mtu)
	}
	elsewhere, _ := dhcpv4.NewRequestFromOffer(offer, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(10, 0, 0, 7))))
	if nak := ask(elsewhere); nak.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("an address of another network: %s", nak.Summary())
	}
}

func TestRouterAdvertisement(t *testing.T) {
	n := newNetwork(t, Config{})
	g := newTestGuest(t, n)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		for _, a := range g.stack.AllAddresses()[nic] {
			if addr, _ := netip.AddrFromSlice(a.AddressWithPrefix.Address.AsSlice()); Prefix6.Contains(addr) {
				t.Log("the guest chose", addr)
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no address in %s: %v", Prefix6, g.stack.AllAddresses()[nic])
		}
	}
}

func TestPackets(t *testing.T) {
	n := newNetwork(t, Config{})
	server, err := n.ListenPacket("udp", Gateway.String()+":123")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 100)
		size, from, err := server.ReadFrom(buf)
		if err == nil {
			_, _ = server.WriteTo(append([]byte("echo "), buf[:size]...), from)
		}
	}()
	g := newTestGuest(t, n)
	g.configure(t)
	to := full(netip.AddrPortFrom(Gateway, 123))
	c, err := gonet.DialUDP(g.stack, nil, &to, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "time")
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 100)
	if size, err := c.Read(buf); err != nil || string(buf[:size]) != "echo time" {
		t.Errorf("got %q, %v", buf[:size], err)
	}
}

// Whoever is not QEMU's user is not the guest.
func TestStranger(t *testing.T) {
	n, err := New(t.Context(), Config{User: os.Geteuid() + 1})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	conn, err := net.Dial("tcp", n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it was not hung up on: %v", err)
	}
}

// A network that has ended leaves no goroutine, and what hangs on it ends with an error.
func TestCloseStopsEverything(t *testing.T) {
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(t.Context())
	for range 3 {
		n, err := New(ctx, Config{Allow: []string{"localhost:9"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := n.HandleMetadata(http.NotFoundHandler()); err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", n.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		hanging := make(chan error, 1)
		go func() { _, err := n.DialContext(ctx, "tcp", ":22"); hanging <- err }()
		time.Sleep(20 * time.Millisecond)
		cancel()
		if err := <-hanging; err == nil {
			t.Error("a dial in a closed network worked")
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if _, err := net.DialTimeout("tcp", n.Addr(), time.Second); err == nil {
			t.Error("the network still listens")
		}
		if _, err := n.Listen("tcp", ":80"); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Log(err)
		}
		ctx, cancel = context.WithCancel(t.Context())
	}
	cancel()
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines before, %d after\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
		}
	}
}
