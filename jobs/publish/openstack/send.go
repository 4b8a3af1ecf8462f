package openstack

import (
	"cmp"
	"context"
	"crypto/md5" // what a Glance may be configured to tell
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/imagedata"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/imageimport"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/pagination"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/qcow2"
	"salsa.debian.org/cloud-team/debcloud/internal/raw"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
)

// source makes, of the raw image, the bytes that are sent. All regions share it.
type source struct {
	img    *publish.Image
	format string

	once   sync.Once
	failed error
	file   *os.File
	stream *qcow2.Stream
}

// open finds out what is not zero: a qcow2 image begins with the tables that say it. Zeros are read here, once, and then no more.
func (s *source) open(ctx context.Context) error {
	s.once.Do(func() {
		if s.file, s.failed = s.img.Open(ctx); s.failed != nil {
			return
		}
		extents, size, err := raw.Map(s.file)
		if err == nil && s.format == "qcow2" {
			if extents, err = raw.NonZero(ctx, s.file, extents); err == nil {
				s.stream, err = qcow2.NewStream(s.file, size, extents)
			}
		}
		s.failed = err
	})
	return s.failed
}

// size of what is sent, in bytes.
func (s *source) size() int64 {
	if s.stream != nil {
		return s.stream.Size()
	}
	return s.img.Size()
}

// newHash returns the hash by the name that Glance has for it. Each Glance hashes by one that its operators chose.
func newHash(algorithm string) (hash.Hash, error) {
	switch algorithm {
	case "sha512":
		return sha512.New(), nil
	case "sha384":
		return sha512.New384(), nil
	case "sha256":
		return sha256.New(), nil
	case "sha1":
		return sha1.New(), nil
	case "md5":
		return md5.New(), nil
	}
	return nil, fault.WithHint(fault.Inputf("the cloud hashes images with %q, which is not known here, so what it has cannot be verified", algorithm), "have Glance's hashing_algorithm set to sha512")
}

// sum reads everything that is sent in a format and returns its digest, in hexadecimal.
func (s *source) sum(ctx context.Context, algorithm, format string) (string, error) {
	if format == "raw" && algorithm == "sha512" {
		return s.img.Digest.Hex(), nil
	}
	h, err := newHash(algorithm)
	if err != nil {
		return "", err
	}
	if err := s.open(ctx); err != nil {
		return "", err
	}
	var r io.Reader = io.NewSectionReader(s.file, 0, s.img.Size())
	if format == "qcow2" {
		r = io.NewSectionReader(s.stream, 0, s.stream.Size())
	}
	if _, err := io.Copy(h, &cancelled{ctx, r}); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// cancelled is a reader that ends with a context.
type cancelled struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancelled) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// body is what a request sends, of a known size.
type body struct {
	*io.PipeReader
	size int64
}

// lostError says that data may or may not have arrived: the image's status tells.
type lostError struct{ error }

func (e *lostError) Unwrap() error { return e.error }

// send gives a queued image its data. Where the cloud offers to import what was staged, that is the way: then it may check it and bring
// it into the form of its own store. What is sent is compared with the image's documents as it is read.
func (w *work) send(ctx context.Context, id string) (made, error) {
	if err := w.source.open(ctx); err != nil {
		return made{}, err
	}
	offered, err := w.imports(ctx)
	if err != nil {
		return made{}, err
	}
	h, err := w.newHash(ctx)
	if err != nil {
		return made{}, err
	}
	w.changed = true
	put := func(r io.Reader) error { return imagedata.Upload(ctx, w.images, id, r).ExtractErr() }
	if offered {
		put = func(r io.Reader) error { return imagedata.Stage(ctx, w.images, id, r).ExtractErr() }
	}
	r, pw := io.Pipe()
	answered := make(chan error, 1)
	go func() {
		err := put(&body{r, w.source.size()})
		r.CloseWithError(cmpError(err, io.ErrClosedPipe)) // so that no one writes to what nobody reads
		answered <- err
	}()
	sum, wrong := w.copy(ctx, h, newStreamSink(w.source, pw, pw))
	if wrong != nil {
		pw.CloseWithError(wrong)
	}
	err = <-answered
	if wrong != nil && fault.KindOf(wrong) == fault.Input && ctx.Err() == nil {
		return made{}, w.refuse(ctx, id, wrong)
	}
	if ctx.Err() != nil {
		return made{}, context.Cause(ctx)
	}
	if err == nil && wrong != nil {
		return made{}, wrong // the image cannot be read
	}
	if err != nil && !transient(err) && status(err) != 409 && status(err) != 410 {
		return made{}, w.explain(ctx, "upload image "+id, err)
	}
	if err != nil {
		return made{}, &lostError{w.explain(ctx, "upload image "+id, err)}
	}
	sent := made{ID: id, Format: w.settings.format, Algorithm: w.algorithm, Sum: hex.EncodeToString(sum)}
	if offered {
		err = w.importStaged(ctx, id)
	}
	return sent, err
}

