package main

import (
	"fmt"

	"github.com/seamark-lb/seamark/cmd/internal/version"
	"github.com/spf13/cobra"
)

func newVersion(c *cli) *cobra.Command {
	var clientOnly bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version of seamark and of this node's seamarkd",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintln(cmd.OutOrStdout(), "seamark: ", version.Version)
			if clientOnly {
				return nil
			}
			st, err := c.client().Status(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "seamarkd:", st.Version)
			return nil
		},
	}
	cmd.Flags().BoolVar(&clientOnly, "client", false, "of seamark alone; needs no daemon")
	return cmd
}
