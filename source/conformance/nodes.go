package conformance

import (
	"time"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// A BGPPeer counts its sessions, and says which are down, beside what else is
// said of it.
func bgpPeerStatus(s *suite) {
	s.create(`{apiVersion: seamark.dev/v1alpha1, kind: BGPPeer, metadata: {name: router}, spec: {peerAddress: 192.168.10.200, peerASN: 65000}}`)
	var ref state.ObjectRef
	s.wait("the peer", func(snap state.Snapshot) bool {
		row, there := s.DB.BGPPeers.Get(snap, "router")
		ref = row.Origin
		return there
	})
	if err := s.Source.ObjectStatuses().Update(s.Context(), state.ObjectStatus{Object: ref, InForce: true}); err != nil {
		s.Fatal(err)
	}
	target := s.Source.BGPPeerStatuses()
	var written string
	for _, row := range []state.BGPPeerStatus{
		{Peer: "router", Sessions: 3, Established: 2, Reason: state.ReasonSessionsDown, Message: "node n1: hold timer expired"},
		{Peer: "router", Sessions: 3, Established: 3, Reason: state.ReasonEstablished},
		{Peer: "router", Sessions: 3, Established: 3, Reason: state.ReasonEstablished}, // is written once
	} {
		if err := target.Update(s.Context(), row); err != nil {
			s.Fatal(err)
		}
		obj := s.get(source.KindBGPPeer(), "", "router")
		sessions, _, _ := unstructured.NestedInt64(obj.Object, "status", "sessions")
		established, _, _ := unstructured.NestedInt64(obj.Object, "status", "established")
		conditions := source.ConditionsOf(obj)
		c := meta.FindStatusCondition(conditions, v1alpha1.ConditionEstablished)
		if sessions != 3 || established != int64(row.Established) || c == nil || c.Message != row.Message || c.Reason != string(row.Reason) ||
			(c.Status == "True") != (row.Established == 3) || !meta.IsStatusConditionTrue(conditions, v1alpha1.ConditionAccepted) {
			s.Errorf("status %v of %+v", obj.Object["status"], row)
		}
		if row.Established == 3 && written != "" && obj.GetResourceVersion() != written {
			s.Error("an update that changes nothing was written")
		}
		if row.Established == 3 {
			written = obj.GetResourceVersion()
		}
	}
	if err := target.Update(s.Context(), state.BGPPeerStatus{Peer: "nobody"}); err != nil {
		s.Errorf("update of a peer that is gone: %v", err)
	}
}

// The lease of a node that is gone is deleted, unless the node has renewed it.
func forgetLease(s *suite) {
	lease := state.NodeLease{Node: "n1", Duration: time.Second}
	renewed := func(not string) (row state.NodeLease) {
		s.Helper()
		if err := s.Source.RenewLease(s.Context(), lease); err != nil {
			s.Fatal(err)
		}
		s.wait("the lease", func(snap state.Snapshot) (there bool) {
			row, there = s.DB.NodeLeases.Get(snap, "n1")
			return there && row.Renewal != not
		})
		return row
	}
	before := renewed("")
	after := renewed(before.Renewal)
	forget := func(row state.NodeLease) {
		s.Helper()
		if err := s.Source.ForgetLease(s.Context(), row); err != nil {
			s.Error(err)
		}
	}
	forget(before)
	s.get(source.KindLease(), source.Namespace, "n1")
	forget(after)
	s.wait("no lease", func(snap state.Snapshot) bool {
		_, there := s.DB.NodeLeases.Get(snap, "n1")
		return !there
	})
	forget(after) // which is gone
	renewed(after.Renewal)
}
