package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/state"
)

// bfdKind is shown from the tables: no object is behind it.
const bfdKind = "bfd"

func isBFD(name string) bool { return strings.EqualFold(name, bfdKind) }

// bfdSession is a BFD session of this node and how it stands.
type bfdSession struct {
	Local     string `json:"local"`
	Remote    string `json:"remote"`
	Interface string `json:"interface,omitempty"`
	Multihop  bool   `json:"multihop,omitempty"`
	Owner     string `json:"owner"`
	// State of this end, and RemoteState as the other end last told it.
	State       string `json:"state"`
	RemoteState string `json:"remoteState"`
	Since       string `json:"since,omitempty"`
	Flaps       int    `json:"flaps"`
	// Why it was last down, or cannot be.
	Why              string `json:"why,omitempty"`
	TransmitInterval string `json:"transmitInterval,omitempty"`
	DetectionTime    string `json:"detectionTime,omitempty"`
	Discriminator    uint32 `json:"discriminator,omitempty"`
	RemoteDiscr      uint32 `json:"remoteDiscriminator,omitempty"`
}

// getBFD shows the node's BFD sessions, or those with the given remote addresses.
func getBFD(ctx context.Context, c *cli, out, errOut io.Writer, remotes []string) error {
	wanted, err := control.Rows[state.BFDSession](ctx, c.client(), "bfdsessions")
	if err != nil {
		return err
	}
	states, err := control.Rows[state.BFDState](ctx, c.client(), "bfdstates")
	if err != nil {
		return err
	}
	standing := map[string]state.BFDState{}
	for _, st := range states {
		standing[st.RowKey()] = st
	}
	slices.SortFunc(wanted, state.BFDSession.Compare)
	sessions := []bfdSession{}
	for _, row := range wanted {
		if len(remotes) > 0 && !slices.Contains(remotes, row.Remote.String()) {
			continue
		}
		st, ok := standing[row.RowKey()]
		if !ok {
			st = state.BFDState{Phase: state.BFDDown, RemotePhase: state.BFDDown}
		}
		sessions = append(sessions, sessionOf(row, st))
	}
	for _, remote := range remotes {
		if !slices.ContainsFunc(sessions, func(s bfdSession) bool { return s.Remote == remote }) {
			return fmt.Errorf("no BFD session with %s; seamark get bfd lists those there are", remote)
		}
	}
	switch {
	case !isTable(c.output):
		return printValue(out, c.output, sessions)
	case len(sessions) == 0:
		fmt.Fprintln(errOut, "No BFD sessions found.")
		return nil
	}
	return printBFD(out, sessions, c.output == outputWide)
}

func sessionOf(row state.BFDSession, st state.BFDState) bfdSession {
	s := bfdSession{Local: row.Local.String(), Remote: row.Remote.String(), Interface: row.Interface, Multihop: row.Multihop, Owner: row.Owner,
		State: st.Phase.String(), RemoteState: st.RemotePhase.String(), Flaps: st.Flaps, Discriminator: st.Discr, RemoteDiscr: st.RemoteDiscr}
	if !st.Since.IsZero() {
		s.Since = timestamp(st.Since)
	}
	if st.Tx > 0 {
		s.TransmitInterval = st.Tx.String()
	}
	if st.Detect > 0 {
		s.DetectionTime = st.Detect.String()
	}
	switch {
	case row.Status.Err != "":
		s.Why = row.Status.Err
	case st.Diag != state.BFDNoDiag:
		s.Why = st.Diag.String()
	case !st.WasUp:
		s.Why = "never up: no BFD there?"
	}
	return s
}

func printBFD(out io.Writer, sessions []bfdSession, wide bool) error {
	header := []string{"REMOTE", "INTERFACE", "OWNER", "STATE", "SINCE", "FLAPS", "LAST DOWN"}
	if wide {
		header = append(header, "LOCAL", "REMOTE STATE", "INTERVAL", "DETECTION TIME")
	}
	t := newTable(out, "", header...)
	for _, s := range sessions {
		way := s.Interface
		if s.Multihop {
			way = "multihop"
		}
		cells := []string{s.Remote, way, s.Owner, s.State, or(s.Since, none), strconv.Itoa(s.Flaps), or(s.Why, none)}
		if wide {
			cells = append(cells, s.Local, s.RemoteState, or(s.TransmitInterval, none), or(s.DetectionTime, none))
		}
		t.row(cells...)
	}
	return t.flush()
}
