package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/generator"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/directory"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

// constructor makes the Publisher of a target. It does not use the network.
type constructor func(target.Target, *journal.Journal) (publish.Publisher, error)

// publishers has the constructors of this program, by provider; clouds.go adds those of the clouds.
var publishers = map[string]constructor{
	"directory": func(t target.Target, _ *journal.Journal) (publish.Publisher, error) {
		path, err := t.Demand([]string{"place"})
		if err != nil {
			return nil, fault.WithHint(err, "use --to directory:PATH")
		}
		return directory.New(path[0]), nil
	},
}

// providers are all that there are, whether this program has their constructors or debcloud-clouds does.
var providers = []string{"alibaba", "aws", "azure", "directory", "google", "openstack"}

// targetFlags name a target, and the journal of what is done there.
type targetFlags struct {
	to, config, journal string
	noWait              bool
	lookup              func(string) (string, bool) // os.LookupEnv where it is nil
}

func (f *targetFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.to, "to", "", "target: one of the matrix, or directory:PATH")
	c.Flags().StringVar(&f.config, "config", "", "ImageConfig document with the targets, .jsonnet, .json or .yaml (default: the built-in matrix)")
	f.registerJournal(c)
}

func (f *targetFlags) registerJournal(c *cobra.Command) {
	c.Flags().StringVar(&f.journal, "journal", defaultJournal(), "file that remembers how far publications came; it may be lost")
}

// defaultJournal is in the user's state directory, as the XDG Base Directory Specification has it.
func defaultJournal() string {
	if path := os.Getenv("DEBCLOUD_JOURNAL"); path != "" {
		return path
	}
	state := os.Getenv("XDG_STATE_HOME")
	if state == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "debcloud-journal.db"
		}
		state = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(state, "debcloud", "journal.db")
}

// target reads --to: PROVIDER:PLACE, or the name of a target of the matrix, with the environment's values in it.
func (f *targetFlags) target(ctx context.Context) (target.Target, error) {
	if provider, place, ok := strings.Cut(f.to, ":"); ok && slices.Contains(providers, provider) && place != "" {
		return target.Target{Name: f.to, Provider: provider, Settings: map[string]string{"place": place}}, nil
	}
	config, err := generator.Load(ctx, f.config)
	if err != nil {
		return target.Target{}, err
	}
	t, err := config.Target(f.to)
	if err != nil {
		names := []string{"directory:PATH"}
		for _, t := range config.Targets() {
			names = append(names, t.Name)
		}
		return t, fault.WithHint(fault.Inputf("--to %q names no place to publish to", f.to), "use --to with one of %s", strings.Join(names, ", "))
	}
	if f.lookup == nil {
		f.lookup = os.LookupEnv
	}
	return t.Resolve(f.lookup)
}

// open returns the target's Publisher. Close closes its journal.
func (f *targetFlags) open(ctx context.Context, t target.Target) (p publish.Publisher, closeJournal func(), err error) {
	if !slices.Contains(providers, t.Provider) {
		return nil, nil, fault.Inputf("target %q is at provider %q, which is none of %s", t.Name, t.Provider, strings.Join(providers, ", "))
	}
	construct := publishers[t.Provider]
	if construct == nil {
		return nil, nil, becomeClouds()
	}
	if t.Provider == "directory" { // asks the file system
		p, err := construct(t, nil)
		if d, ok := p.(*directory.Directory); ok {
			d.NoWait = f.noWait
		}
		return p, func() {}, err
	}
	busy := journal.Wait
	if f.noWait {
		busy = journal.Stop
	}
	j, err := journal.Open(ctx, f.journal, busy)
	if err != nil {
		return nil, nil, err
	}
	if p, err = construct(t, j); err != nil {
		j.Close()
		return nil, nil, err
	}
	return p, func() { j.Close() }, nil
}
