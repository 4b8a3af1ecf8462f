package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/generator"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/jobs/salsa"
)

// salsaEnvironment is what the environment says, read once.
type salsaEnvironment struct {
	url, project, token, jobToken string
	job                           salsa.Job
}

func readSalsaEnvironment(getenv func(string) string) salsaEnvironment {
	number := func(name string) int64 {
		n, _ := strconv.ParseInt(getenv(name), 10, 64) // 0 outside a job
		return n
	}
	return salsaEnvironment{
		url:      getenv("CI_API_V4_URL"),
		project:  getenv("CI_PROJECT_ID"),
		token:    getenv("DEBCLOUD_SALSA_TOKEN"),
		jobToken: getenv("CI_JOB_TOKEN"),
		job: salsa.Job{
			URL:                 getenv("CI_JOB_URL"),
			ProjectURL:          getenv("CI_PROJECT_URL"),
			CommitSHA:           getenv("CI_COMMIT_SHA"),
			PipelineID:          number("CI_PIPELINE_ID"),
			PipelineSource:      getenv("CI_PIPELINE_SOURCE"),
			MergeRequest:        number("CI_MERGE_REQUEST_IID"),
			MergeRequestProject: getenv("CI_MERGE_REQUEST_PROJECT_ID"),
			TargetBranch:        getenv("CI_MERGE_REQUEST_TARGET_BRANCH_NAME"),
		},
	}
}

// salsaFlags are those of every salsa command.
type salsaFlags struct {
	environment             salsaEnvironment
	url, project, tokenFile string
}

func (f *salsaFlags) client() (*salsa.Client, error) {
	o := salsa.Options{URL: f.url, Project: f.project, Token: f.environment.token, JobToken: f.environment.jobToken}
	if f.tokenFile != "" {
		token, err := salsa.ReadToken(f.tokenFile)
		if err != nil {
			return nil, err
		}
		o.Token = token
	}
	return salsa.New(o)
}

func newSalsaCommand() *cobra.Command {
	f := &salsaFlags{environment: readSalsaEnvironment(os.Getenv)}
	c := &cobra.Command{
		Use:   "salsa",
		Short: "Speak to the GitLab that runs the pipelines: lint, schedules, reports, artifacts",
		Long: `salsa asks the GitLab instance that runs the pipelines, through its API.

In a CI job the instance and the project are the job's own. The access token is read from --token-file or from DEBCLOUD_SALSA_TOKEN;
without one the job's CI_JOB_TOKEN is used, which GitLab takes for "salsa latest" only. No token is ever an argument.`,
		Example: "  debcloud salsa lint .gitlab-ci.yml --url https://gitlab.example --project cloud-team/debcloud --token-file ~/.salsa-token",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	flags := c.PersistentFlags()
	flags.StringVar(&f.url, "url", f.environment.url, "GitLab's URL or that of its API (default: CI_API_V4_URL)")
	flags.StringVar(&f.project, "project", f.environment.project, "number or path of the project (default: CI_PROJECT_ID)")
	flags.StringVar(&f.tokenFile, "token-file", "", "file that holds an access token with the scope api")
	c.AddCommand(newSalsaLintCommand(f), newSalsaSchedulesCommand(f), newSalsaReportCommand(f), newSalsaLatestCommand(f))
	return c
}

func newSalsaLintCommand(f *salsaFlags) *cobra.Command {
	var o salsa.LintOptions
	c := &cobra.Command{
		Use:   "lint FILE",
		Short: "Ask GitLab whether it would run a CI configuration",
		Long: `lint sends FILE to the CI lint API of the project and prints GitLab's errors and warnings, one a line.
It exits with 1 if GitLab would not run the configuration. "debcloud lint" looks for more, and without a network.`,
		Example: "  debcloud salsa lint child-pipeline.yml --dry-run --ref main",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			configuration, err := salsa.ReadConfiguration(args[0])
			if err != nil {
				return err
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			result, err := client.Lint(c.Context(), configuration, o)
			if err != nil {
				return err
			}
			return printLint(c, args[0], result)
		},
	}
	c.Flags().StringVar(&o.Ref, "ref", "", "branch or tag in whose place the configuration is tried (default: the default branch)")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "let GitLab simulate a pipeline, rules and needs among it")
	return c
}

