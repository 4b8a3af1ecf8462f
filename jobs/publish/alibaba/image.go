package alibaba

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/regions"
)

// home brings the image into the home region.
func (p *publication) home(ctx context.Context) (*ecsImage, error) { return p.imported(ctx, p.name) }

// imported returns the image called name in the home region, and has ECS import it where there is none.
func (p *publication) imported(ctx context.Context, name string) (*ecsImage, error) {
	made := "import " + name
	var there *ecsImage
	err := p.patience.In(ctx, p.settings.Home, func(ctx context.Context, region string) error {
		id, err := journal.StandingStep(ctx, p.entry, made, p.stands(region), func(ctx context.Context) (string, error) { return p.importImage(ctx, name) })
		if err != nil {
			return err
		}
		there, err = p.settled(ctx, region, id, name, made)
		return err
	})
	return there, err
}

func (p *publication) importImage(ctx context.Context, name string) (string, error) {
	region := p.settings.Home
	if i, err := p.named(ctx, region, name); i != nil || err != nil {
		return i.id(), err
	}
	if err := p.store(ctx); err != nil {
		return "", err
	}
	return p.make(ctx, region, name, []string{"import", name}, func(token string) (string, error) {
		var out struct{ ImageID string }
		err := p.ecs(ctx, region, "ImportImage", params{
			"ImageName": name, "Description": description(p.img), "Platform": "Debian", "OSType": "linux", "Architecture": p.kind.arch, "BootMode": p.kind.boot,
			"Features.NvmeSupport": "supported", "Features.ImdsSupport": "v2", "RoleName": roleName, "ClientToken": token,
			"DiskDeviceMapping.1.OSSBucket": p.settings.Bucket, "DiskDeviceMapping.1.OSSObject": p.object(), "DiskDeviceMapping.1.Format": "QCOW2",
			"DiskDeviceMapping.1.DiskImageSize": strconv.FormatInt(gigabytes(p.img), 10),
		}.tags(p.tags(name)), &out)
		if is(err, "InvalidOSSObject.NotFound") {
			err = fault.Outsidef("ImportImage in %s: object %s is gone: another publisher, or someone's hand, removed it", region, p.object())
		}
		return out.ImageID, explain(ctx, region, "ImportImage", err)
	})
}

// dead holds images that ECS gave up: a token that once made one returns it for ever.
type dead struct {
	mu  sync.Mutex
	ids map[string]bool
}

func (d *dead) add(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ids == nil {
		d.ids = map[string]bool{}
	}
	d.ids[id] = true
}

func (d *dead) has(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ids[id]
}

// make has ECS make the image called name in the region. The token makes ECS return what an earlier run began, even where ECS does not show it
// yet; an image that ECS gave up leads to another token.
func (p *publication) make(ctx context.Context, region, name string, what []string, call func(token string) (string, error)) (string, error) {
	for range 10 {
		id, err := call(p.token(what...))
		if is(err, "InvalidImageName.Duplicated") {
			return p.madeBefore(ctx, region, name, err)
		}
		if err != nil {
			return "", err
		}
		p.changed.Store(true)
		what = append(what, id)
		if p.dead.has(id) {
			continue
		}
		i, err := p.appears(ctx, region, id)
		if err != nil {
			return "", err
		}
		if i != nil && i.Status != failed {
			return id, nil
		}
		p.dead.add(id)
		if i != nil {
			if err := p.remove(ctx, region, i); err != nil {
				return "", err
			}
		}
	}
	return "", fault.WithHint(fault.Outsidef("image %s in %s was not made: ECS gave it up ten times", name, region), "run the same command again later")
}

// madeBefore finds the image that has the name, which ECS may not show for some time.
func (p *publication) madeBefore(ctx context.Context, region, name string, duplicate error) (string, error) {
	var i *ecsImage
	_, err := p.patience.Until(ctx, p.patience.visible, func() (bool, error) {
		var err error
		i, err = p.named(ctx, region, name)
		return i != nil, err
	})
	if err == nil && i == nil {
		err = duplicate
	}
	return i.id(), err
}

