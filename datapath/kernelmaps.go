package datapath

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// NewKernelMaps returns the Maps over what was loaded or pinned, by the names
// of bpf/maps.h. It refuses maps of another shape. The maps stay the
// caller's to close.
func NewKernelMaps(loaded map[string]*ebpf.Map) (Maps, error) {
	outer, ok := loaded["maglev"]
	if !ok || outer.Type() != ebpf.ArrayOfMaps || outer.KeySize() != 4 {
		return Maps{}, fmt.Errorf("open map maglev: missing or not an array of maps: %v", outer)
	}
	var errs []error
	m := Maps{
		Frontends:    open[FrontendKey, FrontendEntry](loaded, "frontends", &errs),
		Sets:         open[uint32, BackendSet](loaded, "sets", &errs),
		Maglev:       kernelTables{outer},
		Backends:     open[uint32, BackendEntry](loaded, "backends", &errs),
		NextHops:     open[uint32, NextHopEntry](loaded, "next_hops", &errs),
		LocalTargets: open[LocalKey, LocalTarget](loaded, "local_targets", &errs),
		Endpoints:    open[IPv4, EndpointEntry](loaded, "endpoints", &errs),
		Announcer:    open[uint32, AnnouncerEntry](loaded, "announcer", &errs),
		Announced:    open[AnnouncedKey, AnnouncedEntry](loaded, "announced", &errs),
		ClusterMACs:  open[MACKey, uint32](loaded, "cluster_macs", &errs),
	}
	return m, errors.Join(errs...)
}

func open[K, V comparable](loaded map[string]*ebpf.Map, name string, errs *[]error) Map[K, V] {
	m, ok := loaded[name]
	if !ok {
		*errs = append(*errs, fmt.Errorf("open map %s: not loaded", name))
		return nil
	}
	key, value := size[K](), size[V]()
	if m.KeySize() != key || m.ValueSize() != value {
		*errs = append(*errs, fmt.Errorf("open map %s: key and value are %d and %d bytes, want %d and %d",
			name, m.KeySize(), m.ValueSize(), key, value))
	}
	return kernelMap[K, V]{m}
}

func size[T any]() uint32 { return uint32(reflect.TypeFor[T]().Size()) }

// batchSize is how many entries one system call moves; 8192 entries of the
// largest value are 320 KiB.
const batchSize = 8192

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
	err := eachEntry(k.m, all)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, ebpf.ErrNotSupported) {
		clear(all) // a bucket larger than the batch, or no batches
		err = eachEntrySingly(k.m, all)
	}
	if err != nil {
		return nil, err
	}
	if k.array() {
		var zero V
		maps.DeleteFunc(all, func(_ K, v V) bool { return v == zero })
	}
	return all, nil
}

func eachEntry[K, V comparable](m *ebpf.Map, into map[K]V) error {
	n := min(batchSize, int(m.MaxEntries()))
	keys, values := make([]K, n), make([]V, n)
	var cursor ebpf.MapBatchCursor
	for {
		got, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range got {
			into[keys[i]] = values[i]
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil // that was all
		}
		if err != nil {
			return err
		}
	}
}

func eachEntrySingly[K, V comparable](m *ebpf.Map, into map[K]V) error {
	var key K
	var value V
	it := m.Iterate()
	for it.Next(&key, &value) {
		into[key] = value
	}
	return it.Err()
}

// kernelTables are the inner maps of an array of maps. Inner maps are opened
// by id for each use: two descriptors for every service would soon be more
// than a process may have.
type kernelTables struct{ outer *ebpf.Map }

// innerSpec must match the template in bpf/: BPF_F_INNER_MAP lets tables of
// any size stand in for it.
func innerSpec(slots int) *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: "maglev_table", Type: ebpf.Array, KeySize: 4, ValueSize: 4,
		MaxEntries: uint32(slots), Flags: unix.BPF_F_INNER_MAP}
}

func (t kernelTables) Sizes() (map[uint32]uint32, error) {
	ids, err := kernelMap[uint32, uint32]{t.outer}.All()
	if err != nil {
		return nil, err
	}
	sizes := map[uint32]uint32{}
	for index, id := range ids {
		if id == 0 {
			continue
		}
		inner, err := ebpf.NewMapFromID(ebpf.MapID(id))
		if err != nil {
			return nil, fmt.Errorf("open table %d: %w", index, err)
		}
		if n := inner.MaxEntries(); n != emptySlots {
			sizes[index] = n
		}
		inner.Close()
	}
	return sizes, nil
}

