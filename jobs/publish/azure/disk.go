package azure

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
	"github.com/google/uuid"
	"github.com/minio/crc64nvme"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/pause"
	"salsa.debian.org/cloud-team/debcloud/internal/raw"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

const (
	blockSize = 4 * mib // the most that one Put Page takes
	senders   = 8
	grantTime = 24 * 60 * 60 // seconds
)

// disk returns the identifier of a managed disk with the image in it. One that an earlier process left incomplete is deleted: a page
// blob does not tell which of its pages are from a write that was cut, or from an image that was altered. One of another journal may be
// at work at this moment, so it is left alone as long as an upload may take.
func (w *work) disk(ctx context.Context) (string, error) {
	name := diskName(w.img)
	maker, err := w.maker(ctx)
	if err != nil {
		return "", err
	}
	have, err := w.disks.Get(ctx, w.group, name, nil)
	switch {
	case err == nil && deref(have.Tags[tagDigest]) != w.img.Digest.String():
		return "", fault.WithHint(fault.Inputf("disk %s in resource group %s is not of debcloud", name, w.group), "delete it, or publish to another resource group")
	case err == nil && deref(have.Tags[tagUploaded]) != "":
		return *have.ID, nil
	case err == nil && deref(have.Tags[tagMaker]) != maker && time.Since(madeAt(&have.Disk)) < w.patience.upload:
		return "", w.busy(name, madeAt(&have.Disk).Add(w.patience.upload))
	case err == nil:
		if err := w.dropDisk(ctx, name); err != nil {
			return "", err
		}
	case !notFound(err):
		return "", w.explain(ctx, "look at disk "+name, err)
	}
	var id string
	err = w.once(ctx, "disk", func(ctx context.Context) error {
		id, err = w.upload(ctx, name, maker)
		return err
	})
	return id, err
}

// maker is a word by which a disk is known as made with this journal, in this run or an earlier one.
func (w *work) maker(ctx context.Context) (string, error) {
	return journal.Step(ctx, w.entry, "maker", func(context.Context, bool) (string, error) { return uuid.NewString(), nil })
}

// madeAt is when a disk was made, the zero time where Azure does not say.
func madeAt(d *armcompute.Disk) time.Time {
	if d.Properties == nil {
		return time.Time{}
	}
	return deref(d.Properties.TimeCreated)
}

// busy tells that a disk is someone else's until then.
func (w *work) busy(name string, until time.Time) error {
	return fault.WithHint(fault.Outsidef("disk %s in resource group %s is not complete: another publisher, with another journal, is at work on it, or was killed", name, w.group),
		"wait for the other publisher; where there is none, run the same command again after %s, then the disk is made anew, or delete it", until.UTC().Truncate(time.Minute).Add(time.Minute).Format("2006-01-02 15:04 MST"))
}

// upload makes the disk and fills it.
func (w *work) upload(ctx context.Context, name, maker string) (string, error) {
	made, err := w.createDisk(ctx, name, maker)
	if err != nil {
		return "", err
	}
	grant, err := w.disks.BeginGrantAccess(ctx, w.group, name, armcompute.GrantAccessData{Access: ref(armcompute.AccessLevelWrite), DurationInSeconds: ref[int32](grantTime)}, nil)
	access, err := wait(ctx, w.session, grant, err)
	if err != nil {
		return "", w.explain(ctx, "ask to write to disk "+name, err)
	}
	if err := w.writePages(ctx, deref(access.AccessSAS)); err != nil {
		if fault.KindOf(err) == fault.Input && ctx.Err() == nil { // the image is not what its documents say
			err = errors.Join(err, w.dropDisk(ctx, name))
		}
		return "", err
	}
	if err := w.revoke(ctx, name); err != nil {
		return "", err
	}
	complete := tags(w.img)
	complete[tagUploaded] = ref("true")
	update, err := w.disks.BeginUpdate(ctx, w.group, name, armcompute.DiskUpdate{Tags: complete}, nil)
	if _, err = wait(ctx, w.session, update, err); err != nil {
		return "", w.explain(ctx, "mark disk "+name+" as complete", err)
	}
	return deref(made.ID), nil
}

