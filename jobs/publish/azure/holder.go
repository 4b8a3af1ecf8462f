package azure

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
)

// List returns all versions of the gallery, each an Item for all its regions, and all disks of the resource group.
func (p *Publisher) List(ctx context.Context) ([]holding.Item, error) {
	s, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	var all []holding.Item
	for pager := s.definitions.NewListByGalleryPager(s.group, s.gallery, nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, s.explain(ctx, "list image definitions", err)
		}
		for _, d := range page.Value {
			items, err := s.listVersions(ctx, deref(d.Name))
			if err != nil {
				return nil, err
			}
			all = append(all, items...)
		}
	}
	disks, err := s.listDisks(ctx)
	return append(all, disks...), err
}

func (s *session) listVersions(ctx context.Context, definition string) ([]holding.Item, error) {
	var all []holding.Item
	for pager := s.versions.NewListByGalleryImagePager(s.group, s.gallery, definition, nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, s.explain(ctx, "list the versions of "+definition, err)
		}
		for _, v := range page.Value {
			all = append(all, item(v))
		}
	}
	return all, nil
}

// item describes a version as pruning sees it. One that failed, or is being made, refers to the disk that it is made of.
func item(v *armcompute.GalleryImageVersion) holding.Item {
	it := holding.Item{
		ID: deref(v.ID), Name: deref(v.Tags[tagName]), Kind: holding.Image, Provider: provider, State: holding.Current,
		Family: deref(v.Tags[tagFamily]), UploadType: image.UploadType(deref(v.Tags[tagType])), Version: deref(v.Tags[tagVersion]),
		Ours: deref(v.Tags[tagDigest]) != "",
	}
	definition, number := partsOf(it.ID)
	if it.Name == "" {
		it.Name = definition + " " + number
	}
	if v.Properties == nil || v.Properties.PublishingProfile == nil {
		return it
	}
	profile := v.Properties.PublishingProfile
	it.Created = deref(profile.PublishedDate)
	it.Since = it.Created
	it.Public = shown(v) || deref(v.Tags[tagDeprecated]) != "" && deref(v.Tags[tagUnseen]) == ""
	if source := v.Properties.StorageProfile; source != nil && source.OSDiskImage != nil && source.OSDiskImage.Source != nil && stateOf(v) != armcompute.GalleryProvisioningStateSucceeded {
		it.RefersTo = append(it.RefersTo, deref(source.OSDiskImage.Source.ID))
	}
	for _, state := range []struct {
		tag   string
		state holding.State
	}{{tagDeprecated, holding.Deprecated}, {tagHidden, holding.Hidden}} {
		if text := deref(v.Tags[state.tag]); text != "" {
			it.State = state.state
			it.Since, _ = time.Parse(time.RFC3339, text) // what is no time is unknown
		}
	}
	return it
}

func (s *session) listDisks(ctx context.Context) ([]holding.Item, error) {
	var all []holding.Item
	for pager := s.disks.NewListByResourceGroupPager(s.group, nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, s.explain(ctx, "list disks", err)
		}
		for _, d := range page.Value {
			it := holding.Item{
				ID: deref(d.ID), Name: deref(d.Name), Kind: holding.Disk, Provider: provider, Region: normal(deref(d.Location)), State: holding.Current,
				Ours: deref(d.Tags[tagDigest]) != "", Family: "", UploadType: image.UploadType(deref(d.Tags[tagType])), Version: deref(d.Tags[tagVersion]),
			}
			if d.Properties != nil {
				it.Created = deref(d.Properties.TimeCreated)
				it.Since = it.Created
			}
			if vm := deref(d.ManagedBy); vm != "" {
				it.ReferencedBy = append(it.ReferencedBy, vm)
			}
			all = append(all, it)
		}
	}
	return all, nil
}

// Deprecate takes the version out of "latest" and sets the end of its life.
func (p *Publisher) Deprecate(ctx context.Context, it holding.Item) error {
	return p.retire(ctx, it, holding.Deprecated, func(v *armcompute.GalleryImageVersion) armcompute.GalleryImageVersion {
		_, successor := partsOf(it.ReplacedBy)
		return aside(v, strings.Replace(strings.TrimPrefix(successor, "0."), ".", "-", 1))
	})
}

// aside is a version that pruning retires. One that was never public says so: it is out of "latest" like those that were.
func aside(v *armcompute.GalleryImageVersion, successor string) armcompute.GalleryImageVersion {
	wanted := deprecated(v, successor, time.Now())
	if !shown(v) && retired(v) == "" {
		wanted.Tags[tagUnseen] = ref("true")
	}
	return wanted
}

