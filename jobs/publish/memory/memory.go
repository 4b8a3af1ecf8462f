// Package memory publishes to a cloud that lives in the process: the shortest Publisher that keeps all promises, for tests of what
// stands on Publishers and as the one to begin from.
package memory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/raw"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

const provider = "memory"

// tries and pause are those of requests that failed outside.
const (
	tries = 8
	pause = time.Millisecond
)

// Call makes one request to the cloud: do is what the cloud does.
type Call func(ctx context.Context, name string, do func() error) error

// Publisher publishes to a Cloud. It implements publish.Publisher and prune.Holder.
type Publisher struct {
	cloud   *Cloud
	target  target.Target
	journal *journal.Journal
	call    Call

	BeforeBlock func() // is called before each block is sent; may be nil
}

// New returns the Publisher for an account. Its requests go through call, or straight where that is nil.
func New(c *Cloud, t target.Target, j *journal.Journal, call Call) *Publisher {
	if call == nil {
		call = func(_ context.Context, _ string, do func() error) error { return do() }
	}
	return &Publisher{cloud: c, target: t, journal: j, call: call}
}

// Provider returns "memory".
func (p *Publisher) Provider() string { return provider }

// request makes a request, again where it failed outside.
func (p *Publisher) request(ctx context.Context, name string, do func() error) error {
	locked := func() error {
		p.cloud.mu.Lock()
		defer p.cloud.mu.Unlock()
		return do()
	}
	for try := 1; ; try++ {
		err := p.call(ctx, name, locked)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil || fault.KindOf(err) != fault.Outside || try == tries {
			return err
		}
		select {
		case <-time.After(pause << try):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Publish implements publish.Publisher.
func (p *Publisher) Publish(ctx context.Context, img *publish.Image, stage publish.Stage) (*publish.Publication, error) {
	e, err := p.journal.Lock(ctx, journal.Key{Target: p.target.Name, Digest: img.Digest.String(), Image: img.Name()})
	if err != nil {
		return nil, err
	}
	defer e.Unlock()
	w := &work{Publisher: p, img: img, entry: e}
	if err := w.reconcile(ctx); err != nil {
		return nil, err
	}
	ids, err := w.everywhere(ctx, stage)
	if ids[0] == "" {
		return nil, err
	}
	publication := &publish.Publication{Changed: w.changed.Load(), Place: p.target.Name}
	for i, id := range ids {
		if id != "" {
			publication.Uploads = append(publication.Uploads, img.CloudUpload(provider, p.target.Regions[i], id, img.Family()))
		}
	}
	return publication, err
}

// work is one image on its way.
type work struct {
	*Publisher
	img     *publish.Image
	entry   *journal.Entry
	changed atomic.Bool
}

// reconcile asks the cloud for everything of the image's name, refuses what is not this image, and has the journal forget what
// the cloud does not have.
func (w *work) reconcile(ctx context.Context) error {
	have := map[string]bool{}
	err := w.request(ctx, "list", func() error {
		clear(have)
		for _, t := range w.cloud.list() {
			if t.Name != w.img.Name() {
				continue
			}
			if t.digest != w.img.Digest.String() || !t.Ours {
				return fault.WithHint(fault.Inputf("%s %s is %s there, with digest %s, and this image has digest %s", t.Kind, t.Name, t.ID, t.digest, w.img.Digest), "give this image another version")
			}
			have[string(t.Kind)+" "+t.Region] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, region := range w.target.Regions {
		if !have["image "+region] {
			if err := w.entry.Forget(ctx, "image "+region, "public "+region, "latest "+region); err != nil {
				return err
			}
		}
	}
	if !have["snapshot "+w.target.Regions[0]] {
		return w.entry.Forget(ctx, "snapshot")
	}
	return nil
}

// everywhere brings the image into all regions, at that stage, and returns its identifiers there, "" where it failed.
func (w *work) everywhere(ctx context.Context, stage publish.Stage) ([]string, error) {
	regions := w.target.Regions
	ids := make([]string, len(regions))
	errs := make([]error, len(regions))
	snapshot, err := journal.Step(ctx, w.entry, "snapshot", w.snapshot)
	if err != nil {
		return ids, err
	}
	if ids[0], err = w.region(ctx, regions[0], snapshot, stage); err != nil {
		return ids, err
	}
	var group errgroup.Group
	group.SetLimit(8)
	for i := range regions[1:] {
		group.Go(func() error {
			id, err := w.region(ctx, regions[i+1], ids[0], stage)
			if err == nil {
				ids[i+1] = id
			}
			errs[i+1] = err
			return nil
		})
	}
	_ = group.Wait()
	if ctx.Err() != nil {
		return ids, context.Cause(ctx)
	}
	var failed []string
	for i, err := range errs {
		if err != nil {
			failed = append(failed, regions[i])
		}
	}
	if len(failed) > 0 {
		return ids, fault.Outsidef("%d of %d regions failed, %s: %w", len(failed), len(regions), strings.Join(failed, ", "), errors.Join(errs...))
	}
	return ids, nil
}

// item is what everything of the image is tagged with.
func (w *work) item(region string) holding.Item {
	return holding.Item{Name: w.img.Name(), Region: region, Family: w.img.Family(), UploadType: w.img.Type, Version: w.img.Version.String()}
}

func (w *work) snapshot(ctx context.Context, _ bool) (string, error) {
	var id string
	var ready bool
	token := w.img.Name() + " " + w.img.Digest.Hex()
	err := w.request(ctx, "start snapshot", func() (err error) {
		if id, err = w.cloud.startSnapshot(token, w.img.Digest.String(), w.item(w.target.Regions[0])); err == nil {
			ready = w.cloud.items[id].ready
		}
		return err
	})
	if err != nil || ready {
		return id, err // an earlier try completed it and never learned that
	}
	w.changed.Store(true)
	sent, err := w.img.Send(ctx, "upload", raw.Upload{BlockSize: blockSize, Workers: 4, Pad: true, Digest: true}, func(ctx context.Context, b raw.Block) error {
		if w.BeforeBlock != nil {
			w.BeforeBlock()
		}
		return w.request(ctx, "put block", func() error { return w.cloud.putBlock(id, b.Index, b.Data, b.SHA256) })
	})
	if fault.KindOf(err) == fault.Input {
		// What was sent belongs to another image: nothing of it may stay in this one.
		return "", errors.Join(err, w.request(ctx, "delete snapshot", func() error { return w.cloud.delete(id) }))
	}
	if err != nil {
		return "", err
	}
	return id, w.request(ctx, "complete snapshot", func() error { return w.cloud.completeSnapshot(id, sent.All, sent.Linear) })
}

// region brings the image into one region; source is the snapshot, or the image in the first region.
func (w *work) region(ctx context.Context, region, source string, stage publish.Stage) (string, error) {
	id, err := journal.Step(ctx, w.entry, "image "+region, func(ctx context.Context, _ bool) (id string, err error) {
		err = w.request(ctx, "register "+region, func() error {
			for _, t := range w.cloud.list() {
				if t.Kind == holding.Image && t.Region == region && t.Name == w.img.Name() {
					id = t.ID
					return nil
				}
			}
			w.changed.Store(true)
			id, err = w.cloud.registerImage(source, w.img.Digest.String(), w.item(region))
			return err
		})
		return id, err
	})
	if err != nil || stage != publish.Public {
		return id, err
	}
	_, err = journal.Step(ctx, w.entry, "public "+region, func(ctx context.Context, _ bool) (bool, error) {
		return true, w.request(ctx, "make public "+region, func() error {
			if t := w.cloud.items[id]; t != nil && t.Public {
				return nil
			}
			w.changed.Store(true)
			return w.cloud.setPublic(id, true)
		})
	})
	if err != nil {
		return id, err
	}
	_, err = journal.Step(ctx, w.entry, "latest "+region, func(ctx context.Context, _ bool) (bool, error) { return true, w.latest(ctx, region) })
	return id, err
}

// latest has the family lead to its newest image and deprecates the others.
func (w *work) latest(ctx context.Context, region string) error {
	var family []thing
	err := w.request(ctx, "list family", func() error {
		family = slices.DeleteFunc(w.cloud.list(), func(t thing) bool {
			return t.Kind != holding.Image || t.Region != region || t.Family != w.img.Family() || !t.Public
		})
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(family, func(a, b thing) int { return compareVersions(b.Version, a.Version) })
	for _, old := range family[1:] {
		if old.State != holding.Current && old.ReplacedBy == family[0].ID {
			continue
		}
		w.changed.Store(true)
		if err := w.request(ctx, "deprecate "+region, func() error { return w.cloud.setState(old.ID, holding.Deprecated, family[0].ID) }); err != nil {
			return err
		}
	}
	return w.request(ctx, "set family "+region, func() error {
		key := region + " " + w.img.Family()
		if w.cloud.families[key] != family[0].ID {
			w.changed.Store(true)
			w.cloud.families[key] = family[0].ID
		}
		return nil
	})
}

func compareVersions(a, b string) int {
	x, _ := image.ParseVersion(a) // publish.Open parsed both
	y, _ := image.ParseVersion(b)
	return cmp.Or(cmp.Compare(x.Date, y.Date), cmp.Compare(x.Number, y.Number))
}

// List implements prune.Holder.
func (p *Publisher) List(ctx context.Context) (items []holding.Item, err error) {
	err = p.request(ctx, "list", func() error {
		items = nil
		for _, t := range p.cloud.list() {
			items = append(items, t.Item)
		}
		return nil
	})
	return items, err
}

// Deprecate implements prune.Holder.
func (p *Publisher) Deprecate(ctx context.Context, it holding.Item) error {
	return p.retire(ctx, "deprecate", it, func() error { return p.cloud.setState(it.ID, holding.Deprecated, it.ReplacedBy) })
}

// Hide implements prune.Holder.
func (p *Publisher) Hide(ctx context.Context, it holding.Item) error {
	return p.retire(ctx, "hide", it, func() error { return p.cloud.setState(it.ID, holding.Hidden, it.ReplacedBy) })
}

// Delete implements prune.Holder.
func (p *Publisher) Delete(ctx context.Context, it holding.Item) error {
	return p.retire(ctx, "delete", it, func() error { return p.cloud.delete(it.ID) })
}

// retire changes an Item that is ours and still as it was listed.
func (p *Publisher) retire(ctx context.Context, name string, it holding.Item, do func() error) error {
	return p.request(ctx, name, func() error {
		switch t := p.cloud.items[it.ID]; {
		case t == nil:
			return nil
		case !t.Ours:
			return fault.Inputf("%s %s is not ours", it.Kind, it.ID)
		case t.State != it.State:
			return fault.Inputf("%s %s is %s by now, and was %s when it was listed", it.Kind, it.ID, t.State, it.State)
		}
		return do()
	})
}

// Whoami implements publish.Identifier.
func (p *Publisher) Whoami(context.Context) (publish.Identity, error) {
	return publish.Identity{Account: fmt.Sprint(cmp.Or(p.target.Account, "memory")), Principal: "this process"}, nil
}
