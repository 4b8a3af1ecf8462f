package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/generator"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

// publishFlags are those of debcloud publish.
type publishFlags struct {
	targetFlags
	uploadType, stage, plan, documents string
	cells                              []string
}

func newPublishCommand() *cobra.Command {
	var f publishFlags
	c := &cobra.Command{
		Use:   "publish IMAGE.json … --to TARGET",
		Short: "Publish images that passed their tests",
		Long: `publish puts built images where their users get them, after it has made sure that the report beside each says that this
very image, by its digest, passed "check" and "boot". An image is named by its document: NAME.build.json of a build, or
NAME.json of one that was published before, which is then published again, as a release say, without being built again.

Targets (--to):
  directory:PATH   a tree for a web server: PATH/RELEASE[/daily]/VERSION with tar.xz, raw, qcow2, manifest, report and
                   SHA512SUMS, and "latest"; --stage private puts the image into PATH/.private
  NAME             a target of the matrix: an account at a provider, with its regions

Stages: private uploads, registers, copies to every region and verifies; only the owner sees the image. Azure's galleries have
no private versions: there whoever may read the gallery starts one by its number, and only "latest" does not lead to it. public
also makes it public, has "latest" lead to it and deprecates its predecessor. With --plan no image becomes public unless every one that
the plan has for its release is among those named, in the same version; "--plan matrix" takes what the matrix says. A region that
fails keeps an image neither from the other regions nor its release from becoming public there.

Run again it changes nothing. Killed anywhere, the same command goes on from there. Two publishers of one image wait for each
other, or stop with --no-wait. It writes NAME.upload-PROVIDER.json, with an Upload document a region, beside the build.

Exit code 2: an image is refused, because its report is missing or not on this image, because a check failed, because
another image is published under its name, or because its release is not complete. 3: something may go away by itself, as a
full disk, or some regions failed; the others are done.`,
		Example: `  debcloud publish out/debian-trixie-genericcloud-amd64-official-20260814-1.build.json --to directory:public --upload-type daily
  debcloud publish out/*.build.json --to aws --stage private
  debcloud publish public/trixie/daily/20260814-1/debian-*-20260814-1.json --to directory:public --upload-type release --plan matrix`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := f.options(c.Context())
			if err != nil {
				return err
			}
			place, closeJournal, err := f.open(c.Context(), o.Target)
			if err != nil {
				return err
			}
			defer closeJournal()
			o.To = place
			return publishAll(c, args, o)
		},
	}
	f.register(c)
	c.Flags().StringVar(&f.uploadType, "upload-type", "", "dev, daily or release (default dev for a dev build, daily for an official one)")
	c.Flags().StringVar(&f.stage, "stage", string(publish.Public), "private or public")
	c.Flags().StringVar(&f.plan, "plan", "", "Plan document of what must be complete before any of it becomes public, or matrix")
	c.Flags().StringSliceVar(&f.cells, "cells", nil, "of the plan only these images, \"RELEASE VENDOR ARCH\", with commas between")
	c.Flags().StringVar(&f.documents, "documents", "", "directory for the upload documents (default: beside each image's document)")
	c.Flags().BoolVar(&f.noWait, "no-wait", false, "stop, with exit code 3, where another publisher is at work on the same image, or changes the same directory")
	c.AddCommand(newPublishStatusCommand(), newPublishWhoamiCommand())
	return c
}

func (f *publishFlags) options(ctx context.Context) (publish.Options, error) {
	o := publish.Options{Type: image.UploadType(f.uploadType), Stage: publish.Stage(f.stage), Documents: f.documents}
	var err error
	if o.Target, err = f.target(ctx); err != nil {
		return o, err
	}
	if o.Plan, err = f.readPlan(ctx); err != nil || len(f.cells) == 0 {
		return o, err
	}
	if o.Plan == nil {
		return o, fault.Inputf("--cells narrows a plan, and there is no --plan")
	}
	return o, o.Plan.Narrow(f.cells)
}

