// Command seamarkd is Seamark's daemon: one per node.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/seamark-lb/seamark/cmd/internal/version"
	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := newRootCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "seamarkd:", err)
		os.Exit(1)
	}
}

func newRootCommand() *cobra.Command {
	var node nodeFlags
	var store storeFlags
	var log logFlags
	cmd := &cobra.Command{
		Use:   "seamarkd",
		Short: "Load-balance Services of type LoadBalancer on this node",
		Long: "seamarkd gives Services of type LoadBalancer their addresses, answers ARP for\n" +
			"those this node was chosen for, and forwards their packets to pods in XDP and tc.\n" +
			"One runs on every node; they agree through the store.",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger, err := log.logger()
			if err != nil {
				return err
			}
			if err := node.complete(); err != nil {
				return err
			}
			if err := store.validate(); err != nil {
				return err
			}
			return run(cmd.Context(), node, store, logger)
		},
	}
	node.register(cmd.Flags())
	store.register(cmd.Flags())
	log.register(cmd.PersistentFlags())
	cmd.AddCommand(newStoreCommand(&log), newCleanupCommand(&log), newInstallCNICommand(), newMountBPFFSCommand(), &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), version.Version) },
	})
	return cmd
}

// newLogger writes text to stderr, where systemd and kubectl logs look.
func newLogger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}
