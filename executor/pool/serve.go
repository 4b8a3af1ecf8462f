package pool

import (
	"context"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"salsa.debian.org/cloud-team/debcloud/executor"
	"salsa.debian.org/cloud-team/debcloud/executor/admission"
	"salsa.debian.org/cloud-team/debcloud/executor/metrics"
	"salsa.debian.org/cloud-team/debcloud/executor/settings"
)

// refreshes is how often the textfile gets what changes although nothing is counted, such as who waits.
const refreshes = 15 * time.Second

// Serve runs the Keeper and serves the metrics until ctx ends or one of them fails.
func Serve(ctx context.Context, k *Keeper, m *metrics.Recorder) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return k.Run(ctx) })
	if a := k.Settings.Metrics.Address; a != "" {
		g.Go(func() error {
			return m.Serve(ctx, a, func(at net.Addr) { k.Log.InfoContext(ctx, "metrics are served", "address", at.String()) })
		})
	}
	g.Go(func() error {
		tick := time.NewTicker(refreshes)
		defer tick.Stop()
		for {
			m.Refresh(ctx)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil
			}
		}
	})
	return g.Wait()
}

// Claims is Claim as a Driver asks for it.
func (p *Store) Claims(l *admission.Ledger, s *settings.Settings) func(context.Context, executor.Want) (string, bool, error) {
	return func(ctx context.Context, w executor.Want) (string, bool, error) {
		c := Claimer{Kind: Kind{Image: w.Image, Digest: w.Digest, Class: w.Class, Machine: w.Machine}, For: w.For}
		if w.Testbed {
			c.More = s.Testbed.Budget
		}
		return p.Claim(ctx, l, c)
	}
}