func printLint(c *cobra.Command, file string, result *salsa.LintResult) error {
	for _, e := range result.Errors {
		fmt.Fprintf(c.OutOrStdout(), "error: %s\n", e)
	}
	for _, w := range result.Warnings {
		fmt.Fprintf(c.OutOrStdout(), "warning: %s\n", w)
	}
	if !result.Valid {
		return fmt.Errorf("GitLab would not run %s", file)
	}
	return nil
}

func newSalsaSchedulesCommand(f *salsaFlags) *cobra.Command {
	c := &cobra.Command{
		Use:     "schedules",
		Short:   "Pipeline schedules, as the matrix declares them",
		Example: "  debcloud salsa schedules apply --dry-run",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	var config string
	var dryRun bool
	apply := &cobra.Command{
		Use:   "apply",
		Short: "Create, change and remove pipeline schedules until they are as declared",
		Long: `apply makes the project's pipeline schedules those that stand under "schedules" in the matrix document. It prints what it does.

Schedules are ours whose description ends in "(debcloud:NAME)"; all others stay as they are. Ours that are declared no more are removed.
Where another user owns a schedule that has to change, its ownership is taken: GitLab lets only the owner change one.`,
		Example: "  debcloud salsa schedules apply --dry-run\n  debcloud salsa schedules apply --config image.yaml --token-file ~/.salsa-token",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			declared, err := declaredSchedules(c.Context(), config)
			if err != nil {
				return err
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			done := 0
			err = client.ApplySchedules(c.Context(), declared, dryRun, func(a salsa.Action) {
				done++
				fmt.Fprintln(c.OutOrStdout(), a)
			})
			if err == nil && done == 0 {
				fmt.Fprintln(c.OutOrStdout(), "nothing to do")
			}
			return err
		},
	}
	apply.Flags().StringVar(&config, "config", "", "matrix document, .jsonnet, .json or .yaml (default: the built-in one)")
	apply.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be done")
	c.AddCommand(apply)
	return c
}

// reportFlags are those of salsa report.
type reportFlags struct {
	dir, baseline, baselineRef, consoles string
	suites, cells, cellsOf               []string
	dryRun, downstream                   bool
	job                                  salsa.Job
}

func newSalsaReportCommand(f *salsaFlags) *cobra.Command {
	r := &reportFlags{job: f.environment.job}
	c := &cobra.Command{
		Use:   "report [FILE…]",
		Short: "Tell a merge request what the tests of its images found",
		Long: `report reads NAME.report.json and NAME.build.json files, named or below --dir, and keeps one note in the merge request:
a table of cells and checks, what failed, boot times and packages against the target branch's last images, links to the console logs.
It sets an external commit status for each cell, "debcloud/trixie genericcloud amd64".

--cells tells which images the pipeline has, and so do the files of a generated pipeline after --cells-of. One of them without any
document was not built: it is in the table, and it failed.

A plan that was split into several files has its documents in the pipelines that --pipeline started. --downstream downloads them from
there, from the check and boot jobs of the images; it needs an access token, because GitLab lists no such pipelines for a CI_JOB_TOKEN.

The console logs are written below --consoles, which the CI job keeps as artifacts. Outside a merge request only the statuses are set.`,
		Example: `  debcloud salsa report --dir artifacts --baseline-ref main
  debcloud salsa report --dir artifacts --baseline last --dry-run
  debcloud salsa report --dir artifacts --cells "trixie ec2 amd64,trixie ec2 arm64"
  debcloud salsa report --downstream --cells-of child-pipeline.1.yml --cells-of child-pipeline.2.yml`,
		RunE: func(c *cobra.Command, args []string) error { return runSalsaReport(c, f, r, args) },
	}
	flags := c.Flags()
	flags.StringVar(&r.dir, "dir", "", "directory below which the documents lie")
	flags.StringSliceVar(&r.cells, "cells", nil, "images that the pipeline has, \"RELEASE VENDOR ARCH\", with commas between")
	flags.StringArrayVar(&r.cellsOf, "cells-of", nil, "file of a generated pipeline, whose images the pipeline has; may be repeated")
	flags.BoolVar(&r.downstream, "downstream", false, "download the documents from the pipelines that --pipeline started")
	flags.StringVar(&r.baseline, "baseline", "", "directory of documents to compare with")
	flags.StringVar(&r.baselineRef, "baseline-ref", "", "branch whose last tested artifacts are downloaded to compare with")
	flags.StringVar(&r.consoles, "consoles", "consoles", "directory for console logs, one of the job's artifacts; empty for none")
	flags.StringSliceVar(&r.suites, "suites", []string{"check", "boot"}, "suites that an image has to pass")
	flags.Int64Var(&r.job.MergeRequest, "merge-request", r.job.MergeRequest, "number of the merge request (default: CI_MERGE_REQUEST_IID)")
	flags.StringVar(&r.job.CommitSHA, "commit", r.job.CommitSHA, "commit that gets the statuses (default: CI_COMMIT_SHA)")
	flags.Int64Var(&r.job.PipelineID, "pipeline", r.job.PipelineID, "pipeline that gets the statuses, or that started the others (default: CI_PIPELINE_ID)")
	flags.BoolVar(&r.dryRun, "dry-run", false, "print the note to standard output and send nothing")
	return c
}

func runSalsaReport(c *cobra.Command, f *salsaFlags, r *reportFlags, files []string) error {
	if r.dir != "" {
		files = append(files, r.dir)
	}
	findings, err := readFindings(c, f, r, files)
	if err != nil {
		return err
	}
	note := salsa.Note(*findings)
	if r.dryRun {
		fmt.Fprintln(c.OutOrStdout(), note)
		return nil
	}
	client, err := f.client()
	if err != nil {
		return err
	}
	if findings.Consoles != "" {
		if err := salsa.WriteConsoles(*findings); err != nil {
			return err
		}
	}
	if r.job.MergeRequest != 0 {
		posted, err := client.PostNote(c.Context(), r.job.MergeRequestProject, r.job.MergeRequest, note)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "note in !%d: %s\n", r.job.MergeRequest, posted)
	}
	set, err := client.SetStatuses(c.Context(), *findings)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.OutOrStdout(), "commit statuses: %d set, %d as they were\n", set, len(findings.Cells)-set)
	return nil
}

