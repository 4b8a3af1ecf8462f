package boot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs"
	"sigs.k8s.io/yaml"
)

func TestSeedDisk(t *testing.T) {
	s, err := newSeed("uefi")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "seed.iso")
	if err := s.writeDisk(path); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("beside the seed disk lie %v, %v", left, err)
	}

	d, err := diskfs.Open(path, diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	fs, err := d.GetFilesystem(0)
	if err != nil {
		t.Fatal(err)
	}
	if label := strings.TrimSpace(fs.Label()); label != "CIDATA" {
		t.Errorf("label %q, where cloud-init looks for CIDATA", label)
	}
	userData, err := fs.ReadFile("user-data")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(userData), "#cloud-config\n") {
		t.Errorf("user-data begins with %.20q: cloud-init would not read it as cloud-config", userData)
	}
	var user struct {
		FQDN string   `json:"fqdn"`
		Keys []string `json:"ssh_authorized_keys"`
	}
	if err := yaml.Unmarshal(userData, &user); err != nil {
		t.Fatal(err)
	}
	if user.FQDN != s.fqdn() || len(user.Keys) != 1 || !strings.HasPrefix(user.Keys[0], "ssh-ed25519 ") {
		t.Errorf("user-data says %+v", user)
	}
	metaData, err := fs.ReadFile("meta-data")
	if err != nil || !strings.Contains(string(metaData), s.instance) {
		t.Errorf("meta-data %q, %v lacks the instance %s", metaData, err, s.instance)
	}
}

func TestSeedsDiffer(t *testing.T) {
	a, _ := newSeed("bios")
	b, _ := newSeed("bios")
	if a.instance == b.instance || a.marker == b.marker || string(a.signer.PublicKey().Marshal()) == string(b.signer.PublicKey().Marshal()) {
		t.Error("two seeds share a value")
	}
}
