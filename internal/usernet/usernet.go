// Package usernet is a network for one virtual machine that exists only in this process.
//
// The guest gets an address by DHCP and a name server; the process dials into the guest and serves it on any address,
// such as a cloud's metadata service, without a port on the host. What leaves the network is an allow-list.
package usernet

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
)

// Config describes a network. The zero value is a closed one.
type Config struct {
	// Allow lists the destinations that the guest may reach through the host, as "host:port" (TCP). Their names,
	// and no others, resolve. Empty: nothing leaves the network.
	Allow []string
	// Hosts adds names that resolve to addresses inside the network.
	Hosts map[string]netip.Addr
	// Hostname is the name that DHCP gives to the guest. Empty: none.
	Hostname string
	// Domain is the guest's DNS domain, by DHCP. Empty: none.
	Domain string
	// NTP is the time server that DHCP names. Unset: none.
	NTP netip.Addr
}

var errSoon = errors.New("not yet written")

// Addresses in every network. It is shut off from every other, so each can use the same.
var (
	Gateway  = netip.MustParseAddr("192.168.127.1") // router, DHCP and name server
	Guest    = netip.MustParseAddr("192.168.127.2") // the machine
	Metadata = netip.MustParseAddr("169.254.169.254")
)

// MTU of the network, in bytes.
const MTU = 1500

// Network is one running network.
type Network struct{}

// New starts a network that runs until ctx ends or Close is called.
func New(ctx context.Context, c Config) (*Network, error) { return nil, errSoon }

// Addr is the loopback address where the network waits for QEMU (vm.Interface.Addr).
func (n *Network) Addr() string { return "" }

// DialContext opens a TCP connection to the guest from the gateway. Address is ":22" (the guest) or "ip:22".
func (n *Network) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return nil, errSoon
}

// Listen serves inside the network, on any address ("169.254.169.254:80"). The network is "tcp".
func (n *Network) Listen(network, address string) (net.Listener, error) { return nil, errSoon }

// ListenPacket is Listen for UDP.
func (n *Network) ListenPacket(network, address string) (net.PacketConn, error) { return nil, errSoon }

// HandleMetadata serves http://169.254.169.254/ to the guest.
func (n *Network) HandleMetadata(h http.Handler) error { return errSoon }

// Close ends the network and everything that runs in it. It may be called twice.
func (n *Network) Close() error { return nil }
