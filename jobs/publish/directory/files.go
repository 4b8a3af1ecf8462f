package directory

import (
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/internal/progress"
	"salsa.debian.org/cloud-team/debcloud/internal/qcow2"
	"salsa.debian.org/cloud-team/debcloud/internal/raw"
	"salsa.debian.org/cloud-team/debcloud/internal/sparsetar"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
)

// hasDiskFormats tells whether people download the image to run it themselves: only then raw and qcow2 are published.
func hasDiskFormats(img *publish.Image) bool {
	return slices.Contains([]string{"generic", "genericcloud", "nocloud"}, img.Build.Data.Info.Vendor)
}

// written is a published file.
type written struct {
	format string // label upload.cloud.debian.org/image-format
	name   string
	digest manifest.Digest
	size   int64
}

// writeFiles makes everything that the tree has of one image, and its SHA512SUMS, in the empty directory dir.
func writeFiles(ctx context.Context, img *publish.Image, dir string) error {
	files, err := writeFormats(ctx, img, dir)
	if err != nil {
		return err
	}
	all := sums{}
	var uploads []manifest.Upload
	for _, f := range files {
		all[f.name] = f.digest.Hex()
		uploads = append(uploads, img.Upload(provider, path.Join(img.Directory(), f.name), f.format, f.digest, f.size))
	}
	list, err := img.List(uploads, img.Name()+".report.json")
	if err != nil {
		return err
	}
	beside, err := besides(img)
	if err != nil {
		return err
	}
	beside[".json"] = list
	for ext, text := range beside {
		name := img.Name() + ext
		all[name] = manifest.Digest(sha512.Sum512(text)).Hex()
		if err := writeFile(filepath.Join(dir, name), text, img.Version.Time()); err != nil {
			return err
		}
	}
	return writeSums(dir, all, img.Version.Time())
}

// besides returns, by extension, what tells about the image: the report, its parts as JUnit, the build's log and each console.
func besides(img *publish.Image) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, ext := range []string{".report.json", ".check.xml", ".boot.xml", ".build.log"} {
		text, err := os.ReadFile(img.Base + ext)
		if errors.Is(err, os.ErrNotExist) && ext != ".report.json" {
			continue
		}
		if err != nil {
			return nil, err
		}
		files[ext] = text
	}
	for _, s := range img.Report.Data.Suites {
		for _, b := range s.Boots {
			if b.Console != "" && filepath.Base(b.Firmware) == b.Firmware {
				files[".console-"+b.Firmware+".log"] = []byte(b.Console)
			}
		}
	}
	return files, nil
}

// writeFormats reads the image once and makes of it the raw copy, the tar.xz, the qcow2 and their digests. An image
// whose digest is not that of its Build document is refused.
func writeFormats(ctx context.Context, img *publish.Image, dir string) ([]written, error) {
	in, err := img.Open(ctx)
	if err != nil {
		return nil, err
	}
	extents, size, err := raw.Map(in)
	if err != nil {
		return nil, err
	}
	task := progress.Start(ctx, "publish "+img.Name(), size, true)
	defer task.Abort()
	f := &formats{img: img, prefix: filepath.Join(dir, img.Name()), digest: sha512.New()}
	defer f.abort()
	if err := f.open(ctx, extents, size); err != nil {
		return nil, err
	}
	if err := raw.Copy(ctx, in, extents, size, task.Add, f.sinks...); err != nil {
		return nil, err
	}
	if got := manifest.Digest(f.digest.Sum(nil)); got != img.Digest {
		return nil, fault.Inputf("image %s has digest %s where its build document says %s: it was altered; build it again", in.Name(), got, img.Digest)
	}
	files, err := f.seal()
	if err == nil {
		task.Done()
	}
	return files, err
}

// formats are the files in the making.
type formats struct {
	img    *publish.Image
	prefix string
	digest hash.Hash // of the image
	sinks  []raw.Sink
	tar    *tarXZ
	raw    *os.File
	qcow2  *qcow2File
}

