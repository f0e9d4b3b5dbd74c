package datapath

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// load learns from the maps what the kernel holds, and whose it is as far as
// the maps say.
func (t *FrontendTarget) load() error {
	t.loaded = false
	err := firstError(t.frontends.load, t.sets.load, t.backends.load, t.locals.load, t.tables.load)
	if err != nil {
		return err
	}
	known := map[uint32]*backendSet{}
	for set := range t.frontends.ofSet {
		known[set] = &backendSet{}
	}
	for set := range t.sets.have {
		known[set] = &backendSet{}
	}
	for index := range t.tables.exists {
		known[index/2] = &backendSet{}
	}
	for owner, set := range t.setOf {
		known[set] = &backendSet{owner: owner}
	}
	delete(known, 0) // the set of VIP rows: no backends
	for set, fresh := range known {
		if old := t.known[set]; old != nil {
			fresh.want, fresh.backends, fresh.ids = old.want, old.backends, old.ids
		}
		if t.frontends.ofSet[set] == 0 && fresh.owner == (servicePort{}) {
			continue // no packet is looked up in it, and no row will be written to it
		}
		if fresh.members, err = t.readMembers(set); err != nil {
			return err
		}
	}
	t.known = known
	taken := map[uint32]bool{}
	for set := range known {
		taken[set] = true
	}
	for set := range t.oldSets {
		taken[set] = true
	}
	t.freeSet = newIndexPool(t.freeSet.limit, taken)
	t.loadIDs()
	if err := t.rewriteHops(); err != nil {
		return err
	}
	t.loaded = true
	return nil
}

// readMembers returns the ids in the table that packets to the set are looked up in.
func (t *FrontendTarget) readMembers(set uint32) ([]uint32, error) {
	entry := t.sets.have[set]
	active := entry.Active & 1
	if entry.Size[active] == 0 {
		return nil, nil
	}
	slots, err := t.tables.read(tableIndex(set, active))
	if err != nil {
		return nil, err
	}
	slices.Sort(slots)
	return slices.Compact(slots), nil
}

// loadIDs learns which backend has which id. Of two ids with one address, the
// one that a table holds stays. An id whose row was never written stays, too.
func (t *FrontendTarget) loadIDs() {
	used := t.usedIDs()
	given := t.ids
	t.ids = map[netip.AddrPort]uint32{}
	taken := map[uint32]bool{}
	for id := range t.oldIDs {
		taken[id] = true
	}
	for id, entry := range t.backends.have {
		taken[id] = true
		addr := netip.AddrPortFrom(entry.Addr.Addr(), entry.Port.Uint16())
		if other, ok := t.ids[addr]; !ok || used[id] || !used[other] && id < other {
			t.ids[addr] = id
		}
	}
	for addr, id := range given {
		_, written := t.backends.have[id]
		if _, has := t.ids[addr]; !has && !written {
			t.ids[addr] = id
			taken[id] = true
		}
	}
	t.freeID = newIndexPool(t.freeID.limit, taken)
}

func (t *FrontendTarget) usedIDs() map[uint32]bool {
	used := map[uint32]bool{}
	for set, known := range t.known {
		if t.frontends.ofSet[set] > 0 {
			for _, id := range known.members {
				used[id] = true
			}
		}
	}
	return used
}

// sweep notes what is no longer used, and removes what has not been for Grace.
func (t *FrontendTarget) sweep() error {
	now := t.Now()
	until := now.Add(t.Grace)
	for set := range t.known {
		note(t.oldSets, set, until, t.frontends.ofSet[set] > 0)
	}
	used := t.usedIDs()
	for _, id := range t.ids {
		note(t.oldIDs, id, until, used[id])
	}
	for id := range t.backends.have {
		note(t.oldIDs, id, until, used[id])
	}
	for key := range t.locals.have {
		note(t.oldLocals, key, until, t.usesLocal(key))
	}
	err := errors.Join(
		t.expireSets(now),
		expire(t.oldIDs, now, t.dropBackend),
		expire(t.oldLocals, now, t.locals.remove),
	)
	addrs := map[netip.Addr]bool{}
	for _, entry := range t.backends.have {
		if entry.Flags&BackendLocal == 0 {
			addrs[entry.Addr.Addr()] = true
		}
	}
	if t.hops != nil {
		t.hops.Keep(addrs)
	}
	return err
}

// usesLocal says whether the frontend still has that pod. Of a frontend whose
// row was not seen since the start, nobody knows yet.
func (t *FrontendTarget) usesLocal(key LocalKey) bool {
	if _, served := t.frontends.have[key.frontend()]; !served {
		return false
	}
	pods, seen := t.rows[key.frontend()]
	return !seen || pods[key]
}

// expireSets drops all sets that have had their grace at once, for the sake
// of their tables.
func (t *FrontendTarget) expireSets(now time.Time) error {
	var expired, tables []uint32
	for set, until := range t.oldSets {
		if now.Before(until) {
			continue
		}
		if err := t.sets.remove(set); err != nil {
			return err
		}
		expired = append(expired, set)
		tables = append(tables, tableIndex(set, 0), tableIndex(set, 1))
	}
	if err := t.tables.remove(tables); err != nil {
		return err
	}
	for _, set := range expired {
		if known := t.known[set]; known != nil {
			delete(t.setOf, known.owner)
			delete(t.known, set)
		}
		delete(t.oldSets, set)
		t.freeSet.give(set)
	}
	return nil
}

func (t *FrontendTarget) dropBackend(id uint32) error {
	entry := t.backends.have[id]
	if err := t.backends.remove(id); err != nil {
		return err
	}
	if addr := netip.AddrPortFrom(entry.Addr.Addr(), entry.Port.Uint16()); t.ids[addr] == id {
		delete(t.ids, addr)
	} else { // never written
		maps.DeleteFunc(t.ids, func(_ netip.AddrPort, other uint32) bool { return other == id })
	}
	t.freeID.give(id)
	return nil
}

// note starts the grace of what is unused, and ends it for what is used again.
func note[K comparable](old map[K]time.Time, key K, until time.Time, used bool) {
	if used {
		delete(old, key)
	} else if _, known := old[key]; !known {
		old[key] = until
	}
}

// expire drops what has had its grace. What cannot be dropped stays for the next time.
func expire[K comparable](old map[K]time.Time, now time.Time, drop func(K) error) error {
	for key, until := range old {
		if now.Before(until) {
			continue
		}
		if err := drop(key); err != nil {
			return err
		}
		delete(old, key)
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

// indexPool gives out the lowest free index from 1 on; 0 means none in every map.
type indexPool struct {
	limit uint32 // indexes below it
	taken map[uint32]bool
	next  uint32 // no index below it is free
}

func newIndexPool[V any](limit uint32, taken map[uint32]V) indexPool {
	p := indexPool{limit: limit, taken: make(map[uint32]bool, len(taken)), next: 1}
	for i := range taken {
		p.taken[i] = true
	}
	return p
}

func (p *indexPool) take() (uint32, error) {
	for p.next < p.limit && p.taken[p.next] {
		p.next++
	}
	if p.next >= p.limit {
		return 0, fmt.Errorf("all %d are in use or draining", p.limit-1)
	}
	p.taken[p.next] = true
	return p.next, nil
}

func (p *indexPool) give(i uint32) {
	delete(p.taken, i)
	p.next = min(p.next, i)
}
