package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/announce"
	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/state"
)

// explainer says of an address who announces it, who else could, and who could
// not, and why.
type explainer struct {
	db *state.DB
	// inputs of placement, as this node knows them; false: not yet.
	inputs func() (announce.Inputs, bool)
}

var errNotKnown = errors.New("this daemon does not know the cluster yet: see seamark status")

// explain is control.Server's Explain.
func (x explainer) explain(addr netip.Addr) (control.Explanation, error) {
	in, known := x.inputs()
	if !known {
		return control.Explanation{}, errNotKnown
	}
	snap := x.db.Snapshot()
	e := control.Explanation{Address: addr}
	services, policies := announce.Announced(in, addr)
	e.Policies = policies
	if len(services) == 0 { // no policy announces it: it may be some Service's all the same
		services = carriers(x.db, snap, addr)
	}
	for _, name := range services {
		e.Services = append(e.Services, name.String())
	}
	for pool := range x.db.Pools.All(snap) {
		if pool.Holds(addr) {
			e.Pool = pool.Name
			break
		}
	}
	if row, ok := x.db.Assigned.Get(snap, addr.String()); ok {
		e.Node, e.Since, e.Generation, e.Reason, e.Previous = row.Node, row.Since, row.Generation, row.Reason, row.Previous
	}
	candidates := 0
	for _, s := range announce.Explain(in, addr) {
		verdict := in.Verdicts[s.Node]
		standing := control.NodeStanding{Node: s.Node, Interfaces: s.Interfaces, Lease: verdict.String(),
			Candidate: s.Bar == "", Bar: string(s.Bar), Why: why(in, s)}
		if standing.Candidate && verdict == announce.Live {
			candidates++
		}
		e.Nodes = append(e.Nodes, standing)
	}
	e.Advice = advice(e, candidates)
	return e, nil
}

// carriers are the Services that have the address.
func carriers(db *state.DB, r state.Reader, addr netip.Addr) []state.ObjectName {
	var names []state.ObjectName
	for svc := range db.Services.All(r) {
		if slices.Contains(svc.Ingress, addr) || slices.Contains(svc.ExternalIPs, addr) {
			names = append(names, svc.Name)
		}
	}
	return names
}

// advice is what to do when no node can announce the address.
func advice(e control.Explanation, candidates int) []string {
	switch {
	case len(e.Services) == 0:
		return []string{"no Service has this address: see seamark get service -A"}
	case len(e.Policies) == 0:
		return []string{fmt.Sprintf("no L2Policy announces it: write one whose serviceSelector matches %s, with loadBalancerIPs or externalIPs (seamark get l2policy -o wide); "+
			"a Service of a class that is not for L2 is left to others", strings.Join(e.Services, ", "))}
	case candidates == 0:
		return []string{"no node may take it: mend what one of them lacks"}
	case e.Node == "":
		return []string{"a node may take it: the coordinator decides within a moment, if there is one (seamark status)"}
	}
	return nil
}

// why a node is no candidate, and what to do; of one that is, what limits it.
func why(in announce.Inputs, s announce.Standing) string {
	switch s.Bar {
	case "":
		switch in.Verdicts[s.Node] {
		case announce.Resting:
			return "its daemon stopped cleanly: it keeps what it has for the restart grace, and gets nothing new"
		case announce.Frozen:
			return "it fell silent together with most others: it keeps what it has, and gets nothing new"
		}
		return ""
	case announce.BarUnknownNode:
		return "it keeps a lease, and there is no such Node: register it, or start its seamarkd with the --node-name that it is registered by"
	case announce.BarNoLease:
		return "no seamarkd there ever kept a lease: start one"
	case announce.BarLeaseExpired:
		return "its lease went unrenewed: see seamark status there"
	case announce.BarDrained:
		return "it is drained: seamark undrain " + s.Node
	case announce.BarReleased:
		return "it gave its addresses up, as a machine does that shuts down: its next daemon takes that back"
	case announce.BarStopping:
		return "its machine is shutting down"
	case announce.BarCordoned:
		return "it is cordoned, and --drain-on-cordon is set: kubectl uncordon " + s.Node
	case announce.BarExcluded:
		return "it has the label node.kubernetes.io/exclude-from-external-load-balancers"
	case announce.BarNotSelected:
		return "the nodeSelector of no policy for the address matches it"
	case announce.BarNoInterface:
		return "it has no interface that the policies mean; it reports " + interfacesOf(in, s.Node)
	case announce.BarOffLink:
		return "the address is of a subnet that its interfaces are not on; it reports " + interfacesOf(in, s.Node)
	case announce.BarInterfaceDown:
		return "its interface is down; it reports " + interfacesOf(in, s.Node)
	case announce.BarCutOff:
		return "the other nodes on the segment do not hear it there, or it does not hear them: look at its cable, its switch port and its VLAN; it reports " + interfacesOf(in, s.Node)
	case announce.BarNoLocalBackend:
		return "the Service's externalTrafficPolicy is Local, and no backend there is ready"
	case announce.BarNoBackend:
		return "no backend of the Service serves anywhere, and the policies withdraw the address then (withoutBackends)"
	}
	return string(s.Bar)
}

// interfacesOf is what the node's lease reports, for people.
func interfacesOf(in announce.Inputs, node string) string {
	var texts []string
	for _, l := range in.Leases {
		if l.Node != node {
			continue
		}
		for _, i := range l.Interfaces {
			text := i.Name
			if !i.Up {
				text += " (down)"
			}
			for _, p := range i.Prefixes {
				text += " " + p.String()
			}
			if len(i.Silent) > 0 {
				text += " (hears nothing of " + strings.Join(i.Silent, ", ") + ")"
			}
			texts = append(texts, text)
		}
	}
	if len(texts) == 0 {
		return "none"
	}
	return strings.Join(texts, ", ")
}
