package openstack

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
)

// List returns all images of the project in all regions of the target. One that never became active is a Blob: data without
// an image. Images of ours that are deprecated are hidden from lists and start by their identifier; hidden ones are private.
func (p *Publisher) List(ctx context.Context) ([]holding.Item, error) {
	regions, err := p.regions(ctx)
	if err != nil {
		return nil, err
	}
	found := make([][]holding.Item, len(regions))
	err = eachRegion(ctx, regions, func(ctx context.Context, i int, r *region) error {
		if err := r.demand(ctx); err != nil {
			return err
		}
		all, err := r.list(ctx, images.ListOpts{})
		if err != nil {
			return r.explain(ctx, "list images", err)
		}
		for _, one := range all {
			found[i] = append(found[i], r.item(&one))
		}
		return nil
	})
	return slices.Concat(found...), err
}

// item describes an image as pruning sees it.
func (r *region) item(i *images.Image) holding.Item {
	it := holding.Item{
		ID: i.ID, Name: i.Name, Kind: holding.Image, Provider: provider, Region: r.name, Created: i.CreatedAt,
		State: holding.Current, Since: i.CreatedAt, Ours: mark(i, markDigest) != "",
		Public: i.Visibility == images.ImageVisibilityPublic || i.Visibility == images.ImageVisibilityCommunity,
	}
	if !it.Ours {
		return it
	}
	it.Family, it.UploadType, it.Version = mark(i, markFamily), image.UploadType(mark(i, markType)), mark(i, markVersion)
	if i.Status != images.ImageStatusActive {
		it.Kind, it.Family = holding.Blob, ""
	}
	for _, state := range []struct {
		property string
		state    holding.State
	}{{markDeprecated, holding.Deprecated}, {markHidden, holding.Hidden}} {
		if text := mark(i, state.property); text != "" {
			it.State = state.state
			it.Since, _ = time.Parse(time.RFC3339, text) // what is no time is unknown
		}
	}
	return it
}

// Deprecate hides the image from lists, takes the tag "latest" from it, and names its successor.
func (p *Publisher) Deprecate(ctx context.Context, it holding.Item) error {
	return p.retire(ctx, it, holding.Deprecated, func(r *region, i *images.Image) (images.UpdateOpts, error) {
		successor := ""
		if it.ReplacedBy != "" {
			next, err := r.get(ctx, it.ReplacedBy)
			if err != nil && !gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
				return nil, err
			}
			if err == nil {
				successor = next.Name
			}
		}
		return deprecate(i, successor, time.Now()), nil
	})
}

// Hide makes the image private, and hides it from lists where it was not deprecated before.
func (p *Publisher) Hide(ctx context.Context, it holding.Item) error {
	return p.retire(ctx, it, holding.Hidden, func(_ *region, i *images.Image) (images.UpdateOpts, error) {
		changes := deprecate(i, "", time.Now())
		if i.Visibility != images.ImageVisibilityPrivate {
			changes = append(changes, images.UpdateVisibility{Visibility: images.ImageVisibilityPrivate})
		}
		return append(changes, add(markHidden, time.Now().UTC().Format(time.RFC3339))), nil
	})
}

// retire brings an image to a state, where it is not there yet.
func (p *Publisher) retire(ctx context.Context, it holding.Item, state holding.State, change func(*region, *images.Image) (images.UpdateOpts, error)) error {
	r, i, err := p.held(ctx, it, state)
	if err != nil || i == nil {
		return err
	}
	changes, err := change(r, i)
	if err == nil && len(changes) > 0 {
		_, err = images.Update(ctx, r.images, i.ID, changes).Extract()
	}
	if gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
		return nil
	}
	return r.explain(ctx, fmt.Sprintf("have image %s %s", i.ID, state), err)
}

// Delete removes the image, protected or not.
func (p *Publisher) Delete(ctx context.Context, it holding.Item) error {
	r, i, err := p.held(ctx, it, "")
	if err != nil || i == nil {
		return err
	}
	return r.remove(ctx, i)
}

// held looks the image up again: nil where it is gone or in the state wanted already. One that is not ours, or in another state than
// it says, is refused.
func (p *Publisher) held(ctx context.Context, it holding.Item, wanted holding.State) (*region, *images.Image, error) {
	regions, err := p.regions(ctx)
	if err != nil {
		return nil, nil, err
	}
	at := slices.IndexFunc(regions, func(r *region) bool { return r.name == it.Region })
	if at < 0 {
		return nil, nil, fault.Inputf("image %s is in region %q, which target %q does not have", it.ID, it.Region, p.target.Name)
	}
	r := regions[at]
	if err := r.demand(ctx); err != nil {
		return nil, nil, err
	}
	i, err := r.get(ctx, it.ID)
	if gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
		return r, nil, nil
	}
	if err != nil {
		return nil, nil, r.explain(ctx, "look at image "+it.ID, err)
	}
	now := r.item(i)
	switch {
	case !now.Ours || i.Owner != r.project.ID:
		return nil, nil, fault.Inputf("image %s (%s) is not of debcloud: it is left alone", i.ID, i.Name)
	case now.State == wanted:
		return r, nil, nil
	case now.State != it.State:
		return nil, nil, fault.WithHint(fault.Inputf("image %s (%s) is %s by now, where it was %s", i.ID, i.Name, now.State, it.State), "make a new plan: debcloud prune --dry-run")
	}
	return r, i, nil
}
