package azure

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/google/uuid"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/pause"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

const (
	blockSize = 4 * mib // the most that one Put Page takes
	senders   = 8
	between   = 8            // blocks, 32 MiB, after which the journal is told which ones the disk has
	grantTime = 24 * 60 * 60 // seconds
	stepPages = "pages"
)

// disk returns the identifier of a managed disk with the image in it. One that an earlier run with the same journal left incomplete is filled further.
// One of another journal may be at work at this moment, so it is left alone as long as an upload may take, and then made anew: nothing tells which of its
// pages are of a write that was acknowledged, and of this image as its documents have it.
func (w *work) disk(ctx context.Context) (string, error) {
	name := diskName(w.img)
	maker, err := w.maker(ctx)
	if err != nil {
		return "", err
	}
	have, err := w.disks.Get(ctx, w.group, name, nil)
	var f *filling
	switch {
	case err == nil && deref(have.Tags[tagDigest]) != w.img.Digest.String():
		return "", fault.WithHint(fault.Inputf("disk %s in resource group %s is not of debcloud", name, w.group), "delete it, or publish to another resource group")
	case err == nil && deref(have.Tags[tagUploaded]) != "":
		return *have.ID, nil
	case err == nil && deref(have.Tags[tagMaker]) != maker && time.Since(madeAt(&have.Disk)) < w.patience.upload:
		return "", w.busy(name, madeAt(&have.Disk).Add(w.patience.upload))
	case err == nil:
		if f, err = w.takeUp(ctx, &have.Disk, maker); f == nil && err == nil {
			err = w.dropDisk(ctx, name)
		}
		if err != nil {
			return "", err
		}
	case !notFound(err):
		return "", w.explain(ctx, "look at disk "+name, err)
	}
	var id string
	err = w.once(ctx, "disk", func(ctx context.Context) error {
		id, err = w.upload(ctx, name, maker, f)
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

// upload makes the disk, where f is nil, fills it and marks it as complete.
func (w *work) upload(ctx context.Context, name, maker string, f *filling) (string, error) {
	if f == nil {
		var err error
		if f, err = w.begin(ctx, name, maker); err != nil {
			return "", err
		}
	}
	_, err := journal.Step(ctx, w.entry, stepPages, func(ctx context.Context, _ bool) (string, error) { return f.of, w.fill(ctx, f) })
	if err != nil {
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
	return f.id, nil
}

// begin makes the disk, and forgets what the journal says of an earlier one.
func (w *work) begin(ctx context.Context, name, maker string) (*filling, error) {
	if err := w.entry.Forget(ctx, stepPages); err != nil {
		return nil, err
	}
	made, err := w.createDisk(ctx, name, maker)
	if err != nil {
		return nil, err
	}
	address, err := w.grant(ctx, name)
	if err != nil {
		return nil, w.explain(ctx, "ask to write to disk "+name, err)
	}
	pages, err := w.pageBlob(address)
	if err != nil {
		return nil, err
	}
	return &filling{id: deref(made.ID), of: identity(made), pages: pages}, nil
}

// grant returns an address to write to. The error is Azure's own.
func (w *work) grant(ctx context.Context, name string) (string, error) {
	poller, err := w.disks.BeginGrantAccess(ctx, w.group, name, armcompute.GrantAccessData{Access: ref(armcompute.AccessLevelWrite), DurationInSeconds: ref[int32](grantTime)}, nil)
	access, err := wait(ctx, w.session, poller, err)
	return deref(access.AccessSAS), err
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

// explainPage takes care not to be of kind fault.Input where the disk may be another publisher's by now: upload deletes a disk that has a wrong image.
func (w *work) explainPage(ctx context.Context, err error) error {
	if n := status(err); n == http.StatusForbidden || n == http.StatusNotFound {
		return fault.WithHint(fault.Outsidef("write to the disk: the grant has ended, after %d hours or because another publisher of the image deleted the disk: %s", grantTime/3600, said(err)),
			"run the same command again, when no other publisher is at work on the image")
	}
	return w.explain(ctx, "write to the disk", err)
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
