package alibaba

import (
	"bytes"
	"cmp"
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aliyun/alibabacloud-oss-go-sdk-v2/oss"
	"github.com/aliyun/alibabacloud-oss-go-sdk-v2/oss/retry"
	"golang.org/x/sync/errgroup"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/qcow2"
	"salsa.debian.org/cloud-team/debcloud/internal/raw"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/alibaba/crc"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

const (
	workers   = 4       // parts sent at once
	usualPart = 8 << 20 // bytes
	maxParts  = 10000   // of an upload: OSS, "Multipart upload", limits
	metaMark  = "debcloud-digest"
)

// newStore makes the client of OSS in the home region.
func newStore(s settings, l *login, p patience, transport http.RoundTripper) *oss.Client {
	return oss.NewClient(oss.NewConfig().WithRegion(s.Home).WithCredentialsProvider(l).WithHttpClient(newHTTP(transport)).WithUserAgent("debcloud").
		WithLogLevel(oss.LogOff).          // the SDK's log holds what is signed
		WithDisableUploadCRC64Check(true). // put does it in less time
		WithRetryer(retry.NewStandard(func(o *retry.RetryOptions) {
			o.MaxAttempts, o.BaseDelay, o.MaxBackoff = p.calls, p.Poll, p.PollMost
		})))
}

// object is what the bucket has under a key.
type object struct {
	Size int64  // bytes
	CRC  string // CRC-64 of ECMA-182, decimal, as OSS has it
	ours bool   // and of this image
}

// head asks for an object, nil where there is none.
func (a *Publisher) head(ctx context.Context, key, digest string) (*object, error) {
	out, err := a.oss.HeadObject(ctx, &oss.HeadObjectRequest{Bucket: &a.settings.Bucket, Key: &key})
	if code, _, status := answer(err); status == http.StatusNotFound && code != "NoSuchBucket" {
		return nil, nil
	}
	if err != nil {
		return nil, a.explainStore(ctx, "HeadObject", err)
	}
	o := &object{Size: out.ContentLength, CRC: deref(out.HashCRC64)}
	for k, v := range out.Metadata {
		o.ours = o.ours || strings.EqualFold(k, metaMark) && v == digest
	}
	return o, nil
}

func (a *Publisher) explainStore(ctx context.Context, action string, err error) error {
	return explain(ctx, a.settings.Home, action+" on bucket "+a.settings.Bucket, err)
}

// store brings the image into the bucket.
func (p *publication) store(ctx context.Context) error {
	_, err := journal.StandingStep(ctx, p.entry, "object", func(ctx context.Context, want object) (bool, error) {
		have, err := p.head(ctx, p.object(), p.img.Digest.Hex())
		return have != nil && have.ours && have.Size == want.Size && have.CRC == want.CRC, err
	}, p.sendObject)
	return err
}

// sendObject makes a qcow2 image and uploads it in parts, in one pass and without a temporary file. An object appears when it is completed, which is
// after the image was read to its end and is what its documents say; so one that is there already, from an earlier run, is right.
func (p *publication) sendObject(ctx context.Context) (object, error) {
	have, err := p.head(ctx, p.object(), p.img.Digest.Hex())
	if err != nil {
		return object{}, err
	}
	if have != nil && !have.ours {
		return object{}, fault.WithHint(fault.Inputf("object %s in bucket %s is not ours", p.object(), p.settings.Bucket), "give debcloud a bucket of its own, or remove the object")
	}
	if have != nil {
		return *have, nil
	}
	stream, err := p.stream(ctx)
	if err != nil {
		return object{}, err
	}
	for range 3 {
		id, err := p.beginUpload(ctx)
		if is(err, "FileAlreadyExists") {
			return p.ended(ctx, err)
		}
		if err != nil {
			return object{}, err
		}
		parts, err := p.parts(ctx, id)
		if err == nil {
			return p.sendParts(ctx, stream, id, parts)
		}
		if !is(err, "NoSuchUpload") {
			return object{}, p.explainStore(ctx, "ListParts", err)
		}
		if err := p.entry.Forget(ctx, "upload"); err != nil {
			return object{}, err
		}
	}
	return object{}, fault.Outsidef("uploads to bucket %s are aborted as fast as they begin: does a lifecycle rule do so?", p.settings.Bucket)
}

// stream finds out what is not zero: a qcow2 image begins with the tables that say it.
func (p *publication) stream(ctx context.Context) (*qcow2.Stream, error) {
	f, err := p.img.Open(ctx)
	if err != nil {
		return nil, err
	}
	extents, size, err := raw.Map(f)
	if err != nil {
		return nil, err
	}
	if extents, err = raw.NonZero(ctx, f, extents); err != nil {
		return nil, err
	}
	return qcow2.NewStream(f, size, extents)
}

// beginUpload returns the upload that an earlier run began, as the journal or OSS knows it, or begins one.
func (p *publication) beginUpload(ctx context.Context) (string, error) {
	return journal.Step(ctx, p.entry, "upload", func(ctx context.Context, _ bool) (string, error) {
		begun, err := p.uploads(ctx, p.object())
		if err != nil {
			return "", err
		}
		if len(begun) > 0 {
			return begun[0].ID, nil
		}
		out, err := p.oss.InitiateMultipartUpload(ctx, &oss.InitiateMultipartUploadRequest{
			Bucket: &p.settings.Bucket, Key: oss.Ptr(p.object()), ForbidOverwrite: oss.Ptr("true"), ContentType: oss.Ptr("application/octet-stream"),
			Metadata: map[string]string{metaMark: p.img.Digest.Hex()},
		})
		if err != nil {
			return "", p.explainStore(ctx, "InitiateMultipartUpload", err)
		}
		p.changed.Store(true)
		return deref(out.UploadId), nil
	})
}

// begun is an upload that was not completed.
type begun struct {
	Key, ID string
	at      time.Time
}

// uploads lists unfinished uploads whose keys begin with prefix, the newest first.
func (a *Publisher) uploads(ctx context.Context, prefix string) ([]begun, error) {
	var all []begun
	in := &oss.ListMultipartUploadsRequest{Bucket: &a.settings.Bucket, Prefix: &prefix}
	for pages := a.oss.NewListMultipartUploadsPaginator(in); pages.HasNext(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, a.explainStore(ctx, "ListMultipartUploads", err)
		}
		for _, u := range page.Uploads {
			all = append(all, begun{deref(u.Key), deref(u.UploadId), deref(u.Initiated)})
		}
	}
	slices.SortStableFunc(all, func(a, b begun) int { return cmp.Or(b.at.Compare(a.at), cmp.Compare(a.ID, b.ID)) })
	return all, nil
}

