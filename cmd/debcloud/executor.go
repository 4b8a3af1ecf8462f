package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/executor"
	"salsa.debian.org/cloud-team/debcloud/executor/admission"
	"salsa.debian.org/cloud-team/debcloud/executor/hostlog"
	"salsa.debian.org/cloud-team/debcloud/executor/metrics"
	"salsa.debian.org/cloud-team/debcloud/executor/pool"
	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/executor/tools"
	"salsa.debian.org/cloud-team/debcloud/executor/vmimage"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

func newExecutorCommand() *cobra.Command {
	path := settings.DefaultPath
	if p := os.Getenv("DEBCLOUD_EXECUTOR_SETTINGS"); p != "" {
		path = p
	}
	c := &cobra.Command{
		Use:   "executor",
		Short: "Give each job of a GitLab Runner a throwaway VM",
		Long: `executor is a driver for GitLab Runner's custom executor. Runner calls config, prepare, run and cleanup; a timer calls
reap; the other commands are for operators.

Only a job's own script makes a job fail: whatever else goes wrong is a system failure, with one sentence in the job's
log and the details in the host's.`,
		Example: `  debcloud executor status
  debcloud executor reap`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.PersistentFlags().StringVar(&path, "settings", path, "the executor's settings; also DEBCLOUD_EXECUTOR_SETTINGS")
	c.AddCommand(
		newStageCommand(&path, "config", "Tell Runner how jobs run here", 0, func(ctx context.Context, d *executor.Driver, _ []string) error { return d.Config(ctx) }),
		newStageCommand(&path, "prepare", "Give a job its VM", 0, func(ctx context.Context, d *executor.Driver, _ []string) error { return d.Prepare(ctx) }),
		newStageCommand(&path, "run SCRIPT STAGE", "Run a stage of a job in its VM", 2, func(ctx context.Context, d *executor.Driver, args []string) error {
			return d.Run(ctx, args[0], args[1])
		}),
		newStageCommand(&path, "cleanup", "Take a job's VM away", 0, func(ctx context.Context, d *executor.Driver, _ []string) error { return d.Cleanup(ctx) }),
		newReapCommand(&path), newStatusCommand(&path), newExecutorImageCommand(&path), newCheckConfigCommand(&path), newPoolCommand(&path),
	)
	return c
}

// newStageCommand is a command that Runner calls: its exit code follows Runner's rules.
func newStageCommand(path *string, use, short string, args int, call func(context.Context, *executor.Driver, []string) error) *cobra.Command {
	return &cobra.Command{
		Use:     use,
		Short:   short,
		Long:    short + ". GitLab Runner calls this, with its environment of a custom executor.",
		Example: "  debcloud executor " + use,
		Args:    cobra.ExactArgs(args),
		RunE: func(c *cobra.Command, args []string) error {
			e, err := executor.ReadEnvironment(os.Environ())
			if err == nil {
				err = withDriver(c, *path, e, func(d *executor.Driver) error { return call(c.Context(), d, args) })
			}
			if err == nil {
				return nil
			}
			return &coded{err, e.ExitCode(err)}
		},
	}
}

// coded is an error that says itself which exit code it is.
type coded struct {
	error
	code int
}

func (c *coded) Unwrap() error { return c.error }

// withDriver reads the settings and joins the driver to what it works with.
func withDriver(c *cobra.Command, path string, e executor.Environment, use func(*executor.Driver) error) error {
	s, err := settings.Load(path)
	if err != nil {
		return err
	}
	log, err := hostlog.Open(s.Log)
	if err != nil {
		return err
	}
	slog.SetDefault(log) // standard error is the job's log
	ledger, err := admission.Open(s)
	if err != nil {
		return err
	}
	recorder, err := metrics.Open(s, ledger, version())
	if err != nil {
		return err
	}
	store, err := pool.Open(s)
	if err != nil {
		return err
	}
	d := &executor.Driver{
		Settings: s, Environment: e, Stdout: c.OutOrStdout(), Stderr: c.ErrOrStderr(), Log: log, Version: version(), Metrics: recorder,
		Claim: store.Claims(ledger, s), Withdraw: store.Withdraw, Kept: store.Kept,
		Tools: toolsDisk(s), PruneTools: pruneTools(s), Imported: importedImage, WriteSeed: tools.WriteSeed,
	}
	defer d.Close()
	return use(d)
}

// agentVariable names another debcloud for job VMs than this one, or noAgent.
const (
	agentVariable = "DEBCLOUD_EXECUTOR_AGENT"
	noAgent       = "none" // VM images bring their own
)

// toolsDisk makes the tools disk of the agent, which is this program, and the host's gitlab-runner.
func toolsDisk(s *settings.Settings) func(context.Context) (string, error) {
	if os.Getenv(agentVariable) == noAgent {
		return nil
	}
	return func(ctx context.Context) (string, error) {
		spec, err := toolsSpec(s)
		if err != nil {
			return "", err
		}
		disk, err := tools.Make(ctx, spec)
		return disk.Path, err
	}
}

// pruneTools removes the disks of other versions of the two.
func pruneTools(s *settings.Settings) func(context.Context, func(context.Context) ([]string, error)) ([]string, error) {
	if os.Getenv(agentVariable) == noAgent {
		return nil
	}
	return func(ctx context.Context, inUse func(context.Context) ([]string, error)) ([]string, error) {
		spec, err := toolsSpec(s)
		if err != nil {
			return nil, err
		}
		return tools.Prune(ctx, spec, inUse)
	}
}

func toolsSpec(s *settings.Settings) (tools.Spec, error) {
	spec := tools.Spec{Debcloud: os.Getenv(agentVariable), Runner: s.GitlabRunner, Dir: s.Pool.Path}
	if spec.Debcloud == "" {
		own, err := os.Executable()
		if err != nil {
			return spec, err
		}
		spec.Debcloud = own
	}
	if _, err := os.Stat(spec.Runner); err != nil {
		spec.Runner = ""
	}
	return spec, nil
}

// importedImage finds an image that "executor image import" put into the pool.
func importedImage(_ context.Context, pool, name, digest string) (executor.Base, error) {
	find := func() (vmimage.Image, error) { return vmimage.Find(pool, name) }
	if digest != "" {
		find = func() (vmimage.Image, error) { return vmimage.FindDigest(pool, digest) }
	}
	i, err := find()
	return executor.Base{Path: i.Path, Format: i.Format, Digest: i.Digest}, err
}

func newReapCommand(path *string) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "reap",
		Short: "Remove what belongs to jobs that are over",
		Long: `reap removes VMs, files, shares of the budget and directories of jobs whose Runner was killed, has ended them, or whose
deadline has passed, and tools disks of earlier versions that no VM uses. Jobs that still run keep everything. What does not
carry the executor's metadata is not touched.`,
		Example: "  debcloud executor reap -o json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withDriver(c, *path, executor.Environment{}, func(d *executor.Driver) error {
				r, err := d.Reap(c.Context())
				if asJSON {
					return joinJSON(c.OutOrStdout(), r, err)
				}
				printReaped(c.OutOrStdout(), r)
				return err
			})
		},
	}
	outputFlag(c, &asJSON)
	return c
}

