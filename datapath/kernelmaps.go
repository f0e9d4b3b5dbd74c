package datapath

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// NewKernelMaps returns the Maps over what was loaded or pinned, by the names
// of bpf/maps.h. It refuses maps of another shape. The maps stay the
// caller's to close.
func NewKernelMaps(loaded map[string]*ebpf.Map) (Maps, error) {
	var errs []error
	maps := kernelMapsOf(func(name string, key, value reflect.Type) *ebpf.Map {
		m, ok := loaded[name]
		if !ok {
			errs = append(errs, fmt.Errorf("open map %s: not loaded", name))
			return nil
		}
		if want := [2]uint32{uint32(key.Size()), uint32(value.Size())}; m.KeySize() != want[0] || m.ValueSize() != want[1] {
			errs = append(errs, fmt.Errorf("open map %s: key and value are %d and %d bytes, want %d and %d",
				name, m.KeySize(), m.ValueSize(), want[0], want[1]))
		}
		return m
	})
	tables, err := openTables(loaded)
	maps.Tables = tables
	return maps, errors.Join(append(errs, err)...)
}

// openFunc returns the map of that name, after a look at the types of its keys and values.
type openFunc func(name string, key, value reflect.Type) *ebpf.Map

// kernelMapsOf returns all Maps but the Tables.
func kernelMapsOf(open openFunc) Maps {
	return Maps{
		Frontends: editioned[FrontendKey, FrontendEntry]{byFamily(frontendFamily,
			convert(open, "frontends", through(rawFrontendKeyOf[IPv4], rawFrontendKey[IPv4].cooked), same[FrontendEntry]()),
			convert(open, "frontends6", through(rawFrontendKeyOf[IPv6], rawFrontendKey[IPv6].cooked), same[FrontendEntry]())),
			convert(open, "frontends_edition", same[uint32](), same[uint32]())},
		Sets: convert(open, "sets", same[uint32](), through(rawSetOf, rawSet.cooked)),
		Backends: backendMap{
			convert(open, "backends", same[uint32](), through(rawBackendOf[IPv4], rawBackend[IPv4].cooked)),
			convert(open, "backends6", same[uint32](), through(rawBackendOf[IPv6], rawBackend[IPv6].cooked))},
		NextHops: convert(open, "next_hops", same[uint32](), same[NextHopEntry]()),
		LocalTargets: byFamily(func(k LocalKey) netip.Addr { return k.VIP },
			convert(open, "local_targets", through(rawLocalKeyOf[IPv4], rawLocalKey[IPv4].cooked), through(rawLocalTargetOf, rawLocalTarget.cooked)),
			convert(open, "local_targets6", through(rawLocalKeyOf[IPv6], rawLocalKey[IPv6].cooked), through(rawLocalTargetOf, rawLocalTarget.cooked))),
		Flows:    flowMap(open, "flows"),
		HalfOpen: flowMap(open, "half_open"),
		Pins: byFamily(tupleFamily,
			convert(open, "pins", through(rawTupleOf[IPv4], rawTuple[IPv4].cooked), same[Pin]()),
			convert(open, "pins6", through(rawTupleOf[IPv6], rawTuple[IPv6].cooked), same[Pin]())),
		Affinity: byFamily(func(k AffinityKey) netip.Addr { return k.Client },
			convert(open, "affinity", through(rawAffinityKeyOf[IPv4], rawAffinityKey[IPv4].cooked), same[AffinityEntry]()),
			convert(open, "affinity6", through(rawAffinityKeyOf[IPv6], rawAffinityKey[IPv6].cooked), same[AffinityEntry]())),
		Sources: byFamily(func(k SourceKey) netip.Addr { return k.Prefix.Addr() },
			convert(open, "sources", through(rawSourceKeyOf[IPv4], rawSourceKey[IPv4].cooked), same[uint32]()),
			convert(open, "sources6", through(rawSourceKeyOf[IPv6], rawSourceKey[IPv6].cooked), same[uint32]())),
		Fragments: byFamily(func(k FragmentKey) netip.Addr { return k.Src },
			convert(open, "fragments", through(rawFragmentKeyOf, rawFragmentKey.cooked), through(rawFragmentOf, rawFragment.cooked)),
			convert(open, "fragments6", through(rawFragmentKey6Of, rawFragmentKey6.cooked), through(rawFragmentOf, rawFragment.cooked))),
		NATOut:     natMap(open, "nat_out"),
		NATIn:      natMap(open, "nat_in"),
		FormerWays: convert(open, "former_ways", same[uint32](), same[uint32]()),
		Endpoints: byFamily(func(a netip.Addr) netip.Addr { return a },
			convert(open, "endpoints", through(rawAddr[IPv4], IPv4.Addr), same[EndpointEntry]()),
			convert(open, "endpoints6", through(rawAddr[IPv6], IPv6.Addr), same[EndpointEntry]())),
		Announcer: convert(open, "announcer", same[uint32](), same[AnnouncerEntry]()),
		Announced: byFamily(func(k AnnouncedKey) netip.Addr { return k.Addr },
			convert(open, "announced", through(rawAnnouncedKeyOf[IPv4], rawAnnouncedKey[IPv4].cooked), same[AnnouncedEntry]()),
			convert(open, "announced6", through(rawAnnouncedKeyOf[IPv6], rawAnnouncedKey[IPv6].cooked), same[AnnouncedEntry]())),
		ClusterMACs:   convert(open, "cluster_macs", same[MACKey](), same[uint32]()),
		ServiceCounts: kernelCounters{open("service_counts", reflect.TypeFor[uint32](), reflect.TypeFor[Count]())},
		BackendCounts: kernelCounters{open("backend_counts", reflect.TypeFor[uint32](), reflect.TypeFor[Count]())},
	}
}

