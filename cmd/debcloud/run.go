package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/boot"
	"salsa.debian.org/cloud-team/debcloud/jobs/build"
	"salsa.debian.org/cloud-team/debcloud/jobs/check"
	"salsa.debian.org/cloud-team/debcloud/jobs/index"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/directory"
)

func newRunCommand() *cobra.Command {
	var flags buildFlags
	var uploadType, dir string
	c := &cobra.Command{
		Use:   "run RELEASE VENDOR ARCH",
		Short: "Take one image all the way: build, check, boot, publish, index",
		Long: `run does every step of one cell of the matrix, here and now: it builds the image, checks its file systems, boots and tests
it, publishes it into a directory, and writes the index and the finder's page there. The published tree holds the report.

A run that was stopped goes on after the last finished step: what lies in the work directory and was not published yet is
taken up again, under its version. It needs root, as the build does.`,
		Example: `  debcloud run trixie genericcloud amd64 --dir public
  debcloud run bookworm ec2 amd64 --dir public --version 20260814-2 --mirror http://mirror.example/debian`,
		Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			if flags.version == "" {
				flags.version = unpublishedVersion(flags.output, args)
			}
			options, err := flags.options(cmd.Context(), args)
			if err != nil {
				return err
			}
			path := cell{build: options, upload: image.UploadType(uploadType), dir: dir}
			err = path.walk(cmd.Context())
			path.print(cmd.OutOrStdout())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "\nReport: %s\nFinder: %s finder serve %s\n", path.report(), os.Args[0], dir)
			return err
		},
	}
	flags.register(c.Flags())
	c.Flags().StringVar(&flags.output, "work", "work", "directory for the image and what the steps hand to each other")
	c.Flags().StringVar(&uploadType, "upload-type", string(image.Daily), "daily, release or dev")
	c.Flags().StringVar(&dir, "dir", "public", "directory to publish to")
	return c
}

// unpublishedVersion returns the version of the newest build of a cell in the work directory that was not published, or "".
func unpublishedVersion(work string, args []string) string {
	paths, _ := filepath.Glob(filepath.Join(work, "*.build.json")) // fails on a malformed pattern only
	version := ""
	for _, path := range paths {
		b, err := manifest.ReadBuild(path)
		if err != nil || b.Data.Info.Release != args[0] || b.Data.Info.Vendor != args[1] || b.Data.Info.Arch != args[2] {
			continue
		}
		if _, err := os.Stat(manifest.Base(path) + ".upload-directory.json"); err != nil && b.Data.Info.Version > version {
			version = b.Data.Info.Version
		}
	}
	return version
}

// cell is one cell on its way from the matrix to the index.
type cell struct {
	build  build.Options
	upload image.UploadType
	dir    string // to publish to

	document string // the Build document
	steps    []step
}

// step is a line of the table at the end.
type step struct {
	name, result string
	took         time.Duration
}

// walk does the steps in order, up to the first that fails.
func (c *cell) walk(ctx context.Context) error {
	for _, next := range []struct {
		name string
		do   func(context.Context) (result string, err error)
	}{
		{"build", c.doBuild},
		{"check", c.doCheck},
		{"boot", c.doBoot},
		{"publish", c.doPublish},
		{"index", c.doIndex},
	} {
		started := time.Now()
		result, err := next.do(ctx)
		if err != nil {
			result = "failed"
		}
		c.steps = append(c.steps, step{next.name, result, time.Since(started)})
		if err != nil {
			return fmt.Errorf("%s: %w", next.name, err)
		}
	}
	return nil
}

func (c *cell) doBuild(ctx context.Context) (string, error) {
	var err error
	if c.document, err = build.Run(ctx, c.build); err != nil {
		return "", err
	}
	b, err := manifest.ReadBuild(c.document)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, %d packages, kernel %s", b.Data.Image.Name, len(b.Data.Packages), b.Data.Versions["kernel"]), nil
}

func (c *cell) doCheck(ctx context.Context) (string, error) {
	suite, err := check.Run(ctx, check.Options{BuildPath: c.document})
	return outcome(suite, err)
}

func (c *cell) doBoot(ctx context.Context) (string, error) {
	suite, err := boot.Run(ctx, boot.Options{BuildPath: c.document})
	return outcome(suite, err)
}

func (c *cell) doPublish(ctx context.Context) (string, error) {
	result, err := publish.Publish(ctx, publish.Options{BuildPath: c.document, To: directory.New(c.dir), Type: c.upload})
	if err != nil {
		return "", err
	}
	return result.Place, nil
}

func (c *cell) doIndex(ctx context.Context) (string, error) {
	written, err := index.Write(ctx, c.dir)
	if err != nil {
		return "", err
	}
	return plural(len(written.Data.Images), "image"), nil
}

// outcome says in a few words what a suite found.
func outcome(s *manifest.Suite, err error) (string, error) {
	if err != nil {
		return "", err
	}
	if failed := s.Failures(); len(failed) > 0 {
		return "", fmt.Errorf("the image failed %s: %s", plural(len(failed), "check"), failed[0].ID+": "+failed[0].Evidence)
	}
	skipped := 0
	for _, c := range s.Checks {
		if c.Result == manifest.Skipped {
			skipped++
		}
	}
	result := plural(len(s.Checks)-skipped, "check") + " passed"
	if skipped > 0 {
		result += fmt.Sprintf(", %d skipped", skipped)
	}
	return result, nil
}

func (c *cell) report() string { return manifest.Base(c.document) + ".report.json" }

// print writes the table of the steps that were done.
func (c *cell) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var all time.Duration
	fmt.Fprintln(t, "STEP\tTIME\tRESULT")
	for _, s := range c.steps {
		all += s.took
		fmt.Fprintf(t, "%s\t%6.1f s\t%s\n", s.name, s.took.Seconds(), s.result)
	}
	fmt.Fprintf(t, "%s\t%6.1f s\t%s\n", "all", all.Seconds(), c.build.Cell)
	t.Flush() // an error on standard output shows in the caller's next line
}