func readFindings(c *cobra.Command, f *salsaFlags, r *reportFlags, files []string) (*salsa.Findings, error) {
	names, err := r.names()
	if err != nil {
		return nil, err
	}
	cells, err := readDocuments(c, f, r, files, names)
	if err != nil {
		return nil, err
	}
	all, err := salsa.Planned(cells, names)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fault.Inputf("no NAME.build.json or NAME.report.json is at %s", strings.Join(files, ", "))
	}
	if r.baseline != "" && r.baselineRef != "" {
		return nil, fault.Inputf("--baseline and --baseline-ref exclude each other")
	}
	findings := &salsa.Findings{Job: r.job, Cells: all, Suites: r.suites, Consoles: r.consoles, Against: r.job.TargetBranch}
	switch {
	case r.baseline != "":
		findings.Baseline, err = salsa.ReadCells(r.baseline)
	case r.baselineRef != "":
		findings.Against = r.baselineRef
		findings.Baseline, err = downloadBaseline(c, f, r, slices.DeleteFunc(cells, func(c salsa.Cell) bool { return c.Lost != "" }))
	}
	return findings, err
}

// names are those of the images that the pipeline has.
func (r *reportFlags) names() ([]string, error) {
	names := slices.Clone(r.cells)
	for _, path := range r.cellsOf {
		of, err := generator.CellsOf(path)
		if err != nil {
			return nil, err
		}
		names = append(names, of...)
	}
	return names, nil
}

// What is downloaded of a large plan ends within these times, so that the job of report.libsonnet has time left to tell of it.
const (
	downstreamTime = 30 * time.Minute
	baselineTime   = 5 * time.Minute
)

