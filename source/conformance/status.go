package conformance

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func (s *suite) service(cond func(state.Service) bool) state.Service {
	s.Helper()
	var svc state.Service
	s.wait("the service", func(snap state.Snapshot) bool {
		svc, _ = s.DB.Services.Get(snap, "default/web")
		return cond(svc)
	})
	return svc
}

// Addresses and the condition reach the Service, are written once, and go
// when they are taken back.
func allocations(s *suite) {
	created := s.create(webService)[0]
	target := s.Source.Allocations()
	row := state.Allocation{Service: state.ObjectName{Namespace: "default", Name: "web"}, UID: string(created.GetUID()),
		Reason: state.ReasonPoolExhausted, Message: "pool blue has no address left: add a block"}
	update := func() {
		s.Helper()
		if err := target.Update(s.Context(), row); err != nil {
			s.Fatal(err)
		}
	}
	update()
	svc := s.service(func(svc state.Service) bool { return len(svc.Conditions) == 1 })
	unsatisfied := svc.Conditions[0]
	if unsatisfied.Type != v1alpha1.ConditionIPAMRequestSatisfied || unsatisfied.Status != "False" || unsatisfied.Reason != "PoolExhausted" ||
		unsatisfied.Message != row.Message || unsatisfied.LastTransitionTime.IsZero() || len(svc.Ingress) != 0 {
		s.Errorf("service row %+v", svc)
	}

	// The reason changes, the status does not: the transition time stays.
	row.Reason = state.ReasonNoPool
	update()
	svc = s.service(func(svc state.Service) bool { return svc.Conditions[0].Reason == "NoPool" })
	if !svc.Conditions[0].LastTransitionTime.Equal(&unsatisfied.LastTransitionTime) {
		s.Errorf("transition time moved from %v to %v", unsatisfied.LastTransitionTime, svc.Conditions[0].LastTransitionTime)
	}

	row.Reason, row.Message, row.Addrs = state.ReasonSatisfied, "", addrs("192.168.10.211", "fd00:10::1")
	update()
	svc = s.service(func(svc state.Service) bool { return slices.Equal(svc.Ingress, row.Addrs) })
	if !state.ConditionTrue(svc.Conditions, v1alpha1.ConditionIPAMRequestSatisfied) {
		s.Errorf("conditions %+v", svc.Conditions)
	}
	obj := s.get(source.KindService(), "default", "web")
	if ingress, _, _ := unstructured.NestedSlice(obj.Object, "status", "loadBalancer", "ingress"); fmt.Sprint(ingress[0]) != "map[ip:192.168.10.211 ipMode:VIP]" {
		s.Errorf("ingress %v", ingress)
	}
	update()
	if after := s.get(source.KindService(), "default", "web"); after.GetResourceVersion() != obj.GetResourceVersion() {
		s.Error("an update that changes nothing was written")
	}

	other := row
	other.UID = "of-another-service-of-that-name"
	other.Addrs = addrs("192.168.10.215")
	if err := target.Update(s.Context(), other); err != nil {
		s.Errorf("update of a replaced service: %v", err)
	}
	if err := target.Delete(s.Context(), other); err != nil {
		s.Errorf("delete of a replaced service: %v", err)
	}
	if after := s.get(source.KindService(), "default", "web"); after.GetResourceVersion() != obj.GetResourceVersion() {
		s.Error("a row of another service of that name was written")
	}

	if err := target.Delete(s.Context(), row); err != nil {
		s.Fatal(err)
	}
	s.service(func(svc state.Service) bool { return len(svc.Ingress)+len(svc.Conditions) == 0 })
	if err := target.Delete(s.Context(), row); err != nil {
		s.Errorf("delete of what is absent: %v", err)
	}
	if err := s.writer().Delete(s.Context(), source.KindService(), "default", "web"); err != nil {
		s.Fatal(err)
	}
	if err := target.Update(s.Context(), row); err != nil {
		s.Errorf("update of a service that is gone: %v", err)
	}
}