// appears waits until ECS shows an image. nil: it does not.
func (p *publication) appears(ctx context.Context, region, id string) (*ecsImage, error) {
	var i *ecsImage
	_, err := p.patience.Until(ctx, p.patience.visible, func() (bool, error) {
		var err error
		i, err = p.look(ctx, region, id)
		return i != nil, err
	})
	return i, err
}

// named returns the account's image of that name, nil where there is none. One that is not ours, or was made of other data, is an error of kind
// fault.Input. One that ECS failed to make is removed.
func (p *publication) named(ctx context.Context, region, name string) (*ecsImage, error) {
	found, err := p.images(ctx, region, nil, params{"ImageName": name})
	if err != nil {
		return nil, err
	}
	for i := range found {
		one := &found[i]
		if one.ImageName != name { // ImageName also finds parts of names
			continue
		}
		if err := p.demandOurs(ctx, region, one); err != nil {
			return nil, err
		}
		if one.Status != failed {
			return one, nil
		}
		if err := p.remove(ctx, region, one); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// demandOurs refuses an image that someone else made, or that we made of other data. Tags may be shown later than the image that has them.
func (p *publication) demandOurs(ctx context.Context, region string, i *ecsImage) error {
	if i.Status == "Creating" || i.Status == "Waiting" {
		_, err := p.patience.Until(ctx, p.patience.visible, func() (bool, error) {
			if i.Tags.all()[tagOwner] != "" {
				return true, nil
			}
			again, err := p.look(ctx, region, i.ImageID)
			if again != nil {
				*i = *again
			}
			return i.Tags.all()[tagOwner] != "", err
		})
		if err != nil {
			return err
		}
	}
	tags := i.Tags.all()
	switch {
	case tags[tagOwner] != owner:
		return fault.WithHint(fault.Inputf("the name %q is taken in %s by image %s, which debcloud did not make", i.ImageName, region, i.ImageID), "rename or remove that image, or build this one with another version")
	case tags[tagDigest] != p.img.Digest.String():
		return fault.WithHint(fault.Inputf("the name %q is taken in %s by image %s with digest %q, and this image has digest %s", i.ImageName, region, i.ImageID, tags[tagDigest], p.img.Digest),
			"a published version never changes: build this image with another version")
	}
	return nil
}

// stands tells whether an image that an earlier run made is still in the region.
func (p *publication) stands(region string) func(context.Context, string) (bool, error) {
	return func(ctx context.Context, id string) (bool, error) {
		i, err := p.look(ctx, region, id)
		return i != nil && i.Status != failed, err
	}
}

// settled waits until the image is there, compares it with what it should be, and returns it. made names the step that made it, which is
// forgotten where ECS failed to finish it, so that a retry makes it anew.
func (p *publication) settled(ctx context.Context, region, id, name, made string) (*ecsImage, error) {
	var last *ecsImage
	done, err := p.patience.Until(ctx, p.patience.pending, func() (bool, error) {
		var err error
		if last, err = p.appears(ctx, region, id); err != nil || last == nil {
			return true, err
		}
		return p.finished(ctx, region, last)
	})
	switch {
	case err != nil:
		return nil, err
	case last == nil:
		return nil, p.anew(ctx, region, &ecsImage{ImageID: id, ImageName: name}, made, "it is gone")
	case !done:
		return nil, p.anew(ctx, region, last, made, fmt.Sprintf("it is still %s after %s", last.Status, p.patience.pending))
	case last.Status == failed:
		return nil, p.anew(ctx, region, last, made, "ECS gave it up")
	case last.Status != available && last.Status != deprecated:
		return nil, fault.WithHint(fault.Inputf("%s in %s is in state %q where %s was expected", last, region, last.Status, available), "someone changed it, or it is damaged: delete it and run the same command again")
	}
	if err := p.mend(ctx, region, last, name); err != nil {
		return nil, err
	}
	return last, p.tagSnapshot(ctx, region, last.snapshot(), name)
}

// finished tells whether an image changes no more by itself. An import that failed shows in its task first.
func (p *publication) finished(ctx context.Context, region string, i *ecsImage) (bool, error) {
	if i.Status != "Creating" && i.Status != "Waiting" {
		return true, nil
	}
	if region != p.settings.Home {
		return false, nil
	}
	gaveUp, err := p.importFailed(ctx, region, i.ImageID)
	if gaveUp {
		i.Status = failed
	}
	return gaveUp, err
}

// anew removes an image that ECS did not finish.
func (p *publication) anew(ctx context.Context, region string, i *ecsImage, made, why string) error {
	p.dead.add(i.ImageID)
	if err := p.remove(ctx, region, i); err != nil {
		return err
	}
	if err := p.entry.Forget(ctx, made); err != nil {
		return err
	}
	return fault.WithHint(fault.Outsidef("%s in %s was not made: %s", i, region, why), "run the same command again: it is made anew")
}

// remove deletes an image of ours and its snapshot.
func (p *publication) remove(ctx context.Context, region string, i *ecsImage) error {
	p.changed.Store(true)
	if err := p.deleteImage(ctx, region, i.ImageID); err != nil {
		return err
	}
	return p.deleteSnapshot(ctx, region, i.snapshot())
}

// copy brings the image into another region and returns its identifier there.
func (p *publication) copy(ctx context.Context, home *ecsImage, region string) (string, error) {
	made := "copy " + region
	id, err := journal.StandingStep(ctx, p.entry, made, p.stands(region), func(ctx context.Context) (string, error) { return p.makeCopy(ctx, home, region) })
	if err != nil {
		return "", err
	}
	if _, err = p.settled(ctx, region, id, p.name, made); err != nil {
		return "", err
	}
	return id, regions.Arrived(ctx, p.entry, region, id)
}

func (p *publication) makeCopy(ctx context.Context, home *ecsImage, region string) (string, error) {
	if i, err := p.named(ctx, region, p.name); i != nil || err != nil {
		return i.id(), err
	}
	from, err := p.copyable(ctx, home)
	if err != nil {
		return "", err
	}
	return p.make(ctx, region, p.name, []string{"copy", region, from}, func(token string) (string, error) {
		var out struct{ ImageID string }
		_, err := p.patience.Until(ctx, p.patience.pending, func() (bool, error) {
			err := p.ecs(ctx, p.settings.Home, "CopyImage", params{
				"ImageId": from, "DestinationRegionId": region, "DestinationImageName": p.name, "DestinationDescription": description(p.img), "ClientToken": token,
			}.tags(p.tags(p.name)), &out)
			if is(err, "OperationDenied.ImageCopyConflict", "OperationDenied.ImageCopying") {
				return false, nil // ECS may copy an image to one region at a time only
			}
			return true, explain(ctx, p.settings.Home, "CopyImage", err)
		})
		if err == nil && out.ImageID == "" {
			err = fault.WithHint(fault.Outsidef("CopyImage to %s: %s is being copied to other regions for %s already", region, p.name, p.patience.pending), "run the same command again later")
		}
		return out.ImageID, err
	})
}

// origin is what copies are made of.
type origin struct {
	once sync.Once
	id   string
	err  error
}

// copyable returns the identifier of an image in the home region that can be copied. ECS copies neither community images nor deprecated ones
// (CopyImage, OperationDenied.CommunityImage), so where the image is public and a region lacks it, it is imported once more under another name, for as long as
// it is copied.
func (p *publication) copyable(ctx context.Context, home *ecsImage) (string, error) {
	p.origin.once.Do(func() {
		if !home.IsPublic && home.Status == available {
			p.origin.id = home.ImageID
			return
		}
		var source *ecsImage
		source, p.origin.err = p.imported(ctx, p.source())
		p.origin.id = source.id()
	})
	return p.origin.id, p.origin.err
}

// dropSource removes what copies were made of.
func (p *publication) dropSource(ctx context.Context) error {
	i, err := p.named(ctx, p.settings.Home, p.source())
	if i == nil || err != nil {
		return err
	}
	if err := p.remove(ctx, p.settings.Home, i); err != nil {
		return err
	}
	return p.entry.Forget(ctx, "import "+p.source())
}
