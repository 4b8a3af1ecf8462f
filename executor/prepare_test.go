package executor

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/hold"
)

// asks gives a driver a job to work for, with variables, each "key=value".
func asks(t *testing.T, d *Driver, variables ...string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "custom-executor1")
	response := filepath.Join(dir, "response.json")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(response, []byte(respond(`"ref":"topic","protected":false`, variables...)), 0o600); err != nil {
		t.Fatal(err)
	}
	d.Environment = Environment{TempDir: dir, JobResponseFile: response}
}

// What a job waits for room with cannot be removed until its VM uses it.
func TestSettleHolds(t *testing.T) {
	d, b := beddedDriver(t)
	base, disk := filepath.Join(b.Pool, "base.raw"), filepath.Join(b.Pool, "tools.raw")
	for _, path := range []string{base, disk} {
		if err := os.WriteFile(path, make([]byte, 1<<20), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	d.Settings.Images["tiny"] = settings.Image{}
	pruned := 0
	d.Imported = func(context.Context, string, string, string) (Base, error) {
		if pruned++; pruned == 1 {
			return Base{Path: base + ".old", Format: "raw"}, nil // it goes at this moment
		}
		return Base{Path: base, Format: "raw"}, nil
	}
	d.Tools = func(context.Context) (string, error) { return disk, nil }
	asks(t, d)
	o, err := d.settle(t.Context())
	if err != nil || o.base.Path != base {
		t.Fatalf("%+v %v", o.base, err)
	}
	for _, path := range []string{base, disk} {
		if release, ok := hold.Free(path); ok {
			t.Errorf("%s may be removed while the job waits", path)
			release()
		}
	}
	d.letGo()
	for _, path := range []string{base, disk} {
		release, ok := hold.Free(path)
		if !ok {
			t.Fatalf("%s is held for ever", path)
		}
		release()
	}
}
