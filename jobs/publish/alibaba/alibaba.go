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
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aliyun/alibabacloud-oss-go-sdk-v2/oss"
	"golang.org/x/sync/errgroup"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/progress"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

const (
	provider = "alibaba"
	atOnce   = 40 // regions worked on at once; Alibaba has fewer
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
		target: name, settings: s, journal: j, client: c, oss: newStore(s, l, p, transport), patience: p, part: 16 << 20, endpoints: map[string]string{},
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
	regions, missing, err := p.regions(ctx)
	if err != nil {
		return nil, err
	}
	of := len(regions) + len(missing)
	home, err := p.home(ctx)
	if err != nil {
		return nil, err
	}
	there := &places{at: map[string]string{p.settings.Home: home.ImageID}}
	maps.Copy(missing, p.everywhere(ctx, "copy", regions, func(ctx context.Context, region string) error {
		if region == p.settings.Home {
			return nil
		}
		id, err := p.copy(ctx, home, region)
		if err == nil {
			there.put(region, id)
		}
		return err
	}))
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := p.sweep(ctx, len(there.at) == len(regions)); err != nil {
		return nil, err
	}
	if stage == publish.Public {
		maps.Copy(missing, p.everywhere(ctx, "make public", slices.Sorted(maps.Keys(there.at)), func(ctx context.Context, region string) error {
			return p.makePublic(ctx, region, there.at[region])
		}))
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return p.result(there.at, missing), report(missing, of)
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

// places holds the identifier of each region's image.
type places struct {
	mu sync.Mutex
	at map[string]string
}

func (p *places) put(region, id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at[region] = id
}

// everywhere does one thing in all regions side by side and returns the regions that failed, after as many tries as patience has.
func (p *publication) everywhere(ctx context.Context, doing string, regions []string, do func(context.Context, string) error) map[string]error {
	task := progress.Start(ctx, doing+" "+p.name, int64(len(regions)), false)
	defer task.Abort()
	var mu sync.Mutex
	missing := map[string]error{}
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, region := range regions {
		group.Go(func() error {
			err := p.retry(ctx, task, region, do)
			task.Add(1)
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				missing[region] = err
			}
			return nil
		})
	}
	_ = group.Wait()
	if len(missing) == 0 {
		task.Done()
	}
	return missing
}

// retry tries a region again where that may help.
func (p *publication) retry(ctx context.Context, task *progress.Task, region string, do func(context.Context, string) error) error {
	for try := 1; ; try++ {
		err := do(ctx, region)
		if err == nil || ctx.Err() != nil || fault.KindOf(err) != fault.Outside || try == p.patience.tries {
			return err
		}
		task.Say("%s failed and is tried again: %v", region, err)
		if err := p.patience.pause(ctx, try); err != nil {
			return err
		}
	}
}

// report makes one error of those of the regions, nil where there is none.
func report(missing map[string]error, of int) error {
	if len(missing) == 0 {
		return nil
	}
	var list []error
	var texts []string
	kind, hint := fault.Outside, ""
	for _, region := range slices.Sorted(maps.Keys(missing)) {
		err := missing[region]
		list, texts = append(list, err), append(texts, region+": "+err.Error())
		if fault.KindOf(err) != fault.Outside {
			kind = fault.KindOf(err) // a retry alone will not do
		}
		if hint == "" {
			hint = fault.HintOf(err)
		}
	}
	text := fmt.Sprintf("%d of %d regions failed: %s", len(missing), of, strings.Join(texts, "; "))
	return &fault.Error{Kind: kind, Err: &told{text, errors.Join(list...)}, Hint: hint}
}

// result tells what is there in the regions that did not fail.
func (p *publication) result(there map[string]string, missing map[string]error) *publish.Publication {
	out := &publish.Publication{Changed: p.changed.Load(), Place: "Alibaba Cloud account " + p.account}
	for _, region := range slices.Sorted(maps.Keys(there)) {
		if missing[region] == nil {
			out.Uploads = append(out.Uploads, p.img.CloudUpload(provider, region, there[region], familyName(p.img)))
		}
	}
	return out
}

// step does one step through the journal. stands asks Alibaba whether what an earlier run made is still there; where it is not, the step is
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

// now is the time as tags have it.
func now() string { return time.Now().UTC().Format(time.RFC3339) }
