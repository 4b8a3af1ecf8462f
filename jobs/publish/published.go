package publish

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/internal/progress"
	"salsa.debian.org/cloud-team/debcloud/internal/raw"
)

// isList tells whether the document at path is the public manifest of an image.
func isList(path string) bool {
	text, err := os.ReadFile(path)
	var h manifest.Header
	return err == nil && json.Unmarshal(text, &h) == nil && h.Kind == "List"
}

// readPublished takes an image out of a public tree, as it was published there: NAME.json, its image beside it as NAME.raw
// or, packed, as NAME.tar.xz.
func readPublished(path string) (*Image, error) {
	builds, _, err := manifest.ReadList(path)
	if err != nil {
		return nil, err
	}
	if len(builds) != 1 {
		return nil, fault.Inputf("%s holds %d builds where one is needed", path, len(builds))
	}
	b := &builds[0]
	if b.Data.Image == nil {
		return nil, fault.WithHint(fault.Inputf("%s does not say how large its image is", path), "only images that debcloud built can be published again")
	}
	img := &Image{Build: b, Base: strings.TrimSuffix(path, ".json")}
	img.path = img.Base + ".raw"
	if _, err := os.Stat(img.path); errors.Is(err, os.ErrNotExist) {
		img.path, img.packed = img.Base+".tar.xz", true
	}
	return img, nil
}

// unpack writes the disk.raw of a tar.xz to a file that has no name and ends with the process.
func (i *Image) unpack(ctx context.Context, path string) (_ *os.File, err error) {
	out, err := os.CreateTemp("", "debcloud-unpack-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			out.Close()
		}
	}()
	if err := os.Remove(out.Name()); err != nil {
		return nil, err
	}
	task := progress.Start(ctx, "unpack "+i.Name(), i.Size(), true)
	defer task.Abort()
	if err := unpackXZ(ctx, path, func(r io.Reader) error { return copySparse(r, out, i.Size(), task.Add) }); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", path, err)
	}
	task.Done()
	return out, nil
}

// unpackXZ has xz decompress the file at path for read.
func unpackXZ(outer context.Context, path string, read func(io.Reader) error) error {
	ctx, cancel := context.WithCancel(outer)
	defer cancel()
	xz := exec.CommandContext(ctx, "xz", "-dcqT0", "--memlimit-mt-decompress=200MiB", "--", path)
	xz.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	xz.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	xz.WaitDelay = 5 * time.Second
	var said strings.Builder
	xz.Stderr = &said
	pipe, err := xz.StdoutPipe()
	if err != nil {
		return err
	}
	if outer.Err() != nil {
		return context.Cause(outer)
	}
	if err := xz.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return fault.WithHint(fault.Outsidef("xz is not installed"), "apt install xz-utils")
		}
		return err
	}
	failed := read(pipe)
	if failed == nil {
		_, failed = io.Copy(io.Discard, pipe) // the archive's padding
	}
	if failed != nil {
		cancel()
	}
	ended := xz.Wait()
	switch {
	case outer.Err() != nil:
		return context.Cause(outer)
	case said.Len() > 0 || failed == nil && ended != nil:
		return fault.Inputf("it is damaged: %s", strings.TrimSpace(said.String()))
	}
	return failed
}

// copySparse writes the archive's disk.raw, of size bytes, to out; clusters of zeros become holes.
func copySparse(r io.Reader, out *os.File, size int64, done func(int64)) error {
	archive := tar.NewReader(r)
	h, err := archive.Next()
	if err != nil {
		return fault.Inputf("it is no tar archive: %w", err)
	}
	if h.Name != "disk.raw" || h.Size != size {
		return fault.Inputf("it holds %s of %d bytes where its document says disk.raw of %d", h.Name, h.Size, size)
	}
	buf := make([]byte, raw.Cluster)
	for at := int64(0); at < size; at += raw.Cluster {
		n := min(raw.Cluster, size-at)
		if _, err := io.ReadFull(archive, buf[:n]); err != nil {
			return err
		}
		if !raw.Zero(buf[:n]) {
			if _, err := out.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		done(n)
	}
	return out.Truncate(size)
}
