package vm

import (
	"encoding/json"
	"os"
	"path/filepath"

	"salsa.debian.org/cloud-team/debcloud/internal/process"
)

// ownerFile says in a directory of ours which process it belongs to, so that a later one can tell what was left behind.
const ownerFile = "owner.json"

// record is the content of an owner file.
type record struct {
	Owner process.ID `json:"owner"`
	// Daemon is the private daemon's init process.
	Daemon process.ID `json:"daemon,omitzero"`
	// Domains are directories elsewhere that belong to the owner.
	Domains []string `json:"domains,omitempty"`
}

// write is not atomic for the sake of a power cut: only for readers that run meanwhile.
func (r record) write(dir string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, ownerFile)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func readRecord(dir string) (record, error) {
	var r record
	b, err := os.ReadFile(filepath.Join(dir, ownerFile))
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	return r, err
}
