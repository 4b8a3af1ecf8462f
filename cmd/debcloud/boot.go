package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/boot"
)

func newBootCommand() *cobra.Command {
	var o boot.Options
	c := &cobra.Command{
		Use:   "boot BUILD.json",
		Short: "Boot an image and test it from inside and outside",
		Long: `boot starts a throwaway VM on an overlay of the image that lies beside BUILD.json, once with BIOS and once with UEFI and
Secure Boot, seeds it with a fresh key, and tests it over SSH; a nocloud image is tested on its serial console. The
results go into NAME.report.json, with the boot times and the whole console, and NAME.boot.xml (JUnit).

An image that has passed is not tested again. libvirtd is started where none runs, and stopped again.`,
		Example: "  debcloud boot out/debian-13-genericcloud-amd64-20250814-2204.build.json\n" +
			"  debcloud boot --firmware uefi --sequential out/debian-13-ec2-amd64-20250814-2204.build.json",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			o.BuildPath = args[0]
			suite, err := boot.Run(c.Context(), o)
			if suite != nil {
				printBoot(c.OutOrStdout(), suite)
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&o.Provider, "on", "", "the provider whose cloud to imitate; today only nocloud-seed")
	f.StringSliceVar(&o.Firmware, "firmware", nil, "bios, uefi (default: both; with one alone, nothing is recorded)")
	f.IntVar(&o.MemoryMiB, "memory", 1024, "memory of each VM, in MiB")
	f.IntVar(&o.CPUs, "cpus", 2, "processors of each VM")
	f.DurationVar(&o.Timeout, "timeout", 0, "limit for each VM, power-on to power-off (default: 10m, emulated 40m)")
	f.BoolVar(&o.Sequential, "sequential", false, "one VM after the other (default: side by side where memory allows)")
	f.BoolVar(&o.Thorough, "thorough", false, "under emulation too, test in each VM what is slow and does not depend on the firmware, not the one here, the other there")
	f.BoolVar(&o.Raw, "raw", false, "only boot until SSH answers, and print the times; nothing is checked or recorded")
	f.BoolVar(&o.Again, "again", false, "test an image that has passed already")
	f.StringVar(&o.Dir, "scratch", "", "directory for overlays (default: that for temporary files)")
	return c
}

// printBoot prints the failed checks, the boot times, and a summary line.
func printBoot(out io.Writer, s *manifest.Suite) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, c := range s.Failures() {
		first, _, _ := strings.Cut(c.Evidence, "\n")
		fmt.Fprintf(table, "FAILED\t%s\t%s\n", c.ID, first)
	}
	table.Flush()
	table = tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tfirmware\tkernel\tinitrd\tuserspace\tcloud-init\tSSH\ttotal\t")
	for _, b := range s.Boots {
		t := b.Times
		fmt.Fprintf(table, "%s, %s\t%.1f s\t%.1f s\t%.1f s\t%.1f s\t%.1f s\t%.1f s\t%.1f s\t\n",
			b.Firmware, b.Accelerator, t.Firmware, t.Kernel, t.Initrd, t.Userspace, t.CloudInit, t.SSH, t.Total)
	}
	table.Flush()
	if len(s.Checks) == 0 {
		return
	}
	skipped := 0
	for _, c := range s.Checks {
		if c.Result == manifest.Skipped {
			skipped++
		}
	}
	fmt.Fprintf(out, "%d checks passed, %d failed, %d skipped, in %.0f s\n",
		len(s.Checks)-len(s.Failures())-skipped, len(s.Failures()), skipped, s.Seconds)
}
