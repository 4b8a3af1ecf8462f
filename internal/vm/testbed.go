package vm

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// TestbedVariable names, in a job VM, the UNIX socket at which the host offers to run further machines beside it.
const TestbedVariable = "DEBCLOUD_TESTBED"

// The test bed speaks HTTP on a UNIX socket. {machine} and {disk} are names that the client chooses.
//
//	GET    /                            Bed
//	PUT    /disks/{disk}?size=BYTES     the disk's bytes, raw, compressed with zstd (window 8 MiB at most)
//	POST   /machines/{machine}          BedSpec; defined and started, its processors halted
//	POST   /machines/{machine}/VERB     resume, press (the power button), reset
//	DELETE /machines/{machine}          gone, with its overlay
//	GET    /machines/{machine}/console  upgraded to the bytes of the serial console, both ways
//	GET    /machines/{machine}/network  upgraded to QEMU's framing of Ethernet, both ways
//
// An error's body is its sentence.

// Bed is what a test bed says of itself.
type Bed struct {
	KVM bool `json:"kvm"`
}

// BedSpec describes a machine of a test bed. Disks name what was handed over; the first is the one to boot from, and
// gets an overlay.
type BedSpec struct {
	Disks      []string `json:"disks"`
	DiskSize   int64    `json:"disk_size,omitempty"`
	UEFI       bool     `json:"uefi,omitempty"`
	SecureBoot bool     `json:"secure_boot,omitempty"`
	MemoryMiB  int      `json:"memory_mib"`
	CPUs       int      `json:"cpus"`
	Network    bool     `json:"network,omitempty"`
	SMBIOS     SMBIOS   `json:"smbios"`
}

// BedProtocol is what connections are upgraded to.
const BedProtocol = "debcloud-testbed"

// power is what a domain's life needs of a daemon: of libvirt's, or of a test bed.
type power interface {
	resume(ctx context.Context, name string) error
	pressPower(ctx context.Context, name string) error
	reset(ctx context.Context, name string) error
	destroy(ctx context.Context, name string) error
}

func (h *Host) power() power {
	if h.bed != nil {
		return h.bed
	}
	return h.conn
}

// bedClient is a test bed as a job's process sees it.
type bedClient struct {
	socket string
	http   *http.Client

	handing chan struct{}     // holds one value while a disk is handed over; of the fields below it
	handed  map[string]string // disks by their path
}

func dialBed(ctx context.Context, socket string) (*bedClient, Accel, error) {
	b := &bedClient{socket: socket, handing: make(chan struct{}, 1), handed: make(map[string]string)}
	b.http = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return b.dial(ctx) }}}
	var bed Bed
	body, err := b.do(ctx, http.MethodGet, "/", nil)
	if err == nil {
		err = json.Unmarshal(body, &bed)
	}
	if err != nil {
		return nil, TCG, fault.WithHint(fault.Outsidef("the test bed at %s does not answer: %w", socket, err), "without %s, machines run right here", TestbedVariable)
	}
	if bed.KVM {
		return b, KVM, nil
	}
	return b, TCG, nil
}

func (b *bedClient) dial(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", b.socket)
}

// do makes one request. The host in the URL means nothing.
func (b *bedClient) do(ctx context.Context, method, path string, body io.Reader) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://testbed"+path, body)
	if err != nil {
		return nil, err
	}
	response, err := b.http.Do(request)
	if err != nil {
		return nil, fault.Outsidef("test bed: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return nil, fault.Outsidef("test bed: %w", err)
	}
	switch {
	case response.StatusCode < 300:
		return text, nil
	case response.StatusCode < 500:
		return nil, fault.Inputf("test bed: %s", bytes.TrimSpace(text))
	default:
		return nil, fault.Outsidef("test bed: %s", bytes.TrimSpace(text))
	}
}

func (b *bedClient) verb(ctx context.Context, name, verb string) error {
	_, err := b.do(ctx, http.MethodPost, "/machines/"+name+"/"+verb, nil)
	return err
}

func (b *bedClient) resume(ctx context.Context, name string) error {
	return b.verb(ctx, name, "resume")
}
func (b *bedClient) pressPower(ctx context.Context, name string) error {
	return b.verb(ctx, name, "press")
}
func (b *bedClient) reset(ctx context.Context, name string) error { return b.verb(ctx, name, "reset") }

func (b *bedClient) destroy(ctx context.Context, name string) error {
	_, err := b.do(ctx, http.MethodDelete, "/machines/"+name, nil)
	return err
}

