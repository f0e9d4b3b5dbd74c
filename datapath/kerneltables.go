package datapath

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Slots are packed three to a word (enum slot).
const (
	slotsPerWord = 3
	slotBits     = 21
	slotMask     = 1<<slotBits - 1
)

func words(slots uint32) uint32 { return (slots + slotsPerWord - 1) / slotsPerWord }

func pack(slots []uint32) []uint64 {
	packed := make([]uint64, words(uint32(len(slots))))
	for i, slot := range slots {
		packed[i/slotsPerWord] |= uint64(slot&slotMask) << (i % slotsPerWord * slotBits)
	}
	return packed
}

func unpack(packed []uint64, size uint32) []uint32 {
	slots := make([]uint32, size)
	for i := range slots {
		slots[i] = uint32(packed[i/slotsPerWord]>>(i%slotsPerWord*slotBits)) & slotMask
	}
	return slots
}

// kernelTables are the inner maps of an array of maps. Inner maps are opened
// by id for each use: three descriptors for every service would soon be more
// than a process may have.
type kernelTables struct{ outer *ebpf.Map }

// innerSpec must match the template in bpf/: BPF_F_INNER_MAP lets tables of
// any size stand in for it.
func innerSpec(words uint32) *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: "maglev_table", Type: ebpf.Array, KeySize: 4, ValueSize: 8,
		MaxEntries: words, Flags: unix.BPF_F_INNER_MAP}
}

func (t kernelTables) Sizes() (map[uint32]uint32, error) {
	ids, err := kernelMap[uint32, uint32]{t.outer}.All()
	if err != nil {
		return nil, err
	}
	sizes := map[uint32]uint32{}
	known := map[uint32]uint32{} // one empty table stands for many
	for index, id := range ids {
		if id == 0 {
			continue
		}
		words, ok := known[id]
		if !ok {
			inner, err := ebpf.NewMapFromID(ebpf.MapID(id))
			if err != nil {
				return nil, fmt.Errorf("open table %d: %w", index, err)
			}
			words = inner.MaxEntries()
			known[id] = words
			inner.Close()
		}
		if words != emptyWords {
			sizes[index] = words
		}
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

func (t kernelTables) Read(index, size uint32) ([]uint32, error) {
	inner, err := t.inner(index)
	if err != nil {
		return nil, err
	}
	if inner == nil {
		return nil, fmt.Errorf("read table %d: %w", index, errNoTable)
	}
	defer inner.Close()
	if inner.MaxEntries() < words(size) {
		return nil, fmt.Errorf("read table %d: %d words for %d slots: %w", index, inner.MaxEntries(), size, errNoTable)
	}
	packed := make([]uint64, inner.MaxEntries())
	keys := make([]uint32, len(packed))
	var cursor ebpf.MapBatchCursor
	n, err := inner.BatchLookup(&cursor, keys, packed, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, err
	}
	if n != len(packed) {
		return nil, fmt.Errorf("read table %d: %d words of %d", index, n, len(packed))
	}
	return unpack(packed, size), nil
}

func (t kernelTables) Write(tables map[uint32][]uint32) error {
	var indexes, fds []uint32
	for _, index := range slices.Sorted(maps.Keys(tables)) {
		fresh, err := t.fill(index, pack(tables[index]))
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
func (t kernelTables) fill(index uint32, packed []uint64) (fresh *ebpf.Map, err error) {
	inner, err := t.inner(index)
	if err != nil {
		return nil, err
	}
	if inner != nil && inner.MaxEntries() == uint32(len(packed)) {
		defer inner.Close()
		return nil, fillWords(inner, packed)
	}
	if inner != nil {
		inner.Close()
	}
	if fresh, err = ebpf.NewMap(innerSpec(uint32(len(packed)))); err != nil {
		return nil, err
	}
	if err := fillWords(fresh, packed); err != nil {
		fresh.Close()
		return nil, err
	}
	return fresh, nil
}

func fillWords(m *ebpf.Map, packed []uint64) error {
	keys := make([]uint32, len(packed))
	for i := range keys {
		keys[i] = uint32(i)
	}
	_, err := m.BatchUpdate(keys, packed, nil)
	return err
}

// emptyWords is the size of the table that stands for none. No Maglev table
// is as small (soleSize).
const emptyWords = 1

// Delete puts an empty table, one for all, in the place of each: the kernel
// has no batch for removing them, and waits for RCU each time.
func (t kernelTables) Delete(indexes []uint32) error {
	empty, err := ebpf.NewMap(innerSpec(emptyWords))
	if err != nil {
		return err
	}
	defer empty.Close()
	return t.insert(indexes, slices.Repeat([]uint32{uint32(empty.FD())}, len(indexes)))
}

// kernelCounters are a per-CPU array of counts.
type kernelCounters struct{ m *ebpf.Map }

func (c kernelCounters) Lookup(index uint32) (Count, error) {
	var perCPU []Count
	if err := c.m.Lookup(index, &perCPU); err != nil {
		return Count{}, err
	}
	return sum(perCPU), nil
}

func (c kernelCounters) Reset(index uint32) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	return c.m.Put(index, make([]Count, cpus))
}

func (c kernelCounters) All() (map[uint32]Count, error) {
	all := map[uint32]Count{}
	err := c.batches(all)
	if errors.Is(err, ebpf.ErrNotSupported) {
		clear(all)
		var index uint32
		var perCPU []Count
		it := c.m.Iterate()
		for it.Next(&index, &perCPU) {
			addCount(all, index, perCPU)
		}
		err = it.Err()
	}
	return all, err
}

func (c kernelCounters) batches(into map[uint32]Count) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	n := min(batchSize, int(c.m.MaxEntries()))
	keys, values := make([]uint32, n), make([]Count, n*cpus)
	var cursor ebpf.MapBatchCursor
	for {
		got, err := c.m.BatchLookup(&cursor, keys, values, nil)
		for i := range got {
			addCount(into, keys[i], values[i*cpus:(i+1)*cpus])
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func addCount(into map[uint32]Count, index uint32, perCPU []Count) {
	if count := sum(perCPU); count != (Count{}) {
		into[index] = count
	}
}

func sum(perCPU []Count) (all Count) {
	for _, c := range perCPU {
		all.Packets += c.Packets
		all.Bytes += c.Bytes
	}
	return all
}
