// Package conformance is what every engine of package source must do, as
// tests. An engine's own tests call Run.
package conformance

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Engine is one source under test, over a store that was empty, and running.
type Engine struct {
	Source source.Source
	DB     *state.DB
	// Writer of objects, for an engine whose own are read-only. It takes a
	// status that an object brings. Nil: the source's own.
	Writer source.Objects
}

// Run runs the suite. start returns an engine of a new and empty store each
// time; it ends with the test.
func Run(t *testing.T, start func(t *testing.T) Engine) {
	for name, test := range map[string]func(*suite){
		"EmptyStoreSyncs": emptyStoreSyncs,
		"ObjectsToRows":   objectsToRows,
		"Reading":         reading,
		"Optimistic":      optimistic,
		"Refusals":        refusals,
		"CatchUp":         catchUp,
		"Allocations":     allocations,
		"PruneAllocation": pruneAllocation,
		"PoolStatus":      poolStatus,
		"PolicyStatus":    policyStatus,
		"ObjectStatus":    objectStatus,
		"AnnouncedStatus": announcedStatus,
		"NodeLease":       nodeLease,
		"Secrets":         secrets,
		"BGPPeerStatus":   bgpPeerStatus,
		"ForgetLease":     forgetLease,
		"Drain":           drain,
		"Assignments":     assignments,
		"LaterDecision":   laterDecision,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(&suite{t, start(t)})
		})
	}
}

// Wait waits until the snapshot is as cond wants it.
func Wait(t *testing.T, db *state.DB, what string, cond func(state.Snapshot) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		snap := db.Snapshot()
		if cond(snap) {
			return
		}
		err := state.Wait(ctx, snap, time.Second, db.Services.Watch(), db.EndpointSlices.Watch(), db.Nodes.Watch(),
			db.Pools.Watch(), db.L2Policies.Watch(), db.Agents.Watch(), db.SourceProblems.Watch(), db.NodeLeases.Watch(), db.Assigned.Watch(), db.Secrets.Watch(), db.MarksChanged)
		if err != nil {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// Manifests reads objects from YAML.
func Manifests(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	manifests, err := source.ReadManifests(t.Name(), strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	objs := make([]*unstructured.Unstructured, len(manifests))
	for i, m := range manifests {
		objs[i] = m.Object
	}
	return objs
}

type suite struct {
	*testing.T
	Engine
}

func (s *suite) wait(what string, cond func(state.Snapshot) bool) {
	s.Helper()
	Wait(s.T, s.DB, what, cond)
}

// writer of objects.
func (s *suite) writer() source.Objects {
	if s.Writer != nil {
		return s.Writer
	}
	return s.Source.Objects()
}

// services that the test made: an API server has one of its own.
func (s *suite) services(snap state.Snapshot) []state.Service {
	return slices.DeleteFunc(s.DB.Services.Rows(snap), func(svc state.Service) bool { return svc.RowKey() == "default/kubernetes" })
}

func (s *suite) create(text string) []*unstructured.Unstructured {
	s.Helper()
	objs := Manifests(s.T, text)
	for i, obj := range objs {
		created, err := s.writer().Create(s.Context(), obj)
		if err != nil {
			s.Fatalf("create %s: %v", obj.GetName(), err)
		}
		objs[i] = created
	}
	return objs
}

func (s *suite) get(kind source.Kind, namespace, name string) *unstructured.Unstructured {
	s.Helper()
	obj, err := s.Source.Objects().Get(s.Context(), kind, namespace, name)
	if err != nil {
		s.Fatal(err)
	}
	return obj
}

const webService = `
apiVersion: v1
kind: Service
metadata:
  name: web
  labels: {app: web}
  annotations: {seamark.dev/ips: "192.168.10.212, 192.168.10.211"}
spec:
  type: LoadBalancer
  loadBalancerIP: 192.168.10.211
  externalIPs: [192.168.10.230]
  externalTrafficPolicy: Local
  sessionAffinity: ClientIP
  loadBalancerSourceRanges: [10.0.0.0/8]
  ports:
  - {name: http, port: 80, targetPort: 8080}
`

const everyKind = webService + `
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- addresses: [172.20.0.2]
  nodeName: n1
  hints: {forZones: [{name: b}, {name: a}]}
- addresses: [172.20.1.2]
  conditions: {ready: false, serving: true, terminating: true}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {role: edge}}
spec: {podCIDRs: [172.20.0.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.10.100}, {type: Hostname, address: n1}]}
---
apiVersion: seamark.dev/v1alpha1
kind: IPPool
metadata: {name: blue}
spec: {blocks: [{start: 192.168.10.211, stop: 192.168.10.215}]}
---
apiVersion: seamark.dev/v1alpha1
kind: L2Policy
metadata: {name: l2}
spec: {interfaces: [^eth1$], loadBalancerIPs: true}
`

func emptyStoreSyncs(s *suite) {
	s.wait("all tables synced", func(snap state.Snapshot) bool {
		return s.DB.Services.Synced(snap) && s.DB.EndpointSlices.Synced(snap) && s.DB.Nodes.Synced(snap) &&
			s.DB.Namespaces.Synced(snap) && s.DB.Agents.Synced(snap) && s.DB.Pools.Synced(snap) && s.DB.L2Policies.Synced(snap) && s.DB.NodeLeases.Synced(snap) && s.DB.Assigned.Synced(snap)
	})
	if n := len(s.services(s.DB.Snapshot())); n != 0 {
		s.Errorf("%d services in an empty store", n)
	}
}