// parts lists the parts of an upload that OSS has, by number. The error is OSS's own.
func (p *publication) parts(ctx context.Context, id string) (map[int32]oss.Part, error) {
	all := map[int32]oss.Part{}
	in := &oss.ListPartsRequest{Bucket: &p.settings.Bucket, Key: oss.Ptr(p.object()), UploadId: &id}
	for pages := p.oss.NewListPartsPaginator(in); pages.HasNext(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, part := range page.Parts {
			all[part.PartNumber] = part
		}
	}
	return all, nil
}

// upload is an upload on its way. It takes the bytes of the object in their order and sends parts side by side.
type upload struct {
	*publication
	ctx   context.Context // of the group: io.Writer takes none
	id    string
	size  int64 // of a part, bytes
	have  map[int32]oss.Part
	group *errgroup.Group
	free  chan []byte

	buffer []byte
	number int32 // of the part in buffer

	mu    sync.Mutex
	parts []sentPart
}

// sentPart is a part that OSS has.
type sentPart struct {
	number int32
	etag   string
	size   int64
	crc    uint64
}

// partSize is what of an object of size bytes is sent at once: whole MiB where the usual size would make too many parts.
func (a *Publisher) partSize(size int64) int64 {
	if size <= a.part*maxParts {
		return a.part
	}
	const step = 1 << 20
	return ((size+maxParts-1)/maxParts + step - 1) / step * step
}

