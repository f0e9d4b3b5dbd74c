package source_test

import (
	"testing"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

// What a BGPPeer says of its sessions is the sum of what the nodes' leases tell.
func TestBGPPeerStatuses(t *testing.T) {
	lease := func(node string, established int, why string) state.NodeLease {
		return state.NodeLease{Node: node, Peers: []state.LeasePeer{{Peer: "router", Sessions: 2, Established: established, Why: why}}}
	}
	appliance := lease("lb", 2, "")
	appliance.Appliance = true
	for _, test := range []struct {
		name   string
		leases []state.NodeLease
		want   state.BGPPeerStatus
	}{
		{"no node has one", []state.NodeLease{{Node: "n1"}}, state.BGPPeerStatus{Reason: state.ReasonNoSession,
			Message: "no node is to have a session with the peer: write a BGPInstance for it, or change spec.instances or spec.nodeSelectors"}},
		{"all", []state.NodeLease{lease("n1", 2, ""), lease("n2", 2, "")}, state.BGPPeerStatus{Sessions: 4, Established: 4, Reason: state.ReasonEstablished}},
		{"some are down", []state.NodeLease{lease("n1", 1, "hold timer expired"), lease("n2", 0, "connection refused")},
			state.BGPPeerStatus{Sessions: 4, Established: 1, Reason: state.ReasonSessionsDown, Message: "node n1: hold timer expired; node n2: connection refused"}},
		{"a node is dead", []state.NodeLease{lease("n1", 2, ""), lease("dead", 2, "")},
			state.BGPPeerStatus{Sessions: 4, Established: 2, Reason: state.ReasonSessionsDown, Message: "node dead: its lease went unrenewed"}},
		{"a node is gone", []state.NodeLease{lease("n1", 2, ""), lease("gone", 0, "")}, state.BGPPeerStatus{Sessions: 2, Established: 2, Reason: state.ReasonEstablished}},
		{"an appliance", []state.NodeLease{appliance}, state.BGPPeerStatus{Sessions: 2, Established: 2, Reason: state.ReasonEstablished}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStore(t)
			s.put("{apiVersion: seamark.dev/v1alpha1, kind: BGPPeer, metadata: {name: router}, spec: {peerAddress: 192.168.10.200, peerASN: 65000}}")
			s.writer.Update(func(tx *state.Tx) {
				for _, node := range []string{"n1", "n2", "dead"} {
					s.db.Nodes.Put(tx, state.Node{Name: node})
				}
				for _, l := range test.leases {
					s.db.NodeLeases.Put(tx, l)
				}
			})
			rows := source.BGPPeerStatuses(s.db, s.db.Snapshot(), func(node string) bool { return node == "dead" })
			test.want.Peer = "router"
			if len(rows) != 1 || rows[0] != test.want {
				t.Errorf("got %+v, want %+v", rows, test.want)
			}
		})
	}
}
