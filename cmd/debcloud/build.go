package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"salsa.debian.org/cloud-team/debcloud/generator"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/jobs/build"
)

func newBuildCommand() *cobra.Command {
	var flags buildFlags
	c := &cobra.Command{
		Use:   "build RELEASE VENDOR ARCH --output DIR",
		Short: "Build an image with FAI",
		Long: `build lets FAI install a system into a directory and assembles that into a raw disk image. It needs root, but no loop
devices. NAME.raw, NAME.build.json and NAME.build.log appear in the output directory; the path of NAME.build.json is printed.

Built again with the same inputs it does nothing. Killed anywhere, it leaves no mount and no process; the next build cleans up.`,
		Example: `  debcloud build trixie genericcloud amd64 --output out
  debcloud build bookworm ec2 amd64 --output out --version 20260814-1 --mirror http://mirror.example/debian`,
		Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			options, err := flags.options(cmd.Context(), args)
			if err != nil {
				return err
			}
			document, err := build.Run(cmd.Context(), options)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), document)
			return err
		},
	}
	flags.register(c.Flags())
	c.Flags().StringVar(&flags.output, "output", "", "directory to write to, made if it is missing")
	_ = c.MarkFlagRequired("output") // the flag stands two lines above
	return c
}

// buildFlags are the flags of every command that builds. Output is set by the command.
type buildFlags struct {
	output                        string
	config, configSpace           string
	buildType, version, buildID   string
	mirror, imageMirror           string
	securityMirror, imageSecurity string
	plain                         bool
}

func (f *buildFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.buildType, "type", "official", "build type: dev or official")
	flags.StringVar(&f.version, "version", "", "version, YYYYMMDD-N (default: today's, number 1)")
	flags.StringVar(&f.buildID, "build-id", "manual", "names the pipeline, in a dev image's name")
	flags.StringVar(&f.config, "config", "", "ImageConfig document, .jsonnet, .json or .yaml (default: the built-in matrix)")
	flags.StringVar(&f.configSpace, "config-space", "", "FAI config space (default: the built-in one)")
	flags.BoolVar(&f.plain, "plain", false, "let FAI go its own way, in twice the time, to the same image")
	flags.StringVar(&f.mirror, "mirror", "", "URL to install from (default: DEBCLOUD_MIRROR, else as this machine's apt)")
	flags.StringVar(&f.securityMirror, "security-mirror", "", "the same for security updates (default: DEBCLOUD_SECURITY_MIRROR, else as this machine's apt, else …/debian-security beside …/debian)")
	flags.StringVar(&f.imageMirror, "image-mirror", "", "URL in the image's own apt sources (default: as this machine's apt)")
	flags.StringVar(&f.imageSecurity, "image-security-mirror", "", "the same for security updates (default: as this machine's apt)")
}

// options looks the cell of args, RELEASE VENDOR ARCH, up in the matrix.
func (f *buildFlags) options(ctx context.Context, args []string) (build.Options, error) {
	config, err := generator.Load(ctx, f.config)
	if err != nil {
		return build.Options{}, err
	}
	cell, err := config.Cell(args[0], args[1], args[2])
	if err != nil {
		return build.Options{}, err
	}
	buildType, err := config.BuildType(f.buildType)
	if err != nil {
		return build.Options{}, err
	}
	if f.version == "" {
		f.version = time.Now().UTC().Format("20060102") + "-1"
	}
	v, err := image.ParseVersion(f.version)
	if err != nil {
		return build.Options{}, err
	}
	if err := image.DemandBuildID(f.buildID); err != nil {
		return build.Options{}, err
	}
	latest, err := sourceDate()
	return build.Options{
		Cell: cell, Type: buildType, BuildID: f.buildID, Version: v, Classes: config.Classes(cell, buildType),
		ConfigSpace: f.configSpace, Output: f.output, Time: latest, Commit: commit, Plain: f.plain, JobURL: os.Getenv("CI_JOB_URL"),
		Mirror: build.Mirrors{
			Debian:   orEnvironment(f.mirror, "DEBCLOUD_MIRROR"),
			Security: orEnvironment(f.securityMirror, "DEBCLOUD_SECURITY_MIRROR"),
		},
		ImageMirror: build.Mirrors{Debian: f.imageMirror, Security: f.imageSecurity},
	}, err
}

func orEnvironment(value, name string) string {
	if value != "" {
		return value
	}
	return os.Getenv(name)
}

// sourceDate reads SOURCE_DATE_EPOCH (reproducible-builds.org/specs/source-date-epoch); zero where it is not set.
func sourceDate() (time.Time, error) {
	text, ok := os.LookupEnv("SOURCE_DATE_EPOCH")
	if !ok {
		return time.Time{}, nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, fault.Inputf("SOURCE_DATE_EPOCH %q is not a number of seconds since 1970", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}
