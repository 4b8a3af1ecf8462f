package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/generator"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

func newPlanCommand() *cobra.Command {
	var selection planFlags
	var output string
	c := &cobra.Command{
		Use:   "plan",
		Short: "List the images of the matrix",
		Long: `plan lists which images (release × vendor × arch) a pipeline of a type makes: dev for pushes and merge requests, daily for
the nightly images, release for what is published from a tested daily, which builds nothing.`,
		Example: `  debcloud plan --type daily --release trixie
  debcloud plan --vendor azure --vendor ec2 -o json
  debcloud plan --type daily -o html > plan.html
  debcloud plan --type daily -o dot | dot -Tsvg > jobs.svg`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, plan, err := selection.plan(cmd)
			if err != nil {
				return err
			}
			if err := plan.DemandCells(); err != nil {
				return err
			}
			return printPlan(cmd, config, plan, output)
		},
	}
	selection.register(c)
	c.Flags().StringVarP(&output, "output", "o", "table", "table, json, dot (the job graph) or html (the matrix as a grid, and its jobs)")
	return c
}

// planFlags are the flags of every command that works on a plan.
type planFlags struct {
	generator.Selection
	uploadType, config, since string
}

func (f *planFlags) plan(cmd *cobra.Command) (*generator.Config, *manifest.Plan, error) {
	config, err := generator.Load(cmd.Context(), f.config)
	if err != nil {
		return nil, nil, err
	}
	plan, err := config.Plan(image.UploadType(f.uploadType), f.Selection)
	if err != nil || f.since == "" {
		return config, plan, err
	}
	return config, plan, config.Restrict(cmd.Context(), plan, generator.Since{Ref: f.since, Dir: "."})
}

func (f *planFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.uploadType, "type", string(image.Dev), "dev, daily or release")
	c.Flags().StringArrayVar(&f.Releases, "release", nil, "only this release; may be repeated")
	c.Flags().StringArrayVar(&f.Vendors, "vendor", nil, "only this vendor; may be repeated")
	c.Flags().StringArrayVar(&f.Archs, "arch", nil, "only this architecture; may be repeated")
	c.Flags().StringVar(&f.since, "changed-since", "", "only what the files that changed since this commit can affect")
	c.Flags().StringVar(&f.config, "config", "", "ImageConfig document, .jsonnet, .json or .yaml (default: the built-in matrix)")
}

func printPlan(cmd *cobra.Command, config *generator.Config, plan *manifest.Plan, format string) error {
	switch format {
	case "dot":
		return generator.WriteDot(cmd.Context(), cmd.OutOrStdout(), plan)
	case "html":
		return config.WriteHTML(cmd.Context(), cmd.OutOrStdout(), plan)
	case "json":
		text, err := manifest.Marshal(plan)
		if err != nil {
			return err
		}
		_, err = cmd.OutOrStdout().Write(text)
		return err
	case "table":
		if err := writePlanTable(cmd.OutOrStdout(), plan); err != nil {
			return err
		}
		_, err := fmt.Fprintf(cmd.ErrOrStderr(), "%d images of type %s\n", len(plan.Data.Cells), plan.Data.Type)
		return err
	}
	return fault.Inputf("--output %q is none of table, json, dot, html", format)
}

func writePlanTable(w io.Writer, plan *manifest.Plan) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "RELEASE\tID\tVENDOR\tARCH\tBUILD\tSIZE\tUPLOAD\tBECAUSE OF")
	for _, c := range plan.Data.Cells {
		build, upload := c.BuildType, "-"
		if !c.Build {
			build = "-"
		}
		if c.Upload {
			upload = c.Vendor
		}
		if c.Upload && c.UploadGroup != "" {
			upload += " in " + c.UploadGroup
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d GiB\t%s\t%s\n", c.Release, c.ReleaseID, c.Vendor, c.Arch, build, c.SizeGB, upload, because(c.Why))
	}
	return t.Flush()
}

// because shortens the reasons to the first and the number of others.
func because(why []string) string {
	switch len(why) {
	case 0:
		return "-"
	case 1:
		return why[0]
	}
	return fmt.Sprintf("%s (and %d more)", why[0], len(why)-1)
}
