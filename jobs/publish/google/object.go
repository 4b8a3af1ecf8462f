package google

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/klauspost/pgzip"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/pause"
	"salsa.debian.org/cloud-team/debcloud/internal/raw"
	"salsa.debian.org/cloud-team/debcloud/internal/sparsetar"
)

// storageObject is an Object of Cloud Storage.
type storageObject struct {
	Name        string            `json:"name"`
	ContentType string            `json:"contentType,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	Size        number            `json:"size,omitempty"`
	CRC32C      string            `json:"crc32c,omitempty"`
	TimeCreated string            `json:"timeCreated,omitempty"`
	Generation  number            `json:"generation,omitempty"` // of what lies under the name: each time it is written it has another one
}

// gigabytes rounds a size up to a whole GiB, as Google demands of disk.raw. What is added is a hole.
func gigabytes(size int64) int64 { return (size + 1<<30 - 1) >> 30 << 30 }

// findObject returns an object of ours; nil where there is none.
func (p *Publisher) findObject(ctx context.Context, name string) (*storageObject, error) {
	var there storageObject
	err := p.call(ctx, http.MethodGet, p.endpoint.storage+"/"+url.PathEscape(name), nil, nil, &there)
	if isStatus(err, http.StatusNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, p.explain("look for object "+name, err)
	}
	if there.Metadata[markLabel] != "yes" {
		return nil, fault.WithHint(fault.Inputf("object %s in bucket %s is not ours", name, p.bucket), "give debcloud a bucket of its own")
	}
	return &there, nil
}

// deleteObject removes an object that may be gone already.
func (w *work) deleteObject(ctx context.Context, name string) error {
	err := w.call(ctx, http.MethodDelete, w.endpoint.storage+"/"+url.PathEscape(name), nil, nil, nil)
	if err == nil {
		w.changed = true
	}
	if err != nil && !isStatus(err, http.StatusNotFound) {
		return w.explain("delete object "+name, err)
	}
	return nil
}

// sendObject packs the image and uploads it, in one pass and without a temporary file. The object appears when the image was read to its
// end and is what its documents say; it has Google's own checksums, which are compared with those of what was sent.
func (w *work) sendObject(ctx context.Context) error {
	f, err := w.img.Open(ctx)
	if err != nil {
		return err
	}
	extents, _, err := raw.Map(f)
	if err != nil {
		return err
	}
	if extents, err = raw.NonZero(ctx, f, extents); err != nil {
		return err
	}
	up := &resumable{work: w, ctx: ctx, crc: crc32.New(crc32.MakeTable(crc32.Castagnoli)), buffer: make([]byte, 0, w.chunk)}
	if err := up.start(); isStatus(err, http.StatusPreconditionFailed) {
		_, err := w.findObject(ctx, w.object())
		return err // where it is ours, another publisher's upload has ended since it was looked for
	} else if err != nil {
		return err
	}
	if err := w.pack(ctx, up, extents); err != nil {
		up.abandon()
		return err
	}
	return up.finish()
}

// pack writes the tar.gz. The compression is what takes longest in an upload, so each core has a part of it.
func (w *work) pack(ctx context.Context, out io.Writer, extents []raw.Extent) (err error) {
	end := &valve{out: out}
	z, err := pgzip.NewWriterLevel(end, pgzip.BestSpeed)
	if err != nil {
		return err
	}
	// Its goroutines end with it. What they still have of an image that failed goes nowhere.
	defer func() { err = cmp.Or(err, z.Close()) }()
	modified := time.Time{} // the same image gives the same object
	archive, err := sparsetar.NewWriter(z, "disk.raw", extents, gigabytes(w.img.Size()), modified)
	if err == nil {
		err = w.img.Copy(ctx, "upload", archive) // closes the archive
	}
	if err != nil {
		end.shut.Store(true)
	}
	return err
}

// valve lets through what is written until it is shut.
type valve struct {
	out  io.Writer
	shut atomic.Bool
}

func (v *valve) Write(p []byte) (int, error) {
	if v.shut.Load() {
		return 0, io.ErrClosedPipe
	}
	return v.out.Write(p)
}

// resumable is a resumable upload (cloud.google.com/storage/docs/performing-resumable-uploads). The URL of its session is a secret:
// who has it can write.
type resumable struct {
	*work
	ctx     context.Context // of this upload: io.Writer takes none
	session string
	sent    int64
	buffer  []byte
	crc     hash.Hash32
	done    *storageObject
}

func (u *resumable) start() error {
	body, err := json.Marshal(storageObject{Name: u.object(), ContentType: "application/gzip", Metadata: map[string]string{
		markLabel: "yes", "debcloud-image": u.name, "debcloud-digest": u.img.Digest.Hex(),
	}})
	if err != nil {
		return err
	}
	query := url.Values{"uploadType": {"resumable"}, "name": {u.object()}, "ifGenerationMatch": {"0"}}
	a, err := u.send(u.ctx, request{method: http.MethodPost, url: u.endpoint.upload + "?" + query.Encode(), body: body, header: http.Header{
		"Content-Type": {"application/json"}, "X-Upload-Content-Type": {"application/gzip"},
	}})
	if err != nil {
		return u.explain("begin the upload of "+u.object(), err)
	}
	if u.session = a.header.Get("Location"); u.session == "" {
		return fault.Outsidef("Google began no upload session for %s", u.object())
	}
	return nil
}

// Write keeps a whole chunk back until more follows: the last one ends the upload.
func (u *resumable) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if len(u.buffer) == u.chunk {
			if err := u.put(false); err != nil {
				return 0, err
			}
		}
		part := p[:min(len(p), u.chunk-len(u.buffer))]
		u.buffer = append(u.buffer, part...)
		u.crc.Write(part)
		p = p[len(part):]
	}
	return n, nil
}

// put sends the buffer, and again what of it did not get there.
func (u *resumable) put(last bool) error {
	total := "*"
	end := u.sent + int64(len(u.buffer))
	if last {
		total = fmt.Sprint(end)
	}
	content := fmt.Sprintf("bytes %d-%d/%s", u.sent, end-1, total)
	body := u.buffer
	for try := 0; ; try++ {
		a, err := u.once(u.ctx, request{method: http.MethodPut, url: u.session, body: body, header: http.Header{"Content-Range": {content}}, accept: []int{http.StatusPermanentRedirect}})
		if u.ctx.Err() != nil {
			return context.Cause(u.ctx)
		}
		refused, answered := errors.AsType[*apiError](err)
		switch {
		case err == nil && a.status != http.StatusPermanentRedirect:
			u.sent, u.buffer, u.done = end, u.buffer[:0], new(storageObject)
			return json.Unmarshal(a.body, u.done)
		case err == nil:
			have := received(a.header)
			if have == end && !last {
				u.sent, u.buffer = end, u.buffer[:0]
				return nil
			}
			if have < u.sent || have > end {
				return fault.Outsidef("Google has %d bytes of %s, which cannot be after %d were sent", have, u.object(), end)
			}
			body = u.buffer[have-u.sent:]
			content = fmt.Sprintf("bytes %d-%d/%s", have, end-1, total)
			if len(body) == 0 {
				content = "bytes */" + total
			}
		case answered && !refused.passing(), errors.As(err, new(*fault.Error)):
			return u.explain("upload "+u.object(), err)
		case try+1 >= tries && answered:
			return u.explain("upload "+u.object(), err)
		case try+1 >= tries:
			return fault.Outsidef("upload %s: %w", u.object(), withoutURL(err))
		default:
			// How far it came is asked before anything is sent again.
			body, content = nil, "bytes */"+total
		}
		if try > 0 {
			if err := pause.For(u.ctx, u.patience.Poll<<min(try, 6)); err != nil {
				return err
			}
		}
	}
}

// received reads how many bytes Google has: "Range: bytes=0-LAST", and nothing for none.
func received(h http.Header) int64 {
	var last int64
	if _, err := fmt.Sscanf(h.Get("Range"), "bytes=0-%d", &last); err != nil {
		return 0
	}
	return last + 1
}

func (u *resumable) finish() error {
	sent := u.sent + int64(len(u.buffer))
	err := u.put(true)
	// Google advises CRC32C for this, and its MD5 would cost more than all else that is done with a byte.
	crc := base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, u.crc.Sum32()))
	if isStatus(err, http.StatusPreconditionFailed) {
		return u.overtaken(number(sent), crc)
	}
	if err != nil {
		return err
	}
	if u.done.CRC32C != crc || u.done.Size != number(sent) {
		lost := u.deleteGeneration(u.done)
		return errors.Join(fault.Outsidef("object %s arrived with %d bytes and CRC32C %s, and %d bytes with %s were sent", u.object(), u.done.Size, u.done.CRC32C, sent, crc), lost)
	}
	return nil
}

// overtaken judges what another publisher, of another journal, put under the name while this one sent. It may be making the image of that, so nothing
// of it is deleted.
func (u *resumable) overtaken(size number, crc string) error {
	there, err := u.findObject(u.ctx, u.object())
	if err != nil {
		return err
	}
	if there == nil || there.Size == size && there.CRC32C == crc { // nil: the image was made of it, or its publisher will say why not
		return nil
	}
	return fault.WithHint(fault.Outsidef("another publisher is at work on %s: its object %s has %d bytes and CRC32C %s, and %d bytes with %s were sent", u.name, u.object(), there.Size, there.CRC32C, size, crc),
		"run the same command again when it is done")
}

// deleteGeneration removes an object that this run made, and not what another one put in its place.
func (u *resumable) deleteGeneration(o *storageObject) error {
	query := url.Values{"ifGenerationMatch": {fmt.Sprint(int64(o.Generation))}}
	err := u.call(u.ctx, http.MethodDelete, u.endpoint.storage+"/"+url.PathEscape(o.Name), query, nil, nil)
	if err != nil && !isStatus(err, http.StatusNotFound, http.StatusPreconditionFailed) {
		return u.explain("delete object "+o.Name, err)
	}
	return nil
}

// abandon ends the session, so that nothing of it stays. Google forgets it after a week anyway.
func (u *resumable) abandon() {
	if u.session == "" || u.ctx.Err() != nil {
		return
	}
	_, _ = u.once(u.ctx, request{method: http.MethodDelete, url: u.session, accept: []int{499}})
}

// objects lists all objects of ours.
func (p *Publisher) objects(ctx context.Context) ([]storageObject, error) {
	all, err := pages[storageObject](ctx, p, p.endpoint.storage, url.Values{"maxResults": {"1000"}})
	if err != nil {
		return nil, p.explain("list the objects of bucket "+p.bucket, err)
	}
	var ours []storageObject
	for _, o := range all {
		if o.Metadata[markLabel] == "yes" && strings.HasSuffix(o.Name, ".tar.gz") {
			ours = append(ours, o)
		}
	}
	return ours, nil
}
