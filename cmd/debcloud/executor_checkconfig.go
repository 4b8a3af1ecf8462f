package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/executor/hostcheck"
	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

func newCheckConfigCommand(path *string) *cobra.Command {
	var asJSON bool
	var h hostcheck.Host
	c := &cobra.Command{
		Use:   "check-config",
		Short: "Check the executor's settings, and what the host lacks for them",
		Long: `check-config reads the settings (/etc/debcloud/executor.yaml, else --settings FILE or DEBCLOUD_EXECUTOR_SETTINGS) and looks at
the host: libvirtd, storage pool, network, nwfilter, KVM, gitlab-runner and its configuration, images, memory and disk
against the budget, directories, how large consoles may become, timers. It changes nothing.

Exit code 2: the file is wrong, each fault with its line. Exit code 1: the host lacks something, so jobs would fail.`,
		Example: "  debcloud executor check-config\n  debcloud executor check-config --settings packaging/executor.yaml -o json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := settings.Load(*path)
			if err != nil {
				return err
			}
			h.Imported = func(pool, name, digest string) (string, string, error) {
				b, err := importedImage(c.Context(), pool, name, digest)
				return b.Path, b.Format, err
			}
			found := hostcheck.Check(c.Context(), s, h)
			if err := printFindings(c.OutOrStdout(), found, asJSON); err != nil {
				return err
			}
			if hostcheck.Lacking(found) {
				return fault.WithHint(errors.New("this host lacks what the executor needs"), "see the lines that begin with lacks")
			}
			return nil
		},
	}
	outputFlag(c, &asJSON)
	c.Flags().StringVar(&h.RunnerConfig, "runner-config", "/etc/gitlab-runner/config.toml", "gitlab-runner's configuration")
	return c
}

func printFindings(out io.Writer, found []hostcheck.Finding, asJSON bool) error {
	if asJSON {
		return joinJSON(out, found, nil)
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, f := range found {
		says := f.Says
		if f.Hint != "" {
			says += " (" + f.Hint + ")"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", f.State, f.Subject, says)
	}
	return table.Flush()
}
