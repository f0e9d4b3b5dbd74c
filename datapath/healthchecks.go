package datapath

import (
	"net/netip"
	"slices"

	"github.com/seamark-lb/seamark/state"
)

// HealthChecks returns the health checks that the named node answers, sorted by
// port: one for each Service of Seamark's with externalTrafficPolicy Local and a
// spec.healthCheckNodePort, with the count of its ready backends here. The API
// server gives no port to two Services; should two rows have one, the first by
// name answers.
func HealthChecks(db *state.DB, r state.Reader, node string) []state.HealthCheck {
	left := state.LeavingsOf(db, r)
	rows := map[uint16]state.HealthCheck{}
	for svc := range db.Services.All(r) {
		if !svc.ForSeamark() || left.Service(svc) != "" || !svc.ExternalTrafficPolicyLocal || svc.HealthCheckNodePort == 0 {
			continue
		}
		if _, taken := rows[svc.HealthCheckNodePort]; !taken {
			rows[svc.HealthCheckNodePort] = state.HealthCheck{Service: svc.Name, Port: svc.HealthCheckNodePort, Local: readyOn(db, r, svc.Name, node)}
		}
	}
	all := make([]state.HealthCheck, 0, len(rows))
	for _, row := range rows {
		all = append(all, row)
	}
	slices.SortFunc(all, func(a, b state.HealthCheck) int { return int(a.Port) - int(b.Port) })
	return all
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
