package main

import (
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"salsa.debian.org/cloud-team/debcloud/internal/guest"
	"salsa.debian.org/cloud-team/debcloud/internal/guest/agent"
)

func newGuestCommand() *cobra.Command {
	var port, smbios, cgroup string
	c := &cobra.Command{
		Use:   "guest",
		Short: "Serve the host, as the agent inside a job VM",
		Long: `guest is the agent of a job VM. It serves the SSH protocol on a virtio-serial port, so that the executor can run commands,
copy files and forward sockets without a network. The key of both sides derives from a secret among the VM's SMBIOS OEM strings.

When a connection ends, so do the processes that it has started. It runs as root until a signal stops it.`,
		Example: `  debcloud guest
  debcloud guest --port /dev/virtio-ports/org.debian.debcloud.0`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			secret, err := agent.ReadSecret(smbios)
			if err != nil {
				return err
			}
			own, err := os.Executable()
			if err != nil {
				return err
			}
			groups, err := agent.OpenGroups(cgroup)
			if err != nil {
				slog.WarnContext(ctx, "commands get no control groups", "reason", err)
			}
			f, err := agent.OpenPort(ctx, port)
			if err != nil {
				return err
			}
			return agent.Serve(ctx, f, agent.Options{Secret: secret, Path: []string{filepath.Dir(own)}, Groups: groups})
		},
	}
	c.Flags().StringVar(&port, "port", "/dev/virtio-ports/"+guest.AgentPort, "virtio-serial port to serve on; waits until it is there")
	c.Flags().StringVar(&smbios, "smbios", "/sys/firmware/dmi/tables/DMI", "SMBIOS structures to find the VM's secret in")
	c.Flags().StringVar(&cgroup, "cgroup", "/sys/fs/cgroup", "where version 2 of control groups is mounted")
	return c
}
