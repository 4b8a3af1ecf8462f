package main

import (
	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/generator"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

func newPipelineCommand() *cobra.Command {
	var selection planFlags
	var output, layout string
	c := &cobra.Command{
		Use:   "pipeline",
		Short: "Generate a GitLab child pipeline",
		Long: `pipeline lays the jobs of a plan out as a GitLab child pipeline, JSON, which is YAML.

Layout upstream is what the team's present generator makes, for its present .gitlab-ci.yml.`,
		Example: `  debcloud pipeline --type daily --layout upstream --config image.yaml -o generated-daily.yml`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := generator.Load(cmd.Context(), selection.config)
			if err != nil {
				return err
			}
			plan, err := config.Plan(image.UploadType(selection.uploadType), selection.Selection)
			if err != nil {
				return err
			}
			pipeline, err := layOut(plan, layout)
			if err != nil {
				return err
			}
			return writeResult(cmd, output, pipeline)
		},
	}
	selection.register(c)
	c.Flags().StringVarP(&output, "output", "o", "", "file to write (default: standard output)")
	c.Flags().StringVar(&layout, "layout", "upstream", "upstream")
	return c
}

func layOut(plan *manifest.Plan, layout string) ([]byte, error) {
	switch layout {
	case "upstream":
		return generator.Upstream(plan)
	}
	return nil, fault.Inputf("--layout %q is not upstream", layout)
}

// writeResult writes to a file by rename, or to standard output where file is "".
func writeResult(cmd *cobra.Command, file string, text []byte) error {
	if file != "" {
		return renameio.WriteFile(file, text, 0o644)
	}
	_, err := cmd.OutOrStdout().Write(text)
	return err
}
