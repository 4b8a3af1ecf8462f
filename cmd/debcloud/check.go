package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/check"
)

func newCheckCommand() *cobra.Command {
	var o check.Options
	var list, verbose bool
	c := &cobra.Command{
		Use:   "check BUILD.json",
		Short: "Check the file systems of an image without booting it",
		Long: `check reads the image beside BUILD.json, which must have the size and the digest that the document says, and
inspects its partition table and file systems. It mounts nothing and needs no privileges.

The results go into NAME.check.xml (JUnit) and NAME.report.json. An image that passed before is not checked again,
unless --again is set. With --checks the results are only printed: publishing asks for all of them.`,
		Example: `  debcloud check out/debian-trixie-genericcloud-amd64-official-20260701-1.build.json
  debcloud check --checks 14,18 -v out/*.build.json
  debcloud check --list`,
		Args: func(c *cobra.Command, args []string) error {
			if list {
				return cobra.NoArgs(c, args)
			}
			return cobra.ExactArgs(1)(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if list {
				return printCatalogue(c.OutOrStdout())
			}
			o.BuildPath = args[0]
			suite, err := check.Run(c.Context(), o)
			if err != nil {
				return err
			}
			return printSuite(c.OutOrStdout(), suite, verbose)
		},
	}
	c.Flags().IntSliceVar(&o.Only, "checks", nil, "run only the checks with these numbers, and record nothing")
	c.Flags().BoolVar(&o.Again, "again", false, "check again although this image passed before")
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "show what was seen where a check passed, too")
	c.Flags().BoolVar(&list, "list", false, "list the checks and exit")
	return c
}

func printCatalogue(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, e := range check.List() {
		fmt.Fprintf(t, "%d\t%s\t%s\n", e.Number, e.ID, e.Name)
	}
	return t.Flush()
}

// printSuite prints each check that failed, with its evidence, and one line that sums up.
func printSuite(w io.Writer, s *manifest.Suite, verbose bool) error {
	skipped := 0
	for _, c := range s.Checks {
		if c.Result == manifest.Skipped {
			skipped++
		}
		if c.Result != manifest.Failed && !verbose {
			continue
		}
		fmt.Fprintf(w, "%-7s %s  %s\n", c.Result, c.ID, c.Name)
		for line := range strings.Lines(c.Evidence) {
			fmt.Fprintf(w, "        %s\n", strings.TrimSuffix(line, "\n"))
		}
	}
	failed := len(s.Failures())
	fmt.Fprintf(w, "check: %d passed, %d failed, %d skipped in %.1f s\n", len(s.Checks)-failed-skipped, failed, skipped, s.Seconds)
	if failed > 0 {
		return errors.New("the image failed " + plural(failed, "check"))
	}
	return nil
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