// copy gives the image to a sink, and returns the hash, by h or quicker, of what another such sink writes.
func (w *work) copy(ctx context.Context, h hash.Hash, sink raw.Sink) ([]byte, error) {
	doing, hashed := "upload to "+w.name, func(to io.Writer) raw.Sink { return newStreamSink(w.source, to, io.NopCloser(nil)) }
	if w.algorithm == "sha256" {
		return w.img.CopyHashed(ctx, doing, hashed, sink)
	}
	err := w.img.Copy(ctx, doing, sink, hashed(h))
	return h.Sum(nil), err
}

// importStaged starts the import of staged data, where that was not started before.
func (w *work) importStaged(ctx context.Context, id string) error {
	err := imageimport.Create(ctx, w.images, id, imageimport.CreateOpts{Name: imageimport.GlanceDirectMethod}).ExtractErr()
	if status(err) == 409 {
		return nil
	}
	return w.explain(ctx, "import image "+id, err)
}

// refuse deletes what was made of an image that is not what its documents say.
func (w *work) refuse(ctx context.Context, id string, why error) error {
	i, err := w.get(ctx, id)
	if err == nil {
		err = w.remove(ctx, i)
	}
	if err != nil && status(err) != 404 {
		return errors.Join(why, err)
	}
	return why
}

// imports tells whether the cloud offers to import staged data.
func (w *work) imports(ctx context.Context) (bool, error) {
	info, err := imageimport.Get(ctx, w.images).Extract()
	switch status(err) {
	case 403, 404, 405: // older than the import API, or a cloud that hides it
		return false, nil
	}
	if err != nil {
		return false, w.explain(ctx, "ask for import methods", err)
	}
	return slices.Contains(info.ImportMethods.Value, string(imageimport.GlanceDirectMethod)), nil
}

// newHash returns the hash that the region's Glance has of images. It tells that of images alone: of one that is there already; where there is none,
// it is most likely Glance's default.
func (w *work) newHash(ctx context.Context) (hash.Hash, error) {
	if w.algorithm == "" {
		found := "sha512"
		err := images.List(w.images, images.ListOpts{Status: images.ImageStatusActive, Limit: 1}).EachPage(ctx, func(_ context.Context, page pagination.Page) (bool, error) {
			some, err := images.ExtractImages(page)
			if len(some) > 0 {
				found = cmp.Or(mark(&some[0], "os_hash_algo"), found)
			}
			return false, err
		})
		if err != nil {
			return nil, w.explain(ctx, "list images", err)
		}
		w.algorithm = found
	}
	return newHash(w.algorithm)
}

func cmpError(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// newStreamSink writes an image to a stream: as a qcow2 one, of which the source knows the tables, or the raw bytes.
func newStreamSink(s *source, w io.Writer, end io.Closer) raw.Sink {
	if s.stream == nil {
		return &rawSink{w, end}
	}
	return s.stream.Sink(w, end)
}

// rawSink writes all of an image: holes are zeros that are sent.
type rawSink struct {
	w   io.Writer
	end io.Closer
}

func (s *rawSink) Data(_ int64, p []byte) error {
	_, err := s.w.Write(p)
	return err
}

var zeros [raw.Cluster]byte

func (s *rawSink) Hole(_, length int64) error {
	for ; length > 0; length -= raw.Cluster {
		if _, err := s.w.Write(zeros[:min(raw.Cluster, length)]); err != nil {
			return err
		}
	}
	return nil
}

func (s *rawSink) Close() error { return s.end.Close() }
