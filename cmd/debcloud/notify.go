package main

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/jobs/notify"
)

func newNotifyCommand() *cobra.Command {
	var f notifyFlags
	c := &cobra.Command{
		Use:   "notify DIR",
		Short: "Tell listeners, and a feed, what is new in a public tree",
		Long: `notify reads the index of a public tree and tells what is new in it: it writes DIR/feed.atom, and sends each listener a
CloudEvents event an image, signed by Standard Webhooks. The events' type is org.debian.cloud.image.published.v1; one that is
sent again has the same webhook-id.

--listeners FILE, YAML or JSON, says whom to tell; without it only the feed is written:

  listeners:
  - name: finder
    url: https://listener.example/hook
    secretFile: /etc/debcloud/finder.secret   # whsec_…; or secretEnv: NAME_OF_A_VARIABLE
    filter: {releases: [trixie], vendors: [ec2], archs: [amd64], types: [release], providers: [aws]}
  - name: dashboard
    url: http://10.0.0.7/hook
    secretEnv: DASHBOARD_SECRET
    internal: true   # may be at an inner address

Each list of a filter may be missing. What was told to whom stands in DIR/.notify/state.json, so the next run goes on where
this one was stopped. In the first run all images of the tree count as known, and a listener that is new in the file hears
of what comes from then on; --since DATE tells new listeners of the images since that day, too.

429, 5xx and network faults are tried again, with growing waits or as Retry-After asks, and in the next runs. What a listener
refuses, and what fails for three days, becomes a dead letter: the exit code is 1 then, and --replay sends them again.`,
		Example: `  debcloud notify public
  debcloud notify public --url https://images.example/ --listeners listeners.yaml
  debcloud notify public --listeners listeners.yaml --since 2026-08-01 --dry-run
  debcloud notify public --listeners listeners.yaml --replay`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := f.options()
			if err != nil {
				return err
			}
			r, err := notify.Run(c.Context(), args[0], o)
			if r == nil {
				return err
			}
			if printErr := printNotices(c, filepath.Join(args[0], notify.FeedName), o, r); printErr != nil {
				return printErr
			}
			return err
		},
	}
	f.register(c)
	return c
}

type notifyFlags struct {
	listeners, url, state, since string
	replay, dryRun               bool
}

func (f *notifyFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.listeners, "listeners", "", "file with the listeners (default: none, only the feed)")
	c.Flags().StringVar(&f.url, "url", "", "where the tree is seen (default: the feed's links are relative)")
	c.Flags().StringVar(&f.state, "state", "", "file that remembers what was told (default: DIR/"+notify.StateName+")")
	c.Flags().StringVar(&f.since, "since", "", "tell new listeners of the images since this day, YYYY-MM-DD")
	c.Flags().BoolVar(&f.replay, "replay", false, "send the dead letters again")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print what would be told; tell nobody and write nothing")
}

func (f *notifyFlags) options() (notify.Options, error) {
	o := notify.Options{State: f.state, Replay: f.replay, DryRun: f.dryRun}
	var err error
	if f.listeners != "" {
		if o.Listeners, err = notify.ReadListeners(f.listeners, os.LookupEnv); err != nil {
			return o, err
		}
	} else if f.replay || f.since != "" {
		return o, fault.Inputf("--replay and --since are about listeners: name them with --listeners FILE")
	}
	if f.since != "" {
		if o.Since, err = time.Parse(time.DateOnly, f.since); err != nil {
			return o, fault.Inputf("--since %q is no day of the form YYYY-MM-DD", f.since)
		}
	}
	if f.url != "" {
		u, err := url.Parse(f.url)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.RawQuery != "" || u.Fragment != "" {
			return o, fault.Inputf("--url %q is no http or https URL of a directory", f.url)
		}
		o.URL = strings.TrimSuffix(f.url, "/") + "/"
	}
	return o, nil
}

func printNotices(c *cobra.Command, feed string, o notify.Options, r *notify.Result) error {
	t := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, n := range r.Notices {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", n.Outcome, n.Listener, n.Image, n.ID, n.Why)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if r.Letters > 0 && !o.Replay {
		fmt.Fprintf(c.ErrOrStderr(), "%d dead letters wait for --replay\n", r.Letters)
	}
	if o.DryRun {
		return nil
	}
	state := "unchanged"
	if r.Feed {
		state = "written"
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), "%s %s\n", state, feed)
	return err
}

// dryNotify reads the listeners, so that a mistake in their file is seen, and tells nobody. There is no tree in a dry run.
func dryNotify(c *cobra.Command, args []string) error {
	f := notifyFlags{listeners: flagText(c, "listeners"), url: flagText(c, "url"), since: flagText(c, "since"), replay: flagText(c, "replay") == "true"}
	o, err := f.options()
	if err != nil {
		return err
	}
	would(c, "tell %d listeners what is new in %s and write its %s", len(o.Listeners), args[0], notify.FeedName)
	return nil
}
