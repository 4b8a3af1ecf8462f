package regions

import (
	"context"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

// Arrived has the journal know that a region's image is whole, for a time at which the region cannot be asked.
func Arrived(ctx context.Context, e *journal.Entry, region, image string) error {
	_, err := journal.StandingStep(ctx, e, "arrived "+region, func(_ context.Context, known string) (bool, error) { return known == image, nil },
		func(context.Context) (string, error) { return image, nil })
	return err
}

// Earlier returns the image that a region which failed, and why, has from an earlier call, as far as the journal knows: where the region could not be
// asked, it is still there. seen is the image that this call saw, "" for none, which is also the answer where there is none. shown returns the image
// that is public there, as the journal has it; nil where it need not be public.
func Earlier(ctx context.Context, e *journal.Entry, region, seen string, why error, shown func() (string, error)) (string, error) {
	if fault.KindOf(why) != fault.Outside {
		return "", nil
	}
	if seen == "" {
		copied, _, err := journal.Known[string](ctx, e, "copy "+region)
		if err != nil {
			return "", err
		}
		if seen, _, err = journal.Known[string](ctx, e, "arrived "+region); copied != seen || err != nil {
			return "", err
		}
	}
	if shown == nil {
		return seen, nil
	}
	public, err := shown()
	if public != seen {
		return "", err
	}
	return seen, err
}
