package main

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/generator"
	"salsa.debian.org/cloud-team/debcloud/internal/atomicfile"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

func newPipelineCommand() *cobra.Command {
	var selection planFlags
	var options pipelineOptions
	c := &cobra.Command{
		Use:   "pipeline",
		Short: "Generate a GitLab child pipeline",
		Long: `pipeline lays the jobs of a plan out as a GitLab child pipeline, JSON, which is YAML.

Layout debcloud builds, checks and boots each image; dailies are published, tested on their cloud and promoted, all of a
release or none; a release promotes the daily that --version names and builds nothing. --templates overlays the job
templates, see templates/README.md. The jobs read the file of --config, too, at its path in the repository. A pipeline
beyond GitLab's limits is split: beside FILE.yml lie FILE.1.yml and so on.

Layout upstream is what the team's present generator makes, for its present .gitlab-ci.yml.`,
		Example: `  debcloud pipeline --type daily -o child-pipeline.yml
  debcloud pipeline --changed-since origin/main -o child-pipeline.yml
  debcloud pipeline --type release --version 20260814-2204 --release trixie -o child-pipeline.yml
  debcloud pipeline --type daily --layout upstream --config image.yaml -o generated-daily.yml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			prepareHeap()
			layout := generator.Layout{Templates: options.templates, PartName: strings.TrimSuffix(filepath.Base(options.output), filepath.Ext(options.output))}
			layout.Prepare()
			_, plan, err := selection.plan(cmd)
			if err != nil {
				return err
			}
			if len(plan.Data.Cells) > 300 {
				spareHeap()
			}
			return options.layOut(cmd, layout, plan, selection.config)
		},
	}
	selection.register(c)
	options.register(c)
	return c
}

// configOfJobs is where the jobs, which run at the top of the repository, find what --config names.
func configOfJobs(ctx context.Context, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	top, err := repositoryTop()
	if err != nil {
		return "", err
	}
	if relative, err := filepath.Rel(top, absolute); err == nil && filepath.IsLocal(relative) {
		return relative, nil
	}
	slog.WarnContext(ctx, "the configuration is not in the repository, so each runner must have it at the same path", "config", absolute)
	return absolute, nil
}

// repositoryTop is the folder with .git at or above the working directory, or else that itself.
func repositoryTop() (string, error) {
	here, err := filepath.Abs(".")
	if err != nil {
		return "", err
	}
	for dir := here; ; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return here, nil
		}
	}
}

type pipelineOptions struct{ output, layout, templates, version string }

func (o *pipelineOptions) register(c *cobra.Command) {
	c.Flags().StringVarP(&o.output, "output", "o", "", "file to write (default: standard output)")
	c.Flags().StringVar(&o.layout, "layout", "debcloud", "debcloud or upstream")
	c.Flags().StringVar(&o.templates, "templates", "", "folder with job templates that go before the built-in ones")
	c.Flags().StringVar(&o.version, "version", "", "version of all images, YYYYMMDD-N (default: the pipeline's own); of a release, the tested daily that it promotes")
}

func (o *pipelineOptions) layOut(cmd *cobra.Command, layout generator.Layout, plan *manifest.Plan, config string) error {
	switch o.layout {
	case "upstream":
		if o.templates != "" || o.version != "" {
			return fault.Inputf("--layout upstream has neither templates nor a version of its own: leave out --templates and --version")
		}
		text, err := generator.Upstream(plan)
		if err != nil {
			return fault.Inputf("%s: %w", cmp.Or(config, "the built-in matrix"), err)
		}
		return o.write(cmd, "", text)
	case "debcloud":
	default:
		return fault.Inputf("--layout %q is neither debcloud nor upstream", o.layout)
	}
	if o.version != "" {
		version, err := image.ParseVersion(o.version)
		if err != nil {
			return err
		}
		layout.Version = version
	}
	var err error
	if layout.Config, err = configOfJobs(cmd.Context(), config); err != nil {
		return err
	}
	return layout.Lay(cmd.Context(), plan, func(name string, text []byte) error { return o.write(cmd, name, text) })
}

// write puts the file without a name where the user wants it and the others beside it.
func (o *pipelineOptions) write(cmd *cobra.Command, name string, text []byte) error {
	switch {
	case o.output == "" && name != "":
		return fault.WithHint(fault.Inputf("the pipeline has several files, too many for standard output"), "name the first: -o child-pipeline.yml")
	case o.output == "":
		_, err := cmd.OutOrStdout().Write(text)
		return err
	case name == "":
		return atomicfile.Write(o.output, text, 0o644)
	}
	return atomicfile.Write(filepath.Join(filepath.Dir(o.output), name), text, 0o644)
}
