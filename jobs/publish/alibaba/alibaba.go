// Package alibaba publishes images to Alibaba Cloud: a qcow2 image is made while it is uploaded to a bucket of OSS, ECS imports it in the same
// region and copies it to all others, and the object goes again.
//
// What makes a publication safe to repeat is on Alibaba's side: a name that one image a region can have, client tokens that follow from the
// image alone, tags that are part of the call that makes a thing, parts of an upload that stay until it is completed. The journal only spares the calls.
//
// OSS is spoken to by its SDK. ECS and STS are not: the SDK that has them (alibaba-cloud-sdk-go) takes no context in any call, its successor
// (alibabacloud-go) has two thousand types for ECS alone, and publishing needs fourteen calls, which differ in a few parameters.
package alibaba

import (
	"context"
	"maps"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aliyun/alibabacloud-oss-go-sdk-v2/oss"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/regions"
)

const (
	provider = "alibaba"
)

// Publisher publishes to one account of one partition, and retires what it published. It implements publish.Publisher, publish.Identifier and
// what jobs/prune calls a Holder.
type Publisher struct {
	target   string // its name, in the journal
	settings settings
	journal  *journal.Journal
	client   *client
	oss      *oss.Client
	patience patience
	part     int64 // bytes of a part of an upload; more where there would be too many

	mu        sync.Mutex
	endpoints map[string]string // of ECS, by region
}

// New returns the Publisher for a target. It reads what the environment says of credentials and makes no call. transport is the way to
// Alibaba Cloud, nil the usual one. Only Publish needs the journal.
func New(t target.Target, j *journal.Journal, transport http.RoundTripper) (*Publisher, error) {
	s, err := settingsOf(t)
	if err != nil {
		return nil, err
	}
	return open(t.Name, s, os.Getenv, j, patient, transport)
}

func open(name string, s settings, getenv func(string) string, j *journal.Journal, p patience, transport http.RoundTripper) (*Publisher, error) {
	s, err := s.complete()
	if err != nil {
		return nil, err
	}
	if transport == nil {
		usual := http.DefaultTransport.(*http.Transport).Clone()
		usual.MaxIdleConnsPerHost, usual.ResponseHeaderTimeout = 2*workers, 5*time.Minute
		transport = usual
	}
	l := &login{environment: readEnvironment(s, getenv)}
	c := &client{http: newHTTP(transport), login: l, patience: p}
	l.exchange = func(ctx context.Context, e environment, token string) (keys, error) {
		return c.assume(ctx, s.stsHost(), e, token)
	}
	return &Publisher{
		target: name, settings: s, journal: j, client: c, oss: newStore(s, l, p, transport), patience: p, part: usualPart, endpoints: map[string]string{},
	}, nil
}

// newHTTP returns a client that follows no redirections: what is signed is for one host.
func newHTTP(transport http.RoundTripper) *http.Client {
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// Provider returns "alibaba".
func (a *Publisher) Provider() string { return provider }

// publication is one image on its way.
type publication struct {
	*Publisher
	img     *publish.Image
	entry   *journal.Entry
	account string
	kind    machine
	name    string // of the image, in all regions
	changed atomic.Bool
	origin  origin
	dead    dead
}

// Publish implements publish.Publisher.
func (a *Publisher) Publish(ctx context.Context, img *publish.Image, stage publish.Stage) (*publish.Publication, error) {
	kind, ok := a.settings.machineOf(img.Build.Data.Info.Arch)
	if !ok {
		return nil, fault.Inputf("architecture %q has no machines at Alibaba Cloud", img.Build.Data.Info.Arch)
	}
	entry, err := a.journal.Lock(ctx, journal.Key{Target: a.target, Digest: img.Digest.String(), Image: img.Name()})
	if err != nil {
		return nil, err
	}
	defer entry.Unlock()
	who, err := a.demandAccount(ctx)
	if err != nil {
		return nil, err
	}
	p := &publication{Publisher: a, img: img, entry: entry, kind: kind, name: img.Name(), account: who.AccountID}
	return p.run(ctx, stage)
}

// run goes through all regions. A region that fails does not keep the others from their end.
func (p *publication) run(ctx context.Context, stage publish.Stage) (*publish.Publication, error) {
	usable, missing, err := p.regions(ctx)
	if err != nil {
		return nil, err
	}
	of := len(usable) + len(missing)
	home, err := p.home(ctx)
	if err != nil {
		return nil, err
	}
	var there regions.Places[string]
	there.Put(p.settings.Home, home.ImageID)
	maps.Copy(missing, p.patience.Everywhere(ctx, "copy "+p.name, usable, func(ctx context.Context, region string) error {
		if region == p.settings.Home {
			return nil
		}
		id, err := p.copy(ctx, home, region)
		if err == nil {
			there.Put(region, id)
		}
		return err
	}))
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	have := there.All()
	if err := p.sweep(ctx, len(have) == len(usable)); err != nil {
		return nil, err
	}
	if stage == publish.Public {
		maps.Copy(missing, p.patience.Everywhere(ctx, "make public "+p.name, slices.Sorted(maps.Keys(have)), func(ctx context.Context, region string) error {
			return p.makePublic(ctx, region, have[region])
		}))
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for region, why := range missing {
		if have[region], err = p.earlier(ctx, stage, region, have[region], why); err != nil {
			return nil, err
		}
	}
	return p.result(have), regions.Failure(missing, of)
}

// earlier returns the image that a region which failed has from an earlier call, at stage Public where it was public.
func (p *publication) earlier(ctx context.Context, stage publish.Stage, region, id string, why error) (string, error) {
	if stage != publish.Public {
		return regions.Earlier(ctx, p.entry, region, id, why, nil)
	}
	return regions.Earlier(ctx, p.entry, region, id, why, func() (string, error) {
		image, _, err := journal.Known[string](ctx, p.entry, "public "+region)
		return image, err
	})
}

// regions finds the regions to publish in. missing says of each that the target names and that is not there why. The home region must be there.
func (a *Publisher) regions(ctx context.Context) (usable []string, missing map[string]error, err error) {
	known, err := a.regionsThere(ctx)
	if err != nil {
		return nil, nil, err
	}
	wanted := a.settings.Regions
	if len(wanted) == 0 {
		p := partitions[a.settings.Partition]
		for _, name := range known {
			if p.contains(name) {
				wanted = append(wanted, name)
			}
		}
		slices.Sort(wanted)
	}
	missing = map[string]error{}
	for _, name := range wanted {
		if slices.Contains(known, name) {
			usable = append(usable, name)
			continue
		}
		missing[name] = fault.WithHint(fault.Inputf("Alibaba Cloud has no region %q for this account (any more)", name), "take it out of the target's regions")
	}
	if !slices.Contains(usable, a.settings.Home) {
		return nil, nil, fault.WithHint(fault.Inputf("Alibaba Cloud has no region %q for this account (any more), which is the target's home", a.settings.Home), "name another home, with the bucket there")
	}
	return usable, missing, nil
}

// result tells what is there, by the regions' images.
func (p *publication) result(there map[string]string) *publish.Publication {
	out := &publish.Publication{Changed: p.changed.Load(), Place: "Alibaba Cloud account " + p.account}
	for _, region := range slices.Sorted(maps.Keys(there)) {
		if there[region] != "" {
			out.Uploads = append(out.Uploads, p.img.CloudUpload(provider, region, there[region], familyName(p.img)))
		}
	}
	return out
}

// now is the time as tags have it.
func now() string { return time.Now().UTC().Format(time.RFC3339) }
