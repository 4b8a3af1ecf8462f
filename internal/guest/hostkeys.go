package guest

import (
	"bytes"
	"fmt"
	"net"
	"strings"

	"golang.org/x/crypto/ssh"

	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
)

// HostKeys are the SSH host keys that a guest has printed on its console.
type HostKeys []ssh.PublicKey

const (
	beginKeys = "-----BEGIN SSH HOST KEY KEYS-----"
	endKeys   = "-----END SSH HOST KEY KEYS-----"
)

// keyLine finds a key in a line that may begin with a log prefix, such as the kernel's time or "cloud-init[345]: ".
var keyLine = lazyregexp.New(`(?:ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/]+=*`)

// ConsoleHostKeys returns the keys in cloud-init's last complete block "-----BEGIN SSH HOST KEY KEYS-----" of a
// console's output (its module keys_to_console); nil if there is none yet.
func ConsoleHostKeys(console []byte) HostKeys {
	end := bytes.LastIndex(console, []byte(endKeys))
	if end < 0 {
		return nil
	}
	begin := bytes.LastIndex(console[:end], []byte(beginKeys))
	if begin < 0 {
		return nil
	}
	var keys HostKeys
	for line := range strings.Lines(Plain(console[begin:end])) {
		// The kernel's or systemd's messages may have torn a line: what does not parse is not a key.
		if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(keyLine.FindString(line))); err == nil {
			keys = append(keys, key)
		}
	}
	return keys
}

// Callback accepts exactly these keys.
func (k HostKeys) Callback() ssh.HostKeyCallback {
	return func(_ string, _ net.Addr, offered ssh.PublicKey) error {
		var known []string
		for _, key := range k {
			if bytes.Equal(key.Marshal(), offered.Marshal()) {
				return nil
			}
			known = append(known, key.Type()+" "+ssh.FingerprintSHA256(key))
		}
		return fmt.Errorf("the server offers %s %s, the console printed %q", offered.Type(), ssh.FingerprintSHA256(offered), known)
	}
}
