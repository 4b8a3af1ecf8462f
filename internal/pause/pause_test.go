package pause

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestFor(t *testing.T) {
	if err := For(t.Context(), time.Millisecond); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stopped")
	cancel(stop)
	if err := For(ctx, time.Hour); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

func TestBackoff(t *testing.T) {
	for try, most := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 6: 32 * time.Second, 7: time.Minute, 8: time.Minute, 1000: time.Minute} {
		for range 100 {
			if got := Backoff(try, time.Second, time.Minute); got < most/2 || got > most {
				t.Fatalf("try %d waits %v", try, got)
			}
		}
	}
}
