package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/seamark-lb/seamark/testlab/delay"
	"github.com/seamark-lb/seamark/testlab/traffic"
	"github.com/seamark-lb/seamark/testlab/webpod"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

// The commands in this file run where they are started: in the lab, by
// `testlab exec HOST -- testlab …`.

func webpodCommand() *cobra.Command {
	hostname, _ := os.Hostname() // a flag's default
	name := hostname
	var port int
	cmd := &cobra.Command{
		Use:   "webpod",
		Short: "Serve HTTP and UDP echo, saying who answers",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return webpod.Serve(cmd.Context(), name, port)
		},
	}
	cmd.Flags().StringVar(&name, "name", hostname, "Hostname to answer with")
	cmd.Flags().IntVar(&port, "port", 80, "TCP and UDP port")
	return cmd
}

func proxyCommand() *cobra.Command {
	var p delay.Proxy
	var listen, control string
	cmd := &cobra.Command{
		Use:   "proxy",
		Short: "Carry TCP connections with a delay that can be set",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			listener, err := net.Listen("tcp", listen)
			if err != nil {
				return fmt.Errorf("start proxy: %w", err)
			}
			group, ctx := errgroup.WithContext(cmd.Context())
			group.Go(func() error { return p.Serve(ctx, listener) })
			group.Go(func() error { return p.Control(ctx, control) })
			return group.Wait()
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "", "address to listen on (host:port)")
	cmd.Flags().StringVar(&p.To, "connect", "", "address to carry connections to (host:port)")
	cmd.Flags().StringVar(&control, "control", "", "unix socket that takes delays")
	for _, f := range []string{"listen", "connect", "control"} {
		cmd.MarkFlagRequired(f)
	}
	return cmd
}

// measure runs a measurement for a while, or until a signal ends it, and
// prints its result.
func measure[R fmt.Stringer](cmd *cobra.Command, d time.Duration, asJSON bool, run func(context.Context) (R, error)) error {
	ctx := cmd.Context()
	if d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	result, err := run(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(result)
	}
	fmt.Fprintln(cmd.OutOrStdout(), result)
	return nil
}

func measureFlags(cmd *cobra.Command, d *time.Duration, asJSON *bool) {
	cmd.Flags().DurationVar(d, "duration", 0, "how long; 0: until SIGINT or SIGTERM")
	cmd.Flags().BoolVar(asJSON, "json", false, "print the result as JSON")
}

func streamsCommand() *cobra.Command {
	var d time.Duration
	var asJSON bool
	var count int
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "streams ADDRESS:PORT",
		Short: "Hold streaming HTTP connections to webpods and count what breaks",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := netip.ParseAddrPort(args[0])
			if err != nil {
				return fmt.Errorf("address %q: %w", args[0], err)
			}
			return measure(cmd, d, asJSON, func(ctx context.Context) (traffic.StreamsResult, error) {
				s, err := traffic.OpenStreams(ctx, traffic.Here{}, to, count, interval)
				if err != nil {
					return traffic.StreamsResult{}, err
				}
				defer s.Close()
				fmt.Fprintf(cmd.ErrOrStderr(), "%d connections open\n", count)
				<-ctx.Done()
				return s.Result(), nil
			})
		},
	}
	measureFlags(cmd, &d, &asJSON)
	cmd.Flags().IntVar(&count, "count", 10, "connections")
	cmd.Flags().DurationVar(&interval, "interval", 100*time.Millisecond, "time between lines that the pods send")
	return cmd
}

func probeCommand() *cobra.Command {
	var d time.Duration
	var asJSON bool
	var rate int
	var udp bool
	cmd := &cobra.Command{
		Use:   "probe ADDRESS:PORT",
		Short: "Connect (or, with --udp, send) many times a second and report the longest outage",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := netip.ParseAddrPort(args[0])
			if err != nil {
				return fmt.Errorf("address %q: %w", args[0], err)
			}
			probe := traffic.ProbeTCP
			if udp {
				probe = traffic.ProbeUDP
			}
			return measure(cmd, d, asJSON, func(ctx context.Context) (traffic.ProbeResult, error) {
				return probe(ctx, traffic.Here{}, to, rate)
			})
		},
	}
	measureFlags(cmd, &d, &asJSON)
	cmd.Flags().IntVar(&rate, "rate", 100, "probes a second")
	cmd.Flags().BoolVar(&udp, "udp", false, "UDP echo instead of TCP connect")
	return cmd
}

func arpwatchCommand() *cobra.Command {
	var d, interval time.Duration
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "arpwatch IFACE ADDRESS",
		Short: "Ask by ARP who has an address, again and again, and report who answered when",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			address, err := netip.ParseAddr(args[1])
			if err != nil {
				return fmt.Errorf("address %q: %w", args[1], err)
			}
			return measure(cmd, d, asJSON, func(ctx context.Context) (traffic.ARPResult, error) {
				return traffic.WatchARP(ctx, traffic.Here{}, args[0], address, interval)
			})
		},
	}
	measureFlags(cmd, &d, &asJSON)
	cmd.Flags().DurationVar(&interval, "interval", 50*time.Millisecond, "time between requests")
	return cmd
}
