// Package openstack publishes images to OpenStack clouds: to Glance, in every region that a target names.
//
// What a person finds there: an image a version, under its public name, with Nova's and our own properties; the newest of a family
// is listed and has the tag "latest", older ones are hidden from listings but start by their identifier. README.md says why
// it is so, and which rights it takes.
package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

const provider = "openstack"

// atOnce is how many regions are worked on at the same time. Each is sent the whole image.
const atOnce = 4

// Publisher publishes to one project of one cloud. It implements publish.Publisher, publish.Identifier and, for pruning, Holder.
type Publisher struct {
	target    target.Target
	journal   *journal.Journal
	transport http.RoundTripper
	settings  settings
	patience  patience

	mu      sync.Mutex
	session *session
}

// settings are those of the target.
type settings struct {
	cloud      string // name in clouds.yaml; "" means that the environment says all
	format     string // of the image in Glance: qcow2, raw
	visibility string // of a public image: public, community
	firmware   string // of amd64 images, which know both: bios, uefi
}

// patience says how long to wait for what.
type patience struct {
	pause    time.Duration // before the first retry, and between two looks; grows tenfold at most
	retries  uint          // of a request
	settling time.Duration // until an image that is on its way has arrived, or is given up
}

// New returns a Publisher for t, whose settings are "cloud" (a name in clouds.yaml, else the environment's OS_… variables are
// used), "format" (qcow2 or raw), "visibility" (public or community) and "firmware" (bios or uefi, of amd64 images). All
// may be missing. Credentials are read, and the cloud is asked, when first needed. transport nil is the default one.
func New(t target.Target, j *journal.Journal, transport http.RoundTripper) (*Publisher, error) {
	if _, err := t.Demand(nil, "cloud", "format", "visibility", "firmware"); err != nil {
		return nil, err
	}
	p := &Publisher{
		target: t, journal: j, transport: transport,
		settings: settings{cloud: t.Settings["cloud"]},
		patience: patience{pause: time.Second, retries: 8, settling: 30 * time.Minute},
	}
	for _, choice := range []struct {
		setting string
		value   *string
		words   []string // the first is the default
	}{
		{"format", &p.settings.format, []string{"qcow2", "raw"}},
		{"visibility", &p.settings.visibility, []string{"public", "community"}},
		{"firmware", &p.settings.firmware, []string{"bios", "uefi"}},
	} {
		*choice.value = t.Settings[choice.setting]
		if *choice.value == "" {
			*choice.value = choice.words[0]
		}
		if !slices.Contains(choice.words, *choice.value) {
			return nil, fault.Inputf("target %q has the setting %s %q, which is none of %s", t.Name, choice.setting, *choice.value, strings.Join(choice.words, ", "))
		}
	}
	return p, nil
}

// Provider returns "openstack".
func (p *Publisher) Provider() string { return provider }

// Publish implements publish.Publisher. It makes one upload a region.
func (p *Publisher) Publish(ctx context.Context, img *publish.Image, stage publish.Stage) (*publish.Publication, error) {
	e, err := p.journal.Lock(ctx, journal.Key{Target: p.target.Name, Digest: img.Digest.String(), Image: img.Name()})
	if err != nil {
		return nil, err
	}
	defer e.Unlock()
	regions, err := p.regions(ctx)
	if err != nil {
		return nil, err
	}
	source := &source{img: img, format: p.settings.format}
	uploads := make([]*manifest.Upload, len(regions))
	changed := make([]bool, len(regions))
	failed := eachRegion(ctx, regions, func(ctx context.Context, i int, r *region) error {
		w := &work{region: r, entry: e, img: img, source: source, settings: p.settings}
		id, err := w.publish(ctx, stage)
		changed[i] = w.changed
		if err != nil {
			if id = w.earlier(ctx, stage, err); id == "" {
				return err
			}
		}
		u := img.CloudUpload(provider, r.name, id, familyName(img))
		uploads[i] = &u
		return err
	})
	publication := &publish.Publication{Place: p.place(), Changed: slices.Contains(changed, true)}
	for _, u := range uploads {
		if u != nil {
			publication.Uploads = append(publication.Uploads, *u)
		}
	}
	if len(publication.Uploads) == 0 && failed != nil {
		return nil, failed
	}
	return publication, failed
}

// eachRegion does something in all regions, some at once. One region's failure does not keep the others from their work.
// The error names the regions that failed. It is final only where each of them is.
func eachRegion(ctx context.Context, regions []*region, do func(ctx context.Context, i int, r *region) error) error {
	failures := make([]error, len(regions))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, r := range regions {
		group.Go(func() error {
			failures[i] = do(ctx, i, r)
			return nil
		})
	}
	_ = group.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return joinFailures(regions, failures)
}

func joinFailures(regions []*region, failures []error) error {
	var named []error
	var texts []string
	final := true
	var hint string
	for i, err := range failures {
		if err == nil {
			continue
		}
		named = append(named, fmt.Errorf("region %s: %w", regions[i].name, err))
		texts = append(texts, named[len(named)-1].Error())
		final = final && fault.KindOf(err) == fault.Input
		if hint == "" {
			hint = fault.HintOf(err)
		}
	}
	if len(named) == 0 {
		return nil
	}
	err := fault.Reword(errors.Join(named...), fmt.Sprintf("%d of %d regions failed: %s", len(named), len(regions), strings.Join(texts, "; ")))
	if len(regions) == 1 {
		err = named[0]
	}
	err = &fault.Error{Kind: fault.Outside, Err: err, Hint: hint}
	if final {
		err = &fault.Error{Kind: fault.Input, Err: err, Hint: hint}
	}
	return err
}

func (p *Publisher) place() string {
	if p.settings.cloud == "" {
		return "openstack"
	}
	return "openstack cloud " + p.settings.cloud
}
