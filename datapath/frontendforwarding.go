package datapath

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/seamark-lb/seamark/state"
)

// forwarding is how the packets of a frontend reach its backends on other nodes,
// and in which tunnel.
//
// A node port is at addresses of this node, which no other node serves: its
// packets are translated here.
func (r *frontendRun) forwarding(svc *state.Service, port servicePortAt, row state.Frontend) (state.Forwarding, state.Dispatch) {
	backends := row.Backends
	if row.Exposed {
		backends = row.Inside // the ClusterIP has these alone
	}
	ref := state.ServiceRef(svc.Name)
	mode := cmp.Or(svc.Forwarding, r.in.Defaults.Forwarding, state.ForwardDSR)
	dispatch := cmp.Or(svc.Dispatch, r.in.Defaults.Dispatch, state.DispatchIPIP)
	switch {
	case row.Kind == state.KindClusterIP && !row.Exposed:
		return state.ForwardDSR, dispatch // pods' packets are translated where they start
	case mode == state.ForwardKubeProxy && row.Kind != state.KindNodePort:
		if r.in.Inside {
			r.report(ref, cmp.Or(svc.ForwardingField, "--forwarding-mode"), fmt.Sprintf("port %d is left to kube-proxy, and none runs in the cluster", port.number),
				"write dsr; where another program stands in for kube-proxy, --kube-proxy-replacement=false says so")
		}
		return state.ForwardKubeProxy, dispatch
	case row.Kind == state.KindNodePort:
		nowhere := func(b state.Backend) bool { return b.Node == "" }
		if svc.ExternalTrafficPolicyLocal && !slices.ContainsFunc(backends, nowhere) {
			return state.ForwardDSR, dispatch // all are on this node
		}
		if svc.Forwarding == state.ForwardDSR && svc.Type == "NodePort" {
			r.report(ref, svc.ForwardingField, fmt.Sprintf("node port %d is forwarded by snat: other nodes do not serve this one's addresses", port.number),
				"remove it, or write externalTrafficPolicy: Local")
		}
		return state.ForwardSNAT, dispatch
	case mode == state.ForwardSNAT, mode == state.ForwardHybrid && port.Protocol == state.UDP:
		return state.ForwardSNAT, dispatch
	}
	return r.tunnelled(svc, port, dispatch, backends)
}

// tunnelled is ForwardDSR, if every backend on another machine can be reached
// that way. A pod in the network of its node cannot: Seamark there unpacks what
// is for pods alone. Nor can, outside the cluster, where no Seamark runs, a port
// that is to be translated (IP in IP ends at a host's tunl0, whose kernel
// delivers to the port in the packet), or what comes in Geneve.
func (r *frontendRun) tunnelled(svc *state.Service, port servicePortAt, dispatch state.Dispatch, backends []state.Backend) (state.Forwarding, state.Dispatch) {
	why, cure := "", ""
	beyond := 0
	for _, b := range backends {
		at := netip.AddrPortFrom(b.Addr, b.Port)
		switch {
		case b.Node != r.in.Node.Name && r.in.NodeIPs[b.Addr]:
			why, cure = fmt.Sprintf("backend %s is in the network of its node, to which no tunnel leads", at), "write snat"
		case b.Node != "":
		case b.Port != port.number:
			why = fmt.Sprintf("backend %s is outside the cluster, where nobody translates port %d", at, port.number)
			cure = fmt.Sprintf("make the target port %d, or write snat", port.number)
			beyond++
		default:
			beyond++
		}
	}
	if beyond > 0 && beyond == len(backends) {
		dispatch = state.DispatchIPIP
	}
	if why == "" && beyond > 0 && dispatch == state.DispatchGeneve {
		why = "backends are outside the cluster, where nobody reads geneve, and others are in it"
		cure = "write " + string(state.DispatchIPIP) + " for " + cmp.Or(svc.DispatchField, "--dsr-dispatch")
	}
	if why == "" {
		return state.ForwardDSR, dispatch
	}
	if svc.Forwarding == state.ForwardDSR {
		r.report(state.ServiceRef(svc.Name), svc.ForwardingField, fmt.Sprintf("port %d is forwarded by snat: %s", port.number, why), cure)
	}
	return state.ForwardSNAT, dispatch
}