func (f *publishFlags) readPlan(ctx context.Context) (*manifest.Plan, error) {
	switch f.plan {
	case "":
		return nil, nil
	case "matrix":
	default:
		return manifest.ReadPlan(f.plan)
	}
	config, err := generator.Load(ctx, f.config)
	if err != nil {
		return nil, err
	}
	if f.uploadType == "" {
		return nil, fault.Inputf("--plan matrix needs --upload-type: each type has images of its own")
	}
	return config.Plan(image.UploadType(f.uploadType), generator.Selection{})
}

// publishAll publishes and prints what is there now, also where some of it failed.
func publishAll(c *cobra.Command, paths []string, o publish.Options) error {
	results, err := publish.All(c.Context(), paths, o)
	for _, r := range results {
		if printErr := printPublication(c, r); printErr != nil {
			return printErr
		}
	}
	return err
}

func printPublication(c *cobra.Command, r *publish.Result) error {
	state := "published"
	if !r.Changed {
		state = "unchanged"
	}
	if _, err := fmt.Fprintf(c.OutOrStdout(), "%s %s\n", state, r.Place); err != nil {
		return err
	}
	for _, u := range r.Uploads {
		if _, err := fmt.Fprintln(c.OutOrStdout(), strings.TrimSpace(u.Metadata.Labels[manifest.LabelRegion]+" "+u.Data.Ref)); err != nil {
			return err
		}
	}
	return nil
}

func newPublishStatusCommand() *cobra.Command {
	var f targetFlags
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how far publications came",
		Long: `status lists what the journal knows: each image and target with the steps that are done, under way or failed. A step that
began and did not end is under way in another process, or that process died; publishing again goes on from there.`,
		Example: "  debcloud publish status --journal journal.db",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			j, err := journal.Open(c.Context(), f.journal, journal.Stop)
			if err != nil {
				return err
			}
			defer j.Close()
			steps, err := j.Status(c.Context())
			if err != nil {
				return err
			}
			return printSteps(c, steps)
		},
	}
	f.registerJournal(c)
	return c
}

func printSteps(c *cobra.Command, steps []journal.Status) error {
	t := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TARGET\tIMAGE\tSTEP\tSTATE\tSINCE\tTRIES")
	for _, s := range steps {
		state, since := "begun", s.Began
		switch {
		case !s.Ended.IsZero():
			state, since = "done", s.Ended
		case s.Error != "":
			state = "failed: " + strings.Join(strings.Fields(s.Error), " ")
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\n", s.Target, s.Image, s.Step, state, since.UTC().Format(time.RFC3339), s.Tries)
	}
	return t.Flush()
}

func newPublishWhoamiCommand() *cobra.Command {
	var f targetFlags
	c := &cobra.Command{
		Use:   "whoami --to TARGET",
		Short: "Say which account a target's credentials are for, until when, and what they lack",
		Long: `whoami logs in as publish would, changes nothing, and prints the account, who one is there, until when the credentials hold,
and each right that publishing and pruning need and that is missing. Exit code 2: the credentials are refused or are for
another account. 1: rights are missing.`,
		Example: "  debcloud publish whoami --to aws",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			t, err := f.target(c.Context())
			if err != nil {
				return err
			}
			p, closeJournal, err := f.open(c.Context(), t)
			if err != nil {
				return err
			}
			defer closeJournal()
			who, ok := p.(publish.Identifier)
			if !ok {
				return fault.Inputf("provider %s has no accounts", p.Provider())
			}
			id, err := who.Whoami(c.Context())
			if err != nil {
				return err
			}
			return printIdentity(c, t.Name, id)
		},
	}
	f.register(c)
	return c
}

func printIdentity(c *cobra.Command, name string, id publish.Identity) error {
	until := "no known end"
	if !id.Until.IsZero() {
		until = id.Until.UTC().Format(time.RFC3339)
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), "target     %s\naccount    %s\nprincipal  %s\nuntil      %s\n", name, id.Account, id.Principal, until)
	if err != nil || len(id.Missing) == 0 {
		return err
	}
	for _, right := range id.Missing {
		if _, err := fmt.Fprintf(c.OutOrStdout(), "missing    %s\n", right); err != nil {
			return err
		}
	}
	return fmt.Errorf("%d rights are missing at %s", len(id.Missing), name)
}
