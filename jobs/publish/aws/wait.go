package aws

import (
	"context"
	"time"
)

// pause waits between the look of that number and the next.
func (a *Publisher) pause(ctx context.Context, n int) error {
	wait := a.patience.poll
	for range min(n, 10) {
		wait = min(wait*3/2, a.patience.pollMost)
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// lookups are the codes by which AWS says that it does not know a thing. For some minutes it says so of what was just made.
var lookups = []string{"InvalidAMIID.NotFound", "InvalidSnapshot.NotFound", "ResourceNotFoundException"}

// soon repeats do while AWS does not know something that was made, for as long as patience has.
func (a *Publisher) soon(ctx context.Context, do func() error) error {
	limit := time.Now().Add(a.patience.visible)
	for n := 1; ; n++ {
		err := do()
		if err == nil || !is(err, lookups...) || time.Now().After(limit) {
			return err
		}
		if err := a.pause(ctx, n); err != nil {
			return err
		}
	}
}

// until repeats look until it says that it is done, for as long as limit. It returns whether it was.
func (a *Publisher) until(ctx context.Context, limit time.Duration, look func() (bool, error)) (bool, error) {
	end := time.Now().Add(limit)
	for n := 1; ; n++ {
		done, err := look()
		if err != nil || done || time.Now().After(end) {
			return done, err
		}
		if err := a.pause(ctx, n); err != nil {
			return false, err
		}
	}
}
