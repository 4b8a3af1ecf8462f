// Package aws publishes images to Amazon Web Services: one AMI per region, its snapshot written block by block through EBS
// direct, without a bucket or an import role in between.
//
// What makes a publication safe to repeat is on AWS's side: a name that one image a region can have, client tokens that follow from
// the image alone, tags that are part of the call that makes a thing. The journal only spares the calls.
package aws

import (
	"context"
	"maps"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/regions"
)

const (
	provider = "aws"
	workers  = 32 // blocks sent at once: 160 MiB/s where a call takes 100 ms
	between  = 64 // blocks, 32 MiB, after which the journal is told which ones AWS has
)

// Publisher publishes to one account of one partition, and retires what it published. It implements publish.Publisher and what jobs/prune
// calls a Holder.
type Publisher struct {
	target   string // its name, in the journal
	settings settings
	login    *login
	journal  *journal.Journal
	patience patience
	now      func() time.Time
	between  int
	// lenient lists properties that verify passes over, for doubles that forget them.
	lenient []string
}

// patience says how long AWS may take.
type patience struct {
	regions.Patience
	visible time.Duration // until what was just made is found
	pending time.Duration // until an image or a snapshot is done
	calls   int           // of one call, by the SDK, which waits between them
	backoff time.Duration // the longest of those waits
}

var patient = patience{Patience: regions.Patience{Poll: time.Second, PollMost: 15 * time.Second, Tries: 3}, visible: 5 * time.Minute, pending: 3 * time.Hour, calls: 10, backoff: 20 * time.Second}

// New returns the Publisher for a target. It reads what the environment and files say of credentials and makes no call. transport is the way to
// AWS, nil the usual one. Only Publish needs the journal.
func New(t target.Target, j *journal.Journal, transport http.RoundTripper) (*Publisher, error) {
	s, err := settingsOf(t)
	if err != nil {
		return nil, err
	}
	return open(t.Name, s, readEnvironment(s, os.Getenv), j, patient, transport)
}

func open(name string, s settings, e environment, j *journal.Journal, p patience, transport http.RoundTripper) (*Publisher, error) {
	s, err := s.complete()
	if err != nil {
		return nil, err
	}
	l, err := newLogin(s, e, p, transport)
	if err != nil {
		return nil, err
	}
	return &Publisher{target: name, settings: s, login: l, journal: j, patience: p, now: time.Now, between: between}, nil
}

// Provider returns "aws".
func (a *Publisher) Provider() string { return provider }

// publication is one image on its way.
type publication struct {
	*Publisher
	img     *publish.Image
	entry   *journal.Entry
	account string
	kind    machine
	name    string // of the AMI, in all regions
	changed atomic.Bool
}

// placed is what a region has of the image.
type placed struct{ Image, Snapshot string }

// Publish implements publish.Publisher.
func (a *Publisher) Publish(ctx context.Context, img *publish.Image, stage publish.Stage) (*publish.Publication, error) {
	kind, ok := machines[img.Build.Data.Info.Arch]
	if !ok {
		return nil, fault.Inputf("architecture %q has no machines at AWS", img.Build.Data.Info.Arch)
	}
	if a.settings.TPM {
		kind.boot = types.BootModeValuesUefi // TpmSupport is refused with any other
	}
	entry, err := a.journal.Lock(ctx, journal.Key{Target: a.target, Digest: img.Digest.String(), Image: img.Name()})
	if err != nil {
		return nil, err
	}
	defer entry.Unlock()
	p := &publication{Publisher: a, img: img, entry: entry, kind: kind, name: amiName(img)}
	if p.account, _, err = a.demandAccount(ctx); err != nil {
		return nil, err
	}
	return p.run(ctx, stage)
}

// run goes through all regions. A region that fails does not keep the others from their end.
func (p *publication) run(ctx context.Context, stage publish.Stage) (*publish.Publication, error) {
	usable, failed, err := p.regions(ctx)
	if err != nil {
		return nil, err
	}
	of := len(usable) + len(failed)
	home, err := p.home(ctx)
	if err != nil {
		return nil, err
	}
	var there regions.Places[placed]
	there.Put(p.settings.Home, home)
	maps.Copy(failed, p.patience.Everywhere(ctx, "copy "+p.name, usable, func(ctx context.Context, region string) error {
		if region == p.settings.Home {
			return nil
		}
		at, err := p.copy(ctx, home, region)
		if err == nil {
			there.Put(region, at)
		}
		return err
	}))
	have := there.All()
	if stage == publish.Public {
		maps.Copy(failed, p.patience.Everywhere(ctx, "make public "+p.name, slices.Sorted(maps.Keys(have)), func(ctx context.Context, region string) error {
			return p.makePublic(ctx, region, have[region])
		}))
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	ids := map[string]string{}
	for region, at := range have {
		ids[region] = at.Image
	}
	for region, why := range failed {
		if ids[region], err = p.earlier(ctx, stage, region, ids[region], why); err != nil {
			return nil, err
		}
	}
	return p.result(ids), regions.Failure(failed, of)
}

// earlier returns the image that a region which failed has from an earlier call, at stage Public where it was public.
func (p *publication) earlier(ctx context.Context, stage publish.Stage, region, id string, why error) (string, error) {
	if stage != publish.Public {
		return regions.Earlier(ctx, p.entry, region, id, why, nil)
	}
	return regions.Earlier(ctx, p.entry, region, id, why, func() (string, error) {
		at, _, err := journal.Known[placed](ctx, p.entry, "public "+region)
		return at.Image, err
	})
}

// result tells what is there, by the regions' images.
func (p *publication) result(ids map[string]string) *publish.Publication {
	out := &publish.Publication{Changed: p.changed.Load(), Place: p.settings.Partition + " account " + p.account}
	for _, region := range slices.Sorted(maps.Keys(ids)) {
		if ids[region] != "" {
			out.Uploads = append(out.Uploads, p.upload(region, ids[region]))
		}
	}
	return out
}

// upload is the Upload document of one region. Upstream's put-ssm knows AWS by the name of the region's endpoint.
func (p *publication) upload(region, id string) manifest.Upload {
	family := ""
	if p.settings.ParameterPrefix != "" && p.img.Type != "dev" {
		family = p.parameterName(p.img.Build.Data.Info.Release, "latest")
	}
	u := p.img.CloudUpload(provider, region, id, family)
	u.Data.Provider = "ec2." + region + "." + partitions[p.settings.Partition].suffix
	return u
}
