package salsa

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

const maxEntries = 10_000

// unpacker writes the regular files of archives below dir. An archive that holds anything that could lead out of dir is refused as a whole.
type unpacker struct {
	dir  string
	left int64             // bytes that may still be written
	want func(string) bool // nil: every file
}

// unpack unpacks the archive in f. Files of an earlier archive are replaced.
func (u *unpacker) unpack(ctx context.Context, f *os.File) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	z, err := zip.NewReader(f, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return fault.Outsidef("the archive is damaged: %s", err)
	}
	files, err := u.survey(z)
	if err != nil {
		return err
	}
	for _, entry := range files {
		if err := u.file(ctx, entry); err != nil {
			return err
		}
	}
	return nil
}

// survey checks all of an archive's entries before the first is written, and returns the wanted files.
func (u *unpacker) survey(z *zip.Reader) ([]*zip.File, error) {
	if len(z.File) > maxEntries {
		return nil, fmt.Errorf("the archive has %d entries, more than %d", len(z.File), maxEntries)
	}
	var wanted []*zip.File
	seen := map[string]bool{}
	for _, e := range z.File {
		name := strings.TrimSuffix(e.Name, "/")
		if !filepath.IsLocal(name) || strings.ContainsAny(name, "\\\x00\n") || filepath.ToSlash(filepath.Clean(name)) != name {
			return nil, fmt.Errorf("the archive holds %q, which is no plain path inside it", shorten(e.Name, 100))
		}
		if seen[name] {
			return nil, fmt.Errorf("the archive holds %q twice", name)
		}
		seen[name] = true
		switch mode := e.Mode(); {
		case mode.IsDir():
		case !mode.IsRegular():
			return nil, fmt.Errorf("the archive holds %q, which is neither a file nor a directory", name)
		case name == originName:
		case u.want == nil || u.want(name):
			wanted = append(wanted, e)
		}
	}
	return wanted, nil
}

func (u *unpacker) file(ctx context.Context, e *zip.File) (err error) {
	path := filepath.Join(u.dir, filepath.FromSlash(e.Name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	in, err := e.Open()
	if err != nil {
		return fault.Outsidef("the archive is damaged: %s", err)
	}
	defer in.Close()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpack: %w", err)
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	return u.copy(ctx, out, in, e.Name)
}

// copy leaves holes where in has blocks of zeros: a raw image is mostly holes. The bytes are counted as they come out,
// not as the archive's directory promises.
func (u *unpacker) copy(ctx context.Context, out *os.File, in io.Reader, name string) error {
	buffer, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	var size int64
	for {
		n, err := io.ReadFull(in, buffer)
		if u.left -= int64(n); u.left < 0 {
			return fault.WithHint(fault.Inputf("the artifacts are larger than allowed when unpacked, at %q", name), "raise --max-size")
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !bytes.Equal(buffer[:n], zeros[:n]) {
			if _, err := out.WriteAt(buffer[:n], size); err != nil {
				return fmt.Errorf("unpack: %w", err)
			}
		}
		size += int64(n)
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF && complete(in):
			return out.Truncate(size)
		case err != nil:
			return fault.Outsidef("the archive is damaged at %q: %s", name, err)
		}
	}
}

// complete tells a file that ends within a buffer from an archive that is cut off: both make ReadFull say "unexpected EOF".
func complete(in io.Reader) bool {
	_, err := in.Read(make([]byte, 1))
	return err == io.EOF
}
