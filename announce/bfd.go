package announce

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// BFD is how candidates watch each other by BFD over the interfaces that they
// announce on.
type BFD struct {
	// Interval between packets, both ways, and Multiplier: how many may be missing.
	Interval   time.Duration
	Multiplier uint8
	// Mesh is the largest number of nodes on a segment that all keep sessions with
	// each other; 0: no sessions at all.
	Mesh int
	// Ring is with how many on either side, by name, each keeps one where there are more;
	// 0: with none. All with all are n² sessions.
	Ring int
}

// ownerBFD is the Owner of the sessions.
const ownerBFD = "l2"

// Sessions returns the BFD sessions that node keeps with other candidates: over
// each interface that it announces on, one with each interface of theirs that is
// on a subnet of it. Both ends decide the same from the same leases. Sorted.
func Sessions(bfd BFD, node string, devices []state.Device, nodes []state.Node, leases []state.NodeLease) []state.BFDSession {
	registered := nodesByName(nodes)
	leases = slices.DeleteFunc(slices.Clone(leases), func(l state.NodeLease) bool {
		_, known := registered[l.Node]
		return !known && !l.Appliance // it is of the cluster no longer
	})
	mine := slices.IndexFunc(leases, func(l state.NodeLease) bool { return l.Node == node })
	if mine < 0 {
		return nil
	}
	var rows []state.BFDSession
	for _, i := range leases[mine].Interfaces {
		dev := slices.IndexFunc(devices, func(d state.Device) bool { return d.Name == i.Name })
		if dev < 0 {
			continue
		}
		for _, link := range bfd.neighbours(node, links(leases, i)) {
			local := addrOn(leases[mine], link.subnet)
			own := slices.ContainsFunc(devices[dev].Prefixes, func(p netip.Prefix) bool { return p.Addr() == local })
			if !own { // the node's address there is another interface's
				continue
			}
			rows = append(rows, state.BFDSession{Local: local, Remote: link.remote, Interface: i.Name, Ifindex: devices[dev].Index,
				MinTx: bfd.Interval, MinRx: bfd.Interval, Multiplier: bfd.Multiplier, Owner: ownerBFD})
		}
	}
	slices.SortFunc(rows, state.BFDSession.Compare)
	return slices.CompactFunc(rows, state.BFDSession.SameSpec)
}

// link is a way from an interface to a node.
type link struct {
	node   string
	subnet netip.Prefix
	remote netip.Addr
}

// links returns the ways from the interface to all nodes that are on its subnets, itself
// among them, in the order of their names.
func links(leases []state.NodeLease, from state.LeaseInterface) []link {
	var found []link
	for _, lease := range leases {
		for _, to := range lease.Interfaces {
			if subnet, ok := common(from.Prefixes, to.Prefixes); ok {
				if remote := addrOn(lease, subnet); remote.IsValid() {
					found = append(found, link{lease.Node, subnet, remote})
				}
			}
		}
	}
	slices.SortFunc(found, func(a, b link) int {
		return cmp.Or(strings.Compare(a.node, b.node), a.remote.Compare(b.remote))
	})
	return found
}

// neighbours are those of the links that node keeps sessions over.
func (bfd BFD) neighbours(node string, links []link) []link {
	var names []string // sorted
	for _, l := range links {
		names = append(names, l.node)
	}
	names = slices.Compact(names)
	at, on := slices.BinarySearch(names, node)
	if !on {
		return nil // it has no address of its own there
	}
	return slices.DeleteFunc(links, func(l link) bool {
		other, _ := slices.BinarySearch(names, l.node)
		away := max(at-other, other-at)
		away = min(away, len(names)-away)
		return away == 0 || len(names) > bfd.Mesh && away > bfd.Ring
	})
}

// common returns a subnet that both have: of IPv4 if there is one, and the first.
func common(a, b []netip.Prefix) (subnet netip.Prefix, ok bool) {
	for _, p := range a {
		if slices.Contains(b, p) && (!ok || p.Compare(subnet) < 0) {
			subnet, ok = p, true
		}
	}
	return subnet, ok
}

// addrOn is the node's address on the subnet, the first if it has several.
func addrOn(lease state.NodeLease, subnet netip.Prefix) netip.Addr {
	var first netip.Addr
	for _, a := range lease.Addrs {
		if subnet.Contains(a) && (!first.IsValid() || a.Less(first)) {
			first = a
		}
	}
	return first
}