// Prune takes back what is ours and no longer wanted, and nothing else.
func pruneAllocation(s *suite) {
	ours := `
  conditions: [{type: seamark.dev/IPAMRequestSatisfied, status: "True", reason: Satisfied, message: "", lastTransitionTime: "2026-01-02T03:04:05Z"}]`
	service := func(name, conditions string) string {
		return strings.NewReplacer("NAME", name, "CONDITIONS", conditions).Replace(`
---
apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: default}
spec: {type: LoadBalancer, ports: [{port: 80}]}
status:
  loadBalancer: {ingress: [{ip: 192.168.10.211, ipMode: VIP}]}CONDITIONS
`)
	}
	objs := s.create(service("wanted", ours) + service("was-balanced", ours) + service("foreign", "") + service("other-class", ours))
	setType(s, objs[1], "ClusterIP")
	s.wait("the services", func(snap state.Snapshot) bool {
		svc, _ := s.DB.Services.Get(snap, "default/was-balanced")
		return svc.Type == "ClusterIP" && len(s.services(snap)) == 4
	})
	wanted := []state.Allocation{{Service: state.ObjectName{Namespace: "default", Name: "wanted"}}}
	if err := s.Source.Allocations().Prune(s.Context(), wanted); err != nil {
		s.Fatal(err)
	}
	for name, want := range map[string][2]int{"wanted": {1, 1}, "was-balanced": {0, 0}, "foreign": {1, 0}, "other-class": {1, 0}} {
		obj := s.get(source.KindService(), "default", name)
		ingress, _, _ := unstructured.NestedSlice(obj.Object, "status", "loadBalancer", "ingress")
		conditions, _, _ := unstructured.NestedSlice(obj.Object, "status", "conditions")
		if got := [2]int{len(ingress), len(conditions)}; got != want {
			s.Errorf("%s has %v addresses and conditions, want %v", name, got, want)
		}
	}
}

func setType(s *suite, svc *unstructured.Unstructured, to string) {
	s.Helper()
	svc = s.get(source.KindService(), svc.GetNamespace(), svc.GetName())
	if err := unstructured.SetNestedField(svc.Object, to, "spec", "type"); err != nil {
		s.Fatal(err)
	}
	if _, err := s.writer().Update(s.Context(), svc); err != nil {
		s.Fatal(err)
	}
}

// What of an object cannot be honoured is said in its status, and no longer
// when it can.
func objectStatus(s *suite) {
	s.create(`{apiVersion: seamark.dev/v1alpha1, kind: BFDProfile, metadata: {name: fast}, spec: {}}`)
	target := s.Source.ObjectStatuses()
	row := state.ObjectStatus{Object: state.ObjectRef{Group: "seamark.dev", Kind: "BFDProfile", Name: "fast"}, Problem: "spec.echoMode: is not honoured: remove it"}
	accepted := func() *metav1.Condition {
		s.Helper()
		return meta.FindStatusCondition(source.ConditionsOf(s.get(source.KindBFDProfile(), "", "fast")), v1alpha1.ConditionAccepted)
	}
	for range 2 {
		if err := target.Update(s.Context(), row); err != nil {
			s.Fatal(err)
		}
	}
	if c := accepted(); c == nil || c.Status != "False" || c.Reason != "NotHonoured" || c.Message != row.Problem {
		s.Errorf("condition %+v", c)
	}
	for range 2 {
		if err := target.Delete(s.Context(), row); err != nil {
			s.Fatal(err)
		}
	}
	if c := accepted(); c != nil {
		s.Errorf("condition %+v is left", c)
	}
	row.Object.Name = "nobody"
	if err := target.Update(s.Context(), row); err != nil {
		s.Errorf("update of an object that is gone: %v", err)
	}
}

