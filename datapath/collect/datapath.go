package collect

import (
	"net/netip"
	"time"

	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/state"
)

const (
	// keepAffinity is the longest that a client may keep its backend
	// (sessionAffinityConfig.clientIP.timeoutSeconds); the datapath looks at each
	// Service's own.
	keepAffinity = 24 * time.Hour
	// keepFragments is what RFC 8200 gives a packet to be whole (section 4.5).
	keepFragments = time.Minute
)

// Tables returns the tables of a datapath that its packets fill. room returns
// how many entries a map has room for, by its name in bpf/maps.h.
func Tables(m datapath.Maps, room func(name string) uint32) []Table {
	size := func(name string) Size { return Size{room(name), room(name + "6")} }
	tables := []Table{
		NewLRU("flows", size("flows"), m.Flows, flowEntry(true)),
		NewLRU("half_open", size("half_open"), m.HalfOpen, flowEntry(false)),
		NewTable("pins", size("pins"), m.Pins, pinEntry),
		NewLRU("affinity", size("affinity"), m.Affinity, affinityEntry),
		NewLRU("fragments", size("fragments"), m.Fragments, fragmentEntry),
	}
	return append(tables, NewNAT("nat_out", "nat_in", size("nat_out"), m.NATOut, m.NATIn, natEntry, answerEntry, otherTuple)...)
}

// flowEntry is of an entry in flows, all of which have spoken in both
// directions, or in half_open.
func flowEntry(replied bool) func(datapath.FlowKey, datapath.FlowEntry) Entry {
	return func(k datapath.FlowKey, v datapath.FlowEntry) Entry {
		return Entry{
			IPv6: k.Pod.Is6(), Protocol: k.Proto, Seen: v.Seen,
			Replied:  replied || k.Proto == state.UDP && v.Flags&datapath.FlowReplied != 0,
			Closing:  v.Flags&datapath.FlowClosing != 0,
			Frontend: netip.AddrPortFrom(v.VIP, v.Port),
			Backend:  netip.AddrPortFrom(k.Pod, k.PodPort),
		}
	}
}

// pinEntry takes a pinned flow for established when a second packet of it has come:
// those of a flood have one each. A pin that goes too early is no loss of the flow,
// but of the certainty that it is found at once (DESIGN §7, the second chance).
func pinEntry(k datapath.Tuple, v datapath.Pin) Entry {
	return Entry{IPv6: k.Dst.Addr().Is6(), Protocol: k.Proto, Seen: v.Seen, Replied: v.Flags&datapath.FlowReplied != 0, Closing: v.Flags&datapath.FlowClosing != 0, Spare: true}
}

func affinityEntry(k datapath.AffinityKey, v datapath.AffinityEntry) Entry {
	return Entry{IPv6: k.Client.Is6(), Seen: v.Seen, Keep: keepAffinity}
}

func fragmentEntry(k datapath.FragmentKey, v datapath.FragmentEntry) Entry {
	return Entry{IPv6: k.Src.Is6(), Protocol: v.Proto, Seen: v.Seen, Keep: keepFragments}
}

func natEntry(k datapath.Tuple, v datapath.NATEntry) Entry {
	return Entry{
		IPv6: k.Dst.Addr().Is6(), Protocol: k.Proto, Seen: v.Seen,
		Replied: v.Flags&datapath.NATReplied != 0,
		Closing: v.Flags&datapath.NATClosing != 0,
	}
}

func answerEntry(k datapath.Tuple, v datapath.NATEntry) Entry {
	e := natEntry(k, v)
	e.Frontend, e.Backend = v.Src, k.Src
	return e
}

// otherTuple is the key of a translated flow in the other map: what a packet
// becomes, turned around.
func otherTuple(k datapath.Tuple, v datapath.NATEntry) datapath.Tuple {
	return datapath.Tuple{Src: v.Dst, Dst: v.Src, Proto: k.Proto}
}