func (f *formats) open(ctx context.Context, extents []raw.Extent, size int64) (err error) {
	f.sinks = []raw.Sink{raw.Digest{Hash: f.digest}}
	if f.tar, err = newTarXZ(ctx, f.prefix+".tar.xz", extents, size, f.img); err != nil {
		return err
	}
	f.sinks = append(f.sinks, f.tar)
	if !hasDiskFormats(f.img) {
		return nil
	}
	if f.raw, err = create(f.prefix + ".raw"); err != nil {
		return err
	}
	if f.qcow2, err = newQCOW2(f.prefix+".qcow2", size); err != nil {
		return err
	}
	f.sinks = append(f.sinks, &raw.File{File: f.raw}, f.qcow2)
	return nil
}

// abort ends threads and processes and closes files. What is sealed already it does not touch.
func (f *formats) abort() {
	if f.tar != nil {
		f.tar.xz.abort()
		f.tar.file.Close()
	}
	if f.raw != nil {
		f.raw.Close()
	}
	if f.qcow2 != nil {
		f.qcow2.Abort()
		f.qcow2.file.Close()
	}
}

// seal closes the files, in the order in which upstream lists them.
func (f *formats) seal() ([]written, error) {
	files := []written{{format: "internal", name: f.tar.file.Name(), digest: manifest.Digest(f.tar.digest.Sum(nil))}}
	open := []*os.File{f.tar.file}
	if f.raw != nil {
		files = append(files,
			written{format: "raw", name: f.raw.Name(), digest: f.img.Digest},
			written{format: "qcow2", name: f.qcow2.file.Name(), digest: f.qcow2.digest})
		open = append(open, f.raw, f.qcow2.file)
	}
	for i := range files {
		info, err := open[i].Stat()
		if err != nil {
			return nil, err
		}
		files[i].size, files[i].name = info.Size(), filepath.Base(files[i].name)
		if err := seal(open[i], f.img.Version.Time()); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func create(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// tarXZ is the sink of NAME.tar.xz, which holds disk.raw.
type tarXZ struct {
	*sparsetar.Writer
	xz     *xz
	file   *os.File
	digest hash.Hash
}

func newTarXZ(ctx context.Context, name string, extents []raw.Extent, size int64, img *publish.Image) (*tarXZ, error) {
	file, err := create(name)
	if err != nil {
		return nil, err
	}
	t := &tarXZ{file: file, digest: sha512.New()}
	if t.xz, err = startXZ(ctx, img.Type, io.MultiWriter(file, t.digest)); err != nil {
		file.Close()
		return nil, err
	}
	if t.Writer, err = sparsetar.NewWriter(t.xz, "disk.raw", extents, size, img.Version.Time()); err != nil {
		t.xz.abort()
		file.Close()
		return nil, err
	}
	return t, nil
}

// Close ends the archive and waits for the compressor.
func (t *tarXZ) Close() error {
	if err := t.Writer.Close(); err != nil {
		return err
	}
	return t.xz.Close()
}

// qcow2File is the sink of NAME.qcow2.
type qcow2File struct {
	*qcow2.Writer
	file   *os.File
	digest manifest.Digest
}

func newQCOW2(name string, size int64) (*qcow2File, error) {
	file, err := create(name)
	if err != nil {
		return nil, err
	}
	return &qcow2File{Writer: qcow2.NewWriter(file, size, min(4, runtime.GOMAXPROCS(0))), file: file}, nil
}

// Close ends the image and digests it: its header, at the front, is known last.
func (q *qcow2File) Close() error {
	if err := q.Writer.Close(); err != nil {
		return err
	}
	info, err := q.file.Stat()
	if err != nil {
		return err
	}
	q.digest, err = manifest.DigestOf(io.NewSectionReader(q.file, 0, info.Size()))
	if err != nil {
		err = fmt.Errorf("digest %s: %w", q.file.Name(), err)
	}
	return err
}
