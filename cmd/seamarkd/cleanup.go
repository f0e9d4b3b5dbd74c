package main

import (
	"fmt"

	"github.com/seamark-lb/seamark/datapath/kernel"
	"github.com/seamark-lb/seamark/datapath/pod"
	"github.com/spf13/cobra"
)

// newCleanupCommand removes Seamark from this node.
func newCleanupCommand(logs *logFlags) *cobra.Command {
	var node nodeFlags
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove everything Seamark left on this node: programs, maps, links, routes, veths",
		Long: "Remove every pinned program, map and link, every route and every pod's veth that\n" +
			"Seamark made on this node. Connections through it end. It refuses while a\n" +
			"seamarkd runs here.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// The datapath first: it refuses while a daemon runs, and then the pods
			// must keep what they have.
			if err := kernel.Cleanup(node.bpffs, node.runDir); err != nil {
				return fmt.Errorf("clean up: %w", err)
			}
			if err := pod.Cleanup(node.stateDir); err != nil {
				return fmt.Errorf("clean up: %w", err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "nothing of Seamark is left on this node")
			return nil
		},
	}
	node.register(cmd.Flags())
	return cmd
}
