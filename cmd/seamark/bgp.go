package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/state"
	"github.com/spf13/cobra"
)

func newBGP(c *cli) *cobra.Command {
	cmd := &cobra.Command{Use: "bgp", Short: "Show this node's BGP sessions and routes"}
	peers := &cobra.Command{Use: "peers", Short: "Sessions with routers, and how they stand", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return bgpPeers(cmd.Context(), c, cmd.OutOrStdout(), cmd.ErrOrStderr())
		}}
	c.outputFlag(peers)
	routes := &cobra.Command{Use: "routes", Short: "Routes of the sessions"}
	for direction, short := range map[string]string{
		control.BGPAdvertised: "Routes that peers were sent", control.BGPReceived: "Routes that peers have sent",
	} {
		one := &cobra.Command{Use: direction + " [PEER]", Short: short, Args: cobra.MaximumNArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return bgpRoutes(cmd.Context(), c, cmd.OutOrStdout(), cmd.ErrOrStderr(), direction, strings.Join(args, ""))
			}}
		c.outputFlag(one)
		routes.AddCommand(one)
	}
	cmd.AddCommand(peers, routes)
	return cmd
}

// bgpPeer is a session that there is to be, and how it stands.
type bgpPeer struct {
	Instance string `json:"instance"`
	Peer     string `json:"peer"`
	Address  string `json:"address"`
	ASN      uint32 `json:"asn,omitempty"`
	State    string `json:"state"`
	Since    string `json:"since,omitempty"`
	// BFD is how the BFD session beside it stands; "": there is none.
	BFD      string `json:"bfd,omitempty"`
	Families string `json:"families"`
	// Received and Advertised prefixes.
	Received   int `json:"received"`
	Advertised int `json:"advertised"`
	Flaps      int `json:"flaps"`
	// LastError, and when it was; "": it is so now.
	LastError   string `json:"lastError,omitempty"`
	LastErrorAt string `json:"lastErrorAt,omitempty"`
}

// The states of sessions that BGP has no name for.
const (
	notBegun   = "not begun"
	impossible = "impossible"
)

func bgpPeers(ctx context.Context, c *cli, out, errOut io.Writer) error {
	sessions, err := control.Rows[state.BGPSession](ctx, c.client(), "bgpsessions")
	if err != nil {
		return err
	}
	states, err := control.Rows[state.BGPSessionState](ctx, c.client(), "bgpsessionstates")
	if err != nil {
		return err
	}
	speakers, err := control.Rows[state.BGPSpeaker](ctx, c.client(), "bgpspeakers")
	if err != nil {
		return err
	}
	slices.SortFunc(sessions, func(a, b state.BGPSession) int { return strings.Compare(a.RowKey(), b.RowKey()) })
	rows := []bgpPeer{}
	for _, s := range sessions {
		row := bgpPeer{Instance: s.Instance, Peer: s.Peer, Address: s.Interface, ASN: s.ASN.Number, State: notBegun, Families: families(s.IPv4, s.IPv6)}
		if s.Remote.IsValid() {
			row.Address = s.Remote.String()
		}
		speaker := state.BGPSpeaker{}
		if i := slices.IndexFunc(speakers, func(sp state.BGPSpeaker) bool { return sp.Instance == s.Instance }); i >= 0 {
			speaker = speakers[i]
		}
		row.LastError = cmp.Or(s.Bar, s.Status.Err, speaker.Status.Err, string(s.Status.Reason))
		if s.Bar != "" {
			row.State = impossible
		}
		i := slices.IndexFunc(states, func(st state.BGPSessionState) bool { return st.RowKey() == s.RowKey() })
		if i >= 0 && s.Bar == "" {
			st := states[i]
			row.Address, row.ASN, row.State, row.Flaps = st.Remote.String(), st.ASN, st.State, st.Flaps
			row.Received, row.Advertised, row.LastError, row.BFD = st.Received, st.Advertised, st.LastError, st.BFD
			if !st.Since.IsZero() {
				row.Since = timestamp(st.Since)
			}
			if !st.ErrorAt.IsZero() {
				row.LastErrorAt = timestamp(st.ErrorAt)
			}
			if st.State == state.BGPEstablished { // what both ends exchange
				row.Families = families(st.IPv4, st.IPv6)
			}
		}
		rows = append(rows, row)
	}
	return bgpTable(c, out, errOut, rows, []string{"INSTANCE", "PEER", "ADDRESS", "ASN", "STATE", "SINCE", "BFD", "FAMILIES", "RECEIVED", "ADVERTISED", "FLAPS", "LAST ERROR"},
		func(p bgpPeer) []string {
			asn := none
			if p.ASN != 0 {
				asn = strconv.FormatUint(uint64(p.ASN), 10)
			}
			last := or(p.LastError, none)
			if p.LastErrorAt != "" {
				last += " (at " + p.LastErrorAt + ")"
			}
			return []string{p.Instance, p.Peer, or(p.Address, none), asn, p.State, or(p.Since, none), or(p.BFD, none), or(p.Families, none), strconv.Itoa(p.Received),
				strconv.Itoa(p.Advertised), strconv.Itoa(p.Flaps), last}
		}, "No BGP sessions found. They begin with a BGPInstance and a BGPPeer that select this node.")
}

