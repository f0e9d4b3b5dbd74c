package datapath

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/seamark-lb/seamark/state"
)

// forwarding is how the packets of a frontend with these backends reach them on
// other nodes, and in which tunnel.
//
// A node port is at addresses of this node, which no other node serves: its
// packets are translated here. So are those to a host outside the cluster that
// could not make sense of the tunnel: nobody there translates a port (IP in IP
// ends at its tunl0, whose kernel delivers to the port in the packet), or reads
// Geneve. SCTP's checksum covers its ports, and nothing in the datapath can mend
// it: what would change a port is not for SCTP.
func (r *frontendRun) forwarding(svc *state.Service, port servicePortAt, kind state.FrontendKind, backends []state.Backend) (state.Forwarding, state.Dispatch) {
	ref := state.ServiceRef(svc.Name)
	mode := cmp.Or(svc.Forwarding, r.in.Defaults.Forwarding, state.ForwardDSR)
	dispatch := cmp.Or(svc.Dispatch, r.in.Defaults.Dispatch, state.DispatchIPIP)
	switch {
	case kind == state.KindClusterIP:
		return state.ForwardDSR, dispatch // pods' packets are translated where they start
	case port.Protocol == state.SCTP:
		if svc.Forwarding == state.ForwardSNAT {
			r.report(ref, svc.ForwardingField, fmt.Sprintf("SCTP port %d is forwarded by dsr: its checksum cannot be mended when ports are translated", port.Port),
				"write dsr or hybrid")
		}
		mode = state.ForwardDSR
	case kind == state.KindNodePort:
		if svc.ExternalTrafficPolicyLocal {
			return state.ForwardDSR, dispatch // all are on this node
		}
		if svc.Forwarding == state.ForwardDSR && svc.Type == "NodePort" {
			r.report(ref, svc.ForwardingField, fmt.Sprintf("node port %d is forwarded by snat: other nodes do not serve this one's addresses", port.number),
				"remove it, or write externalTrafficPolicy: Local")
		}
		return state.ForwardSNAT, dispatch
	case mode == state.ForwardHybrid && port.Protocol == state.UDP:
		mode = state.ForwardSNAT
	case mode == state.ForwardHybrid:
		mode = state.ForwardDSR
	}
	if mode != state.ForwardDSR {
		return mode, dispatch
	}
	beyond := backendsWhere(backends, func(b state.Backend) bool { return b.Node == "" })
	if len(beyond) == 0 {
		return mode, dispatch
	}
	if len(beyond) == len(backends) {
		dispatch = state.DispatchIPIP
	}
	why, cure := "", ""
	if i := slices.IndexFunc(beyond, func(b state.Backend) bool { return b.Port != port.number }); i >= 0 {
		why = fmt.Sprintf("backend %s is outside the cluster, where nobody translates port %d", netip.AddrPortFrom(beyond[i].Addr, beyond[i].Port), port.number)
		cure = fmt.Sprintf("make the target port %d, or write snat", port.number)
	} else if dispatch == state.DispatchGeneve && port.Protocol != state.SCTP {
		why = "backend " + beyond[0].Addr.String() + " is outside the cluster, where nobody reads geneve, and others are in it"
		cure = "write " + string(state.DispatchIPIP) + " for " + cmp.Or(svc.DispatchField, "--dsr-dispatch") + ", or snat"
	} else {
		return mode, dispatch
	}
	if svc.Forwarding == state.ForwardDSR {
		r.report(ref, svc.ForwardingField, fmt.Sprintf("port %d is forwarded by snat: %s", port.number, why), cure)
	}
	return state.ForwardSNAT, dispatch
}

// sctpServed says whether a port of SCTP can be served, and reports if not.
func (r *frontendRun) sctpServed(ref state.ObjectRef, port servicePortAt, kind state.FrontendKind, c *choice) bool {
	const why = " is not served: SCTP's checksum cannot be mended when ports are translated"
	if kind == state.KindNodePort {
		r.report(ref, port.path("nodePort"), fmt.Sprintf("SCTP node port %d%s", port.number, why),
			"use a LoadBalancer address or an externalIP; allocateLoadBalancerNodePorts: false does without the node port")
		return false
	}
	for _, b := range c.serving {
		if b.Port != port.number {
			r.report(ref, port.path("targetPort"), fmt.Sprintf("SCTP port %d with target port %d%s", port.number, b.Port, why),
				"make the two the same")
			return false
		}
	}
	return true
}
