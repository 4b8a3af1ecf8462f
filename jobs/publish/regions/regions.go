// Package regions does one thing in many regions of a cloud, and waits for what a cloud takes its time for. A region that fails is tried
// again, does not keep the others from their end, and is named in the error.
package regions

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/pause"
	"salsa.debian.org/cloud-team/debcloud/internal/progress"
)

// AtOnce is how many regions are worked on side by side; no cloud has more.
const AtOnce = 40

// Patience says how long a cloud may take.
type Patience struct {
	Poll, PollMost time.Duration // pause between two looks: at first, and what it grows to
	Tries          int           // of one region
}

// Pause waits between the look of that number, from 1, and the next.
func (p Patience) Pause(ctx context.Context, n int) error {
	wait := p.Poll
	for range min(n-1, 10) {
		wait = min(wait*3/2, p.PollMost)
	}
	return pause.For(ctx, wait)
}

// Until repeats look until it says that it is done, for as long as limit. It returns whether it was.
func (p Patience) Until(ctx context.Context, limit time.Duration, look func() (bool, error)) (bool, error) {
	end := time.Now().Add(limit)
	for n := 1; ; n++ {
		done, err := look()
		if err != nil || done || time.Now().After(end) {
			return done, err
		}
		if err := p.Pause(ctx, n); err != nil {
			return false, err
		}
	}
}

// Everywhere does one thing in all regions side by side, with progress under the title, and returns the errors of those that failed.
// An error of kind fault.Outside is tried again.
func (p Patience) Everywhere(ctx context.Context, title string, regions []string, do func(ctx context.Context, region string) error) map[string]error {
	task := progress.Start(ctx, title, int64(len(regions)), false)
	defer task.Abort()
	var mu sync.Mutex
	failed := map[string]error{}
	var group errgroup.Group
	group.SetLimit(AtOnce)
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
	_ = group.Wait()
	if len(failed) == 0 {
		task.Done()
	}
	return failed
}

// In does one thing in one region, again where an error is of kind fault.Outside.
func (p Patience) In(ctx context.Context, region string, do func(ctx context.Context, region string) error) error {
	return p.retry(ctx, nil, region, do)
}

func (p Patience) retry(ctx context.Context, task *progress.Task, region string, do func(context.Context, string) error) error {
	for try := 1; ; try++ {
		err := do(ctx, region)
		if err == nil || ctx.Err() != nil || fault.KindOf(err) != fault.Outside || try >= p.Tries {
			return err
		}
		task.Say("%s failed and is tried again: %v", region, err)
		if err := p.Pause(ctx, try); err != nil {
			return err
		}
	}
}

// Failure makes one error, one sentence, of those of the regions, of a number of regions in all. It is nil where none failed, and of
// kind fault.Outside where trying again may help in one of them.
func Failure(failed map[string]error, of int) error {
	if len(failed) == 0 {
		return nil
	}
	var list []error
	var texts []string
	kind, hint := fault.Work, ""
	for _, region := range slices.Sorted(maps.Keys(failed)) {
		err := failed[region]
		list, texts = append(list, err), append(texts, region+": "+err.Error())
		kind = max(kind, fault.KindOf(err))
		if hint == "" {
			hint = fault.HintOf(err)
		}
	}
	text := fmt.Sprintf("%d of %d regions failed: %s", len(failed), of, strings.Join(texts, "; "))
	return &fault.Error{Kind: kind, Err: fault.Reword(errors.Join(list...), text), Hint: hint}
}

// Places holds what each region has of an image. The zero value is none.
type Places[T any] struct {
	mu sync.Mutex
	at map[string]T
}

// Put notes what a region has.
func (p *Places[T]) Put(region string, at T) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at == nil {
		p.at = map[string]T{}
	}
	p.at[region] = at
}

// All returns what the regions have, by region.
func (p *Places[T]) All() map[string]T {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.at)
}
