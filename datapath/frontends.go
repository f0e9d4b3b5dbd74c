package datapath

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/seamark-lb/seamark/state"
)

// FrontendsOf is Frontends of what a snapshot holds, and what of it is not served.
func FrontendsOf(db *state.DB, snap state.Snapshot, node string) ([]state.Frontend, []state.Problem) {
	services, problems := state.Rightful(db, snap)
	rows := Frontends(services, db.EndpointSlices.Rows(snap), node)
	return rows, append(problems, FrontendProblems(services, rows)...)
}

// Frontends returns what the named node serves, sorted by address, port and
// protocol: each Service's LoadBalancer ingress addresses and externalIPs,
// times its ports. Every frontend of a service port has the same backends;
// with externalTrafficPolicy Local, only those on this node.
//
// An address without a single port that can be balanced gets one row with
// port and protocol 0, which stands for the address alone (it answers ping,
// and its ports are dropped).
//
// Of two Services that claim one addr:port/protocol the older has it; of the
// same age, the first by name. Only IPv4 and only TCP and UDP are balanced so
// far; for the rest no rows are made, and FrontendProblems says so.
func Frontends(services []state.Service, slicesOf []state.EndpointSlice, node string) []state.Frontend {
	byService := map[state.ObjectName][]state.EndpointSlice{}
	for _, s := range slicesOf {
		byService[s.Service] = append(byService[s.Service], s)
	}
	services = slices.Clone(services)
	slices.SortFunc(services, func(a, b state.Service) int {
		return cmp.Or(a.Created.Compare(b.Created), a.Name.Compare(b.Name))
	})
	rows := map[FrontendKey]state.Frontend{}
	var alone []state.Frontend
	served := map[netip.Addr]bool{}
	for _, svc := range services {
		addrs := addresses(svc)
		for _, port := range svc.Ports {
			if len(addrs) == 0 || port.Protocol != state.TCP && port.Protocol != state.UDP {
				continue
			}
			backends := backendsOf(svc, port, byService[svc.Name], node)
			for _, a := range addrs {
				key := FrontendKey{Addr: a.addr.As4(), Port: NewPort(port.Port), Proto: port.Protocol}
				if _, taken := rows[key]; taken {
					continue
				}
				served[a.addr] = true
				rows[key] = state.Frontend{Addr: a.addr, Port: port.Port, Protocol: port.Protocol,
					Service: svc.Name, PortName: port.Name, Kind: a.kind, Backends: backends}
			}
		}
		for _, a := range addrs {
			alone = append(alone, state.Frontend{Addr: a.addr, Service: svc.Name, Kind: a.kind})
		}
	}
	var all []state.Frontend
	for _, row := range rows {
		all = append(all, row)
	}
	for _, row := range alone {
		if !served[row.Addr] {
			served[row.Addr] = true
			all = append(all, row)
		}
	}
	slices.SortFunc(all, func(a, b state.Frontend) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	return all
}

// FrontendProblems returns what Services ask for and Frontends, which
// returned rows for them, does not serve.
func FrontendProblems(services []state.Service, rows []state.Frontend) []state.Problem {
	owner := map[string]state.ObjectName{}
	for _, row := range rows {
		owner[row.RowKey()] = row.Service
	}
	var problems []state.Problem
	for _, svc := range services {
		report := func(field, message, cure string) {
			problems = append(problems, state.Problem{Object: state.ServiceRef(svc.Name), Field: field, Message: message, Cure: cure})
		}
		for _, addr := range slices.Concat(svc.Ingress, svc.ExternalIPs) {
			if !addr.Unmap().Is4() {
				report("", "address "+addr.String()+" is not served: only IPv4 is balanced yet", "use an IPv4 address")
			}
		}
		addrs := addresses(svc)
		for i, port := range svc.Ports {
			field := fmt.Sprintf("spec.ports[%d]", i)
			if len(addrs) > 0 && port.Protocol != state.TCP && port.Protocol != state.UDP {
				report(field+".protocol", port.Protocol.String()+" is not balanced yet", "use TCP or UDP")
				continue
			}
			for _, a := range addrs {
				key := state.Frontend{Addr: a.addr, Port: port.Port, Protocol: port.Protocol}.RowKey()
				if by, ok := owner[key]; ok && by != svc.Name {
					report(field+".port", key+" is served for the older service "+by.String(), "give one of the two another port or address")
				}
			}
		}
	}
	return problems
}

type serviceAddr struct {
	addr netip.Addr
	kind state.FrontendKind
}

// addresses returns the IPv4 addresses at which the outside reaches svc, each once.
func addresses(svc state.Service) []serviceAddr {
	var all []serviceAddr
	add := func(addr netip.Addr, kind state.FrontendKind) {
		addr = addr.Unmap()
		known := func(a serviceAddr) bool { return a.addr == addr }
		if addr.Is4() && !slices.ContainsFunc(all, known) {
			all = append(all, serviceAddr{addr, kind})
		}
	}
	if svc.Type == "LoadBalancer" {
		for _, a := range svc.Ingress {
			add(a, state.KindLoadBalancer)
		}
	}
	if svc.Type != "ExternalName" {
		for _, a := range svc.ExternalIPs {
			add(a, state.KindExternalIP)
		}
	}
	return all
}

// backendsOf returns the backends of a service port, sorted, each addr:port
// once: the ready ones, or, when none is, those that terminate but still
// serve (KEP-1669).
func backendsOf(svc state.Service, port state.ServicePort, endpoints []state.EndpointSlice, node string) []state.Backend {
	var ready, terminating []state.Backend
	for _, slice := range endpoints {
		for _, p := range slice.Ports {
			if p.Name != port.Name || p.Protocol != port.Protocol {
				continue
			}
			for _, b := range slice.Endpoints {
				b.Addr, b.Port = b.Addr.Unmap(), p.Port
				switch {
				case !b.Addr.Is4(), svc.ExternalTrafficPolicyLocal && b.Node != node:
				case b.Ready:
					ready = append(ready, b)
				case b.Serving && b.Terminating:
					terminating = append(terminating, b)
				}
			}
		}
	}
	if len(ready) == 0 {
		ready = terminating
	}
	// An endpoint may be in two slices while it moves between them; the
	// further keys make the choice between them the same everywhere.
	slices.SortFunc(ready, func(a, b state.Backend) int {
		return cmp.Or(a.Compare(b), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Weight, b.Weight))
	})
	return slices.CompactFunc(ready, func(a, b state.Backend) bool { return a.Compare(b) == 0 })
}

// HoldWhileAnnounced returns the Hold of the Frontends' reconciler: the last
// frontend of an address stays in the kernel until the address is no longer
// announced (DESIGN §1). Its reconciler must Wake on Announcements.
func HoldWhileAnnounced(db *state.DB) func(state.Snapshot, state.Frontend) state.Reason {
	return func(snap state.Snapshot, row state.Frontend) state.Reason {
		if row.Status.Wanted() {
			return ""
		}
		for other := range db.Frontends.By(snap, state.IndexAddr, row.Addr.String()) {
			if other.Status.Wanted() {
				return "" // the address lives on without this port
			}
		}
		for range db.Announcements.By(snap, state.IndexAddr, row.Addr.String()) {
			return state.ReasonStillAnnounced
		}
		return ""
	}
}