func readDocuments(c *cobra.Command, f *salsaFlags, r *reportFlags, files, names []string) ([]salsa.Cell, error) {
	switch {
	case !r.downstream && len(files) == 0:
		return nil, fault.WithHint(fault.Inputf("no documents are given"), "name NAME.report.json files or use --dir DIR")
	case !r.downstream:
		return salsa.ReadCells(files...)
	case len(files) > 0:
		return nil, fault.Inputf("--downstream downloads the documents: leave out %s", strings.Join(files, ", "))
	case len(names) == 0:
		return nil, fault.Inputf("--downstream needs the names of the images: use --cells or --cells-of")
	}
	wanted, err := salsa.Planned(nil, names)
	if err != nil {
		return nil, err
	}
	client, err := f.client()
	if err != nil {
		return nil, err
	}
	return client.Downstream(c.Context(), r.job.PipelineID, wanted, downstreamTime)
}

// downloadBaseline goes on without a baseline when GitLab has trouble with it: the test results are worth more than the comparison.
func downloadBaseline(c *cobra.Command, f *salsaFlags, r *reportFlags, cells []salsa.Cell) ([]salsa.Cell, error) {
	client, err := f.client()
	if err != nil {
		return nil, err
	}
	found, err := client.Documents(c.Context(), cells, r.baselineRef, r.suites, baselineTime)
	if err != nil && c.Context().Err() == nil {
		slog.WarnContext(c.Context(), "the report goes without a part of its baseline", "ref", r.baselineRef, "why", err)
		err = nil
	}
	return found, err
}

func newSalsaLatestCommand(f *salsaFlags) *cobra.Command {
	var o salsa.LatestOptions
	var dir string
	var maxGiB int64
	c := &cobra.Command{
		Use:   "latest RELEASE VENDOR ARCH",
		Short: "Download the last tested artifacts of a cell",
		Long: `latest finds the newest pipeline on --ref in which the cell's boot job succeeded, downloads the artifacts of the cell's jobs
and verifies that the report has passed, that it is on the build's digest and that the image, if it is among them, has it too.
The directory appears only when all is verified. It prints the path of the Build document.`,
		Example: "  debcloud salsa latest trixie genericcloud amd64 --ref main --dir last",
		Args:    cobra.ExactArgs(3),
		RunE: func(c *cobra.Command, args []string) error {
			o.Release, o.Vendor, o.Arch = args[0], args[1], args[2]
			if maxGiB < 1 || maxGiB > 1<<20 {
				return fault.Inputf("--max-size %d is not between 1 and %d GiB", maxGiB, 1<<20)
			}
			o.MaxBytes = maxGiB << 30
			if dir == "" {
				dir = strings.Join(args, "-")
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			path, err := client.Latest(c.Context(), o, dir)
			if err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), path)
			return nil
		},
	}
	c.Flags().StringVar(&o.Ref, "ref", "main", "branch or tag that the pipeline ran for")
	c.Flags().StringVar(&dir, "dir", "", "directory to make (default: RELEASE-VENDOR-ARCH)")
	c.Flags().StringSliceVar(&o.Suites, "suites", []string{"check", "boot"}, "suites that must have passed")
	c.Flags().Int64Var(&maxGiB, "max-size", 64, "GiB that the artifacts may have when unpacked")
	return c
}

// declaredSchedules reads the schedules of the matrix document.
func declaredSchedules(ctx context.Context, path string) ([]salsa.Schedule, error) {
	config, err := generator.Load(ctx, path)
	if err != nil {
		return nil, err
	}
	if config.Schedules() == nil {
		return nil, fault.WithHint(fault.Inputf("%s declares no schedules", config.Source()),
			`write "schedules: []" into it if all of ours shall be removed`)
	}
	declared := []salsa.Schedule{}
	for _, s := range config.Schedules() {
		declared = append(declared, salsa.Schedule(s))
	}
	if err := salsa.CheckSchedules(declared); err != nil {
		return nil, fault.Inputf("%s: %w", config.Source(), err)
	}
	return declared, nil
}