func printReaped(out io.Writer, r executor.Reaped) {
	for _, line := range []struct {
		what  string
		names []string
	}{
		{"removed", r.Removed}, {"removed files of", r.Strays}, {"removed", r.Attempts}, {"removed", r.Files}, {"gave back the share of", r.Entries}, {"adopted", r.Adopted},
	} {
		for _, name := range line.names {
			fmt.Fprintf(out, "%s %s\n", line.what, name)
		}
	}
}

func newStatusCommand(path *string) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "status",
		Short:   "Show which VMs run, for whom, since when, and what is free",
		Example: "  debcloud executor status\n  debcloud executor status -o json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withDriver(c, *path, executor.Environment{}, func(d *executor.Driver) error {
				s, err := d.Status(c.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return joinJSON(c.OutOrStdout(), s, nil)
				}
				printStatus(c.OutOrStdout(), s)
				return nil
			})
		},
	}
	outputFlag(c, &asJSON)
	return c
}

// outputFlag lets -o choose between a table and JSON.
func outputFlag(c *cobra.Command, asJSON *bool) {
	c.Flags().FuncP("output", "o", "table or json (default table)", func(text string) error {
		if *asJSON = text == "json"; !*asJSON && text != "table" {
			return fault.Inputf("%q is neither table nor json", text)
		}
		return nil
	})
}

func joinJSON(out io.Writer, v any, err error) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	if err2 := e.Encode(v); err == nil {
		err = err2
	}
	return err
}

func printStatus(out io.Writer, s executor.Status) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DOMAIN\tFOR\tIMAGE\tCPUS\tMEMORY\tAGE\tSTATE")
	for _, m := range s.Machines {
		state := "running"
		if !m.Running {
			state = m.Reason
		}
		if m.Over != "" {
			state += ", over: " + m.Over
		}
		whose := m.For
		if m.Job != 0 {
			whose = fmt.Sprintf("%s %d of %s (%s)", m.For, m.Job, m.Project, m.Class)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d MiB\t%v\t%s\n", m.Domain, whose, m.Image, m.CPUs, m.MemoryMiB, m.Age().Round(time.Second), state)
	}
	table.Flush()
	f, b := s.Ledger.Free, s.Ledger.Budget
	fmt.Fprintf(out, "free: %d of %d processors, %v of %v memory, %v of %v disk; %d jobs wait; guests run on %s\n",
		f.CPUs, b.CPUs, f.Memory, b.Memory, f.Disk, b.Disk, len(s.Ledger.Waiting), s.Accelerator)
	for i, w := range s.Ledger.Waiting {
		why := ""
		if i == 0 && s.Ledger.Lacks != "" { // the others wait for the first
			why = ": " + s.Ledger.Lacks
		}
		fmt.Fprintf(out, "waits: %s%s\n", w.For, why)
	}
}
