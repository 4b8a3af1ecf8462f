// Command debcloud builds, checks, boots, publishes and indexes Debian cloud images.
//
// Each command has a file of its own here, which reads flags, calls one package and prints the result.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/progress"
)

func main() { os.Exit(run(os.Args[1:])) }

// run executes one command line and returns the exit code: 0 done, 1 the work failed, 2 bad usage or bad input,
// 3 something outside failed and a retry may help, 128 + signal when a signal stopped it.
func run(args []string) int {
	ctx, stop := notifyContext()
	defer stop()
	display := progress.New(os.Stderr)
	root := newRootCommand(display)
	root.SetArgs(args)
	err := root.ExecuteContext(progress.NewContext(ctx, display))
	display.Close()
	if err == nil {
		return 0
	}
	report(err)
	if c, ok := errors.AsType[*coded](err); ok {
		return c.code
	}
	if s, ok := errors.AsType[*stopped](context.Cause(ctx)); ok {
		return 128 + int(s.signal)
	}
	return exitCode(err)
}

func exitCode(err error) int {
	switch fault.KindOf(err) {
	case fault.Input:
		return 2
	case fault.Outside:
		return 3
	default:
		return 1
	}
}

// report prints the fault on one line and the hint on another.
func report(err error) {
	fmt.Fprintf(os.Stderr, "debcloud: %v\n", err)
	if hint := fault.HintOf(err); hint != "" {
		fmt.Fprintf(os.Stderr, "debcloud: hint: %s\n", hint)
	}
}

// stopped is the cause of a context that a signal cancelled.
type stopped struct{ signal syscall.Signal }

func (s *stopped) Error() string { return "stopped by signal " + s.signal.String() }

// notifyContext is signal.NotifyContext that keeps the signal as the cause. A second signal ends the program at once.
func notifyContext() (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		s, ok := <-signals
		if !ok {
			return
		}
		signal.Stop(signals)
		cancel(&stopped{s.(syscall.Signal)})
	}()
	return ctx, func() { signal.Stop(signals); cancel(nil) }
}

func newRootCommand(display *progress.Display) *cobra.Command {
	var level slog.Level
	var format string
	root := &cobra.Command{
		Use:   "debcloud",
		Short: "Build, check, boot, publish and index Debian cloud images",
		Long: `debcloud turns a matrix of Debian cloud images (release × vendor × arch) into images that were booted and tested
before anyone can download them.

Exit codes: 0 done; 1 the work failed; 2 bad usage or bad input; 3 something outside failed, a retry may help.`,
		Example:       "  debcloud run trixie genericcloud amd64 --dir public",
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          refuseUnknownCommand,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
		PersistentPreRunE: func(c *cobra.Command, _ []string) error {
			if err := setUpDryRun(c, os.Getenv(dryRunVariable)); err != nil {
				return err
			}
			return setUpLog(display, level, format)
		},
	}
	root.PersistentFlags().TextVar(&level, "log-level", slog.LevelInfo, "log what is at least as grave: debug, info, warn, error")
	root.PersistentFlags().StringVar(&format, "log-format", "text", "text or json")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fault.Inputf("%w", err) })
	root.AddCommand(newPlanCommand(), newBuildCommand(), newBootCommand(), newCheckCommand(), newPipelineCommand(), newLintCommand(), newPublishCommand(), newIndexCommand(), newFinderCommand(), newRunCommand(), newSalsaCommand(), newPruneCommand(), newNotifyCommand(), newExecutorCommand(), newGuestCommand())
	for _, c := range root.Commands() {
		refuseAsInput(c)
	}
	return root
}

func refuseUnknownCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fault.Inputf("unknown command %q", args[0])
	if near := root.SuggestionsFor(args[0]); len(near) > 0 {
		return fault.WithHint(err, "did you mean %s?", strings.Join(near, " or "))
	}
	return fault.WithHint(err, "debcloud --help lists the commands")
}

// refuseAsInput makes a wrong number of arguments and a missing flag bad usage, which cobra itself reports as any other error.
func refuseAsInput(c *cobra.Command) {
	check := c.Args
	c.Args = func(c *cobra.Command, args []string) error {
		var err error
		if check != nil {
			err = check(c, args)
		}
		if err == nil {
			err = c.ValidateRequiredFlags()
		}
		if err != nil {
			return fault.WithHint(fault.Inputf("%s: %w", c.CommandPath(), err), "usage: %s; see %s --help", c.UseLine(), c.CommandPath())
		}
		return nil
	}
	for _, sub := range c.Commands() {
		refuseAsInput(sub)
	}
}

func setUpLog(display *progress.Display, level slog.Level, format string) error {
	options := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		slog.SetDefault(slog.New(slog.NewTextHandler(display, options)))
	case "json":
		slog.SetDefault(slog.New(slog.NewJSONHandler(display, options)))
	default:
		return fault.Inputf("--log-format %q is neither text nor json", format)
	}
	return nil
}

// commit is set by the Makefile.
var commit string

func version() string {
	if commit != "" {
		return commit
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}
