package guest

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net"
	"strings"

	"golang.org/x/crypto/ssh"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/guest/resync"
)

// AgentPort is the name of the virtio-serial port on which the agent of a job VM ("debcloud guest") serves the SSH
// protocol. In the guest it is /dev/virtio-ports/ and this name; on the host libvirt binds a UNIX socket to it.
const AgentPort = "org.debian.debcloud.0"

// secretPrefix begins the SMBIOS OEM string that carries a Secret.
const secretPrefix = "org.debian.debcloud.secret:"

// Secret is what the host and one VM's agent share: both derive their SSH keys from it, so each knows that it speaks with the
// other, and not with another VM or an earlier boot. The guest finds it among its SMBIOS OEM strings, where only its root can
// read it. On the host it is no secret from local users: it stands in QEMU's arguments, and in the domain's metadata, which
// libvirt's read-only socket tells everybody. What keeps them from the agent is the mode of the port's socket. It marshals as
// text.
type Secret [32]byte

// NewSecret makes the secret of a new VM.
func NewSecret() Secret {
	var s Secret
	_, _ = rand.Read(s[:]) // it never fails
	return s
}

// OEMString is what the domain of the VM has to have among its SMBIOS OEM strings (libvirt: <sysinfo type='smbios'>,
// oemStrings, entry; and <smbios mode='sysinfo'/> under <os>).
func (s Secret) OEMString() string {
	return secretPrefix + base64.RawURLEncoding.EncodeToString(s[:])
}

// ParseOEMString is the inverse of OEMString. It returns false where text is something else.
func ParseOEMString(text string) (Secret, bool) {
	var s Secret
	encoded, ok := strings.CutPrefix(text, secretPrefix)
	if !ok || s.UnmarshalText([]byte(encoded)) != nil {
		return Secret{}, false
	}
	return s, true
}

// MarshalText encodes the secret for a file of the host.
func (s Secret) MarshalText() ([]byte, error) {
	return base64.RawURLEncoding.AppendEncode(nil, s[:]), nil
}

// UnmarshalText is the inverse of MarshalText.
func (s *Secret) UnmarshalText(text []byte) error {
	b, err := base64.RawURLEncoding.DecodeString(string(text))
	if err != nil || len(b) != len(s) {
		return fault.Inputf("a text of %d bytes is not a VM's secret: %d bytes in base64url", len(text), len(s))
	}
	copy(s[:], b)
	return nil
}

// String hides the secret from logs.
func (s Secret) String() string { return "(secret)" }

// HostKey is the SSH host key of the agent.
func (s Secret) HostKey() ssh.Signer { return s.derive("agent") }

// ClientKey is the key with which the host logs in to the agent.
func (s Secret) ClientKey() ssh.Signer { return s.derive("host") }

// derive makes a key of its own for each purpose (HMAC as a pseudorandom function, RFC 2104).
func (s Secret) derive(purpose string) ssh.Signer {
	mac := hmac.New(sha256.New, s[:])
	mac.Write([]byte("debcloud " + purpose))
	signer, err := ssh.NewSignerFromSigner(ed25519.NewKeyFromSeed(mac.Sum(nil)))
	if err != nil {
		panic(err) // only for types of keys that ssh does not know
	}
	return signer
}

// Socket dials the UNIX socket that libvirt has bound to a VM's agent port. QEMU serves one connection at a time: a second one
// waits until the first has ended.
func Socket(path string) Dialer {
	return func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
}

// DialAgent connects to the agent of a VM through its agent port, whatever an earlier connection has left in the port.
// It tries again until the agent answers, ctx ends, or stopped is closed (the VM is off; nil: never). So it may be called as soon
// as QEMU has started. An agent with another secret is final.
//
// When the connection ends, the agent ends every process that it has started for it, but those of a Command that Stays.
func DialAgent(ctx context.Context, dial Dialer, secret Secret, stopped <-chan struct{}) (*SSH, error) {
	login := Login{User: "root", Signer: secret.ClientKey(), HostKey: HostKeys{secret.HostKey().PublicKey()}.Callback()}
	begin := func(ctx context.Context) (net.Conn, error) {
		port, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		return resync.Begin(port), nil
	}
	return Dial(ctx, begin, login, stopped)
}
