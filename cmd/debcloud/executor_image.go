package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/executor/vmimage"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/jobs/build"
	"salsa.debian.org/cloud-team/debcloud/vmimages"
)

func newExecutorImageCommand(settingsPath *string) *cobra.Command {
	pool := &imagePool{settings: settingsPath}
	c := &cobra.Command{
		Use:   "image",
		Short: "Build, import, list and prune the VM images that jobs run in",
		Long: `image keeps the VM images of the executor: files of a pool, each named by the digest of what the guest sees of it. They are never
written to; each job's VM writes to an overlay.`,
		Example: `  debcloud executor image build
  debcloud executor image import --name cloud debian-13-genericcloud-amd64.qcow2
  debcloud executor image prune --keep 2`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.PersistentFlags().StringVar(&pool.flag, "pool", "", "directory of the storage pool (default: the settings', else "+defaultPool+")")
	c.AddCommand(newImageBuildCommand(pool), newImageImportCommand(pool), newImageListCommand(pool), newImagePruneCommand(pool))
	return c
}

// imagePool is where VM images are kept.
type imagePool struct {
	flag     string
	settings *string // path of the executor's settings
}

// defaultPool is the pool of a host that has no settings yet.
const defaultPool = "/var/lib/debcloud/pool"

func (p *imagePool) dir() (string, error) {
	if p.flag != "" {
		return p.flag, nil
	}
	s, err := settings.Load(*p.settings)
	if errors.Is(err, fs.ErrNotExist) {
		return defaultPool, nil
	}
	if err != nil {
		return "", err
	}
	return s.Pool.Path, nil
}

func newImageBuildCommand(pool *imagePool) *cobra.Command {
	var flags buildFlags
	var release, arch, name string
	var gigabytes int
	c := &cobra.Command{
		Use:   "build",
		Short: "Build the runner image with FAI and import it",
		Long: `build makes the image that the executor boots for a job, from vmimages/runner, and imports it into the pool. It needs root. The
path of the VM image is printed. Built again with the same inputs it does nothing.`,
		Example: `  debcloud executor image build
  debcloud executor image build --release bookworm --pool pool --mirror http://mirror.example/debian`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			options, err := runnerOptions(cmd.Context(), &flags, release, arch, gigabytes)
			if err != nil {
				return err
			}
			document, err := build.Run(cmd.Context(), options)
			if err != nil {
				return err
			}
			return importImage(cmd, pool, document, name)
		},
	}
	flags.register(c.Flags())
	c.Flags().StringVar(&flags.output, "work", "work", "directory for the build")
	c.Flags().StringVar(&release, "release", "trixie", "release of the image")
	c.Flags().StringVar(&arch, "arch", "amd64", "architecture of the image")
	c.Flags().IntVar(&gigabytes, "size", 6, "size of its disk in GiB; a VM with a larger one grows into it at boot")
	c.Flags().StringVar(&name, "name", "runner", "name of the VM image, as image: in a job has it")
	return c
}

// runnerOptions asks for any cell of the release and arch, and puts the runner in the place of its vendor.
func runnerOptions(ctx context.Context, flags *buildFlags, release, arch string, gigabytes int) (build.Options, error) {
	options, err := flags.options(ctx, []string{release, "genericcloud", arch})
	if err != nil {
		return build.Options{}, err
	}
	options.Cell.Vendor = image.Vendor{Name: "runner", SizeGB: gigabytes}
	options.Classes = vmimages.RunnerClasses(options.Cell.Release.Classes, options.Cell.Arch.Classes)
	options.Overlay, err = fs.Sub(vmimages.Runner, "runner")
	return options, err
}

func newImageImportCommand(pool *imagePool) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:   "import IMAGE",
		Short: "Import a VM image into the pool",
		Long: `import copies an image into the pool, as a qcow2 file that is named by the digest of its content, and prints its path. IMAGE is a
Build document, a raw image or a qcow2 image without a backing file. An image that is there already is only named anew.`,
		Example: `  debcloud executor image import --name cloud debian-13-genericcloud-amd64.qcow2
  debcloud executor image import --name runner work/debian-trixie-runner-amd64-official-20260814-1.build.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return importImage(cmd, pool, args[0], name) },
	}
	c.Flags().StringVar(&name, "name", "", "name of the VM image, as image: in a job has it")
	_ = c.MarkFlagRequired("name") // the flag stands a line above
	return c
}

func importImage(cmd *cobra.Command, pool *imagePool, source, name string) error {
	dir, err := pool.dir()
	if err != nil {
		return err
	}
	imported, err := vmimage.Import(cmd.Context(), dir, source, name)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), imported.Path)
	return err
}

func newImageListCommand(pool *imagePool) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:     "list",
		Short:   "List the VM images of the pool",
		Long:    "list shows the VM images of the pool, of each name the newest first: that is the one that jobs get.",
		Example: "  debcloud executor image list -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := pool.dir()
			if err != nil {
				return err
			}
			images, err := vmimage.List(dir)
			if err != nil {
				return err
			}
			switch format {
			case "json":
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(images)
			case "table":
				return printImages(cmd.OutOrStdout(), images)
			default:
				return fault.Inputf("-o %q is neither table nor json", format)
			}
		},
	}
	c.Flags().StringVarP(&format, "output", "o", "table", "table or json")
	return c
}

func printImages(w io.Writer, images []vmimage.Image) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tDIGEST\tDISK GiB\tFILE MiB\tIMPORTED\tSOURCE")
	for _, i := range images {
		fmt.Fprintf(t, "%s\t%s\t%.1f\t%d\t%s\t%s\n", i.Name, i.Short(), float64(i.Size)/(1<<30), i.FileSize>>20, i.Imported.Format(time.DateTime), i.Source)
	}
	return t.Flush()
}

func newImagePruneCommand(pool *imagePool) *cobra.Command {
	var keep int
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove old VM images that no job uses",
		Long: `prune removes, of each name, all but the newest images, except those that are the backing file of another file in the pool,
where a job's VM has its disk, those that a job has chosen that still waits for room on the host, and those that the executor's
settings pin by their digest. What it removed is printed.`,
		Example: "  debcloud executor image prune --keep 2",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := pool.dir()
			if err != nil {
				return err
			}
			pinned, err := pinnedImages(*pool.settings)
			if err != nil {
				return err
			}
			removed, err := vmimage.Prune(cmd.Context(), dir, keep, func(i vmimage.Image) bool { return pinned[i.Digest] })
			for _, i := range removed {
				fmt.Fprintln(cmd.OutOrStdout(), i.Path)
			}
			return err
		},
	}
	c.Flags().IntVar(&keep, "keep", 2, "how many images of each name to keep, at least 1")
	return c
}

// pinnedImages are the digests that the settings name. A host may have images and no settings yet; settings that cannot be read
// are an error, because what they pin is not known.
func pinnedImages(path string) (map[string]bool, error) {
	s, err := settings.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	pinned := map[string]bool{}
	for _, i := range s.Images {
		pinned[i.Digest] = true
	}
	return pinned, nil
}
