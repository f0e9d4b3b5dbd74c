package announce

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/seamark-lb/seamark/state"
)

// How many of the other nodes on a segment each node asks whether they are
// there: each is asked by as many, whatever the number of nodes. A node that
// hears no other, or not its gateway, is in doubt, and asks more of them: who is
// on its side of a torn segment, and who is not?
const (
	asksUsually = 3
	asksInDoubt = 16
)

// ask is a machine to be asked for on an interface.
type ask struct {
	node string // "" for the gateway
	addr netip.Addr
	mac  string // "" when it is not known
}

// asks returns whom the node asks for on each of its interfaces: of the nodes
// that could be on the same segment some, and the gateway. They are chosen
// evenly from all, not the next by name: neighbours by name tend to share a rack,
// and its fate. inDoubt are the interfaces on which it is.
func asks(node string, leases []state.NodeLease, verdicts map[string]Verdict, inDoubt map[string]bool) map[string][]ask {
	all := map[string][]ask{}
	own, others := leaseOf(leases, node), slices.Clone(leases)
	slices.SortFunc(others, func(a, b state.NodeLease) int { return compareFrom(node, a.Node, b.Node) })
	for _, i := range own.Interfaces {
		if !i.Up {
			continue
		}
		var peers []ask
		for _, l := range others {
			if l.Node == node || !there(verdicts[l.Node]) {
				continue
			}
			if peer, ok := peerOn(i, l); ok {
				peers = append(peers, peer)
			}
		}
		most := asksUsually
		if inDoubt[i.Name] {
			most = asksInDoubt
		}
		list := choosePeers(peers, most)
		if gateway, ok := gatewayOn(i); ok {
			list = append(list, ask{addr: gateway})
		}
		if len(list) > 0 {
			all[i.Name] = list
		}
	}
	return all
}

// gatewayOn returns the gateway that the interface's segment is asked for: one on
// a subnet of it, or one with a link-local address, as those of IPv6 have.
func gatewayOn(i state.LeaseInterface) (netip.Addr, bool) {
	for _, near := range []func(netip.Addr) bool{func(a netip.Addr) bool { return onSubnet(i.Prefixes, a) }, netip.Addr.IsLinkLocalUnicast} {
		if at := slices.IndexFunc(i.Gateways, near); at >= 0 {
			return i.Gateways[at], true
		}
	}
	return netip.Addr{}, false
}

// there says whether the node's machine is expected to answer.
func there(v Verdict) bool { return v != NoLease && v != Expired }

func leaseOf(leases []state.NodeLease, node string) state.NodeLease {
	for _, l := range leases {
		if l.Node == node {
			return l
		}
	}
	return state.NodeLease{}
}

