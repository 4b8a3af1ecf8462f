// Package pause waits, and stops waiting when a context ends.
package pause

import (
	"context"
	"math/rand/v2"
	"time"
)

// For waits for d. It returns the context's cause where that ends first.
func For(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Backoff is how long to wait after a try, from 1, that failed: it doubles from first to most. Half of it is chance, so that those
// who failed together do not come back together.
func Backoff(try int, first, most time.Duration) time.Duration {
	d := most
	if try <= 30 {
		d = min(first<<(try-1), most)
	}
	return d/2 + rand.N(d/2)
}
