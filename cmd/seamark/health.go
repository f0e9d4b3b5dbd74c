package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newHealth(c *cli) *cobra.Command {
	var live, ready bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "health [--live|--ready]",
		Short: "Exit with 0 when this node's daemon is ready (or alive, with --live), else say why not",
		Long: "Exit with 0 when this node's daemon is ready, else with 1 and one line that says why not.\n" +
			"--live asks only whether it answers. For probes; seamark status shows more.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			h, err := c.client().Health(ctx)
			reasons := strings.ReplaceAll(strings.Join(h.NotReady, "; "), "\n", "; ") // an error may have lines
			switch {
			case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
				return fmt.Errorf("seamarkd hangs: no answer on %s within %v", c.socket, timeout)
			case err != nil:
				return err
			case live || !ready:
				fmt.Fprintln(cmd.OutOrStdout(), "alive")
			case !h.Ready:
				return fmt.Errorf("not ready: %s", or(reasons, "it does not say why"))
			default:
				fmt.Fprintln(cmd.OutOrStdout(), "ready")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&live, "live", false, "ask whether the daemon answers")
	cmd.Flags().BoolVar(&ready, "ready", true, "ask whether the daemon is ready")
	// Less than the kubelet gives a probe in the chart (5 s), so that the reason is heard.
	cmd.Flags().DurationVar(&timeout, "timeout", 4*time.Second, "how long the daemon may take to answer")
	cmd.MarkFlagsMutuallyExclusive("live", "ready")
	return cmd
}
