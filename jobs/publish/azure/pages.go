package azure

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
	"github.com/minio/crc64nvme"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/raw"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

// filling is a disk that takes pages, or has all of them.
type filling struct {
	id    string // of the disk
	of    string // its identity: no other disk ever has it, not even one of the same name
	pages *pageblob.Client
	there []raw.Extent // pages that were written when the run began

	mu   sync.Mutex
	mine []raw.Extent // pages that the image has, in any order
}

// identity is what Azure gives a disk when it makes it, "" where it does not say.
func identity(d *armcompute.Disk) string {
	if d.Properties == nil {
		return ""
	}
	return deref(d.Properties.UniqueID)
}

func (w *work) pageBlob(address string) (*pageblob.Client, error) {
	pages, err := pageblob.NewClientWithNoCredential(address, &pageblob.ClientOptions{ClientOptions: w.clientOptions})
	if err != nil {
		return nil, fault.Outsidef("Azure gave no address to write to: %s", said(err))
	}
	return pages, nil
}

// takeUp goes on with an incomplete disk that was made with this journal. It returns nil where the disk has to be made anew: it is another one than
// the journal tells of, nothing was acknowledged yet, or Azure refuses to let it be written to or to list its pages.
func (w *work) takeUp(ctx context.Context, d *armcompute.Disk, maker string) (*filling, error) {
	f := &filling{id: deref(d.ID), of: identity(d)}
	if deref(d.Tags[tagMaker]) != maker || f.of == "" {
		return nil, nil
	}
	whole, _, err := journal.Known[string](ctx, w.entry, stepPages)
	if err != nil || whole == f.of {
		return f, err
	}
	marks, err := w.entry.Marks(ctx, stepPages, f.of, w.between)
	if err != nil || marks.Len() == 0 {
		return nil, err
	}
	address, err := w.grant(ctx, deref(d.Name))
	switch status(err) {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusConflict:
		return nil, nil
	}
	if err != nil {
		return nil, w.explain(ctx, "ask to write to disk "+deref(d.Name), err)
	}
	if f.pages, err = w.pageBlob(address); err != nil {
		return nil, err
	}
	if f.there, err = written(ctx, f.pages); status(err) != 0 && ctx.Err() == nil {
		slog.WarnContext(ctx, "an upload that was cut begins anew, as the disk's pages cannot be listed", "disk", deref(d.Name), "error", said(err))
		return nil, nil
	}
	return f, w.explain(ctx, "list the pages of disk "+deref(d.Name), err)
}

// written lists the pages that were ever written.
func written(ctx context.Context, pages *pageblob.Client) ([]raw.Extent, error) {
	var all []raw.Extent
	for pager := pages.NewGetPageRangesPager(nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, r := range page.PageRange {
			all = append(all, raw.Extent{Offset: deref(r.Start), Length: deref(r.End) + 1 - deref(r.Start)})
		}
	}
	return joined(all), nil
}

// fill sends what is not zero and not there, clears what is there and not of the image, and sends the footer at the end.
//
// Pages of a block are known to be there, and right, where a write of this block with these contents was acknowledged, as the journal has it, and where
// the blob still tells that they were written. Neither alone would do: a run that was killed may have sent a block of an image that was altered, which
// is found only at the image's end, and a write that was cut may have left some of its pages.
func (w *work) fill(ctx context.Context, f *filling) error {
	marks, err := w.entry.Marks(ctx, stepPages, f.of, w.between)
	if err != nil {
		return err
	}
	if n := marks.Len(); n > 0 {
		slog.InfoContext(ctx, "an upload that was cut goes on", "image", w.img.Name(), "disk", diskName(w.img), "MiB there", total(f.there)>>20)
	}
	_, err = w.img.Send(ctx, "upload", raw.Upload{BlockSize: blockSize, Workers: senders, Skip: func(b raw.Block) bool {
		e, _ := trim(b.Offset, b.Data)
		if !marks.Has(b.Index, b.Print) || !covers(f.there, e) {
			return false
		}
		f.add(e)
		return true
	}}, func(ctx context.Context, b raw.Block) error {
		e, data := trim(b.Offset, b.Data)
		f.add(e)
		if err := w.putPages(ctx, f.pages, e.Offset, data); err != nil {
			return err
		}
		return marks.Add(b.Index, b.Print)
	})
	if kept := marks.Keep(); err == nil {
		err = kept
	}
	if err != nil {
		return err
	}
	size := vhdSize(w.img.Size())
	f.add(raw.Extent{Offset: size, Length: footerSize})
	if err := w.clear(ctx, f); err != nil {
		return err
	}
	return w.putPages(ctx, f.pages, size, footer(size, w.img.Digest, w.img.Version.Time()))
}

func (f *filling) add(e raw.Extent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mine = append(f.mine, e)
}

func total(extents []raw.Extent) (n int64) {
	for _, e := range extents {
		n += e.Length
	}
	return n
}

// putPages writes pages. The storage service refuses those whose CRC-64, which is NVMe's (Azurite, pull request 2644), is not that of what
// was sent. Content-MD5, the other way, would cost more than all else that is done with a byte.
func (w *work) putPages(ctx context.Context, pages *pageblob.Client, offset int64, data []byte) error {
	sum := blob.TransferValidationTypeCRC64(crc64nvme.Checksum(data))
	for n := int32(0); ; n++ {
		_, err := pages.UploadPages(ctx, streaming.NopCloser(bytes.NewReader(data)), blob.HTTPRange{Offset: offset, Count: int64(len(data))},
			&pageblob.UploadPagesOptions{TransactionalValidation: sum})
		if code(err) != string(bloberror.CRC64Mismatch) {
			return w.explainPage(ctx, err)
		}
		if n == w.patience.retries {
			return fault.Outsidef("the pages at byte %d do not arrive as they were sent: %s", offset, said(err))
		}
	}
}

// trim leaves out zero clusters at both ends of a block, and fills up the last page. It returns where that lies, and the data.
func trim(offset int64, data []byte) (raw.Extent, []byte) {
	for len(data) > raw.Cluster && raw.Zero(data[:raw.Cluster]) {
		offset, data = offset+raw.Cluster, data[raw.Cluster:]
	}
	for len(data) > raw.Cluster {
		last := (len(data) - 1) / raw.Cluster * raw.Cluster
		if !raw.Zero(data[last:]) {
			break
		}
		data = data[:last]
	}
	if rest := len(data) % 512; rest != 0 {
		data = append(data[:len(data):len(data)], make([]byte, 512-rest)...)
	}
	return raw.Extent{Offset: offset, Length: int64(len(data))}, data
}

// clear makes zeros of the pages that an earlier run wrote and the image does not have.
func (w *work) clear(ctx context.Context, f *filling) error {
	for _, e := range without(f.there, joined(f.mine)) {
		if _, err := f.pages.ClearPages(ctx, blob.HTTPRange{Offset: e.Offset, Count: e.Length}, nil); err != nil {
			return w.explainPage(ctx, err)
		}
	}
	return nil
}