// A Service says who announces its addresses beside what LB-IPAM says there, and
// neither touches the other's condition.
func announcedStatus(s *suite) {
	s.create(webService)
	svc := s.service(func(svc state.Service) bool { return svc.Name.Name == "web" })
	given := state.Allocation{Service: svc.Name, UID: svc.UID, Addrs: addrs("192.168.10.211"), Pools: []string{"blue"}, Reason: state.ReasonSatisfied, Message: "given"}
	row := state.AnnouncedStatus{Service: svc.Name, UID: svc.UID, Reason: state.ReasonAnnounced, Message: "192.168.10.211 by node n1 on eth1"}
	both := func(what string, status metav1.ConditionStatus, message string) {
		s.Helper()
		s.wait(what, func(snap state.Snapshot) bool {
			svc, _ := s.DB.Services.Get(snap, svc.RowKey())
			c := meta.FindStatusCondition(svc.Conditions, v1alpha1.ConditionAnnounced)
			return c != nil && c.Status == status && c.Message == message && state.ConditionTrue(svc.Conditions, v1alpha1.ConditionIPAMRequestSatisfied) &&
				slices.Equal(svc.Ingress, given.Addrs)
		})
	}
	say := func() {
		s.Helper()
		if err := s.Source.AnnouncedStatuses().Update(s.Context(), row); err != nil {
			s.Fatal(err)
		}
	}
	give := func() {
		s.Helper()
		if err := s.Source.Allocations().Update(s.Context(), given); err != nil {
			s.Fatal(err)
		}
	}
	say()
	give()
	both("both conditions", metav1.ConditionTrue, row.Message)
	given.Message = "given again"
	give()
	row.Reason, row.Message = state.ReasonNoCandidate, "no node may announce 192.168.10.211"
	say()
	both("nobody announces it", metav1.ConditionFalse, row.Message)
	before := s.get(source.KindService(), "default", "web").GetResourceVersion()
	say()
	if after := s.get(source.KindService(), "default", "web").GetResourceVersion(); after != before {
		s.Errorf("what was said already was written again")
	}
	row.Reason, row.Message = "", ""
	say()
	s.wait("nothing is said", func(snap state.Snapshot) bool {
		svc, _ := s.DB.Services.Get(snap, svc.RowKey())
		return meta.FindStatusCondition(svc.Conditions, v1alpha1.ConditionAnnounced) == nil && state.ConditionTrue(svc.Conditions, v1alpha1.ConditionIPAMRequestSatisfied)
	})
	row.UID = "another"
	row.Reason = state.ReasonAnnounced
	say()
	row.Service.Name = "nobody"
	say()
}

func poolStatus(s *suite) {
	s.create(everyKind)
	target := s.Source.PoolStatuses()
	row := state.PoolStatus{Pool: "blue", Total: "5", Available: "4", Used: "1"}
	for range 2 {
		if err := target.Update(s.Context(), row); err != nil {
			s.Fatal(err)
		}
	}
	obj := s.get(source.KindIPPool(), "", "blue")
	if got, _, _ := unstructured.NestedString(obj.Object, "status", "available"); got != "4" || obj.GetGeneration() != 1 {
		s.Errorf("pool %v", obj.Object)
	}
	row.Conflict = "shares 192.168.10.211 with pool red: make them apart"
	if err := target.Update(s.Context(), row); err != nil {
		s.Fatal(err)
	}
	s.wait("the pool's conditions", func(snap state.Snapshot) bool {
		pool, _ := s.DB.Pools.Get(snap, "blue")
		c := meta.FindStatusCondition(pool.Conditions, v1alpha1.ConditionConflicting)
		return c != nil && c.Status == "True" && c.Message == row.Conflict && state.ConditionTrue(pool.Conditions, v1alpha1.ConditionAccepted)
	})
	if err := target.Update(s.Context(), state.PoolStatus{Pool: "nobody"}); err != nil {
		s.Errorf("update of a pool that is gone: %v", err)
	}
}

func policyStatus(s *suite) {
	s.create(everyKind)
	target := s.Source.PolicyStatuses()
	accepted := func(policy string) *metav1.Condition {
		row, _ := s.DB.L2Policies.Get(s.DB.Snapshot(), policy)
		return meta.FindStatusCondition(row.Conditions, v1alpha1.ConditionAccepted)
	}
	policies, err := s.Source.Objects().List(s.Context(), source.KindL2Policy(), "")
	if err != nil || len(policies) == 0 {
		s.Fatalf("list policies: %v, %v", policies, err)
	}
	name := policies[0].GetName()
	for _, problem := range []string{`spec.interfaces[0]: "bond0" matches no interface`, ""} {
		if err := target.Update(s.Context(), state.PolicyStatus{Policy: name, Problem: problem}); err != nil {
			s.Fatal(err)
		}
		s.wait("the policy's condition", func(state.Snapshot) bool {
			c := accepted(name)
			return c != nil && c.Message == problem && (c.Status == "True") == (problem == "")
		})
	}
	if err := target.Update(s.Context(), state.PolicyStatus{Policy: "nobody"}); err != nil {
		s.Errorf("update of a policy that is gone: %v", err)
	}
}

