package datapath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// tableFor is the Maglev table of some of ten backends; the ids are their numbers from 1 on.
func tableFor(rng *rand.Rand, size uint32) []uint32 {
	var backends []MaglevBackend
	var ids []uint32
	for i, b := range maglevBackends(10) {
		if rng.IntN(3) > 0 {
			b.Weight = uint16(rng.IntN(3))
			backends, ids = append(backends, b), append(ids, uint32(i+1))
		}
	}
	table := MaglevTable(backends, size)
	for i, b := range table {
		table[i] = ids[b]
	}
	return table
}

// hashes are all that matter to tables of these sizes: the first and the last of every slot.
func hashes(sizes ...int) (all []uint32) {
	for _, size := range sizes {
		for i := range uint64(size) {
			first := (i<<32 + uint64(size) - 1) / uint64(size)
			all = append(all, uint32(first), uint32(first-1))
		}
	}
	return all
}

// However the backends and the size of the table change while a window is
// open: where a slot is not marked as moved, every table since the window
// opened has led to the same backend.
func TestUnmovedSlotsNeverMoved(t *testing.T) {
	sizes := []uint32{0, 251, 1021, 4093}
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 3))
		size := sizes[1+rng.IntN(3)]
		l := lookup{active: tableFor(rng, size)}
		tables := [][]uint32{l.active}
		opened := l.active
		for range 1 + rng.IntN(4) {
			if rng.IntN(2) == 0 {
				size = sizes[rng.IntN(4)]
			}
			l = l.change(tableFor(rng, size), false)
			tables = append(tables, unmarked(l.active))
			if !slices.Equal(l.previous, opened) {
				t.Fatalf("seed %d: the previous table is not the one from before the window", seed)
			}
			if len(l.active) == 0 {
				continue
			}
			for _, h := range hashes(len(l.active), len(opened)) {
				slot := slotOf(l.active, h)
				if slot&SlotMoved != 0 {
					continue
				}
				for i, table := range tables {
					if len(table) > 0 && slotOf(table, h) != slot {
						t.Fatalf("seed %d: hash %#x led to %d by table %d, leads to %d, and its slot has not moved", seed, h, slotOf(table, h), i, slot)
					}
				}
			}
		}
		if slices.ContainsFunc(l.active, func(slot uint32) bool { return slot&SlotMoved != 0 }) && !l.moving {
			t.Fatalf("seed %d: slots have moved and no window is open", seed)
		}
		if closed := l.close(); closed.moving || !slices.Equal(closed.active, unmarked(l.active)) || !slices.Equal(closed.previous, opened) {
			t.Fatalf("seed %d: closed to %+v", seed, closed)
		}
	}
}

// Tables of one size: what has not changed is not marked either.
func TestOnlyMovedSlotsAreMarked(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	a, b := tableFor(rng, 1021), tableFor(rng, 1021)
	l := lookup{active: a}.change(b, false)
	for i, slot := range l.active {
		if (slot&SlotMoved != 0) != (a[i] != b[i]) {
			t.Fatalf("slot %d: %d before, %d now, marked: %t", i, a[i], b[i], slot&SlotMoved != 0)
		}
	}
	if again := l.close().change(b, false); again.moving || !slices.Equal(again.active, b) {
		t.Errorf("no change, and yet %d slots are marked", len(again.active))
	}
	for _, slot := range l.close().change(b, true).active {
		if slot&SlotMoved == 0 {
			t.Fatal("all are to move, and one is not marked")
		}
	}
	for _, fresh := range []lookup{{}, {active: nil, previous: a}} {
		if l := fresh.change(b, false); l.moving || !slices.Equal(l.active, b) {
			t.Errorf("the first backends open a window: %+v", fresh)
		}
	}
}

