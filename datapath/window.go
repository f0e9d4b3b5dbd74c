package datapath

import "net/netip"

// DefaultWindow is how long a window of changes stays open after the last of
// them: longer than most flows are silent.
const DefaultWindow = 15 * 60e9

// FlowHash is flow_hash of bpf/: what every node computes of a packet from
// client to a frontend to choose its slot. kernel.FlowHash is one.
type FlowHash func(client, frontend netip.AddrPort, proto uint8) uint32

// lookup is what packets to a set are looked up in: slots of two tables, of
// any size each. While a window of changes is open (moving), previous is the
// table from before it, and SlotMoved in active says where the two differ, or
// did since the window opened: there, a flow that is older than the window is at
// previous, and one that is younger has a pin. Otherwise active decides alone.
type lookup struct {
	active, previous []uint32
	moving           bool
}

// change returns the lookup after a change of the backends, for which the
// table is next. all says that every slot has moved, whatever the tables say;
// so it is when there were no backends for a while, since a table without slots
// has no marks.
//
// In an open window previous stays what it is, so that a flow without a pin,
// which slept through all of the changes, is still found. A backend that is gone
// from the cluster stays in previous, too: to lead elsewhere there, a table
// that packets are looked up in would have to be written. Nothing is lost by
// it, since packets that find no backend at previous go to active.
func (l lookup) change(next []uint32, all bool) lookup {
	to := lookup{active: make([]uint32, len(next)), previous: l.active, moving: l.moving}
	if l.moving {
		to.previous = l.previous
		all = all || len(l.active) == 0
	}
	some := len(next) == 0 && len(to.previous) > 0
	for i, backend := range next {
		moved := all
		for _, slot := range overlap(to.previous, uint32(i), uint32(len(next))) {
			moved = moved || slot&slotBackend != backend
		}
		if l.moving {
			for _, slot := range overlap(l.active, uint32(i), uint32(len(next))) {
				moved = moved || slot&SlotMoved != 0
			}
		}
		if to.active[i] = backend; moved {
			to.active[i] |= SlotMoved
			some = true
		}
	}
	if to.moving = l.moving || some; !l.moving {
		to.previous = unmarked(l.active)
	}
	return to
}

// close returns the lookup after the window.
func (l lookup) close() lookup { return lookup{active: unmarked(l.active), previous: l.previous} }

// overlap returns the slots of table that share a hash with slot i of a table
// of size slots: slot i of n is for the hashes h with ⌊h·n/2³²⌋ = i.
func overlap(table []uint32, i, size uint32) []uint32 {
	if uint32(len(table)) == size {
		return table[i : i+1]
	}
	if len(table) == 0 {
		return nil
	}
	first := (uint64(i)<<32 + uint64(size) - 1) / uint64(size)
	last := (uint64(i+1)<<32+uint64(size)-1)/uint64(size) - 1
	return table[first*uint64(len(table))>>32 : last*uint64(len(table))>>32+1]
}

// slotOf returns the slot of a hash; the table has some.
func slotOf(table []uint32, hash uint32) uint32 {
	return table[uint64(hash)*uint64(len(table))>>32]
}

// agrees says whether the pinned flow would reach the same backend without its
// pin, once nothing is marked as moved.
func (l lookup) agrees(tuple Tuple, pin Pin, hash FlowHash) bool {
	return hash != nil && len(l.active) > 0 &&
		slotOf(l.active, hash(tuple.Src, tuple.Dst, uint8(tuple.Proto)))&slotBackend == pin.Backend
}

func unmarked(table []uint32) []uint32 {
	plain := make([]uint32, len(table))
	for i, slot := range table {
		plain[i] = slot & slotBackend
	}
	return plain
}

// backendsIn returns the distinct backend ids in a table.
func backendsIn(table []uint32) []uint32 {
	seen := map[uint32]bool{}
	var ids []uint32
	for _, slot := range table {
		if id := slot & slotBackend; !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	return ids
}
