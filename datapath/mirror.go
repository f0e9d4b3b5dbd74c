package datapath

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
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

// frontendMirror also counts the frontends of each address and each set; VIP
// rows do not count.
type frontendMirror struct {
	*mirror[FrontendKey, FrontendEntry]
	ofAddr map[IPv4]int
	ofSet  map[uint32]int
}

func newFrontendMirror(m Map[FrontendKey, FrontendEntry]) *frontendMirror {
	return &frontendMirror{newMirror("frontends", m), map[IPv4]int{}, map[uint32]int{}}
}

func (f *frontendMirror) load() error {
	if err := f.mirror.load(); err != nil {
		return err
	}
	clear(f.ofAddr)
	clear(f.ofSet)
	for key := range f.have {
		f.count(key, 1)
	}
	return nil
}

func (f *frontendMirror) put(key FrontendKey, entry FrontendEntry) error {
	f.count(key, -1)
	defer f.count(key, 1)
	return f.mirror.put(key, entry)
}

func (f *frontendMirror) remove(key FrontendKey) error {
	f.count(key, -1)
	defer f.count(key, 1)
	return f.mirror.remove(key)
}

func (f *frontendMirror) count(key FrontendKey, n int) {
	if entry, ok := f.have[key]; ok && !key.isVIP() {
		f.ofAddr[key.Addr] += n
		f.ofSet[entry.Set] += n
	}
}

// maglevTable stands for a table: its size, and a hash of its slots that is
// of use in this process only.
type maglevTable struct {
	size uint32
	sum  uint64
}

// tableMirror remembers what each Maglev table of the kernel is.
type tableMirror struct {
	tables Tables
	seed   maphash.Seed
	have   map[uint32]maglevTable // absent: not known
	exists map[uint32]bool        // tables there may be
}

func newTableMirror(tables Tables) *tableMirror {
	return &tableMirror{tables, maphash.MakeSeed(), map[uint32]maglevTable{}, map[uint32]bool{}}
}

// load learns which tables there are, not what is in them.
func (t *tableMirror) load() error {
	sizes, err := t.tables.Sizes()
	if err != nil {
		return fmt.Errorf("read sizes of maglev tables: %w", err)
	}
	clear(t.have)
	clear(t.exists)
	for index := range sizes {
		t.exists[index] = true
	}
	return nil
}

// read reads a table, and knows it from then on.
func (t *tableMirror) read(index uint32) ([]uint32, error) {
	slots, err := t.tables.Read(index)
	if err != nil {
		return nil, fmt.Errorf("read maglev table %d: %w", index, err)
	}
	t.have[index] = t.sum(slots)
	return slots, nil
}

func (t *tableMirror) sum(slots []uint32) maglevTable {
	bytes := make([]byte, 0, 4*len(slots))
	for _, slot := range slots {
		bytes = binary.NativeEndian.AppendUint32(bytes, slot)
	}
	return maglevTable{uint32(len(slots)), maphash.Bytes(t.seed, bytes)}
}

func (t *tableMirror) holds(index uint32, want maglevTable) bool {
	have, ok := t.have[index]
	return ok && have == want
}

// write writes tables that no packet is looked up in.
func (t *tableMirror) write(tables map[uint32][]uint32) error {
	for index := range tables {
		delete(t.have, index)
		t.exists[index] = true
	}
	if err := t.tables.Write(tables); err != nil {
		return fmt.Errorf("write maglev tables: %w", err)
	}
	for index, slots := range tables {
		t.have[index] = t.sum(slots)
	}
	return nil
}

// remove deletes those of the tables that there are.
func (t *tableMirror) remove(indexes []uint32) error {
	var there []uint32
	for _, index := range indexes {
		if t.exists[index] {
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
		delete(t.exists, index)
	}
	return nil
}