// Hide marks the version. A gallery cannot hide one version from those who may read it: nothing more than out of "latest" is there,
// so that who names this very version still gets it until it is deleted.
func (p *Publisher) Hide(ctx context.Context, it holding.Item) error {
	return p.retire(ctx, it, holding.Hidden, func(v *armcompute.GalleryImageVersion) armcompute.GalleryImageVersion {
		wanted := aside(v, "")
		wanted.Tags[tagHidden] = ref(time.Now().UTC().Format(time.RFC3339))
		return wanted
	})
}

func (p *Publisher) retire(ctx context.Context, it holding.Item, state holding.State, change func(*armcompute.GalleryImageVersion) armcompute.GalleryImageVersion) error {
	s, v, err := p.held(ctx, it)
	if err != nil {
		return err
	}
	if v == nil || item(v).State == state {
		return nil
	}
	if err := demandState(it, item(v)); err != nil {
		return err
	}
	return unlessGone(s.change(ctx, "have "+string(state), v, change(v)))
}

// Delete removes the version in all its regions, or the disk.
func (p *Publisher) Delete(ctx context.Context, it holding.Item) error {
	if it.Kind == holding.Disk {
		return p.deleteDisk(ctx, it)
	}
	s, v, err := p.held(ctx, it)
	if v == nil || err != nil {
		return err
	}
	if err := demandState(it, item(v)); err != nil {
		return err
	}
	definition, number := partsOf(it.ID)
	return s.persist(ctx, "delete version "+number+" of "+definition, func() error {
		poller, err := s.versions.BeginDelete(ctx, s.group, s.gallery, definition, number, nil)
		_, err = wait(ctx, s, poller, err)
		return unlessGone(err)
	})
}

func (p *Publisher) deleteDisk(ctx context.Context, it holding.Item) error {
	s, err := p.connect(ctx)
	if err != nil {
		return err
	}
	name := it.ID[strings.LastIndex(it.ID, "/")+1:]
	d, err := s.disks.Get(ctx, s.group, name, nil)
	switch {
	case notFound(err):
		return nil
	case err != nil:
		return s.explain(ctx, "look at disk "+name, err)
	case deref(d.Tags[tagDigest]) == "":
		return fault.Inputf("disk %s is not of debcloud: it is left alone", name)
	case deref(d.ManagedBy) != "":
		return fault.Inputf("disk %s belongs to machine %s by now: it is left alone", name, deref(d.ManagedBy))
	}
	return s.dropDisk(ctx, name)
}

func demandState(it, now holding.Item) error {
	if it.State == now.State {
		return nil
	}
	return fault.WithHint(fault.Inputf("%s is %s by now, where it was %s", it.Name, now.State, it.State), "make a new plan: debcloud prune --dry-run")
}

// held looks the version up again, nil where it is gone. One that is not ours is refused.
func (p *Publisher) held(ctx context.Context, it holding.Item) (*session, *armcompute.GalleryImageVersion, error) {
	s, err := p.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	gallery := fmt.Sprintf("%s/providers/Microsoft.Compute/galleries/%s/", s.scope(), s.gallery)
	if !strings.HasPrefix(strings.ToLower(it.ID), strings.ToLower(gallery)) {
		return nil, nil, fault.Inputf("%s is not in gallery %s of target %q", it.ID, s.gallery, p.target.Name)
	}
	definition, number := partsOf(it.ID)
	v, err := s.versions.Get(ctx, s.group, s.gallery, definition, number, nil)
	if notFound(err) {
		return s, nil, nil
	}
	if err != nil {
		return nil, nil, s.explain(ctx, "look at version "+number+" of "+definition, err)
	}
	if deref(v.Tags[tagDigest]) == "" {
		return nil, nil, fault.Inputf("version %s of %s is not of debcloud: it is left alone", number, definition)
	}
	return s, &v.GalleryImageVersion, nil
}

// partsOf returns the definition and the number of …/images/DEFINITION/versions/NUMBER, "" where an identifier is none.
func partsOf(id string) (definition, number string) {
	parts := strings.Split(id, "/")
	if n := len(parts); n >= 4 && slices.Equal([]string{parts[n-4], parts[n-2]}, []string{"images", "versions"}) {
		return parts[n-3], parts[n-1]
	}
	return "", ""
}
