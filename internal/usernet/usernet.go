// Package usernet is a network for one virtual machine that exists only in this process.
//
// The guest gets an address by DHCP and by IPv6 router advertisement, and a name server; the process dials into the guest and
// serves it on any address, such as a cloud's metadata service, without a port on the host. What leaves the network is
// an allow-list: nothing else has a route.
//
// It stands on gVisor's network stack, as gvisor-tap-vsock does. That project's own switch and forwarder are not used:
// they drop IPv6 multicast, forward to every destination that the host reaches, and cannot be stopped.
package usernet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Config describes a network. The zero value is a closed one.
type Config struct {
	// Allow lists the destinations that the guest may reach through the host, as "host:port" (TCP). These names, and no
	// others, resolve, to addresses inside the network. Empty: nothing leaves the network.
	Allow []string
	// Hosts adds names that resolve to addresses inside the network.
	Hosts map[string]netip.Addr
	// Hostname is the name that DHCP gives to the guest. Empty: none.
	Hostname string
	// Domain is the guest's DNS domain, by DHCP. Empty: none.
	Domain string
	// NTP is the time server that DHCP names. Unset: none.
	NTP netip.Addr
	// User is the uid that the machine's QEMU connects as: vm.Host.User. Others who connect are hung up on. Zero: root.
	User int
}

// Addresses in every network. Each is cut off from every other, so all can use the same.
var (
	Gateway  = netip.MustParseAddr("192.168.127.1") // router, DHCP and name server
	Guest    = netip.MustParseAddr("192.168.127.2") // the machine, by DHCP
	Metadata = netip.MustParseAddr("169.254.169.254")
	// Prefix6 is the IPv6 prefix that is announced; the guest chooses its address in it. RFC 4193.
	Prefix6 = netip.MustParsePrefix("fd64:6562:636c::/64")

	subnet = netip.MustParsePrefix("192.168.127.0/24")
	// gateway6 is on-link; routers are named by it. RFC 4861, section 4.2.
	gateway6 = netip.MustParseAddr("fe80::1")
	// firstAllowed and the addresses after it stand for the names of Config.Allow.
	firstAllowed = netip.MustParseAddr("192.168.127.100")
)

// MTU of the network, in bytes.
const MTU = 1500

// nic is the stack's only network interface.
const nic tcpip.NICID = 1

// Network is one running network.
type Network struct {
	config Config
	stack  *stack.Stack
	link   *link

	naming sync.Mutex            // of what follows
	names  map[string]netip.Addr // lower case, without the last dot
	opened map[string]bool       // destinations
	next   netip.Addr            // for a name that has none

	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu      sync.Mutex
	closers []func() error
	closed  bool
	gone    chan struct{} // closed when Close is done
}

// New starts a network that runs until ctx ends or Close is called.
func New(ctx context.Context, c Config) (*Network, error) {
	n := &Network{config: c, names: make(map[string]netip.Addr), opened: make(map[string]bool), next: firstAllowed, gone: make(chan struct{})}
	n.ctx, n.cancel = context.WithCancel(ctx)
	var err error
	if n.link, err = listenForGuest(n); err != nil {
		n.cancel()
		return nil, err
	}
	n.stack, err = newStack(n.link)
	if err == nil {
		err = n.startServices()
	}
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	n.tasks.Go(n.link.accept)
	context.AfterFunc(n.ctx, func() { _ = n.Close() })
	return n, nil
}

func (n *Network) startServices() error {
	for name, addr := range n.config.Hosts {
		n.names[canonical(name)] = addr
	}
	for _, destination := range n.config.Allow {
		if err := n.open(destination); err != nil {
			return err
		}
	}
	if err := n.serveDHCP(); err != nil {
		return fmt.Errorf("DHCP: %w", err)
	}
	if err := n.serveDNS(); err != nil {
		return fmt.Errorf("DNS: %w", err)
	}
	return nil
}

// Addr is the loopback address where the network waits for QEMU (vm.Interface.Addr).
func (n *Network) Addr() string { return n.link.listener.Addr().String() }

// DialContext opens a TCP connection to the guest from the gateway. Address is ":22" (the guest) or "ip:22".
func (n *Network) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if network != "tcp" {
		return nil, fault.Inputf("network %q is not tcp", network)
	}
	to, err := endpoint(address, Guest)
	if err != nil {
		return nil, err
	}
	if to.Addr().Is6() {
		return gonet.DialContextTCP(ctx, n.stack, full(to), ipv6.ProtocolNumber)
	}
	from := full(netip.AddrPortFrom(Gateway, 0))
	c, err := gonet.DialTCPWithBind(ctx, n.stack, from, full(to), ipv4.ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("dial %s in the virtual network: %w", to, err)
	}
	return c, nil
}

// Listen serves inside the network, on any address ("169.254.169.254:80"). The network is "tcp". The listener ends with
// the network.
func (n *Network) Listen(network, address string) (net.Listener, error) {
	if network != "tcp" {
		return nil, fault.Inputf("network %q is not tcp", network)
	}
	at, err := n.own(address)
	if err != nil {
		return nil, err
	}
	l, err := gonet.ListenTCP(n.stack, full(at), protocolOf(at.Addr()))
	if err != nil {
		return nil, fmt.Errorf("listen on %s in the virtual network: %w", at, err)
	}
	n.atClose(l.Close)
	return l, nil
}

// ListenPacket is Listen for UDP.
func (n *Network) ListenPacket(network, address string) (net.PacketConn, error) {
	if network != "udp" {
		return nil, fault.Inputf("network %q is not udp", network)
	}
	at, err := n.own(address)
	if err != nil {
		return nil, err
	}
	local := full(at)
	c, err := gonet.DialUDP(n.stack, &local, nil, protocolOf(at.Addr()))
	if err != nil {
		return nil, fmt.Errorf("listen on %s in the virtual network: %w", at, err)
	}
	n.atClose(c.Close)
	return c, nil
}

// HandleMetadata serves http://169.254.169.254/ to the guest.
func (n *Network) HandleMetadata(h http.Handler) error {
	l, err := n.Listen("tcp", netip.AddrPortFrom(Metadata, 80).String())
	if err != nil {
		return err
	}
	n.Serve(l, h)
	return nil
}

// Serve answers HTTP on a listener of this network until the network ends.
func (n *Network) Serve(l net.Listener, h http.Handler) {
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	n.atClose(s.Close)
	n.start(func() { _ = s.Serve(l) })
}

// start runs a task that Close waits for; after Close, none.
func (n *Network) start(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.tasks.Go(f)
	}
}

// atClose registers what Close has to stop. Where it is too late, it stops at once.
func (n *Network) atClose(f func() error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		_ = f()
		return
	}
	n.closers = append(n.closers, f)
}

// Close ends the network and everything that runs in it. It may be called twice.
func (n *Network) Close() error {
	n.mu.Lock()
	again := n.closed
	n.closed = true
	closers := n.closers
	n.mu.Unlock()
	if again {
		<-n.gone
		return nil
	}
	defer close(n.gone)
	n.cancel()
	for _, f := range closers {
		_ = f() // they end anyway with the stack
	}
	n.link.close()
	if n.stack != nil {
		n.stack.Destroy()
	}
	n.tasks.Wait()
	return nil
}

// endpoint parses "ip:port"; an empty ip is the default.
func endpoint(address string, otherwise netip.Addr) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(address)
	if err == nil && host == "" {
		address = net.JoinHostPort(otherwise.String(), port)
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return ap, fault.Inputf("%q is not an IP address and a port", address)
	}
	return ap, nil
}
