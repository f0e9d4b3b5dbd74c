package state_test

import (
	"net/netip"
	"testing"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func single(addr string) []state.Range {
	a := netip.MustParseAddr(addr)
	return []state.Range{{From: a, To: a}}
}

// While MetalLB runs with pools, and Cilium without: whose is a Service?
func TestLeavings(t *testing.T) {
	db, w := state.New()
	if by := state.LeavingsOf(db, db.Snapshot()).Service(state.Service{Type: "LoadBalancer"}); by != "" {
		t.Errorf("alone, a Service is left to %q", by)
	}
	given := []metav1.Condition{{Type: v1alpha1.ConditionIPAMRequestSatisfied, Status: metav1.ConditionTrue}}
	ours, theirs := []netip.Addr{single("10.0.0.2")[0].From}, []netip.Addr{single("10.0.0.1")[0].From}
	wanting := []metav1.Condition{{Type: v1alpha1.ConditionIPAMRequestSatisfied, Status: metav1.ConditionFalse}}
	w.Update(func(tx *state.Tx) {
		for _, a := range []state.Agent{
			{Product: "MetalLB", Role: state.AgentAllocates},
			{Product: "Cilium", Role: state.AgentAnnounces},
		} {
			a.Object.Name = a.Product
			db.Agents.Put(tx, a)
		}
		db.Pools.Put(tx, state.Pool{Name: "theirs", Origin: state.ObjectRef{Kind: "IPAddressPool", Name: "theirs"}, Ranges: single("10.0.0.1")})
		db.Pools.Put(tx, state.Pool{Name: "ours", Origin: state.ObjectRef{Kind: "IPPool", Name: "ours"}, Ranges: single("10.0.0.2")})
	})
	for _, tc := range []struct {
		svc  state.Service
		want string
	}{
		{state.Service{}, "MetalLB"},
		{state.Service{Conditions: wanting}, "MetalLB"},
		{state.Service{Conditions: given, Ingress: ours}, ""},
		{state.Service{Conditions: wanting, Ingress: ours}, ""}, // and wants another, too
		{state.Service{Ingress: ours}, "MetalLB"},
		{state.Service{Conditions: given, Ingress: theirs}, "MetalLB"},
		{state.Service{Class: v1alpha1.ClassL2}, ""},
		{state.Service{Class: v1alpha1.ClassL2, ClassOf: "Cilium"}, "Cilium"},
		{state.Service{Class: "example.com/lb"}, ""},
	} {
		if got := state.LeavingsOf(db, db.Snapshot()).Service(tc.svc); got != tc.want {
			t.Errorf("%+v is left to %q, want %q", tc.svc, got, tc.want)
		}
	}
	// Its allocator is seen after its announcer: meanwhile nothing of its pools is given another address.
	speaker := []state.Agent{{Product: "MetalLB", Role: state.AgentAnnounces}}
	w.Update(func(tx *state.Tx) { db.Agents.Replace(tx, speaker, func(a, b state.Agent) bool { return a == b }) })
	if by := state.LeavingsOf(db, db.Snapshot()).Service(state.Service{Conditions: given, Ingress: theirs}); by != "MetalLB" {
		t.Errorf("while its announcer alone is seen, a Service with an address of its pools is left to %q", by)
	}
	w.Update(func(tx *state.Tx) { db.Agents.Replace(tx, nil, func(a, b state.Agent) bool { return a == b }) })
	if by := state.LeavingsOf(db, db.Snapshot()).Service(state.Service{ClassOf: "Cilium"}); by != "" {
		t.Errorf("when they are gone, a Service is left to %q", by)
	}
}
