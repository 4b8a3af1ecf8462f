package vmimage

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/internal/progress"
	"salsa.debian.org/cloud-team/debcloud/internal/raw"
)

const partialPrefix = ".import-"

// Import copies an image into the pool, which is made if it is missing, under a name. source is a Build document, whose
// digest must be the image's, a raw image, or a qcow2 image without a backing file. An image that is there already is not
// written again, only its name is, and that becomes the newest one.
func Import(ctx context.Context, pool, source, name string) (Image, error) {
	if err := demandName(name); err != nil {
		return Image{}, err
	}
	if err := os.MkdirAll(pool, 0o755); err != nil {
		return Image{}, fault.Inputf("pool of VM images: %w", err)
	}
	pool, err := filepath.Abs(pool)
	if err != nil {
		return Image{}, err
	}
	unlock, err := lock(ctx, pool)
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	disk, want, err := open(source)
	if err != nil {
		return Image{}, err
	}
	partial, err := os.MkdirTemp(pool, partialPrefix)
	if err != nil {
		return Image{}, err
	}
	defer os.RemoveAll(partial)
	i, err := bring(ctx, disk, filepath.Join(partial, "image"))
	if err != nil {
		return Image{}, fmt.Errorf("import %s: %w", source, err)
	}
	if want != "" && i.Digest != want {
		return Image{}, fault.Inputf("the image of %s has digest %s where its build document says %s: it was altered; build it again", source, i.Digest, want)
	}
	i.Name, i.Source, i.Imported = name, filepath.Base(disk), time.Now().UTC().Truncate(time.Millisecond)
	if err := i.place(filepath.Join(partial, "image"), filePath(pool, i.Digest)); err != nil {
		return Image{}, err
	}
	if err := write(pool, i); err != nil {
		return Image{}, err
	}
	return read(pool, documentPath(pool, i.Name, i.Digest))
}

// place brings the file to its name. One that is there already stays: somebody may hold it.
func (i Image) place(partial, path string) error {
	if info, err := os.Stat(path); err == nil && info.Size() == i.Size {
		return nil
	}
	return os.Rename(partial, path)
}

// open finds the disk image of source and, where a document tells, its digest.
func open(source string) (disk, digest string, err error) {
	if !strings.HasSuffix(source, ".build.json") {
		if info, err := os.Stat(source); err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
			return "", "", fault.Inputf("%s is not an image: %w", source, errors.Join(err, errEmpty))
		}
		return source, "", nil
	}
	b, err := manifest.ReadBuild(source)
	if err != nil {
		return "", "", err
	}
	d, err := b.Metadata.Digest()
	return b.ImagePath(source), digestPrefix + d.Hex(), err
}

var errEmpty = errors.New("it must be a file with something in it")

// bring writes the disk of an image as a raw file to path, and describes it.
func bring(ctx context.Context, disk, path string) (Image, error) {
	f, err := os.Open(disk)
	if err != nil {
		return Image{}, fault.Inputf("%w", err)
	}
	defer f.Close()
	magic := make([]byte, len(qcow2Magic))
	if _, err := io.ReadFull(f, magic); err == nil && bytes.Equal(magic, qcow2Magic) {
		if err := convert(ctx, disk, path); err != nil {
			return Image{}, err
		}
		return describe(ctx, path)
	}
	return copyRaw(ctx, f, path)
}

// copyRaw copies and digests in one go.
func copyRaw(ctx context.Context, f *os.File, path string) (Image, error) {
	extents, size, err := raw.Map(f)
	if err != nil {
		return Image{}, err
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o444)
	if err != nil {
		return Image{}, err
	}
	defer out.Close()
	task := progress.Start(ctx, "import", size, true)
	defer task.Abort()
	h := sha512.New()
	if err := raw.Copy(ctx, f, extents, size, task.Add, raw.Digest{Hash: h}, &raw.File{File: out}); err != nil {
		return Image{}, err
	}
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
		return Image{}, err
	}
	task.Done()
	return Image{Digest: digestPrefix + hex.EncodeToString(h.Sum(nil)), Size: size}, os.Chmod(path, 0o444)
}

func describe(ctx context.Context, path string) (Image, error) {
	d, err := manifest.DigestOfFile(ctx, path)
	if err != nil {
		return Image{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return Image{}, err
	}
	return Image{Digest: digestPrefix + d.Hex(), Size: info.Size()}, os.Chmod(path, 0o444)
}

// convert makes a qcow2 image a sparse raw one. A backing file would let an image read any file of the host.
func convert(ctx context.Context, disk, path string) error {
	out, err := qemuImg(ctx, "info", "-U", "-f", "qcow2", "--output=json", disk)
	if err != nil {
		return fault.Inputf("%s cannot be read: %w", disk, err)
	}
	var info struct {
		Backing  string `json:"full-backing-filename"`
		Specific struct {
			Data struct {
				DataFile string `json:"data-file"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	if err := json.Unmarshal(out, &info); err != nil {
		return fmt.Errorf("qemu-img info: %w", err)
	}
	if info.Backing != "" || info.Specific.Data.DataFile != "" {
		return fault.WithHint(fault.Inputf("%s is no image by itself: it stands on %q", disk, info.Backing+info.Specific.Data.DataFile), "qemu-img convert -O qcow2 makes one")
	}
	_, err = qemuImg(ctx, "convert", "-f", "qcow2", "-O", "raw", disk, path)
	return err
}

// qemuImg runs qemu-img, which dies with ctx, and returns its standard output.
func qemuImg(ctx context.Context, args ...string) ([]byte, error) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		return nil, fault.WithHint(fault.Outsidef("program qemu-img is not installed"), "install the Debian package qemu-utils")
	}
	cmd := exec.CommandContext(ctx, "qemu-img", args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("qemu-img %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}

var qcow2Magic = []byte("QFI\xfb")

// usedFiles names the files that are the backing file of a qcow2 file in the pool: some VM has its disk there.
func usedFiles(ctx context.Context, pool string) (map[string]bool, error) {
	entries, err := os.ReadDir(pool)
	if err != nil {
		return nil, fault.Inputf("pool of VM images: %w", err)
	}
	used := map[string]bool{}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if backing := backingFile(filepath.Join(pool, e.Name())); backing != "" {
			used[filepath.Base(backing)] = true
		}
	}
	return used, nil
}

// backingFile reads the header of a qcow2 file (QEMU, docs/interop/qcow2.txt); "" where there is none.
func backingFile(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	header := make([]byte, 20)
	if _, err := io.ReadFull(f, header); err != nil || !bytes.HasPrefix(header, qcow2Magic) {
		return ""
	}
	offset, length := binary.BigEndian.Uint64(header[8:]), binary.BigEndian.Uint32(header[16:])
	if offset == 0 || length > 1023 {
		return ""
	}
	name := make([]byte, length)
	if _, err := f.ReadAt(name, int64(offset)); err != nil {
		return ""
	}
	return string(name)
}
