package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A lease says of each BGPPeer how many sessions there should be, how many are
// established, and why the others are not.
func TestReportedPeers(t *testing.T) {
	db, writer := state.New()
	d := &deciders{db: db, writer: writer, node: "n1"}
	peer := func(name string) state.BGPPeer {
		return state.BGPPeer{Name: name, Origin: state.ObjectRef{Group: "seamark.dev", Kind: "BGPPeer", Name: name}}
	}
	elsewhere := peer("elsewhere")
	elsewhere.NodeSelectors = []metav1.LabelSelector{{MatchLabels: map[string]string{"rack": "2"}}}
	in := func(instances, name string) state.BGPPeer {
		p := peer(name)
		p.Instances = strings.Split(instances, "")
		return p
	}
	before := []state.LeasePeer{{Peer: "up", Sessions: 1, Established: 1}}
	writer.Update(func(tx *state.Tx) {
		db.Nodes.Put(tx, state.Node{Name: "n1", Labels: map[string]string{"rack": "1"}})
		db.NodeLeases.Put(tx, state.NodeLease{Node: "n1", Peers: before})
		for _, p := range []state.BGPPeer{in("ab", "up"), in("ab", "half"), in("ab", "refused"), in("ab", "new"), elsewhere, in("c", "c")} {
			db.BGPPeers.Put(tx, p)
		}
	})
	if got := d.peers(db.Snapshot()); !slices.Equal(got, before) {
		t.Errorf("before anything is decided: %+v, want what was told last", got)
	}
	down := state.BGPSessionState{Instance: "b", Peer: "half", State: "Active",
		LastError: "cannot connect: dial tcp 192.168.10.100:40123->192.168.10.200:179: " + strings.Repeat("ö", 200)}
	want(d, db.BGPSessions, []state.BGPSession{{Instance: "a", Peer: "up"}, {Instance: "b", Peer: "up"}, {Instance: "a", Peer: "half"},
		{Instance: "b", Peer: "half"}, {Instance: "a", Peer: "new"}, {Instance: "b", Peer: "new"},
		{Instance: "a", Peer: "refused", Bar: "node n1 has no default route"}, {Instance: "b", Peer: "refused", Bar: "node n1 has no default route"}, {Instance: "c", Peer: "c"}})
	writer.Update(func(tx *state.Tx) {
		db.BGPSpeakers.Put(tx, state.BGPSpeaker{Instance: "a"})
		db.BGPSpeakers.Put(tx, state.BGPSpeaker{Instance: "b"})
		db.BGPSpeakers.Put(tx, state.BGPSpeaker{Instance: "c", Status: state.Status{Phase: state.Failed, Err: "start BGP instance c: address already in use"}})
		for _, s := range []state.BGPSessionState{{Instance: "a", Peer: "up", State: state.BGPEstablished}, {Instance: "b", Peer: "up", State: state.BGPEstablished},
			{Instance: "a", Peer: "half", State: state.BGPEstablished}, down} {
			db.BGPSessionStates.Put(tx, s)
		}
	})
	got := d.peers(db.Snapshot())
	for i, p := range got {
		if p.Peer == "half" {
			if len(p.Why) > maxReportedWhy || !strings.HasPrefix(p.Why, "cannot connect: dial tcp 192.168.10.200:179: ö") {
				t.Errorf("why: %q", p.Why)
			}
			got[i].Why = "cut"
		}
	}
	if want := []state.LeasePeer{{Peer: "c", Sessions: 1, Why: "start BGP instance c: address already in use"}, {Peer: "half", Sessions: 2, Established: 1, Why: "cut"}, {Peer: "new", Sessions: 2, Why: "the session is not established yet"},
		{Peer: "refused", Sessions: 2, Why: "node n1 has no default route"}, {Peer: "up", Sessions: 2, Established: 2}}; !slices.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// A lease is forgotten when its Node is gone and nobody has renewed it for a
// while; a Node that is back has its lease.
func TestGoneNodes(t *testing.T) {
	db, writer := state.New()
	writer.Update(func(tx *state.Tx) {
		db.Nodes.Put(tx, state.Node{Name: "down"})
		for _, l := range []state.NodeLease{{Node: "down"}, {Node: "gone"}, {Node: "alive"}, {Node: "lb", Appliance: true}} {
			db.NodeLeases.Put(tx, l)
		}
	})
	now := time.Now()
	var gone goneNodes
	look := func(after time.Duration) string {
		var leases []state.NodeLease
		gone, leases = gone.look(db, db.Snapshot(), func(node string) bool { return node != "alive" }, now.Add(after))
		var nodes []string
		for _, l := range leases {
			nodes = append(nodes, l.Node)
		}
		return strings.Join(nodes, " ")
	}
	put := func(there bool) {
		writer.Update(func(tx *state.Tx) {
			if db.Nodes.Delete(tx, "gone"); there {
				db.Nodes.Put(tx, state.Node{Name: "gone"})
			}
		})
	}
	for _, step := range []struct {
		after time.Duration
		there bool
		want  string
	}{
		{0, false, ""}, {forgetAfter - 1, false, ""}, {forgetAfter, true, ""}, {2 * forgetAfter, false, ""},
		{3*forgetAfter - 1, false, ""}, {3 * forgetAfter, false, "gone"}, {3*forgetAfter + 1, false, "gone"}, // the store may not have answered
	} {
		put(step.there)
		if got := look(step.after); got != step.want {
			t.Errorf("after %s: %q is forgotten, want %q", step.after, got, step.want)
		}
	}
}
