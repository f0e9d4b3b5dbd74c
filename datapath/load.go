package datapath

import (
	"fmt"
	"maps"
	"net/netip"
)

// load learns from the maps what the kernel holds, and whose it is as far as
// the maps say.
func (t *FrontendTarget) load() error {
	t.loaded = false
	err := firstError(t.frontends.load, t.sets.load, t.backends.load, t.locals.load, t.sources.load, t.tables.load)
	if err != nil {
		return err
	}
	t.loadRows()
	t.countUses()
	if err := t.loadSets(); err != nil {
		return err
	}
	t.loadNumbers()
	if err := t.loadIDs(); err != nil {
		return err
	}
	if err := t.rewriteHops(); err != nil {
		return err
	}
	t.loaded = true
	return nil
}

// loadRows makes up what the rows of an earlier process have, until they come.
func (t *FrontendTarget) loadRows() {
	unseen := map[FrontendKey]*served{}
	sources := map[uint32][]SourceKey{}
	for key := range t.sources.have {
		sources[key.Service] = append(sources[key.Service], key)
	}
	for key, entry := range t.frontends.have {
		if key.isVIP() || t.rows[key] != nil {
			continue
		}
		s := &served{}
		if entry.Flags&FrontendSources != 0 {
			for _, source := range sources[entry.Service] {
				if source.Prefix.Addr().Is4() == key.Addr.Is4() {
					s.sources = append(s.sources, source)
				}
			}
		}
		unseen[key] = s
		if t.addrs[key.Addr] == nil {
			t.addrs[key.Addr] = map[FrontendKey]addressNeed{}
		}
		t.addrs[key.Addr][key] = addressNeed{unseen: true}
	}
	for local := range t.locals.have {
		if s := unseen[local.frontend()]; s != nil {
			s.locals = append(s.locals, local)
		}
	}
	maps.Copy(t.rows, unseen)
}

// countUses counts anew who uses what, and notes what is there and has no user.
func (t *FrontendTarget) countUses() {
	now := t.Now()
	clear(t.setUse.users)
	clear(t.serviceUse.users)
	clear(t.localUse.users)
	clear(t.sourceUse.users)
	clear(t.idUse.users)
	for key, entry := range t.frontends.have {
		if !key.isVIP() {
			t.setUse.take(entry.Set, entry.Inside)
			t.serviceUse.take(entry.Service)
		}
	}
	for _, s := range t.rows {
		t.localUse.take(s.locals...)
		t.sourceUse.take(s.sources...)
		t.idUse.take(s.drains...)
	}
	for key := range t.locals.have {
		t.localUse.note(now, key)
	}
	for key := range t.sources.have {
		t.sourceUse.note(now, key)
	}
}

// comparedEvery is how many loads it takes until every table was read again:
// they are most of what the kernel holds, and nobody else writes them.
const comparedEvery = 8

// loadSets learns which sets there are, and what packets to them are looked up in.
func (t *FrontendTarget) loadSets() error {
	clear(t.serving.users)
	clear(t.past)
	known := map[uint32]*backendSet{}
	for set, old := range t.known {
		if old.port != nil {
			known[set] = old
		}
	}
	add := func(set uint32) {
		if known[set] == nil {
			known[set] = &backendSet{}
		}
	}
	for set := range t.setUse.users {
		add(set)
	}
	for set := range t.sets.have {
		add(set)
	}
	for index := range t.tables.rooms {
		add(index / 4)
	}
	delete(known, 0) // the set of VIP rows
	t.known = known
	t.loads++
	now := t.Now()
	for set, s := range known {
		t.setUse.note(now, set)
		t.occupy(s.ids)
		live, past := s.live, s.past
		s.live, s.past = nil, nil
		entry := t.sets.have[set]
		_, have := t.tables.have[tableIndex(set, entry.Look.Active())]
		var err error
		switch {
		case !t.setUse.used(set) && s.port == nil:
			// No packet is looked up in it, and no row will be written to it.
		case s.port != nil && s.look == entry.Look && have && (set+t.loads)%comparedEvery != 0:
			t.settle(set, live, past, s.look)
		default:
			err = t.learn(set)
		}
		if err != nil {
			return err
		}
	}
	t.freeSet = newIndexPool(t.freeSet.limit, known)
	for set := range t.garbage.sets {
		t.freeSet.taken[set] = true
	}
	return nil
}

// loadNumbers learns which service numbers are taken.
func (t *FrontendTarget) loadNumbers() {
	taken := map[uint32]bool{}
	for number := range t.numbers {
		taken[number] = true
	}
	for number := range t.serviceUse.users {
		taken[number] = true
	}
	for number := range t.serviceUse.idle {
		taken[number] = true
	}
	for key := range t.sources.have {
		taken[key.Service] = true
	}
	now := t.Now()
	for number := range taken {
		t.serviceUse.note(now, number)
	}
	t.freeService = newIndexPool(t.freeService.limit, taken)
}

// loadIDs learns which backend has which id. Of two ids with one address, the
// one that a set has stays. An id without a row stays the backend's as long as
// something may mention it.
func (t *FrontendTarget) loadIDs() error {
	now := t.Now()
	given := t.ids
	t.ids = map[netip.AddrPort]uint32{}
	taken := map[uint32]bool{}
	for id, entry := range t.backends.have {
		taken[id] = true
		delete(t.gone, id)
		addr := entry.addrPort()
		if other, ok := t.ids[addr]; !ok || t.serving.used(id) || !t.serving.used(other) && id < other {
			t.ids[addr] = id
		}
	}
	for addr, id := range given {
		if _, has := t.ids[addr]; !has && !taken[id] {
			t.ids[addr] = id
		}
	}
	for _, id := range t.ids {
		taken[id] = true
	}
	mentioned, err := t.mentioned()
	if err != nil {
		return err
	}
	for id := range mentioned {
		if _, known := t.gone[id]; !taken[id] && !known {
			t.gone[id] = now
		}
	}
	for id := range t.gone {
		taken[id] = true
	}
	for id, entry := range t.backends.have {
		t.idUse.note(now, id)
		t.serving.note(now, id)
		if entry.Flags&BackendGone != 0 {
			t.left[id] = true
		}
	}
	t.freeID = newIndexPool(t.freeID.limit, taken)
	return nil
}

// mentioned returns the ids in tables, in pins and in affinity; the maps that
// flows fill are read once, since from then on no id is given out that they have.
func (t *FrontendTarget) mentioned() (map[uint32]bool, error) {
	ids := map[uint32]bool{}
	for id := range t.serving.users {
		ids[id] = true
	}
	for id := range t.past {
		ids[id] = true
	}
	if t.read {
		return ids, nil
	}
	err := t.maps.Pins.Each(func(_ Tuple, pin Pin) bool {
		ids[pin.Backend] = true
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("read map pins: %w", err)
	}
	err = t.maps.Affinity.Each(func(_ AffinityKey, a AffinityEntry) bool {
		ids[a.Backend] = true
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("read map affinity: %w", err)
	}
	t.read = true
	return ids, nil
}
