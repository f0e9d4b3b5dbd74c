package conformance

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Objects become rows, changes change them, deletes delete them.
func objectsToRows(s *suite) {
	objs := s.create(everyKind)
	s.wait("rows of every kind", func(snap state.Snapshot) bool {
		_, svc := s.DB.Services.Get(snap, "default/web")
		_, eps := s.DB.EndpointSlices.Get(snap, "default/web-1")
		_, node := s.DB.Nodes.Get(snap, "n1")
		_, pool := s.DB.Pools.Get(snap, "blue")
		_, policy := s.DB.L2Policies.Get(snap, "l2")
		return svc && eps && node && pool && policy
	})
	snap := s.DB.Snapshot()
	svc, _ := s.DB.Services.Get(snap, "default/web")
	if svc.UID == "" || svc.Created.IsZero() || svc.Type != "LoadBalancer" || !svc.ExternalTrafficPolicyLocal ||
		!slices.Equal(svc.RequestedIPs, addrs("192.168.10.211", "192.168.10.212")) ||
		!slices.Equal(svc.ExternalIPs, addrs("192.168.10.230")) || !slices.Equal(svc.Families, []string{"IPv4"}) ||
		len(svc.Ports) != 1 || svc.Ports[0].Name != "http" || svc.Ports[0].Protocol != state.TCP || svc.Ports[0].Port != 80 ||
		svc.Affinity != 3*time.Hour || !slices.Equal(svc.SourceRanges, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}) {
		s.Errorf("service row %+v", svc)
	}
	eps, _ := s.DB.EndpointSlices.Get(snap, "default/web-1")
	want := []state.Backend{
		{Addr: netip.MustParseAddr("172.20.0.2"), Node: "n1", Ready: true, Serving: true, ForZones: "a,b"},
		{Addr: netip.MustParseAddr("172.20.1.2"), Serving: true, Terminating: true},
	}
	if eps.Service.String() != "default/web" || !slices.Equal(eps.Endpoints, want) {
		s.Errorf("endpointslice row %+v", eps)
	}
	node, _ := s.DB.Nodes.Get(snap, "n1")
	if !slices.Equal(node.Addrs, addrs("192.168.10.100")) || len(node.PodCIDRs) != 1 || node.Labels["role"] != "edge" {
		s.Errorf("node row %+v", node)
	}
	pool, _ := s.DB.Pools.Get(snap, "blue")
	if len(pool.Ranges) != 1 || pool.Ranges[0].String() != "192.168.10.211–192.168.10.215" || !pool.AutoAssign || pool.Invalid != "" {
		s.Errorf("pool row %+v", pool)
	}

	obj := objs[0]
	if err := unstructured.SetNestedSlice(obj.Object, []any{"192.168.10.231"}, "spec", "externalIPs"); err != nil {
		s.Fatal(err)
	}
	if _, err := s.writer().Update(s.Context(), obj); err != nil {
		s.Fatal(err)
	}
	s.wait("the change", func(snap state.Snapshot) bool {
		svc, _ := s.DB.Services.Get(snap, "default/web")
		return slices.Equal(svc.ExternalIPs, addrs("192.168.10.231"))
	})
	for _, obj := range objs {
		kind, err := source.KindOf(obj.GetAPIVersion(), obj.GetKind())
		if err != nil {
			s.Fatal(err)
		}
		if err := s.writer().Delete(s.Context(), kind, obj.GetNamespace(), obj.GetName()); err != nil {
			s.Fatal(err)
		}
	}
	s.wait("no rows", func(snap state.Snapshot) bool {
		return len(s.services(snap))+len(s.DB.EndpointSlices.Rows(snap))+len(s.DB.Nodes.Rows(snap))+
			len(s.DB.Pools.Rows(snap))+len(s.DB.L2Policies.Rows(snap)) == 0
	})
}

// Writes are by version; generation follows the spec; a status outlives an
// apply that does not know it.
func optimistic(s *suite) {
	if s.Writer != nil {
		s.Skip("the objects of this engine are read-only")
	}
	objects := s.Source.Objects()
	created := s.create(webService)[0]
	if created.GetGeneration() != 1 || created.GetUID() == "" || created.GetResourceVersion() == "" {
		s.Errorf("created %v", created.Object["metadata"])
	}
	if _, err := objects.Create(s.Context(), created); !errors.Is(err, source.ErrExists) {
		s.Errorf("creating again: %v, want %v", err, source.ErrExists)
	}
	row := state.Allocation{Service: state.ObjectName{Namespace: "default", Name: "web"}, UID: string(created.GetUID()),
		Addrs: addrs("192.168.10.211"), Reason: state.ReasonSatisfied}
	if err := s.Source.Allocations().Update(s.Context(), row); err != nil {
		s.Fatal(err)
	}
	if _, err := objects.Update(s.Context(), created); !errors.Is(err, source.ErrConflict) {
		s.Errorf("updating an old version: %v, want %v", err, source.ErrConflict)
	}

	fresh := s.get(source.KindService(), "default", "web")
	if fresh.GetGeneration() != 1 {
		s.Errorf("generation %d after a status write, want 1", fresh.GetGeneration())
	}
	applied := Manifests(s.T, strings.Replace(webService, "port: 80,", "port: 81,", 1))[0]
	applied.SetResourceVersion(fresh.GetResourceVersion())
	updated, err := objects.Update(s.Context(), applied)
	if err != nil {
		s.Fatal(err)
	}
	if updated.GetGeneration() != 2 || updated.GetUID() != created.GetUID() || !updated.GetCreationTimestamp().Time.Equal(created.GetCreationTimestamp().Time) {
		s.Errorf("updated %v", updated.Object["metadata"])
	}
	if ingress, _, _ := unstructured.NestedSlice(updated.Object, "status", "loadBalancer", "ingress"); len(ingress) != 1 {
		s.Errorf("status after an apply without one: %v", updated.Object["status"])
	}
	again, err := objects.Update(s.Context(), updated)
	if err != nil || again.GetResourceVersion() != updated.GetResourceVersion() {
		s.Errorf("an update that changes nothing was written: %s, then %s (%v)", updated.GetResourceVersion(), again.GetResourceVersion(), err)
	}

	if err := objects.Delete(s.Context(), source.KindService(), "default", "nobody"); !errors.Is(err, source.ErrNotFound) {
		s.Errorf("deleting what is not there: %v, want %v", err, source.ErrNotFound)
	}
}

