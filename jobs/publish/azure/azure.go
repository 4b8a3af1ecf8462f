// Package azure publishes images to an Azure Compute Gallery, in every region that a target names.
//
// The image goes, as the pages of a fixed VHD, to a managed disk; the gallery makes a version of it and copies that to the
// regions; the disk is deleted. A family is an image definition, a version 20260814-1 is 0.20260814.1 there, and "latest" is the
// highest that is not excluded from it. README.md says why it is so, and which rights it takes.
package azure

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

const provider = "azure"

// Publisher publishes to one gallery. It implements publish.Publisher, publish.Identifier and, for pruning, Holder.
type Publisher struct {
	target    target.Target
	journal   *journal.Journal
	transport http.RoundTripper
	group     string // resource group
	gallery   string
	patience  patience
	between   int // blocks

	mu      sync.Mutex
	session *session
}

// patience says how long to wait for what.
type patience struct {
	pause   time.Duration // before the first retry, and between two looks
	retries int32         // of a request
	arrival time.Duration // until a version is in all regions
	upload  time.Duration // of someone else's incomplete disk, after which nobody is at work on it any more
}

// New returns a Publisher for t, whose Account is the subscription, and whose settings are "resource-group", "gallery" and, where they
// are wanted, "tenant" and "client" (else AZURE_TENANT_ID and AZURE_CLIENT_ID), "id-token" (the name of the variable with a CI
// job's id token) and "endpoint" (of the resource manager, the login and the disks, for tests). transport nil is the default one.
func New(t target.Target, j *journal.Journal, transport http.RoundTripper) (*Publisher, error) {
	values, err := t.Demand([]string{"resource-group", "gallery"}, "tenant", "client", "id-token", "endpoint")
	if err != nil {
		return nil, err
	}
	if t.Account == "" {
		return nil, fault.WithHint(fault.Inputf("target %q names no account", t.Name), "its account is the subscription's identifier")
	}
	if strings.Contains(values[1], "-") {
		return nil, fault.Inputf("target %q has the gallery %q: names of galleries have no hyphens", t.Name, values[1])
	}
	if len(t.Regions) == 0 {
		return nil, fault.WithHint(fault.Inputf("target %q names no regions", t.Name), "the first is the gallery's own; \"*\" alone means all that the subscription has")
	}
	p := &Publisher{
		target: t, journal: j, transport: transport, group: values[0], gallery: values[1], between: between,
		patience: patience{pause: 5 * time.Second, retries: 8, arrival: 3 * time.Hour, upload: time.Hour},
	}
	return p, nil
}

// Provider returns "azure".
func (p *Publisher) Provider() string { return provider }

// Publish implements publish.Publisher. It makes one upload a region.
func (p *Publisher) Publish(ctx context.Context, img *publish.Image, stage publish.Stage) (*publish.Publication, error) {
	e, err := p.journal.Lock(ctx, journal.Key{Target: p.target.Name, Digest: img.Digest.String(), Image: img.Name()})
	if err != nil {
		return nil, err
	}
	defer e.Unlock()
	s, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	w := &work{session: s, entry: e, img: img}
	if err := w.place(ctx, p.target.Regions); err != nil {
		return nil, err
	}
	v, err := w.version(ctx)
	if err != nil {
		return nil, err
	}
	if stage == publish.Public {
		if err := w.release(ctx, v); err != nil {
			return nil, err
		}
	}
	there, failed := w.regionsOf(v)
	publication := &publish.Publication{Changed: w.changed, Place: fmt.Sprintf("gallery %s, %s version %s", p.gallery, w.definition, w.number)}
	for _, region := range there {
		publication.Uploads = append(publication.Uploads, img.CloudUpload(provider, region, *v.ID, w.definition))
	}
	return publication, w.joinFailures(failed)
}

