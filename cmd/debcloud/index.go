package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/jobs/index"
)

func newIndexCommand() *cobra.Command {
	var uploads []string
	c := &cobra.Command{
		Use:   "index DIR",
		Short: "List the images of a public tree in index.json, with a page to find them",
		Long: `index reads the manifests of a public tree, upstream's as well as ours, and the reports beside them, and writes
DIR/index.json for programs and DIR/index.html with DIR/finder/ for people. The files are static and work from any web
server; index.json is replaced last. The same tree gives the same files.

With --uploads it first takes the documents NAME.upload-PROVIDER.json of a directory, which debcloud publish writes, into
DIR/uploads: what clouds have of the images, a region each, with links and lines to start a VM of it. Those of stage private
are left out.

JSON files of other kinds are passed over with a warning that names them. A broken manifest is left out as well; the
index of all others is written, and the exit code is 1.`,
		Example: `  debcloud index public
  debcloud index public --uploads out`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			for _, from := range uploads {
				paths, err := filepath.Glob(filepath.Join(from, "*.upload-*.json"))
				if err != nil {
					return fault.Inputf("--uploads %q cannot be searched: %w", from, err)
				}
				if err := index.TakeUploads(c.Context(), args[0], paths); err != nil {
					return err
				}
			}
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
	c.Flags().StringArrayVar(&uploads, "uploads", nil, "directory with upload documents to take in; may be repeated, and missing")
	return c
}
