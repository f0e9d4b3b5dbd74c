package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/spf13/cobra"
)

func newStatus(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how this node's daemon is; exits with 0 only when it is ready",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := c.client().Status(cmd.Context())
			if err != nil {
				return err
			}
			if isTable(c.output) {
				err = printStatus(cmd.OutOrStdout(), st, c.output == outputWide)
			} else {
				err = printValue(cmd.OutOrStdout(), c.output, st)
			}
			if err == nil && !st.Ready {
				err = fmt.Errorf("seamarkd on %s is not ready: %s", st.Node, or(strings.Join(st.NotReady, "; "), "it does not say why"))
			}
			return err
		},
	}
	c.outputFlag(cmd)
	return cmd
}

func printStatus(out io.Writer, st control.Status, wide bool) error {
	t := newTable(out, "")
	ready := "ready"
	if !st.Ready {
		ready = "not ready: " + strings.Join(st.NotReady, "; ")
	}
	t.row("Daemon:", fmt.Sprintf("seamarkd %s, up %s, %s", st.Version, ageOf(st.Started), ready))
	t.row("Node:", or(st.Node, "none: a store alone"))
	t.row("Store:", storeText(st.Store))
	if st.Node != "" { // else a store alone, which has neither
		t.row("Lease:", leaseText(st.Lease))
		t.row("Coordinator:", coordinatorText(st.Coordinator))
	}
	if st.Wire != (control.WireStatus{}) {
		t.row("Wire:", wireText(st.Wire))
	}
	if b := st.Balanced; b != nil {
		t.row("Balanced:", fmt.Sprintf("%d packets, %d bytes to %d backends of %d service ports; %d flows here", b.Packets, b.Bytes, b.Backends, b.Services, b.Flows))
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, section := range []func(io.Writer, control.Status, bool) error{printDevices, printTables, printErrors, printProblems, printNotes, printFills, printVerdicts} {
		if err := section(out, st, wide); err != nil {
			return err
		}
	}
	return nil
}

func storeText(s control.StoreStatus) string {
	text := or(s.Engine, "<unknown>")
	if len(s.Endpoints) > 0 {
		text += " at " + strings.Join(s.Endpoints, ", ")
	}
	if s.Synced {
		text += ", synced"
	} else {
		text += ", not synced yet"
	}
	if s.Requests > 0 {
		text += fmt.Sprintf(", %d requests", s.Requests)
	}
	if s.Err != "" {
		text += ", failing: " + s.Err
	}
	return text
}

func leaseText(l control.LeaseStatus) string {
	text := or(l.State, "none")
	if l.State == "valid" {
		text += fmt.Sprintf(" for another %s", l.Left.Round(100*time.Millisecond))
	}
	if l.Drained {
		text += ", drained"
	}
	if !l.Renewed.IsZero() {
		text += fmt.Sprintf(", renewed %s ago", ageOf(l.Renewed))
	}
	if l.Err != "" {
		text += ", failing: " + l.Err
	}
	return text
}

func wireText(w control.WireStatus) string {
	return fmt.Sprintf("%d gratuitous ARP sent, %d claims by cluster nodes (%d kept, %d yielded), %d by strangers (%d defended)",
		w.Gratuitous, w.ClusterClaims, w.Kept, w.Yielded, w.StrangerClaims, w.Defences)
}

func coordinatorText(c control.Coordinator) string {
	if c.Self {
		return or(c.Identity, "<unknown>") + " (this daemon)"
	}
	return or(c.Identity, "none elected")
}

func printDevices(out io.Writer, st control.Status, _ bool) error {
	if len(st.Devices) == 0 {
		return nil
	}
	fmt.Fprintln(out, "Devices:")
	t := newTable(out, "  ", "NAME", "STATE", "MAC", "ATTACHED", "ERROR")
	for _, d := range st.Devices {
		state := "down"
		if d.Up {
			state = "up"
		}
		t.row(d.Name, state, or(d.MAC, none), or(d.Attach, none), d.Err)
	}
	return t.flush()
}

// printTables shows the tables with rows, and all of them when wide.
func printTables(out io.Writer, st control.Status, wide bool) error {
	if len(st.Tables) == 0 {
		return nil
	}
	fmt.Fprintln(out, "Tables:")
	t := newTable(out, "  ", "NAME", "ROWS", "PENDING", "FAILED", "DELETING")
	for _, ts := range st.Tables {
		if ts.Rows > 0 || wide {
			t.row(ts.Name, strconv.Itoa(ts.Rows), strconv.Itoa(ts.Pending), strconv.Itoa(ts.Failed), strconv.Itoa(ts.Deleting))
		}
	}
	return t.flush()
}

func printErrors(out io.Writer, st control.Status, _ bool) error {
	t := newTable(out, "  ", "TABLE", "ROW", "TRIES", "ERROR")
	some := false
	for _, ts := range st.Tables {
		for _, e := range ts.Errors {
			some = true
			t.row(ts.Name, e.Row, strconv.Itoa(e.Tries), e.Err)
		}
	}
	if !some {
		return nil
	}
	fmt.Fprintln(out, "Errors:")
	return t.flush()
}

func printProblems(out io.Writer, st control.Status, _ bool) error {
	if len(st.Problems) == 0 {
		return nil
	}
	fmt.Fprintln(out, "Problems:")
	for _, p := range st.Problems {
		fmt.Fprintln(out, "  "+p)
	}
	return nil
}

func printNotes(out io.Writer, st control.Status, _ bool) error {
	if len(st.Notes) == 0 {
		return nil
	}
	fmt.Fprintln(out, "Beside Seamark:")
	for _, n := range st.Notes {
		fmt.Fprintln(out, "  "+n)
	}
	return nil
}

// printFills shows how full the tables of flows are that hold any, and all of
// them when wide.
func printFills(out io.Writer, st control.Status, wide bool) error {
	t := newTable(out, "  ", "NAME", "ENTRIES", "ROOM", "FULL")
	some := false
	if st.Balanced != nil {
		for _, f := range st.Balanced.Tables {
			if f.Entries > 0 || wide {
				some = true
				t.row(f.Name, strconv.FormatUint(f.Entries, 10), strconv.FormatUint(f.Max, 10), share(f.Entries, f.Max))
			}
		}
	}
	if !some {
		return nil
	}
	fmt.Fprintln(out, "Tables of flows:")
	return t.flush()
}

// printVerdicts shows what was dropped, and all verdicts when wide.
func printVerdicts(out io.Writer, st control.Status, wide bool) error {
	title, header := "Drops:", []string{"REASON", "PACKETS", "BYTES"}
	if wide {
		title, header = "Verdicts:", []string{"REASON", "PACKETS", "BYTES", "DROPPED"}
	}
	t := newTable(out, "  ", header...)
	some := false
	for _, v := range st.Verdicts {
		if v.Packets == 0 || !v.Dropped && !wide {
			continue
		}
		some = true
		cells := []string{v.Reason, strconv.FormatUint(v.Packets, 10), strconv.FormatUint(v.Bytes, 10)}
		if wide {
			cells = append(cells, strconv.FormatBool(v.Dropped))
		}
		t.row(cells...)
	}
	if !some {
		fmt.Fprintln(out, title, "none")
		return nil
	}
	fmt.Fprintln(out, title)
	return t.flush()
}
