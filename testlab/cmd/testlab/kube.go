package main

import (
	"fmt"

	"github.com/seamark-lb/seamark/testlab/kubeapi"
	"github.com/spf13/cobra"
)

func kubeCommand() *cobra.Command {
	kube := &cobra.Command{Use: "kube", Short: "The binary of the real Kubernetes control plane"}
	kube.AddCommand(
		&cobra.Command{
			Use:   "build",
			Short: "Build it from testlab/kube, unless it is there, and print its path; minutes the first time",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				path, err := kubeapi.Build(cmd.Context(), cmd.ErrOrStderr())
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), path)
				return nil
			},
		},
		&cobra.Command{
			Use:   "path",
			Short: "Print its path; it must have been built",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				path, ok := kubeapi.Binary()
				if !ok {
					return kubeapi.ErrNotBuilt
				}
				fmt.Fprintln(cmd.OutOrStdout(), path)
				return nil
			},
		},
	)
	return kube
}
