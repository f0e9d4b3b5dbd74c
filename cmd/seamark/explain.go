package main

import (
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/spf13/cobra"
)

func newExplain(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "explain announcement|advertisement ADDRESS",
		Short:   "Say who announces an address, or to which routers this node advertises it, and why not",
		Example: "  seamark explain announcement 192.168.10.211\n  seamark explain advertisement 10.10.50.1",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := parseTarget(args)
			if err != nil {
				return err
			}
			advertisement := strings.TrimSuffix(t.kind, "s") == "advertisement"
			if !isAnnouncement(t.kind) && !advertisement || len(t.names) != 1 {
				return fmt.Errorf("want: seamark %s", cmd.Use)
			}
			addr, err := netip.ParseAddr(t.names[0])
			if err != nil {
				return fmt.Errorf("%q is no address: announcements are named by their address, as in 192.168.10.211", t.names[0])
			}
			if advertisement {
				return explainAdvertisement(cmd.Context(), c, cmd.OutOrStdout(), cmd.ErrOrStderr(), addr)
			}
			e, err := c.client().Explain(cmd.Context(), addr)
			if err != nil {
				return err
			}
			if !isTable(c.output) {
				return printValue(cmd.OutOrStdout(), c.output, e)
			}
			return printExplanation(cmd.OutOrStdout(), e)
		},
	}
	c.outputFlag(cmd)
	return cmd
}

func printExplanation(out io.Writer, e control.Explanation) error {
	t := newTable(out, "")
	t.row("Address:", e.Address.String())
	t.row("Services:", join(e.Services))
	t.row("Pool:", or(e.Pool, none))
	t.row("Policies:", join(e.Policies))
	switch {
	case e.Node != "":
		text := fmt.Sprintf("%s since %s (%s, generation %d)", e.Node, timestamp(e.Since), e.Reason, e.Generation)
		if e.Previous != "" {
			text += ", before it " + e.Previous
		}
		t.row("Announced by:", text)
	case e.Reason != "":
		t.row("Announced by:", fmt.Sprintf("%s since %s (%s)", none, timestamp(e.Since), e.Reason))
	default:
		t.row("Announced by:", none)
	}
	if err := t.flush(); err != nil {
		return err
	}
	if len(e.Nodes) > 0 {
		fmt.Fprintln(out, "Nodes:")
		t := newTable(out, "  ", "NODE", "CANDIDATE", "LEASE", "INTERFACES", "WHY")
		for _, n := range e.Nodes {
			candidate := "yes"
			if !n.Candidate {
				candidate = "no: " + n.Bar
			}
			t.row(n.Node, candidate, n.Lease, join(n.Interfaces), n.Why)
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	for _, line := range e.Advice {
		fmt.Fprintln(out, "What to do: "+line)
	}
	return nil
}
