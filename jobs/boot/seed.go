package boot

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"strings"

	"golang.org/x/crypto/ssh"
	"sigs.k8s.io/yaml"

	"salsa.debian.org/cloud-team/debcloud/internal/nocloud"
)

// What the seed asks for. The checks look for these in the guest.
const (
	writtenPath = "/var/lib/debcloud-written" // by write_files
	ranPath     = "/var/lib/debcloud-ran"     // by runcmd
	domainName  = "images.example"            // of the FQDN; RFC 6761 keeps it from ever being a real one
	defaultUser = "debian"
)

// seed is what one VM is told at its first boot. Every value is made for this VM, so that finding it proves that
// the guest read this seed and no other.
type seed struct {
	instance string // cloud-init's instance ID
	hostname string // without domain
	marker   string
	signer   ssh.Signer
}

// newSeed makes a seed with a fresh key. name becomes part of the host name.
func newSeed(name string) (*seed, error) {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		return nil, err
	}
	random := make([]byte, 8)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	id := hex.EncodeToString(random)
	return &seed{
		instance: "debcloud-" + id,
		hostname: "test-" + name + "-" + id[:6],
		marker:   id,
		signer:   signer,
	}, nil
}

func (s *seed) fqdn() string { return s.hostname + "." + domainName }

// files returns the seed's files by name (cloud-init documentation, "NoCloud", source 2).
func (s *seed) files() (map[string]string, error) {
	key := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.signer.PublicKey())))
	user, err := yaml.Marshal(map[string]any{
		"hostname":            s.hostname,
		"fqdn":                s.fqdn(),
		"ssh_authorized_keys": []string{key},
		"write_files": []map[string]any{{
			"path": writtenPath, "content": s.marker + "\n", "permissions": "0640",
		}},
		"runcmd": [][]string{{"cp", writtenPath, ranPath}},
	})
	if err != nil {
		return nil, err
	}
	meta, err := yaml.Marshal(map[string]any{"instance-id": s.instance, "local-hostname": s.hostname})
	if err != nil {
		return nil, err
	}
	return map[string]string{"user-data": "#cloud-config\n" + string(user), "meta-data": string(meta)}, nil
}

// writeDisk writes the seed as a disk.
func (s *seed) writeDisk(path string) error {
	files, err := s.files()
	if err != nil {
		return err
	}
	return nocloud.Write(path, files)
}