// compareFrom orders names as they come after from, round and round.
func compareFrom(from, a, b string) int {
	if (a < from) != (b < from) {
		if a < from {
			return 1
		}
		return -1
	}
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// choosePeers takes that many of the peers, as far apart as can be.
func choosePeers(peers []ask, most int) []ask {
	if len(peers) <= most {
		return peers
	}
	chosen := make([]ask, 0, most+1)
	for k := range most {
		chosen = append(chosen, peers[k*len(peers)/most])
	}
	return chosen
}

// inDoubt says whether what was heard on the interface calls for asking more.
func inDoubt(i state.LeaseInterface) bool {
	return len(i.Silent) > 0 && len(i.Heard) == 0 || i.Gateway == state.Silent
}

// peerOn returns how to ask for the other node on the segment of interface i.
func peerOn(i state.LeaseInterface, other state.NodeLease) (ask, bool) {
	for _, j := range other.Interfaces {
		if !j.Up || !sameSegment(i, j) {
			continue
		}
		for _, a := range other.Addrs {
			if onSubnet(i.Prefixes, a) && onSubnet(j.Prefixes, a) {
				return ask{node: other.Node, addr: a, mac: j.MAC}, true
			}
		}
	}
	return ask{}, false
}

func sameSegment(i, j state.LeaseInterface) bool {
	return slices.ContainsFunc(i.Prefixes, func(p netip.Prefix) bool { return slices.Contains(j.Prefixes, p) })
}

func onSubnet(subnets []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(subnets, func(p netip.Prefix) bool { return p.Contains(a) })
}

// nodeInterface is an interface of a node.
type nodeInterface struct{ node, name string }

// cutOff returns the interfaces on which a node is not to announce, for the
// segment does not hear it, or it does not hear the segment, as the nodes
// report with their leases. It is, on an interface, when
//
//  1. it hears no one there, while another node hears someone besides it; or
//  2. it misses nodes there and its gateway, too, which another node hears: of
//     the parts of a torn segment, the one with the gateway counts; or
//  3. a node that hears others misses it, and no node hears it. So is a machine
//     that has lost power, long before its lease is over; not one whose daemon
//     hangs: its kernel answers; nor one that misses the other just so and hears
//     the gateway: switches that keep machines apart do not keep them from clients.
//
// By 1 and 2 only those of isolated are, for which it is confirmed (isolation).
//
// What makes no difference decides nothing: where all nodes hear no one, the
// segment itself is down, and addresses stay. Of two nodes that have lost each
// other, the one that hears the gateway has it (1: it hears someone besides
// the other); without a gateway neither can know, and nothing moves.
func cutOff(leases []state.NodeLease, verdicts map[string]Verdict, isolated map[nodeInterface]bool) map[nodeInterface]bool {
	cut, deaf := map[nodeInterface]bool{}, map[nodeInterface]bool{}
	segments := segmentsOf(leases, verdicts)
	for at := range segments.deafOnes(leases, verdicts) {
		deaf[at] = true
		if isolated[at] {
			cut[at] = true
		}
	}
	for _, l := range leases {
		for _, i := range l.Interfaces {
			if there(verdicts[l.Node]) && i.Up && segments.unheard(l.Node, i, deaf) {
				cut[nodeInterface{l.Node, i.Name}] = true
			}
		}
	}
	return cut
}

// unheard is rule 3 of cutOff. What those that are deaf say does not count.
func (s segments) unheard(node string, i state.LeaseInterface, deaf map[nodeInterface]bool) bool {
	missed := false
	for _, p := range i.Prefixes {
		for _, w := range s.named[namedOn{p, node}] {
			switch {
			case deaf[nodeInterface{w.node, w.at.Name}]:
			case slices.Contains(w.at.Heard, node):
				return false
			case i.Gateway == state.Heard && slices.Contains(i.Silent, w.node): // each misses the other, and both are on the wire
			default:
				missed = missed || w.hearsBesides(node)
			}
		}
	}
	return missed
}

// witness is an interface of a live node, whose report is fresh.
type witness struct {
	node string
	at   state.LeaseInterface
}

// hearsBesides says whether it hears anyone but the node.
func (w witness) hearsBesides(node string) bool {
	return w.at.Gateway == state.Heard || slices.ContainsFunc(w.at.Heard, func(n string) bool { return n != node })
}

// segments are the witnesses on each subnet, all and by the nodes that they name.
type segments struct {
	all   map[netip.Prefix][]witness
	named map[namedOn][]witness
}

type namedOn struct {
	subnet netip.Prefix
	node   string
}

func segmentsOf(leases []state.NodeLease, verdicts map[string]Verdict) segments {
	s := segments{map[netip.Prefix][]witness{}, map[namedOn][]witness{}}
	for _, l := range leases {
		for _, i := range l.Interfaces {
			if verdicts[l.Node] != Live || !i.Up {
				continue
			}
			w := witness{l.Node, i}
			for _, p := range i.Prefixes {
				if i.Gateway == state.Heard || len(i.Heard) > 0 {
					s.all[p] = append(s.all[p], w)
				}
				for _, node := range slices.Concat(i.Heard, i.Silent) {
					s.named[namedOn{p, node}] = append(s.named[namedOn{p, node}], w)
				}
			}
		}
	}
	return s
}

// hearing is whether, on one of the subnets of a node's interface, another
// node's that hears someone is such a one.
func (s segments) hearing(node string, i state.LeaseInterface, such func(witness) bool) bool {
	return slices.ContainsFunc(i.Prefixes, func(p netip.Prefix) bool {
		return slices.ContainsFunc(s.all[p], func(w witness) bool { return w.node != node && such(w) })
	})
}

// witnesses are the verdicts for cutOff: who is live as far as is known, but was
// not heard since, is judged and is no witness.
func witnesses(verdicts map[string]Verdict, unrenewed map[string]bool) map[string]Verdict {
	heard := maps.Clone(verdicts)
	for node := range unrenewed {
		if heard[node] == Live {
			heard[node] = Resting
		}
	}
	return heard
}

// steppedDown returns the interfaces on which this node, which reports own, is
// not to announce. With a stale lease it cannot know what the others hear:
// then it steps down where it hears no one any more, not even the gateway. (Its
// lease may be stale for the very same reason, and the address another's by now.)
func steppedDown(own state.NodeLease, leases []state.NodeLease, verdicts map[string]Verdict, isolated map[nodeInterface]bool, valid bool) map[string]bool {
	down := map[string]bool{}
	if !valid {
		for _, i := range own.Interfaces {
			if len(i.Silent) > 0 && len(i.Heard) == 0 && i.Gateway == state.Silent {
				down[i.Name] = true
			}
		}
		return down
	}
	all := append(slices.DeleteFunc(slices.Clone(leases), func(l state.NodeLease) bool { return l.Node == own.Node }), own)
	judged := make(map[string]Verdict, len(verdicts)+1)
	for node, v := range verdicts {
		judged[node] = v
	}
	judged[own.Node] = Live
	for at := range cutOff(all, judged, isolated) {
		if at.node == own.Node {
			down[at.name] = true
		}
	}
	return down
}