func flowMap(open openFunc, name string) Map[FlowKey, FlowEntry] {
	return byFamily(func(k FlowKey) netip.Addr { return k.Pod },
		convert(open, name, through(rawFlowKeyOf[IPv4], rawFlowKey[IPv4].cooked), through(rawFlowOf[IPv4], rawFlow[IPv4].cooked)),
		convert(open, name+"6", through(rawFlowKeyOf[IPv6], rawFlowKey[IPv6].cooked), through(rawFlowOf[IPv6], rawFlow[IPv6].cooked)))
}

func natMap(open openFunc, name string) Map[Tuple, NATEntry] {
	return byFamily(tupleFamily,
		convert(open, name, through(rawTupleOf[IPv4], rawTuple[IPv4].cooked), through(rawNATOf[IPv4], rawNAT[IPv4].cooked)),
		convert(open, name+"6", through(rawTupleOf[IPv6], rawTuple[IPv6].cooked), through(rawNATOf[IPv6], rawNAT[IPv6].cooked)))
}

func frontendFamily(k FrontendKey) netip.Addr { return k.Addr }
func tupleFamily(t Tuple) netip.Addr          { return t.Dst.Addr() }

// batchSize is how many entries one system call moves; 8192 entries of the
// largest key and value are 800 KiB.
const batchSize = 8192

// kernelMap is a map of raw keys and values.
type kernelMap[K, V comparable] struct{ m *ebpf.Map }

func (k kernelMap[K, V]) array() bool { return k.m.Type() == ebpf.Array }

func (k kernelMap[K, V]) Lookup(key K) (value V, ok bool, err error) {
	err = k.m.Lookup(key, &value)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return value, false, nil
	}
	var zero V
	return value, err == nil && (!k.array() || value != zero), err
}

func (k kernelMap[K, V]) Update(key K, value V) error { return k.m.Put(key, value) }