func families(v4, v6 bool) string {
	var names []string
	if v4 {
		names = append(names, "ipv4")
	}
	if v6 {
		names = append(names, "ipv6")
	}
	return strings.Join(names, ",")
}

func bgpRoutes(ctx context.Context, c *cli, out, errOut io.Writer, direction, peer string) error {
	paths, err := c.client().BGPPaths(ctx, direction, peer)
	if err != nil {
		return err
	}
	columns := []string{"INSTANCE", "PEER", "PREFIX", "NEXT HOP", "AS PATH", "MED", "LOCAL PREF", "COMMUNITIES"}
	if direction == control.BGPReceived {
		columns = append(columns, "IMPORTED")
	}
	return bgpTable(c, out, errOut, paths, columns,
		func(p control.BGPPath) []string {
			number := func(n *uint32) string {
				if n == nil {
					return none
				}
				return strconv.FormatUint(uint64(*n), 10)
			}
			cells := []string{p.Instance, p.Peer, p.Prefix.String(), p.NextHop, or(strings.Trim(fmt.Sprint(p.ASPath), "[]"), none),
				number(p.MED), number(p.LocalPref), or(strings.Join(p.Communities, " "), none)}
			switch {
			case p.Imported:
				cells = append(cells, "yes")
			case direction == control.BGPReceived:
				cells = append(cells, "no: "+p.NotImported)
			}
			return cells
		}, "No routes "+direction+".")
}

func explainAdvertisement(ctx context.Context, c *cli, out, errOut io.Writer, addr netip.Addr) error {
	all, err := c.client().ExplainAdvertisement(ctx, addr)
	if err != nil {
		return err
	}
	return bgpTable(c, out, errOut, all, []string{"ADVERTISEMENT", "INSTANCE", "PEER", "ADVERTISED", "PREFIX", "ATTRIBUTES"},
		func(s control.AdvertisementStanding) []string {
			advertised, prefix := "yes", none
			if !s.Advertised {
				advertised = "no: " + s.Why
			}
			if s.Prefix.IsValid() {
				prefix = s.Prefix.String()
			}
			return []string{s.Advertisement, s.Instance, s.Peer, advertised, prefix, or(s.Attributes, none)}
		}, "Nothing advertises it from here: it takes a BGPAdvertisement, and a BGPInstance and a BGPPeer that select this node.")
}

// bgpTable prints rows as -o says; none of them: what there is none of, on errOut.
func bgpTable[T any](c *cli, out, errOut io.Writer, rows []T, columns []string, cells func(T) []string, empty string) error {
	if !isTable(c.output) {
		return printValue(out, c.output, rows)
	}
	if len(rows) == 0 {
		fmt.Fprintln(errOut, empty)
		return nil
	}
	t := newTable(out, "", columns...)
	for _, row := range rows {
		t.row(cells(row)...)
	}
	return t.flush()
}
