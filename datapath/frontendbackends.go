package datapath

import (
	"cmp"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
)

// choice is which endpoints serve a service port, those of one family.
type choice struct {
	// outside is for LoadBalancer addresses, externalIPs and node ports, clusterIP
	// for ClusterIPs. They differ with internalTrafficPolicy Local, and have the
	// same backends for packets from outside: frontends of one service port
	// share them, though nobody outside may use a ClusterIP.
	outside, clusterIP chosen
	// serving are all endpoints that can serve.
	serving []state.Backend
}

// chosen are the lists of a Frontend.
type chosen struct{ backends, inside, draining []state.Backend }

// choose works the choice out. Of pods to an address with externalTrafficPolicy
// Local, all backends are for them, as in kube-proxy: they are in the cluster.
func (r *frontendRun) choose(svc *state.Service, port state.ServicePort, ipv6 bool) *choice {
	c := &choice{}
	endpoints := r.endpoints(svc.Name, port, ipv6)
	if svc.Probing.By != "" {
		endpoints = slices.DeleteFunc(endpoints, func(b state.Backend) bool { at, is := probed(svc, port, b); return is && r.in.Down[at] })
	}
	cluster := clusterBackends(endpoints, r.in.Node)
	var local []state.Backend
	if svc.ExternalTrafficPolicyLocal || svc.InternalTrafficPolicyLocal {
		local = orTerminating(endpoints, func(b state.Backend) bool { return b.Node == r.in.Node.Name })
	}
	c.serving = cluster
	if len(cluster) < len(endpoints) {
		c.serving = backendsWhere(endpoints, func(b state.Backend) bool { return b.Ready || b.Serving })
	}

	backends, inside := cluster, cluster
	if svc.ExternalTrafficPolicyLocal {
		if backends = local; r.nowhere(svc.Name) {
			backends = cluster
		}
	}
	c.outside = chosen{backends, inside, c.draining(backends, inside)}
	c.clusterIP = c.outside
	if svc.InternalTrafficPolicyLocal {
		inside = local
		c.clusterIP = chosen{backends, inside, c.draining(backends, inside)}
	}
	return c
}

// nowhere says whether the Service's endpoints are on no node of the cluster:
// none is local anywhere, and each node is as good a way to them as another.
func (r *frontendRun) nowhere(service state.ObjectName) bool {
	return !slices.ContainsFunc(r.slicesOf[service], func(s *state.EndpointSlice) bool {
		return slices.ContainsFunc(s.Endpoints, func(b state.Backend) bool { return b.Node != "" })
	})
}

// draining are the endpoints that serve and were not chosen: those that
// terminate (KEP-1669), those with weight 0, and those that topology gives to
// other zones, whose nodes may send flows here. They keep what they have.
func (c *choice) draining(backends, inside []state.Backend) []state.Backend {
	if len(c.serving) == len(backends) || len(c.serving) == len(inside) {
		return nil // both are among those that serve
	}
	return backendsWhere(c.serving, func(b state.Backend) bool { return !holdsBackend(backends, b) && !holdsBackend(inside, b) })
}

// holdsBackend says whether b is in the sorted list.
func holdsBackend(list []state.Backend, b state.Backend) bool {
	_, found := slices.BinarySearchFunc(list, b, state.Backend.Compare)
	return found
}

// endpoints are those of a service port and a family, sorted, each addr:port
// once, with the target port.
func (r *frontendRun) endpoints(service state.ObjectName, port state.ServicePort, ipv6 bool) []state.Backend {
	count := 0
	for _, slice := range r.slicesOf[service] {
		count += len(slice.Endpoints)
	}
	all := make([]state.Backend, 0, count)
	for _, slice := range r.slicesOf[service] {
		for _, p := range slice.Ports {
			if p.Name != port.Name || p.Protocol != port.Protocol {
				continue
			}
			for _, b := range slice.Endpoints {
				b.Addr, b.Port = b.Addr.Unmap(), p.Port
				if b.Addr.Is6() == ipv6 {
					all = append(all, b)
				}
			}
		}
	}
	// An endpoint may be in two slices while it moves between them: the one that
	// says more good of it counts. The further keys make the choice between them
	// the same everywhere.
	slices.SortFunc(all, func(a, b state.Backend) int {
		return cmp.Or(a.Compare(b), first(a.Ready, b.Ready), first(a.Serving, b.Serving), first(b.Terminating, a.Terminating),
			cmp.Compare(a.Node, b.Node), cmp.Compare(a.Weight, b.Weight), cmp.Compare(a.ForZones, b.ForZones), cmp.Compare(a.ForNodes, b.ForNodes))
	})
	return slices.CompactFunc(all, func(a, b state.Backend) bool { return a.Compare(b) == 0 })
}

// first orders true before false.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// backendsWhere returns the endpoints that where holds for. Whose traffic they
// are for has been decided: the hints are left out.
func backendsWhere(endpoints []state.Backend, where func(state.Backend) bool) []state.Backend {
	var all []state.Backend
	for _, b := range endpoints {
		if where(b) {
			if all == nil {
				all = make([]state.Backend, 0, len(endpoints))
			}
			b.ForZones, b.ForNodes = "", ""
			all = append(all, b)
		}
	}
	return all
}

// orTerminating returns those of the endpoints in question that are ready, or,
// when none is, those that terminate but still serve (KEP-1669).
func orTerminating(endpoints []state.Backend, in func(state.Backend) bool) []state.Backend {
	if ready := backendsWhere(endpoints, func(b state.Backend) bool { return b.Ready && in(b) }); len(ready) > 0 {
		return ready
	}
	return backendsWhere(endpoints, func(b state.Backend) bool { return b.Serving && b.Terminating && in(b) })
}

// clusterBackends are those for traffic of the policy Cluster on the node. Hints
// count when every ready endpoint has them and one is for this node, or else
// its zone: the rules of kube-proxy, by which the hints are given.
func clusterBackends(endpoints []state.Backend, node state.Node) []state.Backend {
	zone := node.Labels[corev1.LabelTopologyZone]
	forNode := func(b state.Backend) bool { return hintedFor(b.ForNodes, node.Name) }
	forZone := func(b state.Backend) bool { return hintedFor(b.ForZones, zone) }
	switch {
	case hintsCount(endpoints, func(b state.Backend) bool { return b.ForNodes != "" }, forNode):
		return orTerminating(endpoints, forNode)
	case hintsCount(endpoints, func(b state.Backend) bool { return b.ForZones != "" }, forZone):
		return orTerminating(endpoints, forZone)
	}
	return orTerminating(endpoints, func(state.Backend) bool { return true })
}

// hintsCount says whether every ready endpoint has a hint, and one is for us.
func hintsCount(endpoints []state.Backend, has, forUs func(state.Backend) bool) bool {
	found := false
	for _, b := range endpoints {
		switch {
		case !b.Ready:
		case !has(b):
			return false
		case forUs(b):
			found = true
		}
	}
	return found
}

// hintedFor says whether name is in the list of a hint.
func hintedFor(list, name string) bool {
	if list == "" || name == "" {
		return false
	}
	for item := range strings.SplitSeq(list, ",") {
		if item == name {
			return true
		}
	}
	return false
}
