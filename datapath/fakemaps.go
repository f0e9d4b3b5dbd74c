package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
)

// Op is one operation on a fake map.
type Op struct {
	N    int    // operations before this one
	Verb string // lookup, update, delete, all, each; read, write, sizes of tables; reset of counters
	Map  string // as in bpf/maps.h
	Key  any    // nil when it concerns the whole map
}

func (o Op) String() string {
	if o.Key == nil {
		return o.Verb + " " + o.Map
	}
	return fmt.Sprintf("%s %s %v", o.Verb, o.Map, o.Key)
}

// FakeMaps are Maps in memory, with the semantics and the sizes of the
// kernel's.
type FakeMaps struct {
	Maps
	// Before is called before every operation; when it returns an error, the
	// operation does nothing and fails with it. Nil: never. It runs under the
	// lock of the maps and must not use them.
	Before func(Op) error
	// After is called after every operation, failed or not, and may use the
	// maps; what it does with them is no operation. An error it returns is
	// the operation's: done, but said to have failed. Nil: nothing.
	After func(Op) error

	mu       sync.Mutex
	ops      int
	watching bool
}

// NewFakeMaps returns empty maps.
func NewFakeMaps() *FakeMaps {
	f := &FakeMaps{}
	f.Maps = Maps{
		Frontends:     newFakeMap[FrontendKey, FrontendEntry](f, "frontends", hash, 262144),
		Sets:          newFakeMap[uint32, BackendSet](f, "sets", array, maxSets),
		Tables:        &fakeTables{fake: f, max: 4 * maxSets, tables: map[uint32][]uint32{}},
		Backends:      newFakeMap[uint32, BackendEntry](f, "backends", array, maxBackends),
		NextHops:      newFakeMap[uint32, NextHopEntry](f, "next_hops", array, maxNextHops),
		LocalTargets:  newFakeMap[LocalKey, LocalTarget](f, "local_targets", hash, 262144),
		Flows:         newFakeMap[FlowKey, FlowEntry](f, "flows", hash, 262144),
		HalfOpen:      newFakeMap[FlowKey, FlowEntry](f, "half_open", hash, 65536),
		Pins:          newFakeMap[Tuple, Pin](f, "pins", hash, 262144),
		Affinity:      newFakeMap[AffinityKey, AffinityEntry](f, "affinity", hash, 65536),
		Sources:       newFakeMap[SourceKey, uint32](f, "sources", hash, 65536),
		Fragments:     newFakeMap[FragmentKey, FragmentEntry](f, "fragments", hash, 8192),
		NATOut:        newFakeMap[Tuple, NATEntry](f, "nat_out", hash, 262144),
		NATIn:         newFakeMap[Tuple, NATEntry](f, "nat_in", hash, 262144),
		FormerWays:    newFakeMap[uint32, uint32](f, "former_ways", array, maxServices),
		Endpoints:     newFakeMap[netip.Addr, EndpointEntry](f, "endpoints", hash, 4096),
		Announcer:     newFakeMap[uint32, AnnouncerEntry](f, "announcer", array, 1),
		Announced:     newFakeMap[AnnouncedKey, AnnouncedEntry](f, "announced", hash, 16384),
		ClusterMACs:   newFakeMap[MACKey, uint32](f, "cluster_macs", hash, 4096),
		ServiceCounts: fakeCounters{newFakeMap[uint32, Count](f, "service_counts", array, maxServices)},
		BackendCounts: fakeCounters{newFakeMap[uint32, Count](f, "backend_counts", array, maxBackends)},
	}
	return f
}

// Ops returns how many operations there were.
func (f *FakeMaps) Ops() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ops
}

// FailEachOnce makes every different operation fail the first time it is tried.
func (f *FakeMaps) FailEachOnce() {
	seen := map[string]bool{}
	f.Before = func(op Op) error {
		if seen[op.String()] {
			return nil
		}
		seen[op.String()] = true
		return fmt.Errorf("%s: injected failure", op)
	}
}

func (f *FakeMaps) do(verb, name string, key any, change func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watching {
		return change()
	}
	op := Op{N: f.ops, Verb: verb, Map: name, Key: key}
	f.ops++
	var err error
	if f.Before != nil {
		err = f.Before(op)
	}
	if err == nil {
		err = change()
	}
	if f.After != nil {
		f.watching = true
		f.mu.Unlock()
		err = cmp.Or(err, f.After(op))
		f.mu.Lock()
		f.watching = false
	}
	return err
}

