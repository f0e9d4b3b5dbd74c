package state_test

import (
	"net/netip"
	"testing"

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
