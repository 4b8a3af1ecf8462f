package openstack

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"

	internal "salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

// release makes the image public and, where it is the newest of its family, the one that is listed. Its predecessors are hidden from
// lists after that: there is always one that people find. An image that pruning hid comes back as if it had never been retired; one that is
// deprecated only is public, and stays so.
func (w *work) release(ctx context.Context, i *images.Image) error {
	family, err := w.family(ctx)
	if err != nil {
		return err
	}
	newest := i
	for _, other := range family {
		if listed(&other) && compare(mark(&other, markVersion), mark(newest, markVersion)) > 0 {
			newest = &other
		}
	}
	if err := w.show(ctx, i, w.publicly(i, newest)); err != nil {
		return err
	}
	if newest.ID != i.ID {
		return nil
	}
	for _, other := range family {
		if other.ID == i.ID || !listed(&other) {
			continue
		}
		if err := w.once(ctx, "deprecate "+w.name+" "+mark(&other, markVersion), &other, "deprecate", deprecate(&other, i.Name, time.Now())); err != nil {
			return err
		}
	}
	return nil
}

// show makes the image public. The journal knows of it also where nothing was left to do, for a time at which the region cannot be asked.
func (w *work) show(ctx context.Context, i *images.Image, changes images.UpdateOpts) error {
	step := "public " + w.name
	if len(changes) > 0 {
		return w.once(ctx, step, i, "publish", changes)
	}
	_, err := journal.StandingStep(ctx, w.entry, step, func(_ context.Context, shown string) (bool, error) { return shown == i.ID, nil },
		func(context.Context) (string, error) { return i.ID, nil })
	return err
}

// once changes an image and writes that to the journal. What the image is decides, not the journal.
func (w *work) once(ctx context.Context, step string, i *images.Image, doing string, changes images.UpdateOpts) error {
	if len(changes) == 0 {
		return nil
	}
	if err := w.entry.Forget(ctx, step); err != nil {
		return err
	}
	_, err := journal.Step(ctx, w.entry, step, func(ctx context.Context, _ bool) (string, error) { return i.ID, w.update(ctx, i, doing, changes) })
	return err
}

// family returns the images of the family that have arrived, whoever sees them.
func (w *work) family(ctx context.Context) ([]images.Image, error) {
	all, err := w.list(ctx, images.ListOpts{Tags: []string{familyName(w.img)}})
	if err != nil {
		return nil, w.explain(ctx, "list the family's images", err)
	}
	return slices.DeleteFunc(all, func(i images.Image) bool {
		return mark(&i, markFamily) != w.img.Family() || i.Status != images.ImageStatusActive
	}), nil
}

// listed tells whether people find the image.
func listed(i *images.Image) bool {
	return i.Visibility != images.ImageVisibilityPrivate && mark(i, markDeprecated) == "" && mark(i, markHidden) == ""
}

// publicly is what makes an image public: as the newest, or as one that has a successor from the start.
func (w *work) publicly(i, newest *images.Image) images.UpdateOpts {
	var changes images.UpdateOpts
	if mark(i, markHidden) != "" {
		changes, i = unretired(i)
	}
	if visibility := images.ImageVisibility(w.settings.visibility); i.Visibility != visibility {
		changes = append(changes, images.UpdateVisibility{Visibility: visibility})
	}
	if !i.Protected {
		changes = append(changes, images.ReplaceImageProtected{NewProtected: true})
	}
	switch {
	case newest.ID != i.ID:
		changes = append(changes, deprecate(i, newest.Name, time.Now())...)
	case mark(i, markDeprecated) != "": // that is not undone in passing
	default:
		if i.Hidden {
			changes = append(changes, images.ReplaceImageHidden{NewHidden: false})
		}
		if !slices.Contains(i.Tags, latest) {
			changes = append(changes, images.ReplaceImageTags{NewTags: append(slices.Clone(i.Tags), latest)})
		}
	}
	return changes
}

// unretired is what takes the marks of its retirement off an image, and the image without them.
func unretired(i *images.Image) (images.UpdateOpts, *images.Image) {
	var changes images.UpdateOpts
	fresh := *i
	fresh.Properties = maps.Clone(i.Properties)
	for _, name := range []string{markDeprecated, markHidden, markReplacedBy} {
		if _, there := i.Properties[name]; there {
			changes = append(changes, images.UpdateImageProperty{Op: images.RemoveOp, Name: name})
			delete(fresh.Properties, name)
		}
	}
	return changes, &fresh
}

// deprecate is what takes an image out of lists, with the name of its successor.
func deprecate(i *images.Image, successor string, now time.Time) images.UpdateOpts {
	var changes images.UpdateOpts
	if mark(i, markDeprecated) == "" {
		changes = append(changes, add(markDeprecated, now.UTC().Format(time.RFC3339)))
		if successor != "" {
			changes = append(changes, add(markReplacedBy, successor))
		}
	}
	if !i.Hidden {
		changes = append(changes, images.ReplaceImageHidden{NewHidden: true})
	}
	if slices.Contains(i.Tags, latest) {
		changes = append(changes, images.ReplaceImageTags{NewTags: slices.DeleteFunc(slices.Clone(i.Tags), func(t string) bool { return t == latest })})
	}
	return changes
}

// compare orders versions; what is none comes first.
func compare(a, b string) int {
	x, _ := internal.ParseVersion(a)
	y, _ := internal.ParseVersion(b)
	return cmp.Or(cmp.Compare(x.Date, y.Date), cmp.Compare(x.Number, y.Number))
}
