// Package aws publishes images to Amazon Web Services: one AMI per region, its snapshot written block by block through EBS
// direct, without a bucket or an import role in between.
//
// What makes a publication safe to repeat is on AWS's side: a name that one image a region can have, client tokens that follow from
// the image alone, tags that are part of the call that makes a thing. The journal only spares the calls.
package aws

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sync/errgroup"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/internal/progress"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

const (
	provider = "aws"
	workers  = 64 // blocks sent at once; with those read ahead they take 64 MiB
	atOnce   = 40 // regions worked on at once; AWS has fewer
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
	// lenient lists properties that verify passes over, for doubles that forget them.
	lenient []string
}

// patience says how long AWS may take.
type patience struct {
	poll, pollMost time.Duration // pause between two looks: at first, and what it grows to
	visible        time.Duration // until what was just made is found
	pending        time.Duration // until an image or a snapshot is done
	tries          int           // of one region
	calls          int           // of one call, by the SDK, which waits between them
	backoff        time.Duration // the longest of those waits
}

var patient = patience{poll: time.Second, pollMost: 15 * time.Second, visible: 5 * time.Minute, pending: 3 * time.Hour, tries: 3, calls: 10, backoff: 20 * time.Second}

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
	return &Publisher{target: name, settings: s, login: l, journal: j, patience: p, now: time.Now}, nil
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
	regions, failed, err := p.regions(ctx)
	if err != nil {
		return nil, err
	}
	of := len(regions) + len(failed)
	home, err := p.home(ctx)
	if err != nil {
		return nil, err
	}
	there := &places{at: map[string]placed{p.settings.Home: home}}
	maps.Copy(failed, p.everywhere(ctx, "copy", regions, func(ctx context.Context, region string) error {
		if region == p.settings.Home {
			return nil
		}
		at, err := p.copy(ctx, home, region)
		if err == nil {
			there.put(region, at)
		}
		return err
	}))
	if stage == publish.Public {
		maps.Copy(failed, p.everywhere(ctx, "make public", slices.Sorted(maps.Keys(there.at)), func(ctx context.Context, region string) error {
			return p.makePublic(ctx, region, there.at[region])
		}))
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return p.result(there.at, failed), report(failed, of)
}

type places struct {
	mu sync.Mutex
	at map[string]placed
}

func (p *places) put(region string, at placed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at[region] = at
}

// everywhere does one thing in all regions side by side and returns the regions that failed, after as many tries as patience has.
func (p *publication) everywhere(ctx context.Context, doing string, regions []string, do func(context.Context, string) error) map[string]error {
	task := progress.Start(ctx, doing+" "+p.name, int64(len(regions)), false)
	defer task.Abort()
	var mu sync.Mutex
	failed := map[string]error{}
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, region := range regions {
		group.Go(func() error {
			err := p.retry(ctx, task, region, do)
			task.Add(1)
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed[region] = err
			}
			return nil
		})
	}
	group.Wait()
	if len(failed) == 0 {
		task.Done()
	}
	return failed
}

// retry tries a region again where that may help.
func (p *publication) retry(ctx context.Context, task *progress.Task, region string, do func(context.Context, string) error) error {
	for try := 1; ; try++ {
		err := do(ctx, region)
		if err == nil || ctx.Err() != nil || fault.KindOf(err) != fault.Outside || try == p.patience.tries {
			return err
		}
		task.Say("%s failed and is tried again: %v", region, err)
		if err := p.pause(ctx, try); err != nil {
			return err
		}
	}
}

// report makes one error of those of the regions, nil where there is none.
func report(failed map[string]error, of int) error {
	if len(failed) == 0 {
		return nil
	}
	var list []error
	kind, hint := fault.Outside, ""
	for _, region := range slices.Sorted(maps.Keys(failed)) {
		err := failed[region]
		list = append(list, fmt.Errorf("%s: %w", region, err))
		if fault.KindOf(err) != fault.Outside {
			kind = fault.KindOf(err) // a retry alone will not do
		}
		if hint == "" {
			hint = fault.HintOf(err)
		}
	}
	err := fmt.Errorf("%d of %d regions failed: %w", len(failed), of, errors.Join(list...))
	return &fault.Error{Kind: kind, Err: err, Hint: hint}
}

// result tells what is there in the regions that did not fail.
func (p *publication) result(there map[string]placed, failed map[string]error) *publish.Publication {
	out := &publish.Publication{Changed: p.changed.Load(), Place: p.settings.Partition + " account " + p.account}
	for _, region := range slices.Sorted(maps.Keys(there)) {
		if failed[region] == nil {
			out.Uploads = append(out.Uploads, p.upload(region, there[region].Image))
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

// step does one step through the journal. stands asks AWS whether what an earlier run made is still there; where it is not, the step is
// done anew.
func step[T any](ctx context.Context, p *publication, name string, stands func(context.Context, T) (bool, error), do func(context.Context) (T, error)) (T, error) {
	for {
		fresh := false
		result, err := journal.Step(ctx, p.entry, name, func(ctx context.Context, _ bool) (T, error) {
			fresh = true
			return do(ctx)
		})
		if err != nil || fresh {
			return result, err
		}
		ok, err := stands(ctx, result)
		if err != nil || ok {
			return result, err
		}
		if err := p.entry.Forget(ctx, name); err != nil {
			return result, err
		}
	}
}