// inner returns the table, which the caller closes; nil when there is none.
func (t kernelTables) inner(index uint32) (*ebpf.Map, error) {
	var id uint32
	if err := t.outer.Lookup(index, &id); errors.Is(err, ebpf.ErrKeyNotExist) || err == nil && id == 0 {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return ebpf.NewMapFromID(ebpf.MapID(id))
}

func (t kernelTables) Read(index uint32) ([]uint32, error) {
	inner, err := t.inner(index)
	if inner == nil || err != nil {
		return nil, err
	}
	defer inner.Close()
	if inner.MaxEntries() == emptySlots {
		return nil, nil
	}
	slots := make([]uint32, inner.MaxEntries())
	keys := make([]uint32, len(slots))
	var cursor ebpf.MapBatchCursor
	n, err := inner.BatchLookup(&cursor, keys, slots, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, err
	}
	if n != len(slots) {
		return nil, fmt.Errorf("read table %d: %d slots of %d", index, n, len(slots))
	}
	return slots, nil
}

func (t kernelTables) Write(tables map[uint32][]uint32) error {
	var indexes, fds []uint32
	for _, index := range slices.Sorted(maps.Keys(tables)) {
		fresh, err := t.fill(index, tables[index])
		if err != nil {
			return fmt.Errorf("fill table %d: %w", index, err)
		}
		if fresh != nil {
			defer fresh.Close() // the outer map keeps it
			indexes, fds = append(indexes, index), append(fds, uint32(fresh.FD()))
		}
	}
	return t.insert(indexes, fds)
}

// insert puts inner maps into the outer one, in a single batch where the kernel has them.
func (t kernelTables) insert(indexes, fds []uint32) error {
	if len(indexes) == 0 {
		return nil
	}
	_, err := t.outer.BatchUpdate(indexes, fds, nil)
	if errors.Is(err, ebpf.ErrNotSupported) {
		for i, index := range indexes {
			if err := t.outer.Put(index, fds[i]); err != nil {
				return fmt.Errorf("insert table %d: %w", index, err)
			}
		}
		return nil
	}
	return err
}

// fill writes the table in place; or, when there is none of that size, returns a new one.
func (t kernelTables) fill(index uint32, slots []uint32) (fresh *ebpf.Map, err error) {
	inner, err := t.inner(index)
	if err != nil {
		return nil, err
	}
	if inner != nil && inner.MaxEntries() == uint32(len(slots)) {
		defer inner.Close()
		return nil, fillSlots(inner, slots)
	}
	if inner != nil {
		inner.Close()
	}
	if fresh, err = ebpf.NewMap(innerSpec(len(slots))); err != nil {
		return nil, err
	}
	if err := fillSlots(fresh, slots); err != nil {
		fresh.Close()
		return nil, err
	}
	return fresh, nil
}

func fillSlots(m *ebpf.Map, slots []uint32) error {
	keys := make([]uint32, len(slots))
	for i := range keys {
		keys[i] = uint32(i)
	}
	_, err := m.BatchUpdate(keys, slots, nil)
	return err
}

// emptySlots is the size of the table that stands for none. No Maglev table
// is as small (MaglevSize).
const emptySlots = 1

// Delete puts an empty table, one for all, in the place of each: the kernel
// has no batch for removing them, and waits for RCU each time.
func (t kernelTables) Delete(indexes []uint32) error {
	empty, err := ebpf.NewMap(innerSpec(emptySlots))
	if err != nil {
		return err
	}
	defer empty.Close()
	return t.insert(indexes, slices.Repeat([]uint32{uint32(empty.FD())}, len(indexes)))
}

// CheckLayout compares the Go types of this package with the BTF of the
// compiled maps: every member's offset and size, not the sum of them only.
func CheckLayout(compiled map[string]*ebpf.MapSpec) error {
	var errs []error
	check := func(name string, key, value reflect.Type) {
		spec, ok := compiled[name]
		if !ok {
			errs = append(errs, fmt.Errorf("check layout of map %s: not compiled", name))
			return
		}
		for _, side := range []struct {
			what string
			c    btf.Type
			g    reflect.Type
		}{{"key", spec.Key, key}, {"value", spec.Value, value}} {
			c, err := cMembers(side.c, 0)
			if err != nil {
				errs = append(errs, fmt.Errorf("check layout of map %s: %s: %w", name, side.what, err))
			} else if g := goMembers(side.g, 0); !slices.Equal(c, g) {
				errs = append(errs, fmt.Errorf("check layout of map %s: %s has members %v in C and %v in Go", name, side.what, c, g))
			}
		}
	}
	check("frontends", reflect.TypeFor[FrontendKey](), reflect.TypeFor[FrontendEntry]())
	check("sets", reflect.TypeFor[uint32](), reflect.TypeFor[BackendSet]())
	check("backends", reflect.TypeFor[uint32](), reflect.TypeFor[BackendEntry]())
	check("next_hops", reflect.TypeFor[uint32](), reflect.TypeFor[NextHopEntry]())
	check("local_targets", reflect.TypeFor[LocalKey](), reflect.TypeFor[LocalTarget]())
	check("endpoints", reflect.TypeFor[IPv4](), reflect.TypeFor[EndpointEntry]())
	check("announcer", reflect.TypeFor[uint32](), reflect.TypeFor[AnnouncerEntry]())
	check("announced", reflect.TypeFor[AnnouncedKey](), reflect.TypeFor[AnnouncedEntry]())
	check("cluster_macs", reflect.TypeFor[MACKey](), reflect.TypeFor[uint32]())
	return errors.Join(errs...)
}

// span is the place of one member, in bytes.
type span struct{ offset, size uint32 }

func cMembers(t btf.Type, at uint32) ([]span, error) {
	t = btf.UnderlyingType(t)
	s, ok := t.(*btf.Struct)
	if !ok {
		n, err := btf.Sizeof(t)
		return []span{{at, uint32(n)}}, err
	}
	var all []span
	for _, m := range s.Members {
		spans, err := cMembers(m.Type, at+m.Offset.Bytes())
		if err != nil {
			return nil, err
		}
		all = append(all, spans...)
	}
	return all, nil
}

func goMembers(t reflect.Type, at uint32) []span {
	if t.Kind() != reflect.Struct {
		return []span{{at, uint32(t.Size())}}
	}
	var all []span
	for i := range t.NumField() {
		f := t.Field(i)
		all = append(all, goMembers(f.Type, at+uint32(f.Offset))...)
	}
	return all
}
