package state

import (
	"net/netip"
	"slices"
)

// WithoutNodeAddrs returns the services without the addresses that are a
// node's own, and a Problem for each. Served, such an address would take all
// the node's other traffic, and announced, the node's place on the wire
// (CVE-2020-8554).
func WithoutNodeAddrs(services []Service, nodes []Node) ([]Service, []Problem) {
	owner := map[netip.Addr]string{}
	for _, n := range nodes {
		for _, a := range n.Addrs {
			owner[a.Unmap()] = n.Name
		}
	}
	var problems []Problem
	allowed := func(svc Service, field string, addrs []netip.Addr) []netip.Addr {
		taken := func(a netip.Addr) bool { _, ok := owner[a.Unmap()]; return ok }
		if !slices.ContainsFunc(addrs, taken) {
			return addrs
		}
		var rest []netip.Addr
		for _, a := range addrs {
			if !taken(a) {
				rest = append(rest, a)
				continue
			}
			problems = append(problems, Problem{Object: ServiceRef(svc.Name), Field: field,
				Message: a.String() + " is the address of node " + owner[a.Unmap()] + ", and is neither served nor announced",
				Cure:    "use an address that is no node's, and keep nodes' addresses out of pools"})
		}
		return rest
	}
	out := make([]Service, len(services))
	for i, svc := range services {
		svc.Ingress = allowed(svc, "status.loadBalancer.ingress", svc.Ingress)
		svc.ExternalIPs = allowed(svc, "spec.externalIPs", svc.ExternalIPs)
		out[i] = svc
	}
	return out, problems
}