func (w *work) createDisk(ctx context.Context, name, maker string) (*armcompute.Disk, error) {
	arch, err := architecture(w.img.Build.Data.Info.Arch)
	if err != nil {
		return nil, err
	}
	incomplete := tags(w.img)
	incomplete[tagMaker] = &maker
	poller, err := w.disks.BeginCreateOrUpdate(ctx, w.group, name, armcompute.Disk{
		Location: &w.home, Tags: incomplete,
		SKU: &armcompute.DiskSKU{Name: ref(armcompute.DiskStorageAccountTypesStandardLRS)},
		Properties: &armcompute.DiskProperties{
			OSType:           ref(armcompute.OperatingSystemTypesLinux),
			HyperVGeneration: ref(armcompute.HyperVGenerationV2),
			CreationData: &armcompute.CreationData{
				CreateOption: ref(armcompute.DiskCreateOptionUpload), UploadSizeBytes: ref(vhdSize(w.img.Size()) + footerSize),
			},
			SupportedCapabilities: &armcompute.SupportedCapabilities{Architecture: &arch, AcceleratedNetwork: ref(true), DiskControllerTypes: ref("SCSI, NVMe")},
		},
	}, nil)
	made, err := wait(ctx, w.session, poller, err)
	if status(err) == http.StatusConflict && ctx.Err() == nil {
		return nil, w.busy(name, time.Now().Add(w.patience.upload))
	}
	return &made.Disk, w.explain(ctx, "make disk "+name, err)
}

// writePages sends what is not zero, and the footer after it. The storage service refuses pages whose CRC-64, which is NVMe's (Azurite, pull
// request 2644), is not that of what was sent. Content-MD5, the other way, would cost more than all else that is done with a byte.
func (w *work) writePages(ctx context.Context, address string) error {
	pages, err := pageblob.NewClientWithNoCredential(address, &pageblob.ClientOptions{ClientOptions: w.clientOptions})
	if err != nil {
		return fault.Outsidef("Azure gave no address to write to: %s", said(err))
	}
	put := func(ctx context.Context, offset int64, data []byte) error {
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
	_, err = w.img.Send(ctx, "upload", raw.Upload{BlockSize: blockSize, Workers: senders}, func(ctx context.Context, b raw.Block) error {
		offset, data := trim(b.Offset, b.Data)
		return put(ctx, offset, data)
	})
	if err != nil {
		return err
	}
	size := vhdSize(w.img.Size())
	return put(ctx, size, footer(size, w.img.Digest, w.img.Version.Time()))
}

// explainPage takes care not to be of kind fault.Input where the disk may be another publisher's by now: upload deletes a disk that has a wrong image.
func (w *work) explainPage(ctx context.Context, err error) error {
	if n := status(err); n == http.StatusForbidden || n == http.StatusNotFound {
		return fault.WithHint(fault.Outsidef("write to the disk: the grant has ended, after %d hours or because another publisher of the image deleted the disk: %s", grantTime/3600, said(err)),
			"run the same command again, when no other publisher is at work on the image")
	}
	return w.explain(ctx, "write to the disk", err)
}

// trim leaves out zero clusters at both ends of a block, and fills up the last page.
func trim(offset int64, data []byte) (int64, []byte) {
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
	return offset, data
}

func (w *work) revoke(ctx context.Context, name string) error { return w.session.revoke(ctx, name) }

// revoke ends the grant to write to a disk. Where there is none it does nothing.
func (s *session) revoke(ctx context.Context, name string) error {
	poller, err := s.disks.BeginRevokeAccess(ctx, s.group, name, nil)
	if _, err = wait(ctx, s, poller, err); err != nil && !notFound(err) {
		return s.explain(ctx, "end the grant to write to disk "+name, err)
	}
	return nil
}

// dropDisk deletes a disk, which it may be gone already. Azure answers 409 for a while after it was read.
func (s *session) dropDisk(ctx context.Context, name string) error {
	if err := s.revoke(ctx, name); err != nil {
		return err
	}
	return s.persist(ctx, "delete disk "+name, func() error {
		poller, err := s.disks.BeginDelete(ctx, s.group, name, nil)
		_, err = wait(ctx, s, poller, err)
		return unlessGone(err)
	})
}

// unlessGone is the error of a deletion: what is gone already is none.
func unlessGone(err error) error {
	if notFound(err) {
		return nil
	}
	return err
}

// persist tries again what a conflict keeps from being done.
func (s *session) persist(ctx context.Context, doing string, do func() error) error {
	for n := int32(0); ; n++ {
		err := do()
		switch {
		case err == nil:
			return nil
		case status(err) != http.StatusConflict || n == s.patience.retries:
			return s.explainWrite(ctx, doing, err)
		}
		if err := pause.For(ctx, s.patience.pause<<min(n, 4)); err != nil {
			return err
		}
	}
}