// joinFailures makes one error of the regions that failed. It is final only where trying again cannot help any of them.
func (w *work) joinFailures(failed map[string]string) error {
	var all []error
	for _, region := range w.wanted {
		if why := failed[region]; why != "" {
			all = append(all, fmt.Errorf("region %s: %s", region, why))
		}
	}
	kind := fault.Outside
	if len(all) == 0 {
		kind = fault.Input
	}
	for _, region := range w.unknown {
		all = append(all, fmt.Errorf("region %s: the subscription does not have it", region))
	}
	if len(all) == 0 {
		return nil
	}
	err := fmt.Errorf("%d of %d regions failed: %w", len(all), len(w.wanted)+len(w.unknown), errors.Join(all...))
	hint := "run the same command again: the regions that failed are tried anew"
	if kind == fault.Input {
		hint = "correct the target's regions; az account list-locations lists those of the subscription"
	}
	return &fault.Error{Kind: kind, Err: err, Hint: hint}
}

// work is the publication of one image.
type work struct {
	*session
	entry   *journal.Entry
	img     *publish.Image
	changed bool

	home       string   // region of the gallery, where the image is uploaded to
	wanted     []string // regions of the target that the subscription has, home first
	unknown    []string // those that it does not have
	unlisted   bool     // the credentials may not list the subscription's regions: all names are taken as known
	definition string   // name of the image definition: the family
	number     string   // name of the version
}

// once does a step and writes it to the journal. What the cloud has decides whether it is needed, so the caller asked there before.
func (w *work) once(ctx context.Context, step string, do func(context.Context) error) error {
	if err := w.entry.Forget(ctx, step); err != nil {
		return err
	}
	_, err := journal.Step(ctx, w.entry, step, func(ctx context.Context, _ bool) (string, error) { return w.number, do(ctx) })
	if err == nil {
		w.changed = true
	}
	return err
}

// place finds out where the image goes.
func (w *work) place(ctx context.Context, regions []string) error {
	g, err := w.galleries.Get(ctx, w.group, w.gallery, nil)
	if err != nil {
		return w.explain(ctx, fmt.Sprintf("look at gallery %s in resource group %s", w.gallery, w.group), err)
	}
	w.home = normal(deref(g.Location))
	all := slices.Equal(regions, []string{"*"})
	known, err := w.locations(ctx)
	refused := status(err) == http.StatusForbidden && ctx.Err() == nil
	switch {
	case refused && all:
		return fault.WithHint(fault.Inputf("the subscription's regions, which the target means by \"*\", cannot be listed: the credentials lack %s: %s", listRegions, said(err)),
			"give it to them on the subscription, as README.md of jobs/publish/azure says, or name the regions in the target")
	case refused:
		slog.WarnContext(ctx, "the credentials may not list the subscription's regions, so one that it does not have would keep all from being published", "missing", listRegions, "subscription", w.target.Account)
		known, w.unlisted = normalAll(regions), true
	case err != nil:
		return w.explain(ctx, "list the subscription's regions", err)
	}
	if all {
		regions = known
	}
	w.wanted = []string{w.home} // Azure copies from there, so a version is always there, too
	for _, r := range regions {
		switch r = normal(r); {
		case slices.Contains(w.wanted, r):
		case slices.Contains(known, r):
			w.wanted = append(w.wanted, r)
		default:
			w.unknown = append(w.unknown, r)
		}
	}
	w.definition, w.number = definitionName(w.img), versionName(w.img.Version.String())
	return nil
}

// normal writes a region as Azure's interfaces do: "West Europe" is westeurope.
func normal(region string) string { return strings.ToLower(strings.ReplaceAll(region, " ", "")) }

func normalAll(regions []string) (all []string) {
	for _, r := range regions {
		all = append(all, normal(r))
	}
	return all
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

func ref[T any](v T) *T { return &v }

// Interfaces that cmd/debcloud relies on.
var (
	_ publish.Publisher  = (*Publisher)(nil)
	_ publish.Identifier = (*Publisher)(nil)
)