func TestPackedSlots(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	for size := range uint32(20) {
		slots := make([]uint32, size)
		for i := range slots {
			slots[i] = rng.Uint32N(1 << slotBits)
		}
		packed := pack(slots)
		if len(packed) != int(words(size)) || !slices.Equal(unpack(packed, size), slots) {
			t.Errorf("%d slots: packed into %d words and unpacked to %v, want %v", size, len(packed), unpack(packed, size), slots)
		}
	}
	for _, size := range []uint32{0, 1, 251, 10007} {
		slots := make([]uint32, size)
		ids := make([]uint32, smallBackends)
		for i := range ids {
			ids[i] = uint32(i) << 8 // all in one place of the hash
		}
		for i := range slots {
			slots[i] = ids[rng.IntN(len(ids))] | rng.Uint32N(2)*SlotMoved
		}
		value, err := packSmall(slots)
		if err != nil || len(value) != smallList+int(size) || !slices.Equal(unpackSmall(value), slots) {
			t.Errorf("%d slots of a small table: packed into %d bytes, %v, and unpacked to others", size, len(value), err)
		}
		if _, err := packSmall(append(slots, ids...)); err != nil {
			t.Errorf("%d backends: %v", smallBackends, err)
		}
		if _, err := packSmall(append(slots, append(ids, 1)...)); err == nil {
			t.Errorf("%d backends found room in a small table", smallBackends+1)
		}
	}
	if got := pack([]uint32{1, 2, SlotMoved | 3, 4}); !slices.Equal(got, []uint64{1 | 2<<21 | (1<<20|3)<<42, 4}) {
		t.Errorf("packed to %#x", got)
	}
}

// node is a balancing node: what bpf/ does with a packet, on the maps.
type node struct {
	t    *testing.T
	maps Maps
	room int // for pins
	pins int
}

// packet returns the backend that a packet of the flow reaches.
func (n *node) packet(tuple Tuple, syn bool) netip.AddrPort {
	entry, _, _ := n.maps.Frontends.Lookup(FrontendKey{tuple.Dst.Addr(), tuple.Dst.Port(), tuple.Proto})
	set, _, _ := n.maps.Sets.Lookup(entry.Set)
	at := func(which uint32) uint32 {
		if set.Size[which] == 0 {
			return 0
		}
		slots, err := n.maps.Tables.Read(tableIndex(entry.Set, which), set.Size[which])
		if err != nil {
			n.t.Fatal(err)
		}
		return slotOf(slots, testHash(tuple.Src, tuple.Dst, uint8(tuple.Proto)))
	}
	row := func(id uint32) (BackendEntry, bool) {
		b, ok, _ := n.maps.Backends.Lookup(id)
		return b, ok
	}
	active := at(set.Look.Active())
	id := active & slotBackend
	if set.Look.Moving() && active&SlotMoved != 0 {
		id = n.moved(tuple, syn, id, at(set.Look.Previous())&slotBackend, entry.Set)
	}
	b, _ := row(id)
	return b.addrPort()
}

// moved chooses between the backends of a slot that has moved.
func (n *node) moved(tuple Tuple, syn bool, active, previous, set uint32) uint32 {
	alive := func(id uint32) bool { _, ok, _ := n.maps.Backends.Lookup(id); return ok }
	if pin, ok, _ := n.maps.Pins.Lookup(tuple); ok && !syn && alive(pin.Backend) {
		return pin.Backend
	}
	to := active
	if !syn && alive(previous) {
		to = previous
	}
	if n.pins < n.room {
		n.pins++
		if err := n.maps.Pins.Update(tuple, Pin{Backend: to, Set: set}); err != nil {
			n.t.Fatal(err)
		}
	} else if b, ok, _ := n.maps.Backends.Lookup(previous); syn && ok && b.Flags&BackendDraining == 0 {
		to = previous
	}
	return to
}

