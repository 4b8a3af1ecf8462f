package regions

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

var hasty = Patience{Poll: time.Millisecond, PollMost: 2 * time.Millisecond, Tries: 3}

func TestEverywhere(t *testing.T) {
	refused := errors.New("refused")
	var mu sync.Mutex
	tries := map[string]int{}
	failed := hasty.Everywhere(t.Context(), "copy", []string{"east", "north", "south", "west"}, func(_ context.Context, region string) error {
		mu.Lock()
		defer mu.Unlock()
		tries[region]++
		switch {
		case region == "north":
			return fault.Inputf("%w", refused)
		case region == "south", region == "west" && tries[region] < 3:
			return fault.Outsidef("no answer")
		}
		return nil
	})
	if want := map[string]int{"east": 1, "north": 1, "south": 3, "west": 3}; !maps.Equal(tries, want) {
		t.Errorf("tried %v, want %v", tries, want)
	}
	if got := slices.Sorted(maps.Keys(failed)); !slices.Equal(got, []string{"north", "south"}) {
		t.Errorf("failed: %v", failed)
	}
	err := Failure(failed, 4)
	if text := "2 of 4 regions failed: north: refused; south: no answer"; err.Error() != text || fault.KindOf(err) != fault.Outside || !errors.Is(err, refused) {
		t.Errorf("%v, kind %v", err, fault.KindOf(err))
	}
}

func TestFailureIsOneSentence(t *testing.T) {
	if err := Failure(nil, 3); err != nil {
		t.Error(err)
	}
	err := Failure(map[string]error{"b": fault.WithHint(fault.Outsidef("late"), "wait"), "a": fault.Outsidef("late")}, 2)
	if strings.Contains(err.Error(), "\n") || fault.KindOf(err) != fault.Outside || fault.HintOf(err) != "wait" {
		t.Errorf("%q, kind %v, hint %q", err, fault.KindOf(err), fault.HintOf(err))
	}
	if err := Failure(map[string]error{"a": fault.Inputf("no such region"), "b": fault.Inputf("no such region")}, 3); fault.KindOf(err) != fault.Input {
		t.Errorf("where no retry helps: %v, kind %v", err, fault.KindOf(err))
	}
}

func TestCancelledRegionsAreNotTriedAgain(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stopped")
	tries := 0
	failed := hasty.Everywhere(ctx, "copy", []string{"east"}, func(context.Context, string) error {
		tries++
		cancel(stop)
		return fault.Outsidef("no answer")
	})
	if tries != 1 || len(failed) != 1 {
		t.Errorf("%d tries, %v", tries, failed)
	}
	if _, err := hasty.Until(ctx, time.Hour, func() (bool, error) { return false, nil }); !errors.Is(err, stop) {
		t.Errorf("until: %v", err)
	}
}

func TestUntil(t *testing.T) {
	n := 0
	if done, err := hasty.Until(t.Context(), time.Minute, func() (bool, error) { n++; return n == 4, nil }); !done || err != nil || n != 4 {
		t.Errorf("%v, %v after %d looks", done, err, n)
	}
	if done, err := hasty.Until(t.Context(), 0, func() (bool, error) { return false, nil }); done || err != nil {
		t.Errorf("%v, %v", done, err)
	}
}