// A renewal shows each time, and brings all that the node reports.
func nodeLease(s *suite) {
	lease := state.NodeLease{Node: "n1", Duration: 1500 * time.Millisecond, Interfaces: []state.LeaseInterface{
		{Name: "eth1", MAC: "02:00:00:00:00:01", Up: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.10.100/24")}}},
		Addrs: addrs("10.0.2.15", "192.168.10.100", "fd00::1"),
		Peers: []state.LeasePeer{{Peer: "router", Sessions: 2, Established: 1, Why: "hold timer expired"}}}
	seen := map[string]bool{}
	for i := range 5 {
		lease.Released = i == 4
		if err := s.Source.RenewLease(s.Context(), lease); err != nil {
			s.Fatal(err)
		}
		var row state.NodeLease
		s.wait("the renewal", func(snap state.Snapshot) bool {
			row, _ = s.DB.NodeLeases.Get(snap, "n1")
			return row.Renewal != "" && !seen[row.Renewal]
		})
		seen[row.Renewal] = true
		if row.Duration != 2*time.Second || row.Released != lease.Released || fmt.Sprint(row.Interfaces) != fmt.Sprint(lease.Interfaces) ||
			!slices.Equal(row.Addrs, lease.Addrs) || !slices.Equal(row.Peers, lease.Peers) {
			s.Errorf("lease row %+v", row)
		}
	}
	// A lease that went while the node lives comes back.
	if err := s.writer().Delete(s.Context(), source.KindLease(), source.Namespace, "n1"); err != nil {
		s.Fatal(err)
	}
	s.wait("no lease", func(snap state.Snapshot) bool { return len(s.DB.NodeLeases.Rows(snap)) == 0 })
	if err := s.Source.RenewLease(s.Context(), lease); err != nil {
		s.Fatal(err)
	}
	s.wait("the lease again", func(snap state.Snapshot) bool { return len(s.DB.NodeLeases.Rows(snap)) == 1 })
	// The lease of an election is no node's.
	lock := s.Source.Lock("coordinator", "n1")
	if _, _, err := lock.Get(s.Context()); err == nil {
		s.Error("read a lock that nobody made")
	}
}

// A drain is kept by the renewals of the node, which does not know of it.
func drain(s *suite) {
	if err := s.Source.SetDrained(s.Context(), "n1", true); !errors.Is(err, source.ErrNotFound) {
		s.Errorf("drain a node without a lease: %v", err)
	}
	lease := state.NodeLease{Node: "n1", Duration: time.Second}
	renew := func() {
		if err := s.Source.RenewLease(s.Context(), lease); err != nil {
			s.Fatal(err)
		}
	}
	renew()
	for _, drained := range []bool{true, true, false} {
		if err := s.Source.SetDrained(s.Context(), "n1", drained); err != nil {
			s.Fatal(err)
		}
		s.wait("the node's lease says so", func(snap state.Snapshot) bool {
			row, _ := s.DB.NodeLeases.Get(snap, "n1")
			return row.Drained == drained
		})
		before, _ := s.DB.NodeLeases.Get(s.DB.Snapshot(), "n1")
		renew()
		s.wait("its renewal", func(snap state.Snapshot) bool {
			row, _ := s.DB.NodeLeases.Get(snap, "n1")
			if row.Drained != drained {
				s.Fatalf("a renewal made the row %+v", row)
			}
			return row.Renewal != before.Renewal
		})
	}
}

func assignment(i int, node string, generation int64) state.Assignment {
	return state.Assignment{
		Addr:       netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}),
		Service:    state.ObjectName{Namespace: "default", Name: fmt.Sprintf("svc-%d", i)},
		Node:       node,
		Interfaces: []string{"eth1"},
		Since:      time.Date(2026, 1, 2, 3, 4, 5, 678900, time.UTC),
		Generation: generation,
		Reason:     state.ReasonFirstAssignment,
	}
}

