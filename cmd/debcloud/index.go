package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/jobs/index"
)

func newIndexCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "index DIR",
		Short: "List the images of a public tree in index.json, with a page to find them",
		Long: `index reads the manifests of a public tree, upstream's as well as ours, and the reports beside them, and writes
DIR/index.json for programs and DIR/index.html with DIR/finder/ for people. The files are static and work from any web
server; index.json is replaced last. The same tree gives the same files.

JSON files of other kinds are passed over with a warning that names them. A broken manifest is left out as well; the
index of all others is written, and the exit code is 1.`,
		Example: "  debcloud index public",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := index.Write(c.Context(), args[0])
			if r == nil {
				return err
			}
			state := "written"
			if !r.Changed {
				state = "unchanged"
			}
			if _, printErr := fmt.Fprintf(c.OutOrStdout(), "%s %s/%s: %d images\n", state, args[0], index.IndexName, len(r.Data.Images)); printErr != nil {
				return printErr
			}
			return err
		},
	}
}
