package alibaba

import (
	"context"
	"time"
)

// patience says how long Alibaba may take.
type patience struct {
	poll, pollMost time.Duration // pause between two looks: at first, and what it grows to
	visible        time.Duration // until what was just made is found
	pending        time.Duration // until an image is done
	tries          int           // of one region
	calls          int           // of one call
}

var patient = patience{poll: time.Second, pollMost: 20 * time.Second, visible: 5 * time.Minute, pending: 4 * time.Hour, tries: 3, calls: 10}

// pause waits between the look of that number, from 1, and the next.
func (p patience) pause(ctx context.Context, n int) error {
	wait := p.poll
	for range min(n-1, 10) {
		wait = min(wait*3/2, p.pollMost)
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// until repeats look until it says that it is done, for as long as limit. It returns whether it was.
func (p patience) until(ctx context.Context, limit time.Duration, look func() (bool, error)) (bool, error) {
	end := time.Now().Add(limit)
	for n := 1; ; n++ {
		done, err := look()
		if err != nil || done || time.Now().After(end) {
			return done, err
		}
		if err := p.pause(ctx, n); err != nil {
			return false, err
		}
	}
}