// sendParts sends what OSS does not have yet, and completes the upload.
func (p *publication) sendParts(ctx context.Context, stream *qcow2.Stream, id string, have map[int32]oss.Part) (object, error) {
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	u := &upload{
		publication: p, ctx: inner, id: id, size: p.partSize(stream.Size()), have: have, group: group, free: make(chan []byte, workers+1), number: 1,
	}
	for range workers + 1 {
		u.free <- nil // allocated at first use
	}
	wrong := p.img.Copy(ctx, "upload", stream.Sink(u, u))
	failed := group.Wait()
	switch {
	case ctx.Err() != nil:
		return object{}, context.Cause(ctx)
	case is(failed, "NoSuchUpload"):
		return p.ended(ctx, failed)
	case failed != nil:
		return object{}, p.explainStore(ctx, "UploadPart", failed)
	case wrong != nil && fault.KindOf(wrong) == fault.Input:
		return object{}, p.abandon(ctx, id, wrong)
	case wrong != nil:
		return object{}, wrong
	}
	return u.complete(ctx)
}

// Write implements io.Writer.
func (u *upload) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if u.buffer == nil {
			if err := u.take(); err != nil {
				return 0, err
			}
		}
		part := b[:min(int64(len(b)), u.size-int64(len(u.buffer)))]
		u.buffer = append(u.buffer, part...)
		b = b[len(part):]
		if int64(len(u.buffer)) == u.size {
			u.dispatch()
		}
	}
	return n, nil
}

// take waits for a buffer.
func (u *upload) take() error {
	select {
	case u.buffer = <-u.free:
	case <-u.ctx.Done():
		return context.Cause(u.ctx)
	}
	if u.buffer == nil {
		u.buffer = make([]byte, 0, u.size)
	}
	u.buffer = u.buffer[:0]
	return nil
}

// Close sends the last part.
func (u *upload) Close() error {
	if len(u.buffer) > 0 {
		u.dispatch()
	}
	return nil
}

