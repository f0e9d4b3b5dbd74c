package datapath

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/seamark-lb/seamark/state"
)

func TestHealthChecks(t *testing.T) {
	db, w := state.New()
	service := func(name string, port uint16, change func(*state.Service)) {
		svc := state.Service{Name: state.ObjectName{Namespace: "d", Name: name}, Type: "LoadBalancer", ExternalTrafficPolicyLocal: true, HealthCheckNodePort: port}
		change(&svc)
		w.Update(func(tx *state.Tx) { db.Services.Put(tx, svc) })
	}
	backends := func(slice, service string, on ...string) {
		row := state.EndpointSlice{Name: state.ObjectName{Namespace: "d", Name: slice}, Service: state.ObjectName{Namespace: "d", Name: service}}
		for _, at := range on {
			var addr, node, ready string
			fmt.Sscan(at, &addr, &node, &ready)
			row.Endpoints = append(row.Endpoints, state.Backend{Addr: netip.MustParseAddr(addr), Node: node, Ready: ready == "ready",
				Serving: ready != "not", Terminating: ready == "draining"})
		}
		w.Update(func(tx *state.Tx) { db.EndpointSlices.Put(tx, row) })
	}
	service("two", 32001, func(*state.Service) {})
	backends("two-1", "two", "172.20.0.1 n1 ready", "172.20.0.2 n1 ready", "172.20.0.3 n1 not", "172.20.1.1 n2 ready")
	backends("two-2", "two", "172.20.0.2 n1 ready") // moves between slices
	backends("two-6", "two", "fd00::1 n1 ready", "fd00::2 n1 ready")
	service("none", 32002, func(*state.Service) {})
	backends("none-1", "none", "172.20.0.9 n1 draining", "172.20.1.9 n2 ready") // draining: it serves what comes, and no more shall
	service("cluster", 32003, func(s *state.Service) { s.ExternalTrafficPolicyLocal = false })
	service("no-port", 0, func(*state.Service) {})
	service("other-class", 32004, func(s *state.Service) { s.Class = "example.com/lb" })
	service("no-balancer", 32005, func(s *state.Service) { s.Type = "NodePort" })
	for replacement, want := range map[KubeProxyReplacement]string{
		ReplaceFalse: "32001 d/two 2\n32002 d/none 0\n",
		ReplaceTrue:  "32001 d/two 2\n32002 d/none 0\n32004 d/other-class 0\n",
	} {
		got := ""
		for _, row := range HealthChecks(db, db.Snapshot(), "n1", replacement) {
			got += fmt.Sprintf("%s %s %d\n", row.RowKey(), row.Service, row.Local)
		}
		if got != want {
			t.Errorf("%s: got\n%swant\n%s", replacement, got, want)
		}
	}
}