// Many assignments, few writes.
func assignments(s *suite) {
	target := s.Source.Assignments()
	batch, ok := target.(state.Batcher[state.Assignment])
	if !ok {
		s.Fatal("the target is no Batcher")
	}
	rows := make([]state.Assignment, 2500)
	for i := range rows {
		rows[i] = assignment(i, "n1", 1)
	}
	updateAll := func(rows []state.Assignment) {
		s.Helper()
		for i, err := range batch.UpdateAll(s.Context(), rows) {
			if err != nil {
				s.Fatalf("%s: %v", rows[i].Addr, err)
			}
		}
	}
	slicesNow := func() map[string]string {
		s.Helper()
		list, err := s.Source.Objects().List(s.Context(), source.KindAnnouncementSlice(), "")
		if err != nil {
			s.Fatal(err)
		}
		versions := map[string]string{}
		for _, obj := range list {
			versions[obj.GetName()] = obj.GetResourceVersion()
		}
		return versions
	}
	updateAll(rows)
	s.wait("2500 assignments", func(snap state.Snapshot) bool { return len(s.DB.Assigned.Rows(snap)) == 2500 })
	got, _ := s.DB.Assigned.Get(s.DB.Snapshot(), "10.1.0.7")
	if want := assignment(7, "n1", 1); got.Addr != want.Addr || got.Service != want.Service || got.Node != "n1" || got.Generation != 1 ||
		!got.Since.Equal(want.Since.Truncate(time.Microsecond)) || got.Reason != want.Reason {
		s.Errorf("assigned %+v, want %+v", got, want)
	}
	before := slicesNow()
	if len(before) != 3 {
		s.Errorf("%d slices for 2500 addresses, want 3", len(before))
	}
	updateAll(rows)
	if after := slicesNow(); fmt.Sprint(after) != fmt.Sprint(before) {
		s.Errorf("an update that changes nothing was written: %v, then %v", before, after)
	}
	// One address moves: one slice is written.
	moved := assignment(1500, "n2", 2)
	if err := target.Update(s.Context(), moved); err != nil {
		s.Fatal(err)
	}
	written := 0
	for name, version := range slicesNow() {
		if before[name] != version {
			written++
		}
	}
	if written != 1 {
		s.Errorf("%d slices written for one address, want 1", written)
	}
	s.wait("the move", func(snap state.Snapshot) bool {
		row, _ := s.DB.Assigned.Get(snap, moved.RowKey())
		return row.Node == "n2" && row.Generation == 2
	})
	if err := target.Delete(s.Context(), rows[0]); err != nil {
		s.Fatal(err)
	}
	if err := target.Delete(s.Context(), rows[0]); err != nil {
		s.Errorf("delete of what is absent: %v", err)
	}
	s.wait("2499 assignments", func(snap state.Snapshot) bool { return len(s.DB.Assigned.Rows(snap)) == 2499 })
	if err := target.Prune(s.Context(), rows[1:3]); err != nil {
		s.Fatal(err)
	}
	s.wait("2 assignments", func(snap state.Snapshot) bool { return len(s.DB.Assigned.Rows(snap)) == 2 })
	for i, err := range batch.DeleteAll(s.Context(), rows) {
		if err != nil {
			s.Fatalf("%s: %v", rows[i].Addr, err)
		}
	}
	s.wait("no assignment", func(snap state.Snapshot) bool { return len(s.DB.Assigned.Rows(snap)) == 0 })
	if left := slicesNow(); len(left) != 0 {
		s.Errorf("empty slices are left: %v", left)
	}
}

// A coordinator that was replaced without knowing cannot undo what the new
// one decided.
func laterDecision(s *suite) {
	target := s.Source.Assignments()
	if err := target.Update(s.Context(), assignment(1, "n2", 5)); err != nil {
		s.Fatal(err)
	}
	if err := target.Update(s.Context(), assignment(1, "n1", 4)); err == nil {
		s.Error("a lower generation was written")
	}
	if err := target.Update(s.Context(), assignment(1, "n3", 5)); err == nil {
		s.Error("another node of the same generation was written")
	}
	if err := target.Delete(s.Context(), assignment(1, "n1", 4)); err == nil {
		s.Error("a higher generation was deleted")
	}
	s.wait("the later decision", func(snap state.Snapshot) bool {
		row, _ := s.DB.Assigned.Get(snap, "10.1.0.1")
		return row.Node == "n2" && row.Generation == 5
	})
	if err := target.Update(s.Context(), assignment(1, "n1", 6)); err != nil {
		s.Errorf("a higher generation was refused: %v", err)
	}
}
