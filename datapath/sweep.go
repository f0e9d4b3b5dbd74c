package datapath

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

func (t *FrontendTarget) sweepOrWarn() {
	err := t.sweep()
	if err == nil {
		err = t.garbage.clients(t.maps)
	}
	if err != nil {
		t.log.Warn("remove what is no longer used from the maps", "err", err) // not the rows' fault; the next sweep tries again
	}
}

// sweep makes backends drain that no set has for new flows, and removes what
// has not been used for Grace.
func (t *FrontendTarget) sweep() error {
	if err := t.resolve(); err != nil {
		return err
	}
	now := t.Now()
	return firstError(
		t.drain,
		func() error { return t.sourceUse.expire(now, 0, t.sources.remove) },
		func() error { return t.localUse.expire(now, t.Grace, t.locals.remove) },
		func() error { return t.expireSets(now) },
		func() error { return t.idUse.expire(now, t.Grace, t.dropBackend) },
	)
}

// resolve reads back what the kernel may have although it was said to have
// failed: until then, nobody knows what is used.
func (t *FrontendTarget) resolve() error {
	for key := range t.frontends.unsure {
		old := t.frontends.have[key]
		_, _, err := t.frontends.get(key)
		if err != nil {
			return err
		}
		t.countFrontend(key, old)
	}
	for set := range t.sets.unsure {
		if _, _, err := t.sets.get(set); err != nil {
			return err
		}
		if t.known[set] == nil || !t.setUse.used(set) {
			continue
		}
		if err := t.learn(set); err != nil {
			return err
		}
	}
	return nil
}

// drain marks the backends that no set has for new flows any more, and those
// that no row has at all.
func (t *FrontendTarget) drain() error {
	mark := func(id uint32, set, clear BackendFlags) error {
		entry, ok := t.backends.have[id]
		if !ok {
			return nil
		}
		entry.Flags = entry.Flags&^clear | set
		return t.backends.put(id, entry)
	}
	for id := range t.serving.idle {
		if err := mark(id, BackendDraining, 0); err != nil {
			return err
		}
		delete(t.serving.idle, id)
	}
	for id := range t.idUse.idle {
		if err := mark(id, BackendGone, 0); err != nil {
			return err
		}
		t.left[id] = true
	}
	for id := range t.left {
		if !t.idUse.used(id) {
			continue
		}
		if err := mark(id, 0, BackendGone); err != nil { // a row has it again, to drain
			return err
		}
		delete(t.left, id)
	}
	return nil
}

// expireSets drops all sets that have had their grace at once, for the sake
// of their tables.
func (t *FrontendTarget) expireSets(now time.Time) error {
	var expired, tables []uint32
	for set, since := range t.setUse.idle {
		if now.Before(since.Add(t.Grace)) {
			continue
		}
		if err := t.sets.remove(set); err != nil {
			return err
		}
		expired = append(expired, set)
		for which := range uint32(tablesPerSet) {
			tables = append(tables, tableIndex(set, which))
		}
	}
	if err := t.tables.remove(tables); err != nil {
		return err
	}
	for _, set := range expired {
		if known := t.known[set]; known != nil {
			t.forgetSet(set, known)
		}
		delete(t.setUse.idle, set)
		t.garbage.sets[set] = true
	}
	return nil
}

func (t *FrontendTarget) forgetSet(set uint32, known *backendSet) {
	t.vacate(known.ids)
	known.ids = nil
	t.settle(set, nil, nil, 0)
	delete(t.known, set)
	if p := known.port; p != nil {
		for r := range roles {
			if p.sets[r] == set {
				p.sets[r] = 0
			}
		}
		t.forgetPort(p)
	}
}

// dropBackend removes a backend's row. Its id is given to another only when
// nothing mentions it any more.
func (t *FrontendTarget) dropBackend(id uint32) error {
	if err := t.backends.remove(id); err != nil {
		return err
	}
	t.gone[id] = t.Now()
	delete(t.left, id)
	return nil
}

