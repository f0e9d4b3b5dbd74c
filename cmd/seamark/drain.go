package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	"github.com/spf13/cobra"
)

func newDrain(c *cli) *cobra.Command {
	var force bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "drain NODE",
		Short: "Move a node's addresses to other nodes, and keep them away from it",
		Long: "Move a node's addresses to other nodes, and keep them away from it until it is\n" +
			"undrained, over restarts of its daemon too. Over BGP, its routes to them are the\n" +
			"last resort (GRACEFUL_SHUTDOWN, RFC 8326) until routers have found other paths,\n" +
			"and withdrawn then; the sessions stay. No packet is lost: the node goes on\n" +
			"forwarding. drain returns when others answer for all of its addresses, and it\n" +
			"advertises none. Any node's daemon can be asked.",
		Example: "  seamark drain k8s-w1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.drain(cmd.Context(), cmd.OutOrStdout(), args[0], force, timeout)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also when nobody else may announce some of its addresses: nobody does then")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait for the addresses to go over; 0: not at all")
	return cmd
}

func newUndrain(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "undrain NODE",
		Short: "Let a node that was drained announce addresses again",
		Long: "Let a node that was drained announce addresses again. None comes back by itself:\n" +
			"addresses move only when they must. Over BGP it advertises all again.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.client().Undrain(cmd.Context(), args[0]); err != nil {
				return c.leaseless(cmd.Context(), args[0], err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s may announce addresses again.\n", args[0])
			return nil
		},
	}
}

// leaseless says which nodes there are when the one asked for has no lease.
func (c *cli) leaseless(ctx context.Context, node string, err error) error {
	if !errors.Is(err, source.ErrNotFound) {
		return err
	}
	leases, listErr := control.Rows[state.NodeLease](ctx, c.client(), "nodeleases")
	if listErr != nil {
		return err
	}
	var names []string
	for _, l := range leases {
		names = append(names, l.Node)
	}
	return fmt.Errorf("no seamarkd of a node %q ever kept a lease: there are %s", node, join(names))
}

func (c *cli) drain(ctx context.Context, out io.Writer, node string, force bool, timeout time.Duration) error {
	client := c.client()
	before, err := announcedBy(ctx, client, node)
	if err != nil {
		return err
	}
	err = client.Drain(ctx, node, force)
	switch {
	case errors.Is(err, control.ErrStranded):
		return fmt.Errorf("%w; seamark explain announcement says why, --force drains it all the same", err)
	case err != nil:
		return c.leaseless(ctx, node, err)
	case timeout <= 0:
		fmt.Fprintf(out, "%s is being drained of %s.\n", node, addresses(len(before)))
		return nil
	}
	quiet, left, err := handedOver(ctx, client, node, timeout)
	if err != nil {
		return err
	}
	stays := fmt.Sprintf("it stays drained until seamark undrain %s", node)
	switch {
	case len(left) > 0:
		return fmt.Errorf("%s still announces %s after %v: is there a coordinator (seamark status)? %s", node, strings.Join(left, ", "), timeout, stays)
	case !quiet:
		return fmt.Errorf("the addresses of %s are other nodes' now, but its daemon does not say after %v that it has stopped answering for them, and advertising any over BGP: see seamark status there; %s", node, timeout, stays)
	}
	given := "it has given up " + addresses(len(before))
	if speaks, err := speaksBGP(ctx, client, node); err != nil {
		return err
	} else if speaks {
		given += ", advertises none over BGP"
	}
	fmt.Fprintf(out, "%s is drained: %s, and %s.\n", node, given, stays)
	nobody, err := c.unannounced(ctx, before)
	if err != nil || len(nobody) == 0 {
		return err
	}
	text := fmt.Sprintf("no node announces %s now: seamark explain announcement says why", strings.Join(nobody, ", "))
	if !force { // another node was drained at the same time, or died
		return errors.New(text)
	}
	fmt.Fprintln(out, text)
	return nil
}

// speaksBGP says whether the node is to have sessions with routers.
func speaksBGP(ctx context.Context, client *control.Client, node string) (bool, error) {
	leases, err := control.Rows[state.NodeLease](ctx, client, "nodeleases")
	return slices.ContainsFunc(leases, func(l state.NodeLease) bool { return l.Node == node && len(l.Peers) > 0 }), err
}

// unannounced are those of the addresses that no node announces.
func (c *cli) unannounced(ctx context.Context, addrs []string) (nobody []string, err error) {
	all, err := c.client().Announcements(ctx)
	for _, a := range all {
		if a.Node == "" && slices.Contains(addrs, a.Address.String()) {
			nobody = append(nobody, a.Address.String())
		}
	}
	return nobody, err
}

// handedOver waits until no address is the node's and the node answers for none:
// it says so in its lease, or has no daemon that renews it. It returns whether
// that is so, and the addresses that are still the node's.
func handedOver(ctx context.Context, client *control.Client, node string, timeout time.Duration) (quiet bool, left []string, err error) {
	const look = 200 * time.Millisecond
	end := time.Now().Add(timeout)
	renewal, renewed := "", time.Now()
	for {
		if left, err = announcedBy(ctx, client, node); err != nil {
			return false, nil, err
		}
		leases, err := control.Rows[state.NodeLease](ctx, client, "nodeleases")
		if err != nil {
			return false, nil, err
		}
		i := slices.IndexFunc(leases, func(l state.NodeLease) bool { return l.Node == node })
		if i < 0 {
			return true, left, nil
		}
		if leases[i].Renewal != renewal {
			renewal, renewed = leases[i].Renewal, time.Now()
		}
		quiet = leases[i].Released || time.Since(renewed) > leases[i].Duration
		if quiet && len(left) == 0 || time.Now().After(end) {
			return quiet, left, nil
		}
		select {
		case <-ctx.Done():
			return false, nil, ctx.Err()
		case <-time.After(look):
		}
	}
}

// announcedBy are the addresses that the node was chosen for.
func announcedBy(ctx context.Context, client *control.Client, node string) (addrs []string, err error) {
	all, err := client.Announcements(ctx)
	for _, a := range all {
		if a.Node == node {
			addrs = append(addrs, a.Address.String())
		}
	}
	return addrs, err
}

func addresses(n int) string {
	if n == 1 {
		return "1 address"
	}
	return fmt.Sprintf("%d addresses", n)
}
