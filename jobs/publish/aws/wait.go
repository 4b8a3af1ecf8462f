package aws

import (
	"context"
	"time"
)

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
		if err := a.patience.Pause(ctx, n); err != nil {
			return err
		}
	}
}