// Objects are read, sorted by namespace and name; those of a read-only engine
// are not written.
func reading(s *suite) {
	objects := s.Source.Objects()
	for _, namespace := range []string{"a-b", "a"} {
		s.create("{apiVersion: v1, kind: Namespace, metadata: {name: " + namespace + "}}")
		s.create(strings.Replace(webService, "name: web\n", "name: web\n  namespace: "+namespace+"\n", 1))
	}
	created := s.create(webService)[0]
	list, err := objects.List(s.Context(), source.KindService(), "")
	if err != nil {
		s.Fatal(err)
	}
	var names []string
	for _, obj := range list {
		if obj.GetName() == "web" {
			names = append(names, obj.GetNamespace())
		}
	}
	if !slices.Equal(names, []string{"a", "a-b", "default"}) {
		s.Errorf("listed %v, want sorted by namespace", names)
	}
	if list, err = objects.List(s.Context(), source.KindService(), "a"); err != nil || len(list) != 1 {
		s.Errorf("listed %d in namespace a (%v), want 1", len(list), err)
	}
	if obj, err := objects.Get(s.Context(), source.KindService(), "default", "web"); err != nil || obj.GetUID() != created.GetUID() {
		s.Errorf("read %v (%v)", obj, err)
	}
	if _, err := objects.Get(s.Context(), source.KindService(), "default", "nobody"); !errors.Is(err, source.ErrNotFound) {
		s.Errorf("reading what is not there: %v, want %v", err, source.ErrNotFound)
	}
	if s.Writer == nil {
		return
	}
	_, createErr := objects.Create(s.Context(), created)
	_, updateErr := objects.Update(s.Context(), created)
	deleteErr := objects.Delete(s.Context(), source.KindService(), "default", "web")
	for what, err := range map[string]error{"create": createErr, "update": updateErr, "delete": deleteErr} {
		if !errors.Is(err, source.ErrReadOnly) || !strings.Contains(err.Error(), "kubectl") {
			s.Errorf("%s: %v, want %v", what, err, source.ErrReadOnly)
		}
	}
}

// What was written before is in the tables once the source has caught up.
func catchUp(s *suite) {
	for i := range 20 {
		obj := s.create(strings.Replace(webService, "name: web\n", fmt.Sprintf("name: web-%d\n", i), 1))[0]
		if err := s.Source.Assignments().Update(s.Context(), assignment(i, "n1", 1)); err != nil {
			s.Fatal(err)
		}
		if err := s.Source.CatchUp(s.Context()); err != nil {
			s.Fatal(err)
		}
		snap := s.DB.Snapshot()
		if svc, ok := s.DB.Services.Get(snap, "default/"+obj.GetName()); !ok || svc.UID != string(obj.GetUID()) {
			s.Errorf("service %d is not in the table", i)
		}
		if _, ok := s.DB.Assigned.Get(snap, assignment(i, "n1", 1).RowKey()); !ok {
			s.Errorf("assignment %d is not in the table", i)
		}
		if err := s.writer().Delete(s.Context(), source.KindService(), "default", obj.GetName()); err != nil {
			s.Fatal(err)
		}
		if err := s.Source.CatchUp(s.Context()); err != nil {
			s.Fatal(err)
		}
		if left := s.services(s.DB.Snapshot()); len(left) != 0 {
			s.Errorf("deleted services are in the table: %v", left)
		}
	}
	ended, end := context.WithCancel(s.Context())
	end()
	if err := s.Source.CatchUp(ended); err == nil {
		s.Error("caught up although the context had ended")
	}
}

// What is wrong is refused at the door.
func refusals(s *suite) {
	if s.Writer != nil {
		s.Skip("the objects of this engine are read-only")
	}
	bad := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "seamark.dev/v1alpha1", "kind": "IPPool", "metadata": map[string]any{"name": "bad"},
		"spec": map[string]any{"blocks": []any{map[string]any{"start": "10.0.0.9", "stop": "10.0.0.1"}}},
	}}
	_, err := s.Source.Objects().Create(s.Context(), bad)
	if err == nil || !strings.Contains(err.Error(), "IPPool bad: spec.blocks[0]: ") {
		s.Errorf("created a bad pool: %v", err)
	}
	if list, err := s.Source.Objects().List(s.Context(), source.KindIPPool(), ""); err != nil || len(list) != 0 {
		s.Errorf("%d pools in the store (%v), want none", len(list), err)
	}
}

func addrs(ss ...string) []netip.Addr {
	as := make([]netip.Addr, len(ss))
	for i, s := range ss {
		as[i] = netip.MustParseAddr(s)
	}
	return as
}
