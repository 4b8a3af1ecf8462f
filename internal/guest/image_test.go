package guest_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/disk"
	"github.com/diskfs/go-diskfs/filesystem"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
	"golang.org/x/crypto/ssh"

	"salsa.debian.org/cloud-team/debcloud/internal/guest"
	"salsa.debian.org/cloud-team/debcloud/internal/usernet"
	"salsa.debian.org/cloud-team/debcloud/internal/vm"
)

// testImage is the disk image beside the Build document that DEBCLOUD_TEST_IMAGE names.
func testImage(t *testing.T) string {
	t.Helper()
	if os.Getenv("DEBCLOUD_TEST_LONG") == "" {
		t.Skip("DEBCLOUD_TEST_LONG is not set: run make test-long; make test boots images in jobs/boot")
	}
	document := os.Getenv("DEBCLOUD_TEST_IMAGE")
	if document == "" {
		t.Skip("DEBCLOUD_TEST_IMAGE is not set: run make test")
	}
	return strings.TrimSuffix(document, ".build.json") + ".raw"
}

// seed makes a NoCloud seed: an ISO 9660 file system labelled cidata.
func seed(t *testing.T, files map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "seed.iso")
	d, err := diskfs.Create(path, 4<<20, diskfs.SectorSize(2048))
	if err != nil {
		t.Fatal(err)
	}
	d.LogicalBlocksize = 2048
	f, err := d.CreateFilesystem(disk.FilesystemSpec{Partition: 0, FSType: filesystem.TypeISO9660, VolumeLabel: "cidata"})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		w, err := f.OpenFile("/"+name, os.O_CREATE|os.O_RDWR)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	iso := f.(*iso9660.FileSystem)
	if err := iso.Finalize(iso9660.FinalizeOptions{RockRidge: true, VolumeIdentifier: "cidata"}); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestLongImage boots a real image with both firmwares side by side, and talks to it.
func TestLongImage(t *testing.T) {
	image := testImage(t)
	if os.Geteuid() != 0 {
		t.Skip("a private libvirtd needs root")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	t.Cleanup(cancel)
	host, err := vm.Open(ctx, vm.Options{Dir: t.TempDir(), Private: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, firmware := range []vm.Firmware{vm.BIOS, vm.UEFI} {
		t.Run(firmware.String(), func(t *testing.T) {
			t.Parallel()
			bootImage(ctx, t, host, image, firmware)
		})
	}
}

func bootImage(ctx context.Context, t *testing.T, host *vm.Host, image string, firmware vm.Firmware) {
	_, private, _ := ed25519.GenerateKey(nil)
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	user, err := host.User(ctx)
	if err != nil {
		t.Fatal(err)
	}
	network, err := usernet.New(ctx, usernet.Config{Hosts: map[string]netip.Addr{"own.example": usernet.Gateway}, User: user})
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	before := time.Now()
	d, err := host.Start(ctx, vm.Spec{
		Name: "image-test", Image: image, Firmware: firmware, DiskSize: 5 << 30,
		Disks: []vm.Disk{{Path: seed(t, map[string]string{
			"meta-data": "instance-id: i-1\nlocal-hostname: probe\n",
			"user-data": fmt.Sprintf("#cloud-config\nssh_authorized_keys:\n  - %s", ssh.MarshalAuthorizedKey(signer.PublicKey())),
		})}},
		Network:    &vm.Interface{Addr: network.Addr()},
		ConsoleLog: filepath.Join(t.TempDir(), "console.log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Destroy(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Logf("started in %v", time.Since(before))
	s, offered := login(ctx, t, d, network, signer)
	defer s.Close()
	try(ctx, t, s)
	// cloud-init prints the keys when it ends.
	if _, err := s.Output(ctx, "cloud-init status --wait"); err != nil {
		t.Error(err)
	}
	if err := guest.ConsoleHostKeys(d.Console()).Callback()("", nil, offered); err != nil {
		t.Error(err)
	}
	before = time.Now()
	if err := d.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	t.Logf("powered off in %v", time.Since(before))
	if err := d.Wait(ctx); err != nil {
		t.Error(err)
	}
}

func login(ctx context.Context, t *testing.T, d *vm.Domain, network *usernet.Network, signer ssh.Signer) (*guest.SSH, ssh.PublicKey) {
	var offered ssh.PublicKey
	s, err := guest.Dial(ctx, func(ctx context.Context) (net.Conn, error) { return network.DialContext(ctx, "tcp", ":22") },
		guest.Login{User: "debian", Signer: signer, HostKey: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			offered = key
			return nil
		}}, d.Stopped())
	if err != nil {
		t.Fatalf("%v\n%s", err, guest.Tail(d.Console(), 30))
	}
	t.Logf("SSH after %v", time.Since(d.Started()))
	return s, offered
}

// try uses everything of SSH and of the network on the real thing.
func try(ctx context.Context, t *testing.T, s *guest.SSH) {
	for _, row := range []struct{ summary, command string }{
		{"the default user is an administrator", `test "$(sudo -n id -u)" = 0`},
		{"DHCP's address and route", "ip -4 -o addr | grep -q 'inet 192.168.127.2/24' && ip route | grep -q '^default via 192.168.127.1 '"},
		{"an address of the announced prefix and its route", "ip -6 -o addr | tee /dev/stderr | grep -q 'inet6 fd64:6562:636c:' && ip -6 route show default | tee /dev/stderr | grep -q ' via fe80::1 '"},
		{"MTU 1500", `grep -qx 1500 /sys/class/net/e*/mtu`},
		{"a name of the network", "getent hosts own.example | grep -q '^192.168.127.1 '"},
		{"no name outside, at once", "! timeout 10 getent hosts elsewhere.example && test $? = 0"},
		{"no address outside, at once", "timeout 10 bash -c ': </dev/tcp/192.0.2.1/80'; test $? = 1"},
		{"the disk has grown", `test "$(lsblk -bdno SIZE "$(findmnt -no SOURCE /)")" -gt 4000000000`},
	} {
		if r, err := s.Run(ctx, row.command, nil); err != nil || r.Exit != 0 {
			t.Errorf("%s: exit %d, %v: %s%s", row.summary, r.Exit, err, r.Stdout, r.Stderr)
		}
	}
	if err := s.WriteFile(ctx, "/tmp/a b", 0o640, strings.NewReader("hello")); err != nil {
		t.Error(err)
	}
	if b, err := s.ReadFile(ctx, "/tmp/a b"); err != nil || string(b) != "hello" {
		t.Errorf("read %q, %v", b, err)
	}
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := s.Run(short, "sleep 4711", nil); err == nil {
		t.Error("a command outlives its context")
	}
	if out, err := s.Output(ctx, "! pgrep -fx 'sleep 4711'"); err != nil {
		t.Error(out, err)
	}
}