type mapKind uint8

const (
	hash mapKind = iota
	array
)

var (
	errFull  = errors.New("map is full")
	errIndex = errors.New("index is out of range")
	errEmpty = errors.New("table has no slots")
)

type fakeMap[K, V comparable] struct {
	fake    *FakeMaps
	name    string
	kind    mapKind
	max     int
	entries map[K]V
}

func newFakeMap[K, V comparable](f *FakeMaps, name string, kind mapKind, max int) Map[K, V] {
	return &fakeMap[K, V]{fake: f, name: name, kind: kind, max: max, entries: map[K]V{}}
}

func (m *fakeMap[K, V]) do(verb string, key any, change func() error) error {
	return m.fake.do(verb, m.name, key, change)
}

// check says whether the map could hold the key.
func (m *fakeMap[K, V]) check(key K) error {
	if i, ok := any(key).(uint32); ok && m.kind == array && int(i) >= m.max {
		return errIndex
	}
	if _, ok := m.entries[key]; !ok && m.kind == hash && len(m.entries) >= m.max {
		return errFull
	}
	return nil
}

func (m *fakeMap[K, V]) Lookup(key K) (value V, ok bool, err error) {
	err = m.do("lookup", key, func() error {
		value, ok = m.entries[key]
		return nil
	})
	return value, ok, err
}

func (m *fakeMap[K, V]) Update(key K, value V) error {
	return m.do("update", key, func() error {
		if err := m.check(key); err != nil {
			return err
		}
		var zero V
		if m.kind == array && value == zero {
			delete(m.entries, key)
		} else {
			m.entries[key] = value
		}
		return nil
	})
}

func (m *fakeMap[K, V]) Delete(key K) error {
	return m.do("delete", key, func() error {
		delete(m.entries, key)
		return nil
	})
}

func (m *fakeMap[K, V]) All() (all map[K]V, err error) {
	err = m.do("all", nil, func() error {
		all = maps.Clone(m.entries)
		return nil
	})
	return all, err
}

func (m *fakeMap[K, V]) Each(f func(K, V) bool) error {
	var all map[K]V
	err := m.do("each", nil, func() error {
		all = maps.Clone(m.entries)
		return nil
	})
	for key, value := range all {
		if !f(key, value) {
			break
		}
	}
	return err
}

// fakeCounters are counts that something else puts into the map.
type fakeCounters struct{ Map[uint32, Count] }

func (c fakeCounters) Lookup(index uint32) (Count, error) {
	count, _, err := c.Map.Lookup(index)
	return count, err
}

func (c fakeCounters) Reset(index uint32) error { return c.Map.Delete(index) }

type fakeTables struct {
	fake   *FakeMaps
	max    uint32
	tables map[uint32][]uint32
}

func (t *fakeTables) Sizes() (sizes map[uint32]uint32, err error) {
	err = t.fake.do("sizes", "tables", nil, func() error {
		sizes = map[uint32]uint32{}
		for i, slots := range t.tables {
			sizes[i] = room(uint32(len(slots)))
		}
		return nil
	})
	return sizes, err
}

func (t *fakeTables) Read(index, size uint32) (slots []uint32, err error) {
	err = t.fake.do("read", "tables", index, func() error {
		table, ok := t.tables[index]
		if !ok || room(uint32(len(table))) != room(size) {
			return errNoTable
		}
		slots = make([]uint32, size)
		copy(slots, table)
		return nil
	})
	return slots, err
}

// Write is an operation per table, and fails half way as the kernel's does.
func (t *fakeTables) Write(tables map[uint32][]uint32) error {
	for _, index := range slices.Sorted(maps.Keys(tables)) {
		err := t.fake.do("write", "tables", index, func() error {
			if index >= t.max {
				return errIndex
			}
			if len(tables[index]) == 0 {
				return errEmpty
			}
			if _, err := packSmall(tables[index]); err != nil && isSmall(uint32(len(tables[index]))) {
				return err
			}
			t.tables[index] = slices.Clone(tables[index])
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Delete is an operation per table, too.
func (t *fakeTables) Delete(indexes []uint32) error {
	for _, index := range indexes {
		err := t.fake.do("delete", "tables", index, func() error {
			delete(t.tables, index)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
