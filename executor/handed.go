package executor

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"

	"github.com/klauspost/compress/zstd"

	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/raw"
)

// handedDisk is one that a job handed over to its test bed, or does just now.
type handedDisk struct {
	size  int64
	whole bool // it has arrived
}

const (
	// mostUploads and mostWindow bound the memory that a job's compressed disks take here: a decoder holds its window.
	mostUploads = 2
	mostWindow  = 8 << 20 // zstd's without --ultra and --long
	// mostDisks bounds the files of one job.
	mostDisks = 64
	// block is what the smallest file takes of the pool.
	block = 4096
)

// take stores a disk that the job hands over, sparse. It is raw and stays so, whatever its bytes look like: a qcow2 could
// name a file of the host.
func (t *testbed) take(_ http.ResponseWriter, r *http.Request) error {
	name, err := named(r, "disk")
	if err != nil {
		return err
	}
	size, err := strconv.ParseInt(r.URL.Query().Get("size"), 10, 64)
	if err != nil || size <= 0 || size%512 != 0 {
		return fault.Inputf("a disk of %q bytes cannot be: a whole number of sectors of 512", r.URL.Query().Get("size"))
	}
	select {
	case t.uploads <- struct{}{}:
		defer func() { <-t.uploads }()
	case <-r.Context().Done():
		return context.Cause(r.Context())
	}
	disk, err := t.reserveDisk(name, size)
	if err != nil {
		return err
	}
	path, err := t.node.HandedDisk(r.Context(), t.job.Lasting.Name, name)
	if err == nil {
		err = store(path, r.Body, size)
	}
	return t.arrived(name, path, disk, err)
}

// arrived ends the handing over of a disk. One that did not arrive whole gives its name and its share back.
func (t *testbed) arrived(name, path string, disk *handedDisk, err error) error {
	if err != nil && path != "" {
		_ = os.Remove(path)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		delete(t.handed, name)
		return err
	}
	disk.whole = true
	return nil
}

func (t *testbed) reserveDisk(name string, size int64) (*handedDisk, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, again := t.handed[name]; again {
		return nil, fault.Inputf("a disk %q was handed over already", name)
	}
	if len(t.handed) == mostDisks {
		return nil, fault.Inputf("a test bed takes %d disks, and disk %q is one more", mostDisks, name)
	}
	if err := t.roomFor(size); err != nil {
		return nil, err
	}
	t.handed[name] = &handedDisk{size: size}
	return t.handed[name], nil
}

func (t *testbed) reserveOverlay(s *sibling, size int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.roomFor(size); err != nil {
		return err
	}
	s.disk = size
	return nil
}

// roomFor tells whether the disks that were handed over and the overlays stay together within the test bed's share of the
// disk, with so many bytes more. It is called under the bed's lock.
func (t *testbed) roomFor(size int64) error {
	most := t.driver.Settings.Testbed.Budget.Disk
	var used int64
	for _, d := range t.handed {
		used += blocks(d.size)
	}
	for _, s := range t.siblings {
		used += blocks(s.disk)
	}
	if free := int64(most) - used; size > free || blocks(size) > free { // the first, because rounding may overflow
		return fault.Inputf("%v of disk are more than the %v that a test bed has left of %v", settings.Size(size), settings.Size(max(0, free)), most)
	}
	return nil
}

// blocks is size in whole blocks.
func blocks(size int64) int64 { return (size + block - 1) / block * block }

// size is that of a disk that has arrived.
func (t *testbed) size(disk string) (int64, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.handed[disk]
	if d == nil || !d.whole {
		return 0, false
	}
	return d.size, true
}

// store writes size bytes of a zstd stream, and leaves holes where there are zeros.
func store(path string, from io.Reader, size int64) error {
	z, err := zstd.NewReader(from, zstd.WithDecoderMaxWindow(mostWindow), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer z.Close()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = fill(f, z, size)
	return errors.Join(err, f.Close())
}

func fill(f *os.File, from io.Reader, size int64) error {
	if err := f.Truncate(size); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for at := int64(0); at < size; {
		n, err := io.ReadFull(from, buf[:min(int64(len(buf)), size-at)])
		if err != nil {
			return fault.Inputf("the disk ends after %d of %d bytes: %w", at+int64(n), size, err)
		}
		if !raw.Zero(buf[:n]) {
			if _, err := f.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
	}
	if n, _ := from.Read(buf[:1]); n > 0 {
		return fault.Inputf("the disk goes on after its %d bytes", size)
	}
	return nil
}
