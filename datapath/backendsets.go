package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// backendSet is what the target knows of a set.
type backendSet struct {
	port *portSets // nil: not claimed by a row since the start

	// planned are the backends it is to have, their ids and their table.
	planned []state.Backend
	ids     []uint32
	size    uint32
	want    maglevTable
	step    *step // towards it, once computed

	// What the kernel has, as long as its look is this.
	look    Look
	live    []uint32  // ids that the active table was made for
	past    []uint32  // ids in the previous table
	changed time.Time // when the open window saw its last change
}

// step is the way from what the kernel has to another lookup.
type step struct {
	entry BackendSet // as it is before
	all   bool       // every slot moves
	table uint32     // of the set's three, to be written
	slots []uint32
	look  Look
	past  []uint32 // ids in the previous table after it
}

// plan gives the backends ids and computes their table, of the size asked for
// (tableSize), unless it was computed last time.
func (t *FrontendTarget) plan(set *backendSet, backends []state.Backend, size uint32) error {
	size = tableSize(size, len(backends))
	ids := make([]uint32, len(backends))
	for i, b := range backends {
		id, err := t.idOf(netip.AddrPortFrom(b.Addr, b.Port))
		if err != nil {
			return err
		}
		ids[i] = id
	}
	if slices.Equal(ids, set.ids) && slices.Equal(backends, set.planned) && size == set.size {
		return nil
	}
	t.occupy(ids)
	t.vacate(set.ids)
	set.ids, set.planned, set.size, set.step = ids, backends, size, nil
	set.want = t.tables.sum(set.slots())
	return nil
}

func (t *FrontendTarget) idOf(addr netip.AddrPort) (uint32, error) {
	if id, ok := t.ids[addr]; ok {
		return id, nil
	}
	id, err := t.freeID.take()
	if err != nil {
		return 0, fmt.Errorf("backend %s: allocate a backend id: %w", addr, err)
	}
	t.ids[addr] = id
	t.idUse.note(t.Now(), id)
	return id, nil
}

// occupy and vacate say which ids a set has for new flows.
func (t *FrontendTarget) occupy(ids []uint32) {
	t.idUse.take(ids...)
	t.serving.take(ids...)
}

func (t *FrontendTarget) vacate(ids []uint32) {
	t.idUse.release(t.Now(), ids...)
	t.serving.release(t.Now(), ids...)
}

// slots computes the set's Maglev table, with backend ids in the slots.
func (s *backendSet) slots() []uint32 {
	backends := make([]MaglevBackend, len(s.planned))
	for i, b := range s.planned {
		backends[i] = MaglevBackend{Addr: netip.AddrPortFrom(b.Addr, b.Port), Weight: b.Weight}
	}
	slots := MaglevTable(backends, s.size)
	for i, b := range slots {
		slots[i] = s.ids[b]
	}
	return slots
}

// isLive says whether packets to the set reach the backends planned for it.
func (t *FrontendTarget) isLive(set uint32, entry BackendSet) bool {
	known := t.known[set]
	active := entry.Look.Active()
	return entry.Size[active] == known.want.size &&
		(known.want.size == 0 || t.tables.leads(tableIndex(set, active), known.want))
}

// fill makes packets to the set go to the backends planned for it. affinity is in ticks.
func (t *FrontendTarget) fill(set, affinity uint32) error {
	known := t.known[set]
	for i, b := range known.planned {
		if err := t.putBackend(known.ids[i], b); err != nil {
			return err
		}
	}
	entry, _, err := t.sets.get(set)
	if err != nil {
		return err
	}
	if t.isLive(set, entry) && !freed(entry, affinity) {
		entry.Affinity, entry.Owner = affinity, known.port.hash
		if err := t.sets.put(set, entry); err != nil {
			return err
		}
		return t.confirm(set, entry.Look)
	}
	s, err := t.stepTo(set, entry, affinity)
	if err != nil {
		return err
	}
	entry.Affinity, entry.Owner = affinity, known.port.hash
	if err := t.take(set, entry, s); err != nil {
		return err
	}
	t.settle(set, known.ids, s.past, s.look)
	if s.look.Moving() {
		known.changed = t.Now()
	}
	return nil
}

// freed says whether clients no longer keep their backends. Their flows have
// pins then that only moved slots have looked up.
func freed(entry BackendSet, affinity uint32) bool { return entry.Affinity != 0 && affinity == 0 }

// stepTo returns the step from the set's row to what is planned.
func (t *FrontendTarget) stepTo(set uint32, entry BackendSet, affinity uint32) (*step, error) {
	known := t.known[set]
	all := freed(entry, affinity)
	if known.step != nil && known.step.entry == entry && known.step.all == all {
		return known.step, nil
	}
	now, err := t.lookupOf(set)
	if err != nil {
		return nil, err
	}
	next := now.change(known.slots(), all)
	spare, previous := entry.Look.spare(), entry.Look.Active()
	if now.moving {
		previous = entry.Look.Previous()
	}
	known.step = &step{entry: entry, all: all, table: spare, slots: next.active,
		look: newLook(spare, previous, next.moving), past: backendsIn(next.previous)}
	return known.step, nil
}

