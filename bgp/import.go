package bgp

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/seamark-lb/seamark/state"
)

// ImportInputs is all that is decided by, which routes of peers this node takes.
type ImportInputs struct {
	// Node is this one, Devices are its, and Direct what leads to nodes on its segments.
	Node    state.Node
	Devices []state.Device
	Direct  []state.Route
	// Speakers, Peers and Received are what peers sent, of what is to be taken.
	Speakers []state.BGPSpeaker
	Peers    []state.BGPPeer
	Received []state.BGPReceived
	// Advertised are this node's own routes; Frontends and Pools have the
	// addresses that are Services'.
	Advertised []state.BGPRoute
	Frontends  []state.Frontend
	Pools      []state.Pool
}

// Imports are the routes of peers that this node takes, and why not the others.
type Imports struct {
	// Routes by destination.
	Routes []state.KernelRoute
	bars   map[string]string
}

// Why returns why a route that a peer has sent is not taken; "": it is.
func (i Imports) Why(instance, peer string, prefix netip.Prefix) string {
	bar, known := i.bars[state.BGPReceived{Instance: instance, Peer: peer, Prefix: prefix}.RowKey()]
	if !known {
		return "not in importPrefixes of the peer"
	}
	return bar
}

// Import returns which of the peers' routes go into the kernel. Of those to one
// prefix that are equally good (RFC 4271 §9.1.2.2, without what tells equal ones
// apart) all do: packets are spread over their next hops.
func Import(in ImportInputs) Imports {
	d := &importer{ImportInputs: in, served: map[netip.Addr]state.ObjectName{}, out: Imports{bars: map[string]string{}}}
	for _, f := range in.Frontends {
		d.served[f.Addr] = f.Service
	}
	candidates := map[netip.Prefix][]candidate{}
	for _, r := range sortedBy(in.Received, state.BGPReceived.RowKey) {
		hop, bar := d.admit(r)
		if d.out.bars[r.RowKey()] = bar; bar == "" {
			candidates[r.Prefix] = append(candidates[r.Prefix], candidate{r, hop})
		}
	}
	for _, prefix := range slices.SortedFunc(maps.Keys(candidates), netip.Prefix.Compare) {
		row := state.KernelRoute{Dst: prefix, Kind: state.RouteLearned}
		best := bestOf(candidates[prefix])
		for _, c := range candidates[prefix] {
			if !slices.ContainsFunc(best, func(b candidate) bool { return b.RowKey() == c.RowKey() }) {
				d.out.bars[c.RowKey()] = fmt.Sprintf("peer %s has a better route", best[0].Peer)
			}
		}
		for _, c := range best {
			row.NextHops = append(row.NextHops, c.hop)
		}
		slices.SortFunc(row.NextHops, state.NextHop.Compare)
		row.NextHops = slices.Compact(row.NextHops)
		d.out.Routes = append(d.out.Routes, row)
	}
	return d.out
}

type importer struct {
	ImportInputs
	served map[netip.Addr]state.ObjectName
	out    Imports
}

// candidate is a route that may be taken.
type candidate struct {
	state.BGPReceived
	hop state.NextHop
}

// admit says where a route leads, or why it is not to be taken.
func (d *importer) admit(r state.BGPReceived) (state.NextHop, string) {
	peer := slices.IndexFunc(d.Peers, func(p state.BGPPeer) bool { return p.Name == r.Peer })
	if peer < 0 || !slices.ContainsFunc(d.Peers[peer].Import, func(i state.BGPImport) bool { return i.Takes(r.Prefix) }) {
		return state.NextHop{}, "not in importPrefixes of the peer"
	}
	if own := d.ownASNs(r); own > int(d.Peers[peer].AllowASIn) {
		return state.NextHop{}, fmt.Sprintf("this node's own AS number is in its path, as of a loop: set allowASIn of the peer to %d, or as-override on the router", own)
	}
	if bar := d.reserved(r.Prefix); bar != "" {
		return state.NextHop{}, bar
	}
	return d.hop(r)
}

