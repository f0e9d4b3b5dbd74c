package state

import (
	"cmp"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// BGPImport is a prefix that is taken from a peer, alone or with longer ones inside it.
type BGPImport struct {
	Prefix netip.Prefix
	// From and To are the shortest and the longest length that is taken.
	From, To uint8
}

// Takes says whether p is one of those that are taken.
func (i BGPImport) Takes(p netip.Prefix) bool {
	return int(i.From) <= p.Bits() && p.Bits() <= int(i.To) && i.Prefix.Bits() <= p.Bits() && i.Prefix.Contains(p.Addr())
}

// BGPReceived is a route that a peer has sent, of those that its BGPPeer takes.
type BGPReceived struct {
	Instance, Peer string
	Prefix         netip.Prefix
	// NextHops as the peer has them: one, or with IPv6 the link-local one besides.
	NextHops []netip.Addr
	// ASPath has all numbers of it; PathLength counts a set of them as one (RFC 4271 §9.1.2.2).
	ASPath     []uint32
	PathLength int
	// Internal: the peer is one of the node's own AS.
	Internal  bool
	Origin    uint8
	LocalPref uint32
	MED       uint32
}

// RowKey of a BGPReceived is instance/peer/prefix.
func (r BGPReceived) RowKey() string { return r.Instance + "/" + r.Peer + "/" + r.Prefix.String() }

// Equal compares all of it.
func (r BGPReceived) Equal(s BGPReceived) bool {
	return r.Instance == s.Instance && r.Peer == s.Peer && r.Prefix == s.Prefix && slices.Equal(r.NextHops, s.NextHops) &&
		slices.Equal(r.ASPath, s.ASPath) && r.PathLength == s.PathLength && r.Internal == s.Internal && r.Origin == s.Origin &&
		r.LocalPref == s.LocalPref && r.MED == s.MED
}

// ExposedClusterIPs returns what says of a Service whether its ClusterIPs are
// advertised to routers, by any node: a node that gets a packet for one may send it
// to a pod of any other, which is to serve the address from outside as well.
func ExposedClusterIPs(db *DB, r Reader) func(*Service) bool {
	var selectors []labels.Selector
	for a := range db.BGPAdvertisements.All(r) {
		for _, addresses := range a.Addresses {
			if addresses.Kind != KindClusterIP {
				continue
			}
			selector := labels.Everything()
			if addresses.ServiceSelector != nil {
				var err error
				if selector, err = metav1.LabelSelectorAsSelector(addresses.ServiceSelector); err != nil {
					continue // it was refused where it was written, and selects nothing
				}
			}
			selectors = append(selectors, selector)
		}
	}
	spoken := false
	for range db.BGPInstances.All(r) {
		spoken = true
	}
	return func(svc *Service) bool {
		return spoken && slices.ContainsFunc(selectors, func(s labels.Selector) bool { return s.Matches(ServiceLabels{svc}) })
	}
}

// KernelRoute is a route of this node's kernel that BGP is the reason for.
type KernelRoute struct {
	Dst  netip.Prefix
	Kind KernelRouteKind
	// NextHops of a learned one, sorted: packets are spread over them.
	NextHops []NextHop
	Status   Status
}

// KernelRouteKind is what a KernelRoute does.
type KernelRouteKind string

// The kinds.
const (
	// RouteLearned leads to the next hops that peers named.
	RouteLearned KernelRouteKind = "learned"
	// RouteUnreachable refuses what has no longer route: addresses of the node's
	// pod CIDR that no pod has.
	RouteUnreachable KernelRouteKind = "unreachable"
	// RouteBlackhole drops what others send here and has no longer route: addresses
	// of an aggregate that no Service has. Processes of the node itself go past it.
	RouteBlackhole KernelRouteKind = "blackhole"
)

// NextHop is a neighbour on a device.
type NextHop struct {
	Via    netip.Addr // without a zone
	Device string
}

// Compare orders next hops.
func (h NextHop) Compare(i NextHop) int {
	return cmp.Or(h.Via.Compare(i.Via), cmp.Compare(h.Device, i.Device))
}

// RowKey of a KernelRoute is its destination and its kind.
func (r KernelRoute) RowKey() string { return r.Dst.String() + " " + string(r.Kind) }

// RowStatus and WithStatus make a KernelRoute reconcilable.
func (r KernelRoute) RowStatus() Status { return r.Status }

// WithStatus returns r with its status replaced.
func (r KernelRoute) WithStatus(s Status) KernelRoute { r.Status = s; return r }

// SameSpec compares everything but the status.
func (r KernelRoute) SameSpec(s KernelRoute) bool {
	return r.Dst == s.Dst && r.Kind == s.Kind && slices.Equal(r.NextHops, s.NextHops)
}
