package main

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/bfd"
	"github.com/seamark-lb/seamark/state"
	"github.com/spf13/pflag"
)

func bfdFlagsOf(t *testing.T, args ...string) bfdFlags {
	t.Helper()
	var f bfdFlags
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	f.register(fs)
	must(t, fs.Parse(args))
	must(t, f.validate())
	return f
}

// twentyNodes on one segment, and this one's device.
func twentyNodes(db *state.DB, tx *state.Tx) {
	subnet := netip.MustParsePrefix("192.168.10.0/24")
	for i := range byte(20) {
		name := string(rune('a' + i))
		db.Nodes.Put(tx, state.Node{Name: name})
		db.NodeLeases.Put(tx, state.NodeLease{Node: name, Addrs: []netip.Addr{address(100 + i)},
			Interfaces: []state.LeaseInterface{{Name: "eth1", Prefixes: []netip.Prefix{subnet}}}})
	}
	db.Devices.Put(tx, state.Device{Name: "eth1", Index: 3, Prefixes: []netip.Prefix{netip.PrefixFrom(address(100), 24)}})
}

func TestBFDSessionsDecided(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want int
	}{{nil, 0}, {[]string{"--bfd=true"}, 8}, {[]string{"--bfd=false"}, 0}} {
		db, w := state.New()
		d := &deciders{db: db, writer: w, node: "a", log: slog.New(slog.DiscardHandler)}
		flags := bfdFlagsOf(t, append(tc.args, "--bfd-interval=150ms")...)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		done := make(chan error, 1)
		go func() { done <- d.bfdSessions(flags)(ctx) }()
		w.Update(func(tx *state.Tx) {
			twentyNodes(db, tx)
			db.Nodes.MarkSynced(tx)
			db.Devices.MarkSynced(tx)
			db.NodeLeases.MarkSynced(tx)
		})
		for snap := db.Snapshot(); !d.decided(db.BFDSessions.Name())(snap); snap = db.Snapshot() {
			must(t, state.Wait(ctx, snap, time.Minute, db.MarksChanged))
		}
		rows := db.BFDSessions.Rows(db.Snapshot())
		if len(rows) != tc.want {
			t.Errorf("%v: %d sessions, want %d", tc.args, len(rows), tc.want)
		}
		for _, row := range rows {
			if row.MinTx != 150*time.Millisecond || row.Ifindex != 3 {
				t.Errorf("%v: %+v", tc.args, row)
			}
		}
		cancel()
		must(t, <-done)
	}
}

func TestBFDMetrics(t *testing.T) {
	db, w := state.New()
	w.Update(func(tx *state.Tx) {
		db.BFDStates.Put(tx, state.BFDState{Local: address(100), Remote: address(101), Interface: "eth1", Phase: state.BFDUp, Flaps: 2, Owner: "l2"})
		db.BFDStates.Put(tx, state.BFDState{Local: address(100), Remote: address(102), Interface: "eth1", Phase: state.BFDInit, Owner: "l2"})
	})
	m := newMetrics(t, counter.services)
	m.more = append(m.more, bfdMetrics{db, func() bfd.Counts {
		return bfd.Counts{Sent: 7, NotSent: 1, Received: 5, Refused: map[string]uint64{"no such session": 3}}
	}})
	lines := scrape(t, m)
	for _, want := range []string{
		`seamark_bfd_session_up{interface="eth1",local="192.168.10.100",owner="l2",remote="192.168.10.101"} 1`,
		`seamark_bfd_session_up{interface="eth1",local="192.168.10.100",owner="l2",remote="192.168.10.102"} 0`,
		`seamark_bfd_session_flaps_total{interface="eth1",local="192.168.10.100",owner="l2",remote="192.168.10.101"} 2`,
		`seamark_bfd_packets_sent_total 7`, `seamark_bfd_packets_not_sent_total 1`, `seamark_bfd_packets_received_total 5`,
		`seamark_bfd_packets_refused_total{reason="no such session"} 3`,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no series %s in\n%v", want, lines)
		}
	}
}
