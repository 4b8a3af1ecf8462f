package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/jobs/index"
)

func newFinderCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "finder",
		Short:   "Show a public tree to people",
		Example: "  debcloud finder serve public",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newFinderServeCommand())
	return c
}

func newFinderServeCommand() *cobra.Command {
	var listen string
	c := &cobra.Command{
		Use:   "serve DIR",
		Short: "Serve an indexed tree and its finder over HTTP",
		Long: `serve shows a tree that debcloud index has indexed: the page that finds images, and the images themselves, resumable.
It only reads, shows nothing whose name begins with a dot, and prints its address on stdout. SIGTERM ends it.`,
		Example: "  debcloud finder serve public --listen 127.0.0.1:8080",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return index.Serve(c.Context(), args[0], listen, func(url string) {
				fmt.Fprintln(c.OutOrStdout(), url)
			})
		},
	}
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:8080", "address to listen on; port 0 takes a free one")
	return c
}
