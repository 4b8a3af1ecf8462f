package alibaba

import (
	"cmp"
	"context"
	"log/slog"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

// makePublic shows the image in one region to everyone, puts it into its family and deprecates its predecessors, in this order: who starts machines by
// the family finds an image that he can start, and nothing is deprecated before its successor is there. A family leads to its youngest available image, so an
// older version that comes later is deprecated before it enters.
func (p *publication) makePublic(ctx context.Context, region, id string) error {
	family, err := p.family(ctx, region)
	if err != nil {
		return err
	}
	newest := p.newest(family)
	i, err := p.shown(ctx, region, id)
	if err != nil {
		return err
	}
	if !newest {
		if err := p.mark(ctx, region, i); err != nil {
			return err
		}
	}
	if i.ImageFamily != familyName(p.img) {
		if err := p.modify(ctx, region, id, params{"ImageFamily": familyName(p.img)}); err != nil {
			return explain(ctx, region, "ModifyImageAttribute", err)
		}
		p.changed.Store(true)
	}
	for n := range family {
		one := &family[n]
		if v, ok := versionOf(one); ok && one.IsPublic && compare(p.img.Version, v) > 0 {
			if err := p.mark(ctx, region, one); err != nil {
				return err
			}
		}
	}
	return nil
}

// shown is show, and has the journal know of it, for a time at which the region cannot be asked.
func (p *publication) shown(ctx context.Context, region, id string) (*ecsImage, error) {
	i, err := p.show(ctx, region, id)
	if err != nil {
		return nil, err
	}
	_, err = journal.StandingStep(ctx, p.entry, "public "+region, func(_ context.Context, shown string) (bool, error) { return shown == id, nil },
		func(context.Context) (string, error) { return id, nil })
	return i, err
}

// show publishes the image as a community image. What is done is asked of ECS alone, as anyone may take it back.
func (p *publication) show(ctx context.Context, region, id string) (*ecsImage, error) {
	i, err := p.appears(ctx, region, id)
	if err != nil || i != nil && i.IsPublic {
		return i, err
	}
	if i == nil {
		return nil, fault.Outsidef("image %s in %s is gone: run the same command again", id, region)
	}
	if i.Status == deprecated { // OperationDenied.InvalidImageStatus: one that was hidden comes back
		if err := p.modify(ctx, region, id, params{"Status": available}); err != nil && !is(err, "ImageStatus.NotDeprecated") {
			return nil, explain(ctx, region, "ModifyImageAttribute", err)
		}
		if err := p.tag(ctx, region, "image", id, map[string]string{tagDeprecated: "no", tagHidden: "no"}); err != nil {
			return nil, err
		}
	}
	if err := p.entry.Forget(ctx, "public "+region); err != nil {
		return nil, err
	}
	if err := p.share(ctx, region, id, true); err != nil {
		return nil, err
	}
	p.changed.Store(true)
	shown, err := p.patience.Until(ctx, p.patience.visible, func() (bool, error) {
		again, err := p.look(ctx, region, id)
		if again != nil {
			i = again
		}
		return i.IsPublic, err
	})
	if err == nil && !shown {
		err = fault.Outsidef("image %s in %s was made public and ECS does not say so after %s", id, region, p.patience.visible)
	}
	return i, err
}

// family returns the account's images in the region that the image is counted among, itself included.
func (p *publication) family(ctx context.Context, region string) ([]ecsImage, error) {
	tags := p.tags(p.name)
	return p.images(ctx, region, map[string]string{
		tagOwner: owner, manifest.LabelRelease: tags[manifest.LabelRelease], manifest.LabelVendor: tags[manifest.LabelVendor],
		manifest.LabelArch: tags[manifest.LabelArch], manifest.LabelUploadType: tags[manifest.LabelUploadType],
	}, nil)
}

// newest tells whether no public image of the family has a later version.
func (p *publication) newest(family []ecsImage) bool {
	for n := range family {
		if v, ok := versionOf(&family[n]); ok && family[n].IsPublic && compare(v, p.img.Version) > 0 {
			return false
		}
	}
	return true
}

func versionOf(i *ecsImage) (image.Version, bool) {
	v, err := image.ParseVersion(i.Tags.all()[manifest.LabelVersion])
	return v, err == nil
}

func compare(a, b image.Version) int {
	return cmp.Or(strings.Compare(a.Date, b.Date), cmp.Compare(a.Number, b.Number))
}

func (p *publication) mark(ctx context.Context, region string, i *ecsImage) error {
	marked, err := p.deprecateImage(ctx, region, i)
	if marked {
		p.changed.Store(true)
	}
	return err
}

// isDeprecated also takes the word of the tag, see deprecateImage.
func (i *ecsImage) isDeprecated() bool {
	return i.Status == deprecated || i.IsPublic && !parseTime(i.Tags.all()[tagDeprecated]).IsZero()
}

// deprecateImage has ECS mark the image, and tells whether it was not marked before. The tag with the time comes first and says nothing while the image is
// neither public nor deprecated. Where ECS takes a public image for one that is shared, whose state does not change (ImageUseShared), the tag is all there is.
func (a *Publisher) deprecateImage(ctx context.Context, region string, i *ecsImage) (bool, error) {
	tagged := !parseTime(i.Tags.all()[tagDeprecated]).IsZero()
	if i.Status == deprecated && tagged {
		return false, nil
	}
	if !tagged {
		if err := a.tag(ctx, region, "image", i.ImageID, map[string]string{tagDeprecated: now()}); err != nil {
			return false, err
		}
	}
	if i.Status == deprecated {
		return true, nil
	}
	err := a.modify(ctx, region, i.ImageID, params{"Status": deprecated})
	if is(err, "ImageUseShared") {
		slog.InfoContext(ctx, "image keeps its state, and a tag says that it is deprecated", "image", i.ImageID, "region", region)
		return !tagged, nil
	}
	if is(err, "ImageStatus.NotAvailable") { // someone was faster
		return !tagged, nil
	}
	return true, explain(ctx, region, "ModifyImageAttribute", err)
}
