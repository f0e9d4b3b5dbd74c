package source_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

var (
	ciliumPool   = state.ObjectRef{Group: "cilium.io", Kind: "CiliumLoadBalancerIPPool", Name: "c"}
	ciliumPolicy = state.ObjectRef{Group: "cilium.io", Kind: "CiliumL2AnnouncementPolicy", Name: "l2"}
	ownPool      = state.ObjectRef{Group: "seamark.dev", Kind: "IPPool", Name: "blue"}
)

// Cilium's condition is beside ours for Services that have to do with Cilium.
func TestAllocationConditions(t *testing.T) {
	name := state.ObjectName{Namespace: "default", Name: "web"}
	own, foreign := state.Pool{Name: "blue", Origin: ownPool}, state.Pool{Name: "CiliumLoadBalancerIPPool/c", Origin: ciliumPool}
	for what, tc := range map[string]struct {
		service state.Service
		pools   []state.Pool
		of      []string
		want    int
	}{
		"nothing of Cilium's":         {state.Service{}, []state.Pool{own}, []string{"blue"}, 1},
		"an annotation":               {state.Service{Annotations: map[string]string{"lbipam.cilium.io/ips": "10.0.0.1"}}, []state.Pool{own}, []string{"blue"}, 2},
		"an older annotation":         {state.Service{Annotations: map[string]string{"io.cilium/lb-ipam-ips": "10.0.0.1"}}, nil, nil, 2},
		"the class":                   {state.Service{ClassOf: state.ProductCilium}, nil, nil, 2},
		"from its pool":               {state.Service{}, []state.Pool{own, foreign}, []string{"CiliumLoadBalancerIPPool/c"}, 2},
		"from ours beside its pool":   {state.Service{}, []state.Pool{own, foreign}, []string{"blue"}, 1},
		"nothing given, its pool":     {state.Service{}, []state.Pool{own, foreign}, nil, 2},
		"nothing given, our own pool": {state.Service{}, []state.Pool{own}, nil, 1},
	} {
		db, w := state.New()
		w.Update(func(tx *state.Tx) {
			tc.service.Name = name
			db.Services.Put(tx, tc.service)
			for _, p := range tc.pools {
				db.Pools.Put(tx, p)
			}
		})
		row := state.Allocation{Service: name, Reason: state.ReasonNoPool, Message: "add one", Pools: tc.of}
		if len(tc.of) > 0 {
			row.Reason, row.Addrs = state.ReasonSatisfied, []netip.Addr{netip.MustParseAddr("10.0.0.1")}
		}
		got := source.AllocationConditions(db, db.Snapshot(), row)
		if len(got) != tc.want {
			t.Errorf("%s: conditions %v, want %d", what, got, tc.want)
		}
		for _, c := range got {
			if (c.Status == "True") != (len(tc.of) > 0) || c.Message != row.Message || !strings.HasSuffix(c.Type, "/IPAMRequestSatisfied") {
				t.Errorf("%s: condition %+v", what, c)
			}
		}
	}
}

