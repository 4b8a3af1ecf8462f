package openstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/pagination"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/pause"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

// work is the publication of one image in one region.
type work struct {
	*region
	entry    *journal.Entry
	img      *publish.Image
	source   *source
	settings settings
	changed  bool

	algorithm string // that the region's Glance hashes images by, once it was asked
}

// made is what the journal keeps of an image that arrived.
type made struct {
	ID     string
	Format string // of the image in Glance
	// Sum is the digest of its data there, hexadecimal, by the Algorithm, which has Glance's name. Empty in journals of before there was one.
	Algorithm, Sum string
}

// publish returns the image's identifier.
func (w *work) publish(ctx context.Context, stage publish.Stage) (string, error) {
	if err := w.demand(ctx); err != nil {
		return "", err
	}
	found, err := w.find(ctx)
	if err != nil {
		return "", err
	}
	have, err := w.have(ctx, found)
	if err != nil {
		return "", err
	}
	if found == nil || found.ID != have.ID || found.Status != images.ImageStatusActive {
		if found, err = w.get(ctx, have.ID); err != nil {
			return "", w.explain(ctx, "look at image "+have.ID, err)
		}
	}
	if err := w.verify(ctx, found, have); err != nil {
		return "", err
	}
	if err := w.mend(ctx, found); err != nil {
		return "", err
	}
	if stage == publish.Public {
		err = w.release(ctx, found)
	}
	return found.ID, err
}

// earlier returns the image that the region has from an earlier call, as far as the journal knows: where the region could not be asked, it is still
// there, and at stage Public it is where it was public. "" means that there is none, or that the journal does not tell.
func (w *work) earlier(ctx context.Context, stage publish.Stage, why error) string {
	if fault.KindOf(why) != fault.Outside {
		return ""
	}
	have, known, err := journal.Known[made](ctx, w.entry, "image "+w.name)
	if !known || err != nil || stage != publish.Public {
		return have.ID
	}
	if shown, _, err := journal.Known[string](ctx, w.entry, "public "+w.name); err != nil || shown != have.ID {
		return ""
	}
	return have.ID
}

// have is the step that brings the image to Glance. Where the journal says that it did and Glance has lost the image, it is done anew.
func (w *work) have(ctx context.Context, found *images.Image) (made, error) {
	name, done := "image "+w.name, false
	step := func() (made, error) {
		return journal.Step(ctx, w.entry, name, func(ctx context.Context, again bool) (made, error) {
			done = true
			return w.arrive(ctx, found, again)
		})
	}
	have, err := step()
	if err != nil || done || found != nil && found.ID == have.ID && found.Status == images.ImageStatusActive {
		return have, err
	}
	if err := w.entry.Forget(ctx, name); err != nil {
		return made{}, err
	}
	return step()
}

// find returns the image where Glance has it, in whatever state, nil where not. An image of the project under the same name that
// is another one is an error of kind fault.Input: names are not unique in Glance, but people choose by them.
func (w *work) find(ctx context.Context) (*images.Image, error) {
	all, err := w.list(ctx, images.ListOpts{Name: w.img.Name()})
	if err != nil {
		return nil, w.explain(ctx, "list images", err)
	}
	var found *images.Image
	for i := range all {
		one := &all[i]
		switch digest := mark(one, markDigest); {
		case digest == "":
			return nil, fault.WithHint(fault.Inputf("image %s has the name %s and is not of debcloud", one.ID, w.img.Name()), "rename or delete it, or publish to another project")
		case digest != w.img.Digest.String():
			return nil, fault.WithHint(fault.Inputf("%s is published already, as image %s with digest %s, and this image has digest %s", w.img.Name(), one.ID, digest, w.img.Digest),
				"a published version never changes: build this image with another version")
		case found == nil || one.Status == images.ImageStatusActive:
			found = one
		}
	}
	return found, nil
}

