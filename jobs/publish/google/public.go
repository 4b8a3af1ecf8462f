package google

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

// makePublic lets everyone use the image, has the family lead to it where it is the newest, and deprecates what is older. The journal names the step; what
// is done is asked of Google alone, as anyone may take it back.
func (w *work) makePublic(ctx context.Context) error {
	_, err := journal.StandingStep(ctx, w.entry, "public", func(ctx context.Context, _ bool) (bool, error) {
		return w.isPublic(ctx, w.name)
	}, func(ctx context.Context) (bool, error) {
		changed, err := w.setPublic(ctx, w.name, true)
		w.changed = w.changed || changed
		return true, err
	})
	if err != nil {
		return err
	}
	settled, err := w.patience.Until(ctx, w.patience.visible, func() (bool, error) { return w.latest(ctx) })
	if err == nil && !settled {
		err = fault.WithHint(fault.Outsidef("image %s was put into family %s and Google does not say so after %s", w.name, w.family(), w.patience.visible), "run the same command again")
	}
	return err
}

// latest orders the family, and tells whether the image had its place in it already. A family leads to its newest image that is not deprecated, by the time
// at which it was made: so an older version that comes later is deprecated before it enters the family. One that was hidden is shown again.
func (w *work) latest(ctx context.Context) (settled bool, err error) {
	this, err := w.get(ctx, w.name)
	if err != nil {
		return false, err
	}
	if this == nil {
		return false, fault.WithHint(fault.Outsidef("image %s is gone again", w.name), "run the same command again")
	}
	others, newest, err := w.relatives(ctx, *this)
	if err != nil {
		return false, err
	}
	if newest.Name != w.name {
		settled, err = w.follow(ctx, *this, newest)
	} else {
		settled, err = w.lead(ctx, *this)
	}
	if err != nil {
		return false, err
	}
	for _, old := range others {
		if older(old, newest) && slices.Contains([]string{"", "DEPRECATED"}, old.state()) { // what is hidden stays so
			if _, err := w.follow(ctx, old, newest); err != nil {
				return false, err
			}
		}
	}
	return settled, nil
}

// relatives returns the other images of the family, and which of all is the newest. Others that were deprecated or hidden are not: the family does not lead
// to them. The list lags behind, so the image at hand is not taken from there.
func (w *work) relatives(ctx context.Context, this computeImage) (others []computeImage, newest computeImage, err error) {
	all, err := w.images(ctx, "labels.debcloud-family="+strings.ReplaceAll(w.img.Family(), " ", "_"))
	if err != nil {
		return nil, this, err
	}
	others = slices.DeleteFunc(all, func(i computeImage) bool { return !i.ours() || i.Family == "" || i.Name == w.name })
	newest = this
	for _, i := range others {
		if i.state() == "" && older(newest, i) {
			newest = i
		}
	}
	return others, newest, nil
}

func older(a, b computeImage) bool {
	return compareVersions(a.Labels["debcloud-version"], b.Labels["debcloud-version"]) < 0
}

// lead has the family lead to the image, and tells whether it did so already.
func (w *work) lead(ctx context.Context, i computeImage) (settled bool, err error) {
	if i.state() == "" && i.Family == w.family() {
		return true, nil
	}
	if i.state() != "" {
		w.changed = true
		if err := w.deprecate(ctx, i.Name, deprecation{State: "ACTIVE"}); err != nil {
			return false, err
		}
	}
	return false, w.enter(ctx, i)
}

// follow has an image of the family lead to a newer one, and tells whether it did so already.
func (w *work) follow(ctx context.Context, old, newest computeImage) (settled bool, err error) {
	replaced := old.state() == "DEPRECATED" && old.Deprecated.Replacement == newest.SelfLink
	if replaced && old.Family == w.family() {
		return true, nil
	}
	if !replaced {
		d := deprecation{State: "DEPRECATED", Replacement: newest.SelfLink, Deprecated: now()}
		if old.state() != "" && old.Deprecated.Deprecated != "" {
			d.Deprecated = old.Deprecated.Deprecated // since when
		}
		w.changed = true
		if err := w.deprecate(ctx, old.Name, d); err != nil {
			return false, err
		}
	}
	return false, w.enter(ctx, old)
}

// enter puts an image into the family.
func (w *work) enter(ctx context.Context, i computeImage) error {
	if i.Family == w.family() {
		return nil
	}
	w.changed = true
	return w.do(ctx, "put image "+i.Name+" into its family", http.MethodPatch, w.endpoint.compute+"/images/"+i.Name, nil, map[string]string{"family": w.family()})
}