// Flows come and sleep while backends come, go, drain and change their weight,
// windows open and close and the daemon restarts: none loses a backend that lives.
func TestNoFlowLosesALivingBackend(t *testing.T) {
	var total atomic.Int64
	t.Cleanup(func() {
		if total.Load() == 0 {
			t.Error("no window was ever closed")
		}
	})
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 11))
			fake := NewFakeMaps()
			n := &node{t: t, maps: fake.Maps, room: 1 << 30}
			target := newTestTarget(fake.Maps)
			vip := netip.MustParseAddrPort("192.168.10.211:80")
			row := frontend("a/web", vip.String()+"/TCP")
			row.TableSize = 1021
			cluster := map[byte]*state.Backend{}
			for i := range byte(8) {
				cluster[i] = &state.Backend{Addr: netip.AddrFrom4([4]byte{172, 20, 0, i}), Port: 80, Node: "w0", Ready: true}
			}
			closed := 0
			flows := map[Tuple]netip.AddrPort{}
			next := uint32(0)
			for step := range 60 {
				change(rng, cluster)
				maps.DeleteFunc(flows, func(_ Tuple, b netip.AddrPort) bool { return cluster[b.Addr().As4()[3]] == nil })
				row.Backends, row.Draining = nil, nil
				for _, b := range cluster {
					if b.Ready {
						row.Backends = append(row.Backends, *b)
					} else {
						row.Draining = append(row.Draining, *b)
					}
				}
				slices.SortFunc(row.Backends, state.Backend.Compare)
				slices.SortFunc(row.Draining, state.Backend.Compare)
				row.Inside = row.Backends
				if rng.IntN(8) == 0 {
					now := target.now
					target = newTestTarget(fake.Maps)
					target.now = now
				}
				target.now = target.now.Add(time.Duration(rng.IntN(120)) * time.Second)
				rows := []state.Frontend{row}
				if err := errors.Join(target.Update(context.Background(), row), target.Prune(context.Background(), rows)); err != nil {
					t.Fatal(err)
				}
				if rng.IntN(10) == 0 && len(row.Backends) > 0 {
					// All flows are heard of, or are over and their pins collected; then the window may close.
					over := rng.IntN(3) > 0
					for tuple, backend := range flows {
						check(t, n, tuple, backend, step)
					}
					if over {
						clear(flows)
						if err := forgetEntries("pins", fake.Pins, func(Tuple, Pin) bool { return true }); err != nil {
							t.Fatal(err)
						}
					}
					target.now = target.now.Add(target.Window)
					if err := target.Prune(context.Background(), rows); err != nil {
						t.Fatal(err)
					}
					if set, _, _ := fake.Sets.Lookup(1); !set.Look.Moving() {
						closed++
					}
				}
				for range 20 {
					next++
					client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(next >> 8), byte(next)}), 1234)
					tuple := Tuple{client, vip, state.TCP}
					if len(row.Backends) > 0 {
						flows[tuple] = n.packet(tuple, true)
					}
				}
				for tuple, backend := range flows {
					if rng.IntN(4) == 0 && len(row.Backends) > 0 { // the others sleep
						check(t, n, tuple, backend, step)
					}
				}
			}
			total.Add(int64(closed))
		})
	}
}

// change adds, removes or drains a backend, or gives it another weight.
func change(rng *rand.Rand, cluster map[byte]*state.Backend) {
	i := byte(rng.IntN(12))
	switch b := cluster[i]; {
	case b == nil:
		cluster[i] = &state.Backend{Addr: netip.AddrFrom4([4]byte{172, 20, 0, i}), Port: 80, Node: "w0", Ready: true}
	case len(cluster) > 3 && rng.IntN(3) == 0:
		delete(cluster, i)
	case len(cluster) > 3 && rng.IntN(2) == 0:
		cluster[i] = &state.Backend{Addr: b.Addr, Port: b.Port, Node: b.Node}
	default:
		cluster[i] = &state.Backend{Addr: b.Addr, Port: b.Port, Node: b.Node, Ready: true, Weight: uint16(rng.IntN(4))}
	}
}

// check sends a packet of a flow.
func check(t *testing.T, n *node, tuple Tuple, backend netip.AddrPort, step int) {
	t.Helper()
	if got := n.packet(tuple, false); got != backend {
		t.Fatalf("step %d: flow %s was with %s, which lives, and now reaches %s", step, tuple, backend, got)
	}
}
