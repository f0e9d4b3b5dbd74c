package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
)

// mirror is a map of the kernel with a copy of what it holds, so that what is
// there already is not written again. After an operation that failed the
// entry is read back before anything is concluded from it.
type mirror[K, V comparable] struct {
	name string
	m    Map[K, V]
	have map[K]V
	// unsure are the keys whose last operation failed.
	unsure map[K]bool
}

func newMirror[K, V comparable](name string, m Map[K, V]) *mirror[K, V] {
	return &mirror[K, V]{name: name, m: m, have: map[K]V{}, unsure: map[K]bool{}}
}

// load copies the map.
func (c *mirror[K, V]) load() error {
	have, err := c.m.All()
	if err != nil {
		return fmt.Errorf("read map %s: %w", c.name, err)
	}
	c.have, c.unsure = have, map[K]bool{}
	return nil
}

// get returns the entry, read back if the copy may be wrong.
func (c *mirror[K, V]) get(key K) (V, bool, error) {
	if c.unsure[key] {
		value, ok, err := c.m.Lookup(key)
		if err != nil {
			return value, false, fmt.Errorf("look up %v in map %s: %w", key, c.name, err)
		}
		if delete(c.have, key); ok {
			c.have[key] = value
		}
		delete(c.unsure, key)
	}
	value, ok := c.have[key]
	return value, ok, nil
}

// put makes the map hold value at key.
func (c *mirror[K, V]) put(key K, value V) error {
	old, ok, err := c.get(key)
	if err != nil || ok && old == value {
		return err
	}
	if err := c.m.Update(key, value); err != nil {
		c.unsure[key] = true
		return fmt.Errorf("write %v to map %s: %w", key, c.name, err)
	}
	c.have[key] = value
	return nil
}

// remove makes the map hold nothing at key.
func (c *mirror[K, V]) remove(key K) error {
	if _, ok, err := c.get(key); err != nil || !ok {
		return err
	}
	if err := c.m.Delete(key); err != nil {
		c.unsure[key] = true
		return fmt.Errorf("delete %v from map %s: %w", key, c.name, err)
	}
	delete(c.have, key)
	return nil
}

// maglevTable stands for a table: its size, and hashes that are of use in this
// process only: of the backends in its slots, and of all that is in them.
type maglevTable struct {
	size        uint32
	sum, marked uint64
}

// leads says whether packets reach the same backends by both tables, moved
// slots or not.
func (t maglevTable) leads(other maglevTable) bool { return t.size == other.size && t.sum == other.sum }

// tableMirror remembers what each Maglev table of the kernel is.
type tableMirror struct {
	tables Tables
	seed   maphash.Seed
	have   map[uint32]maglevTable // absent: not known
	rooms  map[uint32]uint32      // slots of the tables there may be; 0: not known
}

func newTableMirror(tables Tables) *tableMirror {
	return &tableMirror{tables, maphash.MakeSeed(), map[uint32]maglevTable{}, map[uint32]uint32{}}
}

// load learns which tables there are and how large, not what is in them:
// of those that are as large as before, that is taken to be what it was.
func (t *tableMirror) load() error {
	sizes, err := t.tables.Sizes()
	if err != nil {
		return fmt.Errorf("read which maglev tables there are: %w", err)
	}
	maps.DeleteFunc(t.have, func(index uint32, have maglevTable) bool { return room(have.size) != sizes[index] })
	t.rooms = sizes
	return nil
}

// read reads a table, and knows it from then on. One that something else
// removed, or made smaller, is as none.
func (t *tableMirror) read(index, size uint32) ([]uint32, error) {
	if size == 0 {
		return nil, nil
	}
	slots, err := t.tables.Read(index, size)
	if errors.Is(err, errNoTable) {
		delete(t.have, index)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read maglev table %d: %w", index, err)
	}
	t.have[index] = t.sum(slots)
	return slots, nil
}

func (t *tableMirror) sum(slots []uint32) maglevTable {
	plain := make([]byte, 0, 4*len(slots))
	marked := make([]byte, 0, 4*len(slots))
	for _, slot := range slots {
		plain = binary.NativeEndian.AppendUint32(plain, slot&slotBackend)
		marked = binary.NativeEndian.AppendUint32(marked, slot)
	}
	return maglevTable{uint32(len(slots)), maphash.Bytes(t.seed, plain), maphash.Bytes(t.seed, marked)}
}

// leads says whether packets looked up in the table reach the backends that
// they would by want.
func (t *tableMirror) leads(index uint32, want maglevTable) bool {
	have, ok := t.have[index]
	return ok && have.leads(want)
}

// write writes tables that no packet is looked up in, but for those that are
// there already.
func (t *tableMirror) write(tables map[uint32][]uint32) error {
	missing := map[uint32][]uint32{}
	sums := map[uint32]maglevTable{}
	for index, slots := range tables {
		sum := t.sum(slots)
		if have, ok := t.have[index]; len(slots) == 0 || ok && have == sum {
			continue
		}
		missing[index], sums[index] = slots, sum
		delete(t.have, index)
		t.rooms[index] = 0
	}
	if len(missing) == 0 {
		return nil
	}
	if err := t.tables.Write(missing); err != nil {
		return fmt.Errorf("write maglev tables: %w", err)
	}
	maps.Copy(t.have, sums)
	for index, slots := range missing {
		t.rooms[index] = room(uint32(len(slots)))
	}
	return nil
}

// remove deletes those of the tables that there are.
func (t *tableMirror) remove(indexes []uint32) error {
	var there []uint32
	for _, index := range indexes {
		if _, ok := t.rooms[index]; ok {
			there = append(there, index)
			delete(t.have, index)
		}
	}
	if len(there) == 0 {
		return nil
	}
	if err := t.tables.Delete(there); err != nil {
		return fmt.Errorf("delete maglev tables: %w", err)
	}
	for _, index := range there {
		delete(t.rooms, index)
	}
	return nil
}