// An object that means two policies says what is wrong with either; one that
// has no row of its own has an ObjectStatus.
func TestStatusesOfForeignObjects(t *testing.T) {
	db, w := state.New()
	bgp := state.ObjectRef{Group: "cilium.io", Kind: "CiliumBGPPeerConfig", Name: "peer"}
	metallb := state.ObjectRef{Group: "metallb.io", Kind: "BGPPeer", Namespace: "m", Name: "peer"}
	w.Update(func(tx *state.Tx) {
		db.Pools.Put(tx, state.Pool{Name: "CiliumLoadBalancerIPPool/c", Origin: ciliumPool})
		for _, name := range []string{"CiliumL2AnnouncementPolicy/l2", "CiliumL2AnnouncementPolicy/l2-2"} {
			db.L2Policies.Put(tx, state.L2Policy{Name: name, Origin: ciliumPolicy})
		}
		db.PolicyStatuses.Put(tx, state.PolicyStatus{Policy: "CiliumL2AnnouncementPolicy/l2", Problem: "no node"})
		db.PolicyStatuses.Put(tx, state.PolicyStatus{Policy: "CiliumL2AnnouncementPolicy/l2-2", Problem: "no interface"})
		for _, ref := range []state.ObjectRef{ciliumPool, bgp, metallb, state.ServiceRef(state.ObjectName{Namespace: "default", Name: "web"})} {
			db.SourceProblems.Put(tx, state.Problem{Object: ref, Field: "spec.x", Message: "is not honoured", Cure: "remove it"})
		}
	})
	snap := db.Snapshot()
	rows := source.ObjectStatuses(db, snap)
	if len(rows) != 1 || rows[0].Object != bgp || rows[0].Problem != "spec.x: is not honoured: remove it" || rows[0].InForce {
		t.Errorf("object statuses %+v", rows)
	}
	for _, row := range db.PolicyStatuses.Rows(snap) {
		change, ok := source.PolicyStatusChange(db, snap, row)
		if !ok || change.Kind.Kind != ciliumPolicy.Kind || change.Name != "l2" || len(change.Conditions) != 1 ||
			change.Conditions[0].Message != "no interface; no node" {
			t.Errorf("%s: %+v", row.Policy, change)
		}
	}
	change, ok := source.PoolStatusChange(db, snap, state.PoolStatus{Pool: "CiliumLoadBalancerIPPool/c", Total: "4"})
	last := len(change.Conditions) - 1
	if !ok || change.Name != "c" || last < 1 || change.Conditions[last].Reason != source.ReasonNotHonoured {
		t.Errorf("pool: %+v", change)
	}
}

// An object for BGP is accepted, or says what of it is not in force.
func TestStatusesOfBGP(t *testing.T) {
	db, w := state.New()
	ref := state.ObjectRef{Group: "seamark.dev", Kind: "BGPPeer", Name: "router"}
	w.Update(func(tx *state.Tx) { db.BGPPeers.Put(tx, state.BGPPeer{Name: "router", Origin: ref}) })
	for _, reason := range []string{"Valid", source.ReasonNotHonoured} {
		rows := source.ObjectStatuses(db, db.Snapshot())
		if len(rows) != 1 {
			t.Fatalf("object statuses %+v", rows)
		}
		change, ok := source.ObjectStatusChange(rows[0])
		if !ok || change.Name != "router" || len(change.Conditions) != 1 || change.Conditions[0].Reason != reason {
			t.Errorf("change %+v, want the reason %s", change, reason)
		}
		w.Update(func(tx *state.Tx) {
			db.SourceProblems.Put(tx, state.Problem{Object: ref, Field: "spec.bfdProfile", Message: "is not in force", Cure: "remove it"})
		})
	}
}

func TestStatusChangeApply(t *testing.T) {
	obj := &unstructured.Unstructured{Object: map[string]any{"kind": "IPPool", "status": map[string]any{
		"total": "1", "theirs": "x", "conditions": []any{map[string]any{"type": "theirs", "status": "True", "reason": "R", "message": ""}}}}}
	db, _ := state.New()
	change, _ := source.PoolStatusChange(db, db.Snapshot(), state.PoolStatus{Pool: "blue", Total: "4", Available: "4", Used: "0"})
	if !change.Apply(obj) || change.Apply(obj) {
		t.Error("it changes something once, and once only")
	}
	if v, _, _ := unstructured.NestedString(obj.Object, "status", "theirs"); v != "x" || len(source.ConditionsOf(obj)) != 3 {
		t.Errorf("object %v", obj.Object)
	}
	remove := source.StatusChange{Remove: []string{"seamark.dev/Accepted", "seamark.dev/Conflicting"}}
	if !remove.Apply(obj) || remove.Apply(obj) || len(source.ConditionsOf(obj)) != 1 {
		t.Errorf("after the removal %v", obj.Object)
	}
}