func (u *upload) dispatch() {
	data, number := u.buffer, u.number
	u.buffer, u.number = nil, u.number+1
	u.group.Go(func() error {
		part, err := u.put(number, data)
		u.free <- data
		if err != nil {
			return err
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		u.parts = append(u.parts, part)
		return nil
	})
}

// put sends a part, unless OSS has it. The error of one that does not arrive as it was sent is worth another try of the upload, which sends what is
// missing or wrong.
func (u *upload) put(number int32, data []byte) (sentPart, error) {
	sent := sentPart{number: number, size: int64(len(data)), crc: crc.Sum(data)}
	want := strconv.FormatUint(sent.crc, 10)
	if part, ok := u.have[number]; ok && part.Size == sent.size && deref(part.HashCRC64) == want {
		sent.etag = deref(part.ETag)
		return sent, nil
	}
	u.changed.Store(true)
	out, err := u.oss.UploadPart(u.ctx, &oss.UploadPartRequest{
		Bucket: &u.settings.Bucket, Key: oss.Ptr(u.object()), UploadId: &u.id, PartNumber: number, Body: bytes.NewReader(data),
	})
	if err != nil {
		return sentPart{}, err
	}
	if got := deref(out.HashCRC64); got != "" && got != want { // where OSS does not tell it, that of the whole object will show it
		return sentPart{}, fault.Outsidef("part %d of object %s arrived with CRC-64 %s where what was sent has %s", number, u.object(), got, want)
	}
	sent.etag = deref(out.ETag)
	return sent, nil
}

// complete makes the object of the parts and compares it with what was sent.
func (u *upload) complete(ctx context.Context) (object, error) {
	slices.SortFunc(u.parts, func(a, b sentPart) int { return cmp.Compare(a.number, b.number) })
	var parts []oss.UploadPart
	var size int64
	var sum uint64
	for _, p := range u.parts {
		parts = append(parts, oss.UploadPart{PartNumber: p.number, ETag: oss.Ptr(p.etag)})
		size, sum = size+p.size, crc.Combine(sum, p.crc, p.size)
	}
	u.changed.Store(true)
	out, err := u.oss.CompleteMultipartUpload(ctx, &oss.CompleteMultipartUploadRequest{
		Bucket: &u.settings.Bucket, Key: oss.Ptr(u.object()), UploadId: &u.id, ForbidOverwrite: oss.Ptr("true"),
		CompleteMultipartUpload: &oss.CompleteMultipartUpload{Parts: parts},
	})
	if is(err, "NoSuchUpload", "FileAlreadyExists") {
		return u.ended(ctx, err)
	}
	if err != nil {
		return object{}, u.explainStore(ctx, "CompleteMultipartUpload", err)
	}
	want := object{Size: size, CRC: strconv.FormatUint(sum, 10)}
	if got := deref(out.HashCRC64); got != want.CRC {
		err := fault.Outsidef("object %s arrived with CRC-64 %s where what was sent has %s; it was removed again", u.object(), got, want.CRC)
		return object{}, cmp.Or(u.deleteObject(ctx, u.object()), err)
	}
	return want, nil
}

// ended decides about an upload that is no more: an earlier try of the call, or another publisher, completed it.
func (p *publication) ended(ctx context.Context, refused error) (object, error) {
	have, err := p.head(ctx, p.object(), p.img.Digest.Hex())
	if err == nil && have != nil && have.ours {
		return *have, nil
	}
	if err == nil {
		err = p.entry.Forget(ctx, "upload")
	}
	if err == nil {
		err = fault.WithHint(fault.Outsidef("the upload of %s was ended by someone else: %s", p.object(), fault.Cause(refused)), "run the same command again: where another publisher is at work, it goes on from there")
	}
	return object{}, err
}

// abandon ends an upload of an image that is not what its documents say.
func (p *publication) abandon(ctx context.Context, id string, why error) error {
	if err := p.abort(ctx, p.object(), id); err != nil {
		return err
	}
	if err := p.entry.Forget(ctx, "upload"); err != nil {
		return err
	}
	return why
}

// abort ends an upload, which may be gone already, and removes its parts.
func (a *Publisher) abort(ctx context.Context, key, id string) error {
	_, err := a.oss.AbortMultipartUpload(ctx, &oss.AbortMultipartUploadRequest{Bucket: &a.settings.Bucket, Key: &key, UploadId: &id})
	if is(err, "NoSuchUpload") {
		return nil
	}
	return a.explainStore(ctx, "AbortMultipartUpload", err)
}

// deleteObject removes an object, which may be gone already.
func (a *Publisher) deleteObject(ctx context.Context, key string) error {
	_, err := a.oss.DeleteObject(ctx, &oss.DeleteObjectRequest{Bucket: &a.settings.Bucket, Key: &key})
	return a.explainStore(ctx, "DeleteObject", err)
}

// sweep removes what is not needed once the image is there: object, unfinished uploads and, where all regions have their copy, the source.
func (p *publication) sweep(ctx context.Context, everywhere bool) error {
	have, err := p.head(ctx, p.object(), p.img.Digest.Hex())
	if err != nil {
		return err
	}
	if have != nil && have.ours {
		if err := p.deleteObject(ctx, p.object()); err != nil {
			return err
		}
		p.changed.Store(true)
	}
	left, err := p.uploads(ctx, p.object())
	if err != nil {
		return err
	}
	for _, u := range left {
		if err := p.abort(ctx, u.Key, u.ID); err != nil {
			return err
		}
		p.changed.Store(true)
	}
	if !everywhere {
		return nil
	}
	return p.dropSource(ctx)
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
