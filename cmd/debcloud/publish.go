package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/directory"
)

func newPublishCommand() *cobra.Command {
	var to, uploadType, stage string
	c := &cobra.Command{
		Use:   "publish BUILD.json --to PROVIDER",
		Short: "Publish an image that passed its tests",
		Long: `publish puts a built image where its users get it, after it has made sure that the report beside the build says that
this very image, by its digest, passed "check" and "boot".

Providers:
  directory:PATH   a tree for a web server: PATH/RELEASE[/daily]/VERSION with tar.xz, raw, qcow2, manifest, report and
                   SHA512SUMS, and "latest"; --stage private puts the image into PATH/.private

Run again it changes nothing. Killed anywhere it leaves the tree as it was, and the next run goes on. It also writes
NAME.upload-PROVIDER.json beside the build.

Exit code 2: the image is refused, because its report is missing or not on this image, because a check failed, or
because another image is published under its name. 3: something may go away by itself, as a full disk.`,
		Example: "  debcloud publish out/debian-trixie-genericcloud-amd64-official-20260814-1.build.json --to directory:public --upload-type daily",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			place, err := parsePublisher(to)
			if err != nil {
				return err
			}
			result, err := publish.Publish(c.Context(), publish.Options{
				BuildPath: args[0], To: place, Type: image.UploadType(uploadType), Stage: publish.Stage(stage),
			})
			if err != nil {
				return err
			}
			return printPublication(c, result)
		},
	}
	c.Flags().StringVar(&to, "to", "", "where to publish, directory:PATH")
	c.Flags().StringVar(&uploadType, "upload-type", "", "dev, daily or release (default dev for a dev build, daily for an official one)")
	c.Flags().StringVar(&stage, "stage", string(publish.Public), "private or public")
	return c
}

// parsePublisher reads PROVIDER[:PLACE].
func parsePublisher(to string) (publish.Publisher, error) {
	provider, place, _ := strings.Cut(to, ":")
	if provider == "directory" && place != "" {
		return directory.New(place), nil
	}
	return nil, fault.WithHint(fault.Inputf("--to %q names no place to publish to", to), "use --to directory:PATH")
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
		if _, err := fmt.Fprintln(c.OutOrStdout(), u.Data.Ref); err != nil {
			return err
		}
	}
	return nil
}
