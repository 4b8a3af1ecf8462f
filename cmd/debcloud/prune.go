package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/generator"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/jobs/index"
	"salsa.debian.org/cloud-team/debcloud/jobs/prune"
)

func newPruneCommand() *cobra.Command {
	var f targetFlags
	var dryRun, all bool
	var tree string
	c := &cobra.Command{
		Use:   "prune --to TARGET",
		Short: "Retire old images at a target, by the matrix' policy",
		Long: `prune prints what it will do and does it: an image that is not among the newest of its family (release, vendor, arch and
type) is deprecated, hidden some days later, and deleted some days after that, with the snapshots, disks, blobs and objects
that only it needed; so are those that nothing ever needed. The days, and how many stay, stand in the matrix under
"retention"; a type that is not there is kept for ever.

The newest image of a family that users see always stays, and so does what has no known date, what something refers to, and
what debcloud did not make. What is private or hidden, by hand too, is not counted among the newest. Each call moves an image one state on, so one that was forgotten for a year is not gone at once.

With --tree the tree's upload documents and index lose what is hidden at the target, also what an earlier call hid before it was
killed, or someone's hand. Nothing is deleted that they still have.`,
		Example: `  debcloud prune --to aws --dry-run
  debcloud prune --to directory:public --tree public`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			t, err := f.target(c.Context())
			if err != nil {
				return err
			}
			config, err := generator.Load(c.Context(), f.config)
			if err != nil {
				return err
			}
			place, closeJournal, err := f.open(c.Context(), t)
			if err != nil {
				return err
			}
			defer closeJournal()
			holder, ok := place.(prune.Holder)
			if !ok {
				return fault.Inputf("provider %s cannot be pruned", t.Provider)
			}
			var broken error
			o := prune.Options{
				Policy: config.Retention(), DryRun: dryRun,
				Plan: func(steps []prune.Step) error { return printPrunePlan(c, steps, all) },
			}
			if tree != "" {
				o.Gone = func(gone []holding.Item) (err error) {
					broken, err = dropFromIndex(c.Context(), tree, gone)
					return err
				}
			}
			r, err := prune.Run(c.Context(), holder, o)
			if r == nil {
				return err
			}
			err = errors.Join(err, broken)
			if _, printErr := fmt.Fprintf(c.ErrOrStderr(), "%d kept, %d deprecated, %d hidden, %d deleted\n", r.Kept, r.Deprecated, r.Hidden, r.Deleted); printErr != nil {
				return printErr
			}
			return err
		},
	}
	f.register(c)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only print what would be done")
	c.Flags().StringVar(&tree, "tree", "", "public tree whose index shall no longer show what is gone")
	c.Flags().BoolVar(&all, "all", false, "list what is kept, too, and why")
	return c
}

// dropFromIndex takes what is gone out of a tree's upload documents and writes its index anew. broken tells of manifests that the
// index lacks, which is no reason not to prune.
func dropFromIndex(ctx context.Context, tree string, gone []holding.Item) (broken, err error) {
	if err := index.DropUploads(ctx, tree, gone); err != nil {
		return nil, err
	}
	r, err := index.Write(ctx, tree)
	if r != nil {
		return err, nil
	}
	return nil, err
}

func printPrunePlan(c *cobra.Command, steps []prune.Step, all bool) error {
	t := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ACTION\tKIND\tREGION\tNAME\tBECAUSE")
	for _, s := range steps {
		if s.Action == prune.Keep && !all {
			continue
		}
		region := s.Item.Region
		if region == "" {
			region = "-"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", s.Action, s.Item.Kind, region, s.Item.Name, s.Why)
	}
	return t.Flush()
}

// dryPrune talks to no provider: a dry run has no credentials.
func dryPrune(c *cobra.Command, _ []string) error {
	f := targetFlags{to: flagText(c, "to"), config: flagText(c, "config"), lookup: anything}
	t, err := f.target(c.Context())
	if err == nil {
		would(c, "retire what is old at %s", t.Name)
	}
	return err
}
