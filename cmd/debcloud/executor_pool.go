package main

import (
	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/executor"
	"salsa.debian.org/cloud-team/debcloud/executor/admission"
	"salsa.debian.org/cloud-team/debcloud/executor/pool"
)

func newPoolCommand(path *string) *cobra.Command {
	return &cobra.Command{
		Use:   "pool",
		Short: "Keep VMs ready for jobs, and serve the metrics",
		Long: `pool is a service. It keeps as many VMs booted as warm_pool in the settings says, asks them now and then whether they are
well, replaces those that are too old or whose image has changed, and takes them away for a job that waits for room. It
serves Prometheus metrics at metrics.address.

SIGTERM ends it; it removes the VMs that no job has claimed.`,
		Example: "  debcloud executor pool --settings /etc/debcloud/executor.yaml",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withDriver(c, *path, executor.Environment{}, func(d *executor.Driver) error {
				store, err := pool.Open(d.Settings)
				if err != nil {
					return err
				}
				ledger, err := admission.Open(d.Settings)
				if err != nil {
					return err
				}
				vms := pool.Driver{Driver: d}
				k := &pool.Keeper{Settings: d.Settings, Ledger: ledger, Store: store, VMs: vms, Digest: vms.Digest, Log: d.Log}
				return pool.Serve(c.Context(), k, d.Metrics)
			})
		},
	}
}
