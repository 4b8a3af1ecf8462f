package azure

import (
	"cmp"
	"context"
	"maps"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	internal "salsa.debian.org/cloud-team/debcloud/internal/image"
)

// release includes the version in "latest" where it is the newest of its family, and excludes its predecessors from it after that, with the
// end of their life: there is always one that "latest" leads to. One that was hidden, or retired before it was public, comes back as if it had never
// been; one that is deprecated only is public, and stays so.
func (w *work) release(ctx context.Context, v *armcompute.GalleryImageVersion) error {
	family, err := w.family(ctx)
	if err != nil {
		return err
	}
	mine := deref(v.Tags[tagVersion])
	newest := mine
	for _, other := range family {
		if shown(other) && compare(deref(other.Tags[tagVersion]), newest) > 0 {
			newest = deref(other.Tags[tagVersion])
		}
	}
	back := deref(v.Tags[tagHidden]) != "" || deref(v.Tags[tagUnseen]) != ""
	if newest != mine {
		if back {
			v = unretired(v)
		}
		return w.deprecate(ctx, v, newest)
	}
	if back || !shown(v) && retired(v) == "" {
		wanted := writable(unretired(v))
		wanted.Properties.PublishingProfile.ExcludeFromLatest = ref(false)
		err := w.once(ctx, "public", func(ctx context.Context) error { return w.change(ctx, "publish", v, wanted) })
		if err != nil {
			return err
		}
	}
	for _, other := range family {
		if deref(other.Tags[tagVersion]) == mine || !shown(other) {
			continue
		}
		if err := w.deprecate(ctx, other, mine); unlessGone(err) != nil {
			return err
		}
	}
	return nil
}

// family returns the versions of ours in the definition.
func (s *work) family(ctx context.Context) ([]*armcompute.GalleryImageVersion, error) {
	var all []*armcompute.GalleryImageVersion
	for pager := s.versions.NewListByGalleryImagePager(s.group, s.gallery, s.definition, nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, s.explain(ctx, "list the versions of "+s.definition, err)
		}
		for _, v := range page.Value {
			if deref(v.Tags[tagDigest]) != "" && v.Properties != nil && v.Properties.PublishingProfile != nil {
				all = append(all, v)
			}
		}
	}
	return all, nil
}

// shown tells whether "latest" may lead to the version.
func shown(v *armcompute.GalleryImageVersion) bool {
	return !deref(v.Properties.PublishingProfile.ExcludeFromLatest)
}

// retired tells since when a version is deprecated, "" where it is not.
func retired(v *armcompute.GalleryImageVersion) string {
	return cmp.Or(deref(v.Tags[tagHidden]), deref(v.Tags[tagDeprecated]))
}

// unretired is a version without what tells that it was deprecated or hidden.
func unretired(v *armcompute.GalleryImageVersion) *armcompute.GalleryImageVersion {
	properties, profile, fresh := *v.Properties, *v.Properties.PublishingProfile, *v
	profile.EndOfLifeDate = nil
	properties.PublishingProfile = &profile
	fresh.Properties, fresh.Tags = &properties, maps.Clone(v.Tags)
	for _, tag := range []string{tagDeprecated, tagHidden, tagReplacedBy, tagUnseen} {
		delete(fresh.Tags, tag)
	}
	return &fresh
}

// deprecate takes a version out of "latest" for good.
func (w *work) deprecate(ctx context.Context, v *armcompute.GalleryImageVersion, successor string) error {
	if retired(v) != "" {
		return nil
	}
	step := "deprecate " + deref(v.Tags[tagVersion])
	return w.once(ctx, step, func(ctx context.Context) error {
		return w.change(ctx, "deprecate", v, deprecated(v, successor, time.Now()))
	})
}

// deprecated is a version that has a successor: its life ends now, which machines and portals tell.
func deprecated(v *armcompute.GalleryImageVersion, successor string, now time.Time) armcompute.GalleryImageVersion {
	wanted := writable(v)
	now = now.UTC().Truncate(time.Second)
	wanted.Properties.PublishingProfile.ExcludeFromLatest = ref(true)
	if wanted.Properties.PublishingProfile.EndOfLifeDate == nil {
		wanted.Properties.PublishingProfile.EndOfLifeDate = &now
	}
	if wanted.Tags == nil {
		wanted.Tags = map[string]*string{}
	}
	if deref(wanted.Tags[tagDeprecated]) == "" {
		wanted.Tags[tagDeprecated] = ref(now.Format(time.RFC3339))
		if successor != "" {
			wanted.Tags[tagReplacedBy] = &successor
		}
	}
	return wanted
}

// change writes a version of the gallery anew. A conflict, as while it is copied to a region, is waited out. Where the version is gone, the error
// is one of notFound.
func (s *session) change(ctx context.Context, doing string, v *armcompute.GalleryImageVersion, wanted armcompute.GalleryImageVersion) error {
	definition, number := partsOf(deref(v.ID))
	return s.persist(ctx, doing+" version "+number+" of "+definition, func() error {
		poller, err := s.versions.BeginCreateOrUpdate(ctx, s.group, s.gallery, definition, number, wanted, nil)
		if err != nil {
			return err
		}
		if _, err = wait(ctx, s, poller, nil); err == nil || ctx.Err() != nil {
			return err
		}
		// A write also replicates: where only that failed, in some region, the version is as it was written.
		now, lost := s.versions.Get(ctx, s.group, s.gallery, definition, number, nil)
		if lost == nil && asWritten(&now.GalleryImageVersion, &wanted) {
			return nil
		}
		return err
	})
}

func asWritten(now, wanted *armcompute.GalleryImageVersion) bool {
	equal := func(a, b *string) bool { return deref(a) == deref(b) }
	return now.Properties != nil && now.Properties.PublishingProfile != nil && shown(now) == shown(wanted) && maps.EqualFunc(now.Tags, wanted.Tags, equal)
}

// compare orders versions; what is none comes first.
func compare(a, b string) int {
	x, _ := internal.ParseVersion(a)
	y, _ := internal.ParseVersion(b)
	return cmp.Or(cmp.Compare(x.Date, y.Date), cmp.Compare(x.Number, y.Number))
}
