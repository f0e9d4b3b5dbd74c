package source

import (
	"fmt"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BGPPeerStatuses are what is to be said on BGPPeers of their sessions, as the
// nodes' leases tell: of all nodes that there are. dead says whether a node's
// lease went unrenewed: its sessions are none.
func BGPPeerStatuses(db *state.DB, r state.Reader, dead func(node string) bool) []state.BGPPeerStatus {
	down := map[string][]string{}
	sessions, established := map[string]int{}, map[string]int{}
	for lease := range db.NodeLeases.All(r) {
		if _, there := db.Nodes.Get(r, lease.Node); !there && !lease.Appliance {
			continue
		}
		for _, p := range lease.Peers {
			if dead(lease.Node) {
				p.Established, p.Why = 0, "its lease went unrenewed"
			}
			sessions[p.Peer] += p.Sessions
			established[p.Peer] += p.Established
			if p.Established < p.Sessions {
				down[p.Peer] = append(down[p.Peer], fmt.Sprintf("node %s: %s", lease.Node, p.Why))
			}
		}
	}
	var rows []state.BGPPeerStatus
	for peer := range db.BGPPeers.All(r) {
		if peer.Origin.Group != v1alpha1.GroupVersion.Group {
			continue // the status of another project's kind has no room for it
		}
		row := state.BGPPeerStatus{Peer: peer.Name, Sessions: sessions[peer.Name], Established: established[peer.Name], Reason: state.ReasonEstablished}
		switch {
		case row.Sessions == 0:
			row.Reason = state.ReasonNoSession
			row.Message = "no node is to have a session with the peer: write a BGPInstance for it, or change spec.instances or spec.nodeSelectors"
		case row.Established < row.Sessions:
			row.Reason, row.Message = state.ReasonSessionsDown, someOf(down[peer.Name])
		}
		rows = append(rows, row)
	}
	return rows
}

// BGPPeerStatusChange is what the status of the BGPPeer is to say.
func BGPPeerStatusChange(db *state.DB, r state.Reader, row state.BGPPeerStatus) (StatusChange, bool) {
	peer, ok := db.BGPPeers.Get(r, row.Peer)
	if !ok {
		return StatusChange{}, false // the row goes as soon as it is decided anew
	}
	change, ok := changeOf(peer.Origin)
	c := metav1.Condition{Type: v1alpha1.ConditionEstablished, Status: metav1.ConditionFalse, Reason: string(row.Reason), Message: row.Message}
	if row.Reason == state.ReasonEstablished {
		c.Status = metav1.ConditionTrue
	}
	change.Conditions = []metav1.Condition{c}
	change.Fields = map[string]any{"sessions": int64(row.Sessions), "established": int64(row.Established)}
	return change, ok
}
