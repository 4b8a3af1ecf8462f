package main

import "github.com/spf13/cobra"

func newExecutorCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "executor",
		Short:   "Give each job of a GitLab Runner a throwaway VM",
		Long:    "executor is a driver for GitLab Runner's custom executor.",
		Example: "  debcloud executor image list",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newExecutorImageCommand())
	return c
}
