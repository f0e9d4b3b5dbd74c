package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/seamark-lb/seamark/state"
)

// Standing is how an advertisement stands with an address, towards one peer.
type Standing struct {
	Advertisement, Instance, Peer string
	// Prefix that the address goes out by; the zero Prefix where it does not.
	Prefix netip.Prefix
	// Why it is not advertised; "": it is, with the Attributes.
	Why        string
	Attributes state.BGPAttributes
}

// Explain says of each advertisement and each session of this node whether it
// advertises an address, and why not. Routes and sessions are the rows as they stand.
func Explain(in Inputs, routes []state.BGPRoute, sessions []state.BGPSessionState, addr netip.Addr) []Standing {
	decision := Decide(in)
	d := newDecider(in)
	var all []Standing
	for _, a := range sortedBy(in.Advertisements, state.BGPAdvertisement.RowKey) {
		for _, s := range decision.Sessions {
			at := Standing{Advertisement: a.Name, Instance: s.Instance, Peer: s.Peer}
			if s.Bar != "" {
				at.Why = "there is no session: " + s.Bar
			} else {
				at.Prefix, at.Attributes, at.Why = d.explain(a, s, addr)
			}
			if at.Why == "" {
				at.Why = goesOut(at, routes, sessions)
			}
			all = append(all, at)
		}
	}
	return all
}

// explain is what the decision says.
func (d *decider) explain(a state.BGPAdvertisement, s state.BGPSession, addr netip.Addr) (netip.Prefix, state.BGPAttributes, string) {
	if !d.anySelects(a.NodeSelectors) {
		return netip.Prefix{}, state.BGPAttributes{}, "its nodeSelectors do not match this node"
	}
	i := slices.IndexFunc(d.Peers, func(p state.BGPPeer) bool { return p.Name == s.Peer })
	if i < 0 || len(takers(a, []peerHere{{d.Peers[i], s.IPv4, s.IPv6}}, addr.Is6())) == 0 {
		return netip.Prefix{}, state.BGPAttributes{}, "it is for other peers, or the peer's families leave it out"
	}
	var bars []string
	for _, of := range a.Addresses {
		for prefix, addrs := range d.prefixes(of) {
			if slices.Contains(addrs, addr) || addrs == nil && prefix.Contains(addr) {
				return prefix, of.Attributes, ""
			}
		}
		if bar := d.bar(of, addr); !slices.Contains(bars, bar) {
			bars = append(bars, bar)
		}
	}
	return netip.Prefix{}, state.BGPAttributes{}, strings.Join(bars, "; ")
}

// bar is why addresses of one kind do not hold this one.
func (d *decider) bar(of state.BGPAddresses, addr netip.Addr) string {
	if of.Kind == "" {
		return "in no pod CIDR of this node"
	}
	for i := range d.Services {
		svc := &d.Services[i]
		if !slices.Contains(addressesOf(svc, of.Kind), addr) {
			continue
		}
		pools := d.pools(of)
		switch {
		case !forBGP(svc):
			return fmt.Sprintf("Service %s is of class %s, which is not for BGP", svc.Name, svc.Class)
		case !selector(of.ServiceSelector).Matches(state.ServiceLabels{Service: svc}):
			return fmt.Sprintf("serviceSelector does not match Service %s", svc.Name)
		case pools != nil && !pools(addr):
			return "of no pool that it names"
		case !slices.ContainsFunc(d.frontends[addr], func(f *state.Frontend) bool { return f.Service == svc.Name && f.Status.Wanted() }):
			return "this node does not serve it: see seamark status"
		case of.Kind == state.KindClusterIP && svc.InternalTrafficPolicyLocal, of.Kind != state.KindClusterIP && svc.ExternalTrafficPolicyLocal:
			return fmt.Sprintf("the traffic policy of Service %s is Local, and no backend on this node is ready", svc.Name)
		}
		return fmt.Sprintf("no backend of Service %s is ready", svc.Name)
	}
	return fmt.Sprintf("no %s address of a Service", of.Kind)
}

// goesOut says why what was decided is not with the peer.
func goesOut(at Standing, routes []state.BGPRoute, sessions []state.BGPSessionState) string {
	i := slices.IndexFunc(routes, func(r state.BGPRoute) bool { return r.Instance == at.Instance && r.Prefix == at.Prefix })
	if i < 0 {
		return "in a moment, unless the node is drained, or has the label " + corev1.LabelNodeExcludeBalancers
	}
	for _, o := range routes[i].Offers {
		if slices.Contains(o.Peers, at.Peer) && o.Advertisement != at.Advertisement {
			return fmt.Sprintf("the peer has it by advertisement %s, which goes before", o.Advertisement)
		}
	}
	switch status := routes[i].Status; {
	case status.Phase == state.Failed:
		return status.Err
	case status.Phase != state.Done && status.Reason == state.ReasonWaitingForDatapath:
		return "waiting for the datapath to serve it: see seamark status"
	case status.Phase != state.Done:
		return "in a moment"
	}
	i = slices.IndexFunc(sessions, func(s state.BGPSessionState) bool { return s.Instance == at.Instance && s.Peer == at.Peer })
	switch {
	case i < 0:
		return "the session has not begun: see seamark bgp peers"
	case sessions[i].State != state.BGPEstablished:
		return strings.TrimSuffix(fmt.Sprintf("the session is %s: %s", sessions[i].State, sessions[i].LastError), ": ")
	case !sessions[i].Exchanges(at.Prefix.Addr()):
		return fmt.Sprintf("the peer does not exchange %s: activate it for this neighbor there", familyName(at.Prefix.Addr()))
	}
	return ""
}

func familyName(a netip.Addr) string {
	if a.Is6() {
		return "ipv6"
	}
	return "ipv4"
}