// stream opens one of a machine's streams. It ends with the machine.
func (b *bedClient) stream(ctx context.Context, name, what string) (net.Conn, error) {
	conn, err := b.dial(ctx)
	if err != nil {
		return nil, fault.Outsidef("test bed: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	request := "GET /machines/" + name + "/" + what + " HTTP/1.1\r\nHost: testbed\r\nConnection: Upgrade\r\nUpgrade: " + BedProtocol + "\r\n\r\n"
	if _, err := io.WriteString(conn, request); err != nil {
		return nil, errors.Join(fault.Outsidef("test bed: %w", err), conn.Close())
	}
	r := bufio.NewReader(conn)
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, errors.Join(fault.Outsidef("test bed: %s of %s: %w", what, name, err), conn.Close())
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<16))
		return nil, errors.Join(fault.Outsidef("test bed: %s of %s: %s", what, name, bytes.TrimSpace(text)), conn.Close())
	}
	return &bufferedConn{Conn: conn, r: r}, nil
}

// bufferedConn reads what was read ahead first.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// hand gives the bed a disk, each file once, and returns its name there. Machines that start side by side from one image wait for the one
// that hands it over.
func (b *bedClient) hand(ctx context.Context, path, format string) (string, error) {
	if orDefault(format, "raw") != "raw" {
		return "", fault.Inputf("a test bed takes raw images only, and %s is %s", path, format)
	}
	select {
	case b.handing <- struct{}{}:
		defer func() { <-b.handing }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if name, ok := b.handed[path]; ok {
		return name, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fault.Inputf("image: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	name := "disk-" + strings.ToLower(rand.Text()) // processes of one stage share a bed
	if _, err := b.do(ctx, http.MethodPut, fmt.Sprintf("/disks/%s?size=%d", name, info.Size()), compressed(f)); err != nil {
		return "", fmt.Errorf("hand over %s: %w", path, err)
	}
	b.handed[path] = name
	return name, nil
}

// compressed is what f holds, compressed: an image is mostly zeros, and a serial port is slow.
func compressed(f io.Reader) io.Reader {
	r, w := io.Pipe()
	go func() {
		z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest))
		if err == nil {
			_, err = io.Copy(z, f)
			err = errors.Join(err, z.Close())
		}
		w.CloseWithError(err)
	}()
	return r
}

// powerOnThere makes the machine on the test bed: as powerOn, its processors run once the console is attached.
func (d *Domain) powerOnThere(ctx context.Context) error {
	b, s := d.host.bed, d.spec
	if s.Kernel != "" || s.Image == "" || s.DiskBus != "virtio" {
		return fault.Inputf("a test bed boots images from virtio disks only")
	}
	spec := BedSpec{DiskSize: s.DiskSize, UEFI: s.Firmware == UEFI, SecureBoot: s.SecureBoot, MemoryMiB: s.MemoryMiB, CPUs: s.CPUs, Network: s.Network != nil, SMBIOS: s.SMBIOS}
	for _, disk := range append([]Disk{{Path: s.Image, Format: s.ImageFormat}}, s.Disks...) {
		name, err := b.hand(ctx, disk.Path, disk.Format)
		if err != nil {
			return err
		}
		spec.Disks = append(spec.Disks, name)
	}
	body, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	d.xml = "of a test bed"
	if _, err := b.do(ctx, http.MethodPost, "/machines/"+d.name, bytes.NewReader(body)); err != nil {
		return err
	}
	if s.Network != nil {
		if err := b.plug(ctx, d.name, s.Network.Addr); err != nil {
			return err
		}
	}
	if err := d.attachConsole(ctx); err != nil {
		return err
	}
	d.started = time.Now()
	return b.resume(ctx, d.name)
}

// plug joins the machine's network interface to a network that listens here.
func (b *bedClient) plug(ctx context.Context, name, addr string) error {
	there, err := b.stream(ctx, name, "network")
	if err != nil {
		return err
	}
	here, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return errors.Join(fmt.Errorf("network: %w", err), there.Close())
	}
	go Splice(there, here)
	return nil
}

// Splice copies both ways until one side ends, and closes both.
func Splice(a, b net.Conn) {
	done := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{a, b}, {b, a}} {
		go func() {
			_, _ = io.Copy(pair[0], pair[1])
			done <- struct{}{}
		}()
	}
	<-done
	_ = a.Close()
	_ = b.Close()
	<-done
}
