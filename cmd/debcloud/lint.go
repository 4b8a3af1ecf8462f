package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/generator"
)

func newLintCommand() *cobra.Command {
	var o generator.LintOptions
	var runners []string
	c := &cobra.Command{
		Use:   "lint FILE",
		Short: "Check a GitLab pipeline offline",
		Long: `lint checks a parent or child pipeline without asking GitLab: its limits; needs, those of rules too, dependencies,
environments and extends that point nowhere or in circles; stages; and, where they are given, GitLab's JSON schema and the tags of the runners.

YAML's anchors and merge keys, GitLab's !reference and local includes are followed, and what they bring is checked too. Where
another include cannot be read, names that no file here defines are not judged.
The inputs that a file takes (spec:inputs) are not known here: names that hold one are not judged.

Prints one line a problem and exits with 1 if there are any.`,
		Example: `  debcloud lint .gitlab-ci.yml
  debcloud lint child-pipeline.yml --schema gitlab-ci-schema.json --runner debcloud,amd64 --runner debcloud,arm64`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, tags := range runners {
				o.Runners = append(o.Runners, strings.Split(tags, ","))
			}
			problems, err := generator.Lint(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			for _, p := range problems {
				fmt.Fprintln(cmd.OutOrStdout(), p)
			}
			if len(problems) > 0 {
				return fmt.Errorf("%s has %d problems", args[0], len(problems))
			}
			return nil
		},
	}
	c.Flags().StringVar(&o.Schema, "schema", "", "GitLab's JSON schema of pipelines, a file")
	c.Flags().StringVar(&o.Root, "root", "", "folder that local includes start from (default: the repository that FILE lies in)")
	c.Flags().StringArrayVar(&runners, "runner", nil, "tags of a runner, separated by commas; may be repeated")
	return c
}
