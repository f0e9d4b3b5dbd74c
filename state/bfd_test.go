package state_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

func TestBFDLost(t *testing.T) {
	for _, tc := range []struct {
		name string
		row  state.BFDState
		want bool
	}{
		{"never up", state.BFDState{Phase: state.BFDDown}, false},
		{"up", state.BFDState{Phase: state.BFDUp, WasUp: true}, false},
		{"silent", state.BFDState{Phase: state.BFDDown, WasUp: true, Diag: state.BFDTimeExpired, RemotePhase: state.BFDUp}, true},
		{"heard", state.BFDState{Phase: state.BFDDown, WasUp: true, Diag: state.BFDTimeExpired, RemotePhase: state.BFDUp, RemoteDiscr: 7}, false},
		{"heard again", state.BFDState{Phase: state.BFDInit, WasUp: true, Diag: state.BFDTimeExpired}, false},
		{"up again", state.BFDState{Phase: state.BFDUp, WasUp: true, Diag: state.BFDTimeExpired}, false},
		{"it stopped", state.BFDState{Phase: state.BFDDown, WasUp: true, Diag: state.BFDNeighborDown, RemotePhase: state.BFDAdminDown}, false},
		{"it does not hear us", state.BFDState{Phase: state.BFDDown, WasUp: true, Diag: state.BFDNeighborDown, RemotePhase: state.BFDDown}, false},
		{"we stopped", state.BFDState{Phase: state.BFDAdminDown, WasUp: true, Diag: state.BFDByAdministrator}, false},
	} {
		if got := tc.row.Lost(); got != tc.want {
			t.Errorf("%s: lost %v, want %v", tc.name, got, tc.want)
		}
	}
}

// A session and its state have one key, and the state is found by the remote address.
func TestBFDKeys(t *testing.T) {
	db, w := state.New()
	local, remote := netip.MustParseAddr("192.168.10.100"), netip.MustParseAddr("192.168.10.101")
	session := state.BFDSession{Local: local, Remote: remote, Interface: "eth1"}
	multihop := state.BFDSession{Local: local, Remote: remote, Multihop: true}
	if session.RowKey() == multihop.RowKey() {
		t.Errorf("both have the key %q", session.RowKey())
	}
	row := state.BFDState{Local: local, Remote: remote, Interface: "eth1"}
	if row.RowKey() != session.RowKey() {
		t.Errorf("the state's key is %q, the session's %q", row.RowKey(), session.RowKey())
	}
	w.Update(func(tx *state.Tx) { db.BFDStates.Put(tx, row) })
	found := 0
	for range db.BFDStates.By(db.Snapshot(), state.IndexAddr, remote.String()) {
		found++
	}
	if found != 1 {
		t.Errorf("%d states found by %s, want 1", found, remote)
	}
}

// What several want is one session: with the timers that notice first, in
// whatever order they are given.
func TestMergeBFD(t *testing.T) {
	const ms = time.Millisecond
	row := func(iface, owner string, interval time.Duration, multiplier uint8, passive bool) state.BFDSession {
		return state.BFDSession{Local: netip.MustParseAddr("192.168.10.100"), Remote: netip.MustParseAddr("192.168.10.200"), Interface: iface, Ifindex: 3,
			MinTx: interval, MinRx: interval, Multiplier: multiplier, Passive: passive, Owner: owner}
	}
	for _, test := range []struct {
		name string
		rows []state.BFDSession
		want []state.BFDSession
	}{
		{"nothing", nil, nil},
		{"two interfaces", []state.BFDSession{row("eth2", "l2", 100*ms, 3, false), row("eth1", "bgp", 100*ms, 3, false)},
			[]state.BFDSession{row("eth1", "bgp", 100*ms, 3, false), row("eth2", "l2", 100*ms, 3, false)}},
		{"the faster", []state.BFDSession{row("eth1", "l2", 100*ms, 3, false), row("eth1", "bgp", 300*ms, 3, true)},
			[]state.BFDSession{row("eth1", "bgp,l2", 100*ms, 3, false)}},
		{"short intervals, many of them", []state.BFDSession{row("eth1", "l2", 50*ms, 10, false), row("eth1", "bgp", 100*ms, 3, false)},
			[]state.BFDSession{row("eth1", "bgp,l2", 100*ms, 3, false)}},
		{"one owner twice", []state.BFDSession{row("eth1", "bgp", 300*ms, 3, true), row("eth1", "bgp", 100*ms, 3, true), row("eth1", "l2", 300*ms, 3, true)},
			[]state.BFDSession{row("eth1", "bgp,l2", 100*ms, 3, true)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for range 2 {
				if got := state.MergeBFD(test.rows[:len(test.rows)/2], test.rows[len(test.rows)/2:]); !slices.Equal(got, test.want) {
					t.Errorf("got  %+v\nwant %+v", got, test.want)
				}
				slices.Reverse(test.rows)
			}
		})
	}
	far, near := row("", "bgp", 100*ms, 3, false), row("", "bgp", 300*ms, 3, false)
	far.Multihop, far.Ifindex, far.MinTTL, near.Multihop, near.Ifindex, near.MinTTL = true, 0, 60, true, 0, 254
	if got := state.MergeBFD([]state.BFDSession{near}, []state.BFDSession{far}); len(got) != 1 || got[0].MinTTL != 60 {
		t.Errorf("of several hops: %+v", got)
	}
}