// ownASNs is how often the number of the instance's own AS is in the path.
func (d *importer) ownASNs(r state.BGPReceived) (n int) {
	for _, s := range d.Speakers {
		if s.Instance != r.Instance {
			continue
		}
		for _, asn := range r.ASPath {
			if asn == s.ASN {
				n++
			}
		}
	}
	return n
}

// reserved says why no peer's route to the prefix is taken; "": it may be.
func (d *importer) reserved(p netip.Prefix) string {
	a := p.Addr()
	if a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a.IsUnspecified() && p.Bits() > 0 {
		return "no network that is routed"
	}
	inside := func(outer netip.Prefix) bool { return outer.Bits() <= p.Bits() && outer.Contains(a) }
	for _, cidr := range d.Node.PodCIDRs {
		if inside(cidr) {
			return fmt.Sprintf("in %s, this node's own pods", cidr.Masked())
		}
	}
	for _, device := range d.Devices {
		for _, on := range device.Prefixes {
			if on.Bits() > 0 && inside(on) {
				return fmt.Sprintf("in %s, which %s is on", on.Masked(), device.Name)
			}
		}
	}
	if service, ok := d.served[a]; ok && p.IsSingleIP() {
		return fmt.Sprintf("an address of Service %s, which this node serves", service)
	}
	for _, r := range d.Advertised {
		if r.Status.Wanted() && inside(r.Prefix) {
			return fmt.Sprintf("in %s, which this node advertises", r.Prefix)
		}
	}
	for _, pool := range d.Pools {
		if pool.Holds(a) && pool.Holds(lastOf(p)) {
			return fmt.Sprintf("in pool %s", pool.Name)
		}
	}
	for _, direct := range d.Direct {
		if direct.Status.Wanted() && direct.Dst == p {
			return fmt.Sprintf("the pods of %s, which is on a segment of this node", direct.Node)
		}
	}
	return ""
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	bytes := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < 8*len(bytes); bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return last
}

// hop is the first next hop that is a neighbour of this node. The kernel takes no
// other, and a route that leads over another route would outlive it.
func (d *importer) hop(r state.BGPReceived) (state.NextHop, string) {
	for _, via := range r.NextHops {
		for _, device := range sortedBy(d.Devices, state.Device.RowKey) {
			if !device.Up {
				continue
			}
			if via.IsLinkLocalUnicast() && via.Zone() == device.Name {
				return state.NextHop{Via: via.WithZone(""), Device: device.Name}, ""
			}
			for _, on := range device.Prefixes {
				if on.Addr() == via {
					return state.NextHop{}, fmt.Sprintf("next hop %s is this node", via)
				}
				if !on.IsSingleIP() && !via.IsLinkLocalUnicast() && on.Contains(via) {
					return state.NextHop{Via: via, Device: device.Name}, ""
				}
			}
		}
	}
	return state.NextHop{}, fmt.Sprintf("next hop %v is on no network of this node: have the peer set itself as the next hop", r.NextHops)
}

// bestOf are the routes that are as good as any: step by step the worse ones go,
// as in RFC 4271 §9.1.2.2. There is one at least.
func bestOf(all []candidate) []candidate {
	least := func(of func(candidate) int64) {
		best := of(slices.MinFunc(all, func(a, b candidate) int { return int(of(a) - of(b)) }))
		all = slices.DeleteFunc(slices.Clone(all), func(c candidate) bool { return of(c) > best })
	}
	least(func(c candidate) int64 { return -int64(c.LocalPref) })
	least(func(c candidate) int64 { return int64(c.PathLength) })
	least(func(c candidate) int64 { return int64(c.Origin) })
	tied := all
	all = slices.DeleteFunc(slices.Clone(all), func(c candidate) bool { // MED is between routes of one neighbouring AS
		return slices.ContainsFunc(tied, func(o candidate) bool { return o.neighborAS() == c.neighborAS() && o.MED < c.MED })
	})
	least(func(c candidate) int64 {
		if c.Internal {
			return 1
		}
		return 0
	})
	return all
}

// neighborAS is the AS that the route came from; 0: the node's own.
func (c candidate) neighborAS() uint32 {
	if c.Internal || len(c.ASPath) == 0 {
		return 0
	}
	return c.ASPath[0]
}
