package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/testlab"
	"github.com/spf13/cobra"
)

func powerCommand(name *string, use, short string, do func(context.Context, *testlab.Lab, string) error) *cobra.Command {
	return &cobra.Command{
		Use:   use + " HOST",
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := testlab.Open(*name)
			if err != nil {
				return err
			}
			return do(cmd.Context(), l, args[0])
		},
	}
}

func linkCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "link HOST IFACE up|down",
		Short: "Plug in or pull the cable of a host's interface",
		Args:  cobra.ExactArgs(3),
		RunE: func(_ *cobra.Command, args []string) error {
			if args[2] != "up" && args[2] != "down" {
				return fmt.Errorf("link %q: want up or down", args[2])
			}
			l, err := testlab.Open(*name)
			if err != nil {
				return err
			}
			return l.SetLink(args[0], args[1], args[2] == "up")
		},
	}
}

func daemonCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:       "daemon HOST " + strings.Join(testlab.DaemonActions, "|"),
		Short:     "Act on a host's seamarkd (on the control-plane host: the store, or all of Kubernetes)",
		Args:      cobra.ExactArgs(2),
		ValidArgs: testlab.DaemonActions,
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := testlab.Open(*name)
			if err != nil {
				return err
			}
			return l.Daemon(cmd.Context(), args[0], args[1])
		},
	}
}

func apiCommand(name *string) *cobra.Command {
	api := &cobra.Command{Use: "api", Short: "Stop, start or slow down the control plane"}
	add := func(use, short string, args cobra.PositionalArgs, do func(context.Context, *testlab.Lab, []string) error) {
		api.AddCommand(&cobra.Command{Use: use, Short: short, Args: args, RunE: func(cmd *cobra.Command, args []string) error {
			l, err := testlab.Open(*name)
			if err != nil {
				return err
			}
			return do(cmd.Context(), l, args)
		}})
	}
	add("stop", "Stop the control plane", cobra.NoArgs, func(ctx context.Context, l *testlab.Lab, _ []string) error {
		return l.StopAPI(ctx)
	})
	add("start", "Start the control plane and wait until it is ready", cobra.NoArgs,
		func(ctx context.Context, l *testlab.Lab, _ []string) error { return l.StartAPI(ctx) })
	add("delay MS", "Hold back what goes to and from the control plane, each way; 0 ends it", cobra.ExactArgs(1),
		func(ctx context.Context, l *testlab.Lab, args []string) error {
			ms, err := strconv.ParseUint(args[0], 10, 31)
			if err != nil {
				return fmt.Errorf("delay %q: want a number of milliseconds", args[0])
			}
			return l.DelayAPI(ctx, time.Duration(ms)*time.Millisecond)
		})
	return api
}

func readyCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "ready yes|no POD…",
		Short: "Say that pods are ready, or not, in the EndpointSlice or the Pods' statuses",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] != "yes" && args[0] != "no" {
				return fmt.Errorf("ready %q: want yes or no", args[0])
			}
			l, err := testlab.Open(*name)
			if err != nil {
				return err
			}
			return l.SetReady(cmd.Context(), args[0] == "yes", args[1:]...)
		},
	}
}
