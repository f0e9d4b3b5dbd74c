package datapath

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
)

// kernelTables are the Maglev tables of the kernel: one array of maps for each size of
// small ones, and one for all others. An index has a table in one of them, but for
// the moment in which it changes its size.
type kernelTables []tableMap

// openTables returns the arrays of maps among those loaded.
func openTables(loaded map[string]*ebpf.Map) (kernelTables, error) {
	var tables kernelTables
	var errs []error
	for _, form := range tableForms() {
		outer, ok := loaded[form.mapName()]
		if !ok || outer.Type() != ebpf.ArrayOfMaps || outer.KeySize() != 4 {
			errs = append(errs, fmt.Errorf("open map %s: missing or not an array of maps: %v", form.mapName(), outer))
		}
		tables = append(tables, tableMap{outer, form})
	}
	return tables, errors.Join(errs...)
}

// of returns the map for tables of that many slots.
func (t kernelTables) of(size uint32) tableMap {
	return t[slices.IndexFunc(t, func(m tableMap) bool { return m.takes(size) })]
}

func (t kernelTables) Sizes() (map[uint32]uint32, error) {
	sizes := map[uint32]uint32{}
	for _, m := range t {
		err := m.each(func(index, slots uint32) {
			if _, two := sizes[index]; two {
				slots = 0 // one of them is of no use any more
			}
			sizes[index] = slots
		})
		if err != nil {
			return nil, err
		}
	}
	return sizes, nil
}

func (t kernelTables) Read(index, size uint32) ([]uint32, error) {
	m := t.of(size)
	inner, err := m.inner(index)
	if err != nil {
		return nil, err
	}
	if inner == nil {
		return nil, fmt.Errorf("read table %d of %d slots: %w", index, size, errNoTable)
	}
	defer inner.Close()
	if m.slots(inner) != room(size) {
		return nil, fmt.Errorf("read table %d of %d slots: %w", index, size, errNoTable)
	}
	slots, err := m.read(inner, size)
	if err != nil {
		return nil, fmt.Errorf("read table %d of %d slots: %w", index, size, err)
	}
	return slots, nil
}

func (t kernelTables) Write(tables map[uint32][]uint32) error {
	for i, m := range t {
		fresh, err := m.write(tables)
		if err != nil {
			return err
		}
		// Those that had another size no longer do.
		for j, other := range t {
			if i == j {
				continue
			}
			if err := other.remove(fresh); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t kernelTables) Delete(indexes []uint32) error {
	for _, m := range t {
		if err := m.remove(indexes); err != nil {
			return err
		}
	}
	return nil
}

// tableMap is an array of maps with tables of one form. Inner maps are opened
// by id for each use: three descriptors for every service would soon be more
// than a process may have.
type tableMap struct {
	outer *ebpf.Map
	tableForm
}

// The names of inner maps: one that is empty stands for none, since the kernel has no
// batch for removing them, and waits for RCU each time.
const (
	tableName = "maglev_table"
	emptyName = "maglev_empty"
)

// each calls f for every table with the slots that it has room for.
func (m tableMap) each(f func(index, slots uint32)) error {
	ids, err := kernelMap[uint32, uint32]{m.outer}.All()
	if err != nil {
		return err
	}
	known := map[uint32]uint32{} // many share one that is empty
	for index, id := range ids {
		slots, ok := known[id]
		if !ok {
			inner, err := m.open(id)
			if err != nil {
				return fmt.Errorf("open table %d: %w", index, err)
			}
			if inner != nil {
				slots = m.slots(inner)
				inner.Close()
			}
			known[id] = slots
		}
		if slots > 0 {
			f(index, slots)
		}
	}
	return nil
}

// open returns the inner map with that id, which the caller closes; nil when it
// stands for none.
func (m tableMap) open(id uint32) (*ebpf.Map, error) {
	inner, err := ebpf.NewMapFromID(ebpf.MapID(id))
	if err != nil {
		return nil, err
	}
	info, err := inner.Info()
	if err != nil || info.Name == emptyName {
		inner.Close()
		return nil, err
	}
	return inner, nil
}

// inner returns the table, which the caller closes; nil when there is none.
func (m tableMap) inner(index uint32) (*ebpf.Map, error) {
	var id uint32
	if err := m.outer.Lookup(index, &id); errors.Is(err, ebpf.ErrKeyNotExist) || err == nil && id == 0 {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return m.open(id)
}

// write writes those of the tables that are of this form, and returns the indexes
// that had none of that size.
func (m tableMap) write(tables map[uint32][]uint32) (indexes []uint32, err error) {
	var fds []uint32
	for _, index := range slices.Sorted(maps.Keys(tables)) {
		if !m.takes(uint32(len(tables[index]))) {
			continue
		}
		fresh, err := m.fill(index, tables[index])
		if err != nil {
			return nil, fmt.Errorf("fill table %d: %w", index, err)
		}
		if fresh != nil {
			defer fresh.Close() // the outer map keeps it
			indexes, fds = append(indexes, index), append(fds, uint32(fresh.FD()))
		}
	}
	return indexes, m.insert(indexes, fds)
}

// fill writes the table in place; or, when there is none of that size, returns a new one.
func (m tableMap) fill(index uint32, slots []uint32) (fresh *ebpf.Map, err error) {
	inner, err := m.inner(index)
	if err != nil {
		return nil, err
	}
	if inner != nil {
		defer inner.Close()
		if m.slots(inner) == room(uint32(len(slots))) {
			return nil, m.put(inner, slots)
		}
	}
	if fresh, err = ebpf.NewMap(m.spec(tableName, uint32(len(slots)))); err != nil {
		return nil, err
	}
	if err := m.put(fresh, slots); err != nil {
		fresh.Close()
		return nil, err
	}
	return fresh, nil
}

// insert puts inner maps into the outer one, in a single batch where the kernel has them.
func (m tableMap) insert(indexes, fds []uint32) error {
	if len(indexes) == 0 {
		return nil
	}
	_, err := m.outer.BatchUpdate(indexes, fds, nil)
	if errors.Is(err, ebpf.ErrNotSupported) {
		for i, index := range indexes {
			if err := m.outer.Put(index, fds[i]); err != nil {
				return fmt.Errorf("insert table %d: %w", index, err)
			}
		}
		return nil
	}
	return err
}

// remove puts an empty table, one for all, in the place of each that there is.
func (m tableMap) remove(indexes []uint32) error {
	var there []uint32
	for _, index := range indexes {
		inner, err := m.inner(index)
		if err != nil {
			return fmt.Errorf("open table %d: %w", index, err)
		}
		if inner != nil {
			inner.Close()
			there = append(there, index)
		}
	}
	if len(there) == 0 {
		return nil
	}
	empty, err := ebpf.NewMap(m.spec(emptyName, 1))
	if err != nil {
		return err
	}
	defer empty.Close()
	return m.insert(there, slices.Repeat([]uint32{uint32(empty.FD())}, len(there)))
}