func (k kernelMap[K, V]) Delete(key K) error {
	if k.array() {
		var zero V
		return k.m.Put(key, zero)
	}
	if err := k.m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

func (k kernelMap[K, V]) All() (map[K]V, error) {
	all := map[K]V{}
	err := k.Each(func(key K, value V) bool {
		all[key] = value
		return true
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

func (k kernelMap[K, V]) Each(f func(K, V) bool) error {
	if array := k.array(); array {
		all, zero := f, *new(V)
		f = func(key K, value V) bool { return value == zero || all(key, value) }
	}
	err := k.eachBatch(f)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, ebpf.ErrNotSupported) {
		return k.eachSingly(f) // a bucket larger than the batch, or no batches
	}
	return err
}

func (k kernelMap[K, V]) eachBatch(f func(K, V) bool) error {
	n := min(batchSize, int(k.m.MaxEntries()))
	keys, values := make([]K, n), make([]V, n)
	var cursor ebpf.MapBatchCursor
	for {
		got, err := k.m.BatchLookup(&cursor, keys, values, nil)
		for i := range got {
			if !f(keys[i], values[i]) {
				return nil
			}
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil // that was all
		}
		if err != nil {
			return err
		}
	}
}

func (k kernelMap[K, V]) eachSingly(f func(K, V) bool) error {
	var key K
	var value V
	it := k.m.Iterate()
	for it.Next(&key, &value) {
		if !f(key, value) {
			return nil
		}
	}
	return it.Err()
}

// codec is how one type is written in another.
type codec[T, Raw comparable] struct {
	raw    func(T) Raw
	cooked func(Raw) T
}

func through[T, Raw comparable](raw func(T) Raw, cooked func(Raw) T) codec[T, Raw] {
	return codec[T, Raw]{raw, cooked}
}

func same[T comparable]() codec[T, T] {
	id := func(t T) T { return t }
	return codec[T, T]{id, id}
}

// converted is a map of raw keys and values as Go sees it.
type converted[K, V, RawK, RawV comparable] struct {
	kernelMap[RawK, RawV]
	key   codec[K, RawK]
	value codec[V, RawV]
}

func convert[K, V, RawK, RawV comparable](open openFunc, name string, key codec[K, RawK], value codec[V, RawV]) Map[K, V] {
	m := open(name, reflect.TypeFor[RawK](), reflect.TypeFor[RawV]())
	return converted[K, V, RawK, RawV]{kernelMap[RawK, RawV]{m}, key, value}
}

func (c converted[K, V, RawK, RawV]) Lookup(key K) (value V, ok bool, err error) {
	raw, ok, err := c.kernelMap.Lookup(c.key.raw(key))
	if !ok || err != nil {
		return value, false, err
	}
	return c.value.cooked(raw), true, nil
}

func (c converted[K, V, RawK, RawV]) Update(key K, value V) error {
	return c.kernelMap.Update(c.key.raw(key), c.value.raw(value))
}

func (c converted[K, V, RawK, RawV]) Delete(key K) error {
	return c.kernelMap.Delete(c.key.raw(key))
}

func (c converted[K, V, RawK, RawV]) All() (map[K]V, error) {
	all := map[K]V{}
	err := c.Each(func(key K, value V) bool {
		all[key] = value
		return true
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

func (c converted[K, V, RawK, RawV]) Each(f func(K, V) bool) error {
	return c.kernelMap.Each(func(key RawK, value RawV) bool {
		return f(c.key.cooked(key), c.value.cooked(value))
	})
}

// editioned is a map of which programs remember rows (find_recent in bpf/lb.h): after
// every change, also one that failed half way, they look anew.
type editioned[K, V comparable] struct {
	Map[K, V]
	edition Map[uint32, uint32] // of one row: how often it has changed
}

func (e editioned[K, V]) Update(key K, value V) error {
	return errors.Join(e.Map.Update(key, value), e.next())
}

func (e editioned[K, V]) Delete(key K) error { return errors.Join(e.Map.Delete(key), e.next()) }

func (e editioned[K, V]) next() error {
	edition, _, err := e.edition.Lookup(0)
	if err != nil {
		return fmt.Errorf("read edition of frontends: %w", err)
	}
	if err := e.edition.Update(0, edition+1); err != nil {
		return fmt.Errorf("write edition of frontends: %w", err)
	}
	return nil
}

// families are the two maps of one concept.
type families[K, V comparable] struct {
	of        func(K) netip.Addr
	four, six Map[K, V]
}

func byFamily[K, V comparable](of func(K) netip.Addr, four, six Map[K, V]) Map[K, V] {
	return families[K, V]{of, four, six}
}

func (f families[K, V]) pick(key K) Map[K, V] {
	if f.of(key).Is4() {
		return f.four
	}
	return f.six
}

func (f families[K, V]) Lookup(key K) (V, bool, error) { return f.pick(key).Lookup(key) }
func (f families[K, V]) Update(key K, value V) error   { return f.pick(key).Update(key, value) }
func (f families[K, V]) Delete(key K) error            { return f.pick(key).Delete(key) }
func (f families[K, V]) All() (map[K]V, error)         { return both(f.four, f.six) }
func (f families[K, V]) Each(do func(K, V) bool) error { return eachOfBoth(f.four, f.six, do) }

// backendMap are the two maps of backends: an id is in the one of its address's family.
type backendMap struct{ four, six Map[uint32, BackendEntry] }

func (b backendMap) Lookup(id uint32) (BackendEntry, bool, error) {
	if entry, ok, err := b.four.Lookup(id); ok || err != nil {
		return entry, ok, err
	}
	return b.six.Lookup(id)
}

func (b backendMap) Update(id uint32, entry BackendEntry) error {
	of, other := b.six, b.four
	if entry.Addr.Is4() {
		of, other = b.four, b.six
	}
	return errors.Join(other.Delete(id), of.Update(id, entry))
}

func (b backendMap) Delete(id uint32) error { return errors.Join(b.four.Delete(id), b.six.Delete(id)) }

func (b backendMap) All() (map[uint32]BackendEntry, error) { return both(b.four, b.six) }

func (b backendMap) Each(f func(uint32, BackendEntry) bool) error {
	return eachOfBoth(b.four, b.six, f)
}

func both[K, V comparable](four, six Map[K, V]) (map[K]V, error) {
	all, err := four.All()
	if err != nil {
		return nil, err
	}
	more, err := six.All()
	if err != nil {
		return nil, err
	}
	maps.Copy(all, more)
	return all, nil
}

func eachOfBoth[K, V comparable](four, six Map[K, V], f func(K, V) bool) error {
	more := true
	err := four.Each(func(key K, value V) bool {
		more = f(key, value)
		return more
	})
	if err != nil || !more {
		return err
	}
	return six.Each(f)
}
