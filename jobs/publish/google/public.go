package google

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

// makePublic lets everyone use the image, has the family lead to it where it is the newest, and deprecates what is older.
func (w *work) makePublic(ctx context.Context) error {
	_, err := journal.Step(ctx, w.entry, "public", func(ctx context.Context, _ bool) (bool, error) {
		changed, err := w.setPublic(ctx, w.name, true)
		w.changed = w.changed || changed
		return true, err
	})
	if err != nil {
		return err
	}
	return w.latest(ctx)
}

// latest orders the family. A family leads to its newest image that is not deprecated, by the time at which it was made: so an older
// version that comes later is deprecated before it enters the family.
func (w *work) latest(ctx context.Context) error {
	all, err := w.images(ctx, "labels.debcloud-family="+strings.ReplaceAll(w.img.Family(), " ", "_"))
	if err != nil {
		return err
	}
	family := slices.DeleteFunc(all, func(i computeImage) bool { return !i.ours() || i.Family == "" && i.Name != w.name })
	slices.SortFunc(family, func(a, b computeImage) int {
		return compareVersions(b.Labels["debcloud-version"], a.Labels["debcloud-version"])
	})
	if len(family) == 0 {
		return nil // the list lags behind; the next publication orders the family
	}
	newest := family[0]
	if err := w.enter(ctx, newest); err != nil {
		return err
	}
	for _, old := range family[1:] {
		if err := w.supersede(ctx, old, newest); err != nil {
			return err
		}
		if err := w.enter(ctx, old); err != nil {
			return err
		}
	}
	return nil
}

// enter puts an image into the family.
func (w *work) enter(ctx context.Context, i computeImage) error {
	if i.Family == w.family() {
		return nil
	}
	w.changed = true
	return w.do(ctx, "put image "+i.Name+" into its family", http.MethodPatch, w.endpoint.compute+"/images/"+i.Name, nil, map[string]string{"family": w.family()})
}

// supersede deprecates an image in favour of a newer one. One that is obsolete stays so.
func (w *work) supersede(ctx context.Context, old, newest computeImage) error {
	d := deprecation{State: "DEPRECATED", Replacement: newest.SelfLink, Deprecated: time.Now().UTC().Format(time.RFC3339)}
	switch old.state() {
	case "OBSOLETE":
		return nil
	case "DEPRECATED":
		if old.Deprecated.Replacement == newest.SelfLink {
			return nil
		}
		d.Deprecated = old.Deprecated.Deprecated // since when
	}
	w.changed = true
	return w.deprecate(ctx, old.Name, d)
}