// free gives back the numbers and ids that are no longer used, after every
// mention of them has gone from the maps that flows fill.
func (t *FrontendTarget) free() error {
	now := t.Now()
	services, backends := map[uint32]bool{}, map[uint32]bool{}
	for number, since := range t.serviceUse.idle {
		if !now.Before(since.Add(t.Grace)) {
			services[number] = true
		}
	}
	for id, since := range t.gone {
		if _, back := t.backends.have[id]; back {
			delete(t.gone, id)
		} else if t.past[id] == 0 && !t.idUse.used(id) && !now.Before(since.Add(t.Grace)) {
			backends[id] = true
		}
	}
	maps.DeleteFunc(t.garbage.closed, func(set uint32, _ bool) bool { return t.sets.have[set].Look.Moving() })
	err := firstError(
		func() error { return t.garbage.clients(t.maps) },
		func() error { return t.garbage.mentions(t.maps, backends, services) },
	)
	if err != nil {
		return err
	}
	for set := range t.garbage.sets {
		t.freeSet.give(set)
	}
	clear(t.garbage.sets)
	clear(t.garbage.closed)
	for number := range services {
		delete(t.services, t.numbers[number])
		delete(t.numbers, number)
		delete(t.serviceUse.idle, number)
		t.freeService.give(number)
	}
	maps.DeleteFunc(t.ids, func(_ netip.AddrPort, id uint32) bool { return backends[id] })
	for id := range backends {
		delete(t.gone, id)
		delete(t.nodes, id)
		t.freeID.give(id)
	}
	t.keepHops()
	return nil
}

func (t *FrontendTarget) keepHops() {
	if t.hops == nil {
		return
	}
	addrs := map[netip.Addr]bool{}
	for _, entry := range t.backends.have {
		if entry.Flags&BackendLocal == 0 {
			addrs[entry.Addr] = true
		}
	}
	t.hops.Keep(addrs)
}

// closeWindows closes the windows that have seen no change for Window, and of
// which no pin is needed any more.
func (t *FrontendTarget) closeWindows() error {
	now := t.Now()
	due := map[uint32]lookup{}
	for set, known := range t.known {
		if !known.look.Moving() || known.changed.IsZero() || now.Before(known.changed.Add(t.Window)) {
			continue
		}
		l, err := t.lookupOf(set)
		if err != nil {
			return err
		}
		due[set] = l
	}
	if len(due) == 0 {
		return nil
	}
	err := t.maps.Pins.Each(func(tuple Tuple, pin Pin) bool {
		_, lives := t.backends.have[pin.Backend]
		if l, ok := due[pin.Set]; ok && lives && t.sets.have[pin.Set].Affinity == 0 && !l.agrees(tuple, pin, t.Hash) {
			delete(due, pin.Set)
		}
		return true
	})
	if err != nil {
		return fmt.Errorf("read map pins: %w", err)
	}
	for _, set := range slices.Sorted(maps.Keys(due)) {
		if err := t.closeWindow(set, due[set]); err != nil {
			return err
		}
	}
	return nil
}

// closeWindow marks nothing as moved any more. The previous table stays, for
// flows that slept through all of it and are handed on by their backend's node.
func (t *FrontendTarget) closeWindow(set uint32, l lookup) error {
	entry, _, err := t.sets.get(set)
	if err != nil {
		return err
	}
	spare := entry.Look.spare()
	s := &step{entry: entry, table: spare, slots: l.close().active, look: newLook(spare, entry.Look.Previous(), false)}
	if err := t.take(set, entry, s); err != nil {
		return err
	}
	known := t.known[set]
	t.settle(set, known.live, known.past, s.look)
	if entry.Affinity == 0 { // otherwise pins decide without a window
		t.garbage.closed[set] = true
	}
	return nil
}

func firstError(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
