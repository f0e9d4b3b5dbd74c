package bgp

import (
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
)

// routes are those that an instance has for its peers. A prefix that several
// advertisements mean goes to a peer as the first of them by name says.
func (d *decider) routes(instance string, peers []peerHere) []state.BGPRoute {
	byPrefix := map[netip.Prefix]*state.BGPRoute{}
	for _, advertisement := range sortedBy(d.Advertisements, state.BGPAdvertisement.RowKey) {
		if !d.anySelects(advertisement.NodeSelectors) {
			continue
		}
		for _, addresses := range advertisement.Addresses {
			for prefix, addrs := range d.prefixes(addresses) {
				takers := takers(advertisement, peers, prefix.Addr().Is6())
				if len(takers) == 0 {
					continue
				}
				r := byPrefix[prefix]
				if r == nil {
					r = &state.BGPRoute{Instance: instance, Prefix: prefix}
					byPrefix[prefix] = r
				}
				r.Addrs = append(r.Addrs, addrs...)
				addOffer(r, state.BGPOffer{Advertisement: advertisement.Name, Peers: takers, BGPAttributes: addresses.Attributes})
			}
		}
	}
	rows := make([]state.BGPRoute, 0, len(byPrefix))
	for _, r := range byPrefix {
		slices.SortFunc(r.Addrs, netip.Addr.Compare)
		r.Addrs = slices.Compact(r.Addrs)
		rows = append(rows, *r)
	}
	return rows
}

// addOffer adds an offer for the peers that have none yet.
func addOffer(r *state.BGPRoute, o state.BGPOffer) {
	o.Peers = slices.DeleteFunc(o.Peers, func(peer string) bool {
		return slices.ContainsFunc(r.Offers, func(earlier state.BGPOffer) bool { return slices.Contains(earlier.Peers, peer) })
	})
	if len(o.Peers) > 0 {
		r.Offers = append(r.Offers, o)
	}
}

// takers are the peers that an advertisement is for, in a family, sorted.
func takers(a state.BGPAdvertisement, peers []peerHere, v6 bool) []string {
	var names []string
	for _, p := range peers {
		everybody := len(a.Peers) == 0 && a.PeerSelector == nil
		meant := everybody || slices.Contains(a.Peers, p.Name) || a.PeerSelector != nil && matches(a.PeerSelector, labels.Set(p.Labels))
		if meant && p.takes(a, v6) {
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	return names
}

// takes says whether a peer's own families let an advertisement through.
func (p peerHere) takes(a state.BGPAdvertisement, v6 bool) bool {
	if exchanged := p.v4 && !v6 || p.v6 && v6; !exchanged {
		return false
	}
	if len(p.Families) == 0 {
		return true
	}
	return slices.ContainsFunc(p.Families, func(f state.BGPPeerFamily) bool {
		return f.IPv6 == v6 && matches(f.Advertisements, labels.Set(a.Labels))
	})
}

// prefixes are what of one kind of addresses this node advertises, each with the
// addresses that it is advertised for.
func (d *decider) prefixes(of state.BGPAddresses) map[netip.Prefix][]netip.Addr {
	prefixes := map[netip.Prefix][]netip.Addr{}
	if of.Kind == "" {
		for _, p := range d.Node.PodCIDRs {
			prefixes[p.Masked()] = nil
		}
		return prefixes
	}
	services, pools := selector(of.ServiceSelector), d.pools(of)
	for i := range d.Services {
		svc := &d.Services[i]
		if !forBGP(svc) || !services.Matches(state.ServiceLabels{Service: svc}) {
			continue
		}
		for _, a := range addressesOf(svc, of.Kind) {
			if pools != nil && !pools(a) || !d.reachable(svc, a) {
				continue
			}
			p := aggregate(of, svc, a)
			prefixes[p] = append(prefixes[p], a)
		}
	}
	return prefixes
}

// aggregate is the prefix that an address is advertised by: itself or, unless only
// the nodes with a backend are to get its packets, one of the length that is asked for.
func aggregate(of state.BGPAddresses, svc *state.Service, a netip.Addr) netip.Prefix {
	length := int(of.Aggregate4)
	if a.Is6() {
		length = int(of.Aggregate6)
	}
	local := svc.ExternalTrafficPolicyLocal
	if of.Kind == state.KindClusterIP {
		local = svc.InternalTrafficPolicyLocal
	}
	if length == 0 || local {
		length = a.BitLen()
	}
	return netip.PrefixFrom(a, length).Masked()
}

// Blackhole is the kernel's route beside an aggregate: the default route would
// take a packet to an address of it that nobody has back to the router.
func Blackhole(r state.BGPRoute) state.KernelRoute {
	return state.KernelRoute{Dst: r.Prefix, Kind: state.RouteBlackhole}
}

// Blackholes are those of all aggregates, also of those that are not withdrawn yet.
func Blackholes(routes []state.BGPRoute) (rows []state.KernelRoute) {
	there := map[netip.Prefix]bool{}
	for _, r := range routes { // two instances may have the same
		if r.Aggregate() && !there[r.Prefix] {
			there[r.Prefix] = true
			rows = append(rows, Blackhole(r))
		}
	}
	return rows
}

// forBGP says whether the Service is for BGP to advertise. Only one of type
// LoadBalancer can have a class.
func forBGP(svc *state.Service) bool { return svc.Class == "" || svc.Class == v1alpha1.ClassBGP }

func addressesOf(svc *state.Service, kind state.FrontendKind) []netip.Addr {
	switch kind {
	case state.KindLoadBalancer:
		if svc.Type == "LoadBalancer" {
			return svc.Ingress
		}
	case state.KindExternalIP:
		return svc.ExternalIPs
	case state.KindClusterIP:
		return svc.ClusterIPs
	}
	return nil
}

// reachable says whether this node has a backend for the address: its frontends
// have those of the whole cluster, or of this node where the policy is Local.
func (d *decider) reachable(svc *state.Service, a netip.Addr) bool {
	return slices.ContainsFunc(d.frontends[a], func(f *state.Frontend) bool {
		if f.Kind == state.KindClusterIP {
			return f.Service == svc.Name && f.Status.Wanted() && f.Exposed && len(f.Inside) > 0
		}
		return f.Service == svc.Name && f.Status.Wanted() && len(f.Backends) > 0
	})
}

// pools returns what says whether an address is of the pools that are meant; nil: any is.
func (d *decider) pools(of state.BGPAddresses) func(netip.Addr) bool {
	if of.Kind != state.KindLoadBalancer || len(of.Pools) == 0 && of.PoolSelector == nil {
		return nil
	}
	var meant []state.Pool
	for _, p := range d.Pools {
		if slices.ContainsFunc(of.Pools, p.Called) || of.PoolSelector != nil && matches(of.PoolSelector, labels.Set(p.Labels)) {
			meant = append(meant, p)
		}
	}
	return func(a netip.Addr) bool {
		return slices.ContainsFunc(meant, func(p state.Pool) bool { return p.Holds(a) })
	}
}
