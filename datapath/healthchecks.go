package datapath

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/seamark-lb/seamark/state"
)

// HealthChecks returns the health checks that the named node answers, sorted by
// port: one for each Service of type LoadBalancer with externalTrafficPolicy
// Local and a spec.healthCheckNodePort, with the count of its ready backends
// here. (Those that terminate take no new connections, whoever asks.) Services
// of other load balancers are kube-proxy's, where it is not replaced. The API
// server gives no port to two Services; should two rows have one, the first by
// name answers.
func HealthChecks(db *state.DB, r state.Reader, node string, replacement KubeProxyReplacement) []state.HealthCheck {
	left, all := state.LeavingsOf(db, r), replacement.in(db, r)
	rows := map[uint16]state.HealthCheck{}
	for svc := range db.Services.All(r) {
		ours := svc.Type == "LoadBalancer" && (all || svc.ForSeamark() && left.Service(svc) == "")
		if !ours || !svc.ExternalTrafficPolicyLocal || svc.HealthCheckNodePort == 0 {
			continue
		}
		if _, taken := rows[svc.HealthCheckNodePort]; !taken {
			rows[svc.HealthCheckNodePort] = state.HealthCheck{Service: svc.Name, Port: svc.HealthCheckNodePort, Local: readyOn(db, r, svc.Name, node)}
		}
	}
	return slices.SortedFunc(maps.Values(rows), func(a, b state.HealthCheck) int { return int(a.Port) - int(b.Port) })
}

// readyOn counts the ready backends of a Service on a node. A pod counts once,
// however many slices and families it is in while it moves between them.
func readyOn(db *state.DB, r state.Reader, service state.ObjectName, node string) int {
	byFamily := map[bool]map[netip.Addr]bool{true: {}, false: {}}
	for slice := range db.EndpointSlices.By(r, state.IndexService, service.String()) {
		for _, b := range slice.Endpoints {
			if b.Ready && b.Node == node {
				byFamily[b.Addr.Unmap().Is4()][b.Addr.Unmap()] = true
			}
		}
	}
	return max(len(byFamily[true]), len(byFamily[false]))
}