// lookupOf reads what packets to the set are looked up in.
func (t *FrontendTarget) lookupOf(set uint32) (l lookup, err error) {
	entry, _, err := t.sets.get(set)
	if err != nil {
		return l, err
	}
	active, previous := entry.Look.Active(), entry.Look.Previous()
	l.moving = entry.Look.Moving()
	l.active, err = t.tables.read(tableIndex(set, active), entry.Size[active])
	if err == nil && previous != active {
		l.previous, err = t.tables.read(tableIndex(set, previous), entry.Size[previous])
	}
	return l, err
}

// take writes the step's table and then flips to it.
func (t *FrontendTarget) take(set uint32, entry BackendSet, s *step) error {
	if err := t.tables.write(map[uint32][]uint32{tableIndex(set, s.table): s.slots}); err != nil {
		return err
	}
	// Two writes: a packet that sees the new look sees the new size too.
	sized := s.entry
	sized.Size[s.table] = uint32(len(s.slots))
	if err := t.sets.put(set, sized); err != nil {
		return err
	}
	entry.Size, entry.Look = sized.Size, s.look
	return t.sets.put(set, entry)
}

// settle notes what the kernel has since the flip.
func (t *FrontendTarget) settle(set uint32, live, past []uint32, look Look) {
	known := t.known[set]
	for _, id := range known.live {
		if t.sets.have[set].Affinity != 0 && known.port != nil && !slices.Contains(live, id) {
			t.garbage.leave(t.services[known.port.port.servicePort], id)
		}
	}
	t.occupy(live)
	t.vacate(known.live)
	for _, id := range past {
		t.past[id]++
	}
	for _, id := range known.past {
		if t.past[id]--; t.past[id] == 0 {
			delete(t.past, id)
		}
	}
	known.live, known.past, known.look, known.step = live, past, look, nil
	switch {
	case !look.Moving():
		known.changed = time.Time{}
	case known.changed.IsZero():
		known.changed = t.Now()
	}
}

// confirm notes that the kernel has the set's planned backends, and may have
// had them before it was known to.
func (t *FrontendTarget) confirm(set uint32, look Look) error {
	known := t.known[set]
	if known.look != look {
		if err := t.learn(set); err != nil {
			return err
		}
	}
	if !slices.Equal(known.live, known.ids) {
		t.settle(set, known.ids, known.past, look)
	}
	return nil
}

// learn reads what the kernel has.
func (t *FrontendTarget) learn(set uint32) error {
	l, err := t.lookupOf(set)
	if err != nil {
		return err
	}
	t.settle(set, backendsIn(l.active), backendsIn(l.previous), t.sets.have[set].Look)
	return nil
}

// writeSpares writes the tables that the rows need and have not, all at once.
// What fails here is done again, and reported, row by row.
func (t *FrontendTarget) writeSpares(rows []state.Frontend) {
	tables := map[uint32][]uint32{}
	for _, row := range rows {
		key, err := keyOf(row)
		if err != nil || key.isVIP() || checkRow(row) != nil {
			continue
		}
		frontend, err := t.arrange(key, row)
		if err != nil {
			continue
		}
		for _, set := range []uint32{frontend.Set, frontend.Inside} {
			entry, _, err := t.sets.get(set)
			if err != nil || t.isLive(set, entry) {
				continue
			}
			s, err := t.stepTo(set, entry, ticks(row.Affinity))
			if err != nil {
				continue
			}
			tables[tableIndex(set, s.table)] = s.slots
		}
	}
	if len(tables) > 1 {
		_ = t.tables.write(tables)
	}
}

// makeSpares makes the tables that no packet is looked up in as large as the
// active ones, so that the next change waits for no RCU.
func (t *FrontendTarget) makeSpares() error {
	tables := map[uint32][]uint32{}
	for set, known := range t.known {
		entry := t.sets.have[set]
		size := entry.Size[entry.Look.Active()]
		if size == 0 || known.port == nil || t.sets.unsure[set] {
			continue
		}
		for which := range uint32(tablesPerSet) {
			index := tableIndex(set, which)
			unused := which != entry.Look.Active() && (which != entry.Look.Previous() || entry.Size[which] == 0)
			if unused && t.tables.rooms[index] != room(size) {
				tables[index] = make([]uint32, size)
			}
		}
		if len(tables) >= updateBatch {
			if err := t.tables.write(tables); err != nil {
				return err
			}
			clear(tables)
		}
	}
	return t.tables.write(tables)
}

func (t *FrontendTarget) putBackend(id uint32, b state.Backend) error {
	t.nodes[id] = b.Node
	entry := BackendEntry{Addr: b.Addr, Port: b.Port}
	if b.Node == t.node {
		entry.Flags = BackendLocal
	} else {
		entry.NextHop = t.hop(id, b.Addr, t.backends.have[id].NextHop)
	}
	return t.backends.put(id, entry)
}

// hop returns the way to a backend.
func (t *FrontendTarget) hop(id uint32, addr netip.Addr, held uint32) uint32 {
	if t.hops == nil {
		return 0
	}
	var node NodeAddrs
	if name := t.nodes[id]; name != "" && t.NodeAddrs != nil {
		node = t.NodeAddrs(name)
	}
	return t.hops.Index(addr, node, held)
}

func (t *FrontendTarget) rewriteHops() error {
	for id, entry := range t.backends.have {
		if entry.Flags&BackendLocal != 0 {
			continue
		}
		entry.NextHop = t.hop(id, entry.Addr, entry.NextHop)
		if err := t.backends.put(id, entry); err != nil {
			return err
		}
	}
	return nil
}