// list returns the project's images, listed and hidden ones, by age.
func (r *region) list(ctx context.Context, o images.ListOpts) ([]images.Image, error) {
	var all []images.Image
	o.Owner = r.project.ID
	for _, hidden := range []bool{false, true} {
		o.Hidden = hidden
		err := images.List(r.images, o).EachPage(ctx, func(_ context.Context, page pagination.Page) (bool, error) {
			found, err := images.ExtractImages(page)
			all = append(all, found...)
			return true, err
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(all, func(a, b images.Image) int { return a.CreatedAt.Compare(b.CreatedAt) })
	// An image that was hidden in between is in both lists.
	return slices.CompactFunc(all, func(a, b images.Image) bool { return a.ID == b.ID }), nil
}

func (r *region) get(ctx context.Context, id string) (*images.Image, error) {
	return images.Get(ctx, r.images, id).Extract()
}

// arrive brings the image to Glance, from whatever state it is in there, and returns when it is active. again says that an earlier
// try of ours began and did not end.
func (w *work) arrive(ctx context.Context, found *images.Image, again bool) (made, error) {
	var sent made
	var last error
	mine := again
	for n := range w.patience.retries + 1 {
		if last != nil {
			if err := pause.For(ctx, w.patience.pause<<min(n, 4)); err != nil {
				return made{}, err
			}
		}
		var err error
		if found == nil {
			if _, err := w.newHash(ctx); err != nil { // nothing is made that could not be verified
				return made{}, err
			}
			if found, err = w.create(ctx); err != nil {
				return made{}, err
			}
		}
		if found.Status == images.ImageStatusQueued {
			mine = true
			if sent, err = w.send(ctx, found.ID); err != nil && !errors.As(err, new(*lostError)) {
				return made{}, err
			}
			last = err
		}
		if found, err = w.settle(ctx, found.ID, mine); err != nil {
			return made{}, err
		}
		if found == nil {
			continue
		}
		if found.Status == images.ImageStatusActive {
			return w.known(ctx, found, sent)
		}
	}
	if last == nil {
		last = fault.Outsidef("it is deleted, or loses its data, each time")
	}
	return made{}, fmt.Errorf("the image does not become active: %w", last)
}

// known completes what is known of an active image. What was sent by an earlier process is worked out again.
func (w *work) known(ctx context.Context, found *images.Image, sent made) (made, error) {
	if sent.Sum == "" && verified(found) {
		return made{ID: found.ID, Format: found.DiskFormat, Algorithm: mark(found, "os_hash_algo"), Sum: mark(found, "os_hash_value")}, nil
	}
	if found.DiskFormat == "raw" && w.settings.format != "raw" {
		// A cloud that converts what it imports has the raw image, whose digest is known.
		sent = made{Format: "raw", Algorithm: "sha512", Sum: w.img.Digest.Hex()}
	}
	if sent.Sum == "" {
		algorithm := mark(found, "os_hash_algo")
		sum, err := w.source.sum(ctx, algorithm, w.settings.format)
		if err != nil {
			return made{}, err
		}
		sent = made{Format: w.settings.format, Algorithm: algorithm, Sum: sum}
	}
	sent.ID = found.ID
	return sent, w.verify(ctx, found, sent)
}

// create registers the image, hidden and private.
func (w *work) create(ctx context.Context) (*images.Image, error) {
	hidden, visibility := true, images.ImageVisibilityPrivate
	for n := range 10 {
		o := images.CreateOpts{
			ID: identifier(w.project.ID, w.img, n), Name: w.img.Name(), Hidden: &hidden, Visibility: &visibility,
			DiskFormat: w.settings.format, ContainerFormat: "bare", MinDisk: minDisk(w.img),
			Tags: []string{"debian", familyName(w.img)}, Properties: w.properties(),
		}
		made, err := images.Create(ctx, w.images, o).Extract()
		if err == nil {
			w.changed = true
			return made, nil
		}
		if !gophercloud.ResponseCodeIs(err, http.StatusConflict) {
			return nil, w.explain(ctx, "create the image", err)
		}
		there, err := w.get(ctx, o.ID)
		if err == nil {
			return there, w.demandOurs(there)
		}
		if !gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
			return nil, w.explain(ctx, "look at image "+o.ID, err)
		}
		slog.InfoContext(ctx, "image was deleted before and is made anew", "image", w.img.Name(), "region", w.name, "deleted", o.ID)
	}
	return nil, fault.WithHint(fault.Inputf("%s was made and deleted ten times in region %s", w.img.Name(), w.name), "build the image with another version")
}

func (w *work) demandOurs(i *images.Image) error {
	if mark(i, markDigest) == w.img.Digest.String() {
		return nil
	}
	return fault.Inputf("image %s has the identifier that %s would have, and is not of debcloud", i.ID, w.img.Name())
}

// settle waits until an image that is on its way has arrived, or waits for data again. One of ours that does not move is deleted: then, and where
// it is gone, settle returns nil.
func (w *work) settle(ctx context.Context, id string, mine bool) (*images.Image, error) {
	deadline := time.Now().Add(w.patience.settling)
	for wait := w.patience.pause; ; wait = min(2*wait, 10*w.patience.pause) {
		now, err := w.get(ctx, id)
		switch {
		case gophercloud.ResponseCodeIs(err, http.StatusNotFound):
			return nil, nil
		case err != nil:
			return nil, w.explain(ctx, "look at image "+id, err)
		}
		switch now.Status {
		case images.ImageStatusActive:
			if mark(now, importTask) == "" || time.Now().After(deadline) {
				return now, nil
			}
			deadline = sooner(deadline, time.Now().Add(w.patience.settling/30))
		case images.ImageStatusQueued:
			return now, nil
		case images.ImageStatusSaving, images.ImageStatusImporting, imageStatusUploading:
			// All data is staged, by whomever: it is of this image, and verified when it has arrived.
			if now.Status == imageStatusUploading && now.SizeBytes > 0 {
				if err := w.importStaged(ctx, id); err != nil {
					return nil, err
				}
			}
			if time.Now().Before(deadline) {
				break
			}
			if !mine {
				return nil, fault.WithHint(fault.Outsidef("image %s has been %s since %s, by someone else", id, now.Status, now.UpdatedAt.Format(time.RFC3339)),
					"wait for the other publisher; where none is at work any more, delete the image and try again")
			}
			return nil, w.remove(ctx, now)
		default:
			return nil, fault.WithHint(fault.Inputf("image %s is %s, which is not expected", id, now.Status), "an operator of the cloud did that: ask them, or delete the image and try again")
		}
		if err := pause.For(ctx, wait); err != nil {
			return nil, err
		}
	}
}

func sooner(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// importTask is a property that Glance sets while it imports. The image is active before the task ends, which then writes back the
// properties that it read at its beginning and so undoes what was set in between (glance/async_/flows/api_image_import.py). A Glance that
// was stopped just then leaves it there for ever.
const importTask = "os_glance_import_task"

// imageStatusUploading is missing among gophercloud's: data is staged and not imported yet.
const imageStatusUploading images.ImageStatus = "uploading"

// remove deletes an image of ours, which it may be gone already.
func (r *region) remove(ctx context.Context, i *images.Image) error {
	if i.Protected {
		_, err := images.Update(ctx, r.images, i.ID, images.UpdateOpts{images.ReplaceImageProtected{NewProtected: false}}).Extract()
		if gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
			return nil
		}
		if err != nil {
			return r.explain(ctx, "take the protection off image "+i.ID, err)
		}
	}
	err := images.Delete(ctx, r.images, i.ID).ExtractErr()
	switch {
	case err == nil, gophercloud.ResponseCodeIs(err, http.StatusNotFound):
		return nil
	case gophercloud.ResponseCodeIs(err, http.StatusConflict):
		return fault.WithHint(fault.Outsidef("image %s is in use: %s", i.ID, r.said(err)), "volumes or machines are clones of it: it can be deleted when they are gone")
	}
	return r.explain(ctx, "delete image "+i.ID, err)
}

// verify compares what Glance says that it has with what was sent. What differs is deleted: it was never public.
func (w *work) verify(ctx context.Context, i *images.Image, have made) error {
	if verified(i) {
		return nil
	}
	algorithm, value := mark(i, "os_hash_algo"), mark(i, "os_hash_value")
	want := have.Sum
	if want == "" || algorithm != have.Algorithm {
		var err error
		if want, err = w.source.sum(ctx, algorithm, have.Format); err != nil {
			return err
		}
	}
	if value == want {
		return nil
	}
	if i.Visibility == images.ImageVisibilityPrivate && i.Hidden {
		if err := w.remove(ctx, i); err != nil {
			return err
		}
		if err := w.entry.Forget(ctx, "image "+w.name); err != nil {
			return err
		}
		return fault.Outsidef("image %s has %s %s in the cloud, where what was sent has %s; it was deleted again", i.ID, algorithm, value, want)
	}
	return fault.WithHint(fault.Inputf("image %s, which is public, has %s %s in the cloud, where what was sent has %s", i.ID, algorithm, value, want), "find out who changed it, and delete it")
}

// verified tells whether the data are those that an earlier process found right, which may have had the image while this one has its
// documents alone.
func verified(i *images.Image) bool {
	return mark(i, markVerified) == hashOf(i) && mark(i, "os_hash_value") != ""
}

func hashOf(i *images.Image) string { return mark(i, "os_hash_algo") + ":" + mark(i, "os_hash_value") }

// mend puts properties right that someone changed or an older debcloud did not know.
func (w *work) mend(ctx context.Context, i *images.Image) error {
	var changes images.UpdateOpts
	wanted := w.properties()
	wanted[markVerified] = hashOf(i)
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if mark(i, name) != wanted[name] {
			changes = append(changes, add(name, wanted[name]))
		}
	}
	return w.update(ctx, i, "set properties of", changes)
}

// update changes an image where there is something to change.
func (w *work) update(ctx context.Context, i *images.Image, doing string, changes images.UpdateOpts) error {
	if len(changes) == 0 {
		return nil
	}
	fresh, err := images.Update(ctx, w.images, i.ID, changes).Extract()
	if err != nil {
		return w.explain(ctx, doing+" image "+i.ID, err)
	}
	*i, w.changed = *fresh, true
	return nil
}
