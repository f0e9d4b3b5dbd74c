package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// tableForm is how a Maglev table is written in the kernel (bpf/maps.h). Small tables are
// of these few sizes, and of few backends; large ones of all other sizes.
type tableForm interface {
	mapName() string
	takes(size uint32) bool
	// spec returns the inner map for a table of that many slots.
	spec(name string, size uint32) *ebpf.MapSpec
	// slots returns how many slots an inner map has room for.
	slots(inner *ebpf.Map) uint32
	put(inner *ebpf.Map, slots []uint32) error
	// read returns the first size slots, which there are.
	read(inner *ebpf.Map, size uint32) ([]uint32, error)
}

// smallSizes are the sizes of small tables (SMALL_TABLES), and smallBackends is how many
// backends these may lead to (enum small_slot).
var smallSizes = [...]uint32{soleSize, 1021, 4093, 10007}

const (
	smallBackends = 128
	smallMoved    = 128
	smallList     = 4 * smallBackends // bytes of the list of ids before the slots
)

func isSmall(size uint32) bool { return slices.Contains(smallSizes[:], size) }

func tableForms() []tableForm {
	var forms []tableForm
	for _, size := range smallSizes {
		forms = append(forms, smallTable(size))
	}
	return append(forms, largeTable{})
}

// room is how many slots a table has that is made for that many.
func room(slots uint32) uint32 {
	if isSmall(slots) {
		return slots
	}
	return words(slots) * slotsPerWord
}

// smallTable is the form of the tables of a small size: struct small_table.
type smallTable uint32

func (s smallTable) mapName() string        { return "tables_" + strconv.Itoa(int(s)) }
func (s smallTable) takes(size uint32) bool { return size == uint32(s) }

func (s smallTable) spec(name string, _ uint32) *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: name, Type: ebpf.Array, KeySize: 4, ValueSize: smallList + uint32(s), MaxEntries: 1}
}

func (s smallTable) slots(*ebpf.Map) uint32 { return uint32(s) }

func (s smallTable) put(inner *ebpf.Map, slots []uint32) error {
	value, err := packSmall(slots)
	if err != nil {
		return err
	}
	return inner.Put(uint32(0), value)
}

func (s smallTable) read(inner *ebpf.Map, _ uint32) ([]uint32, error) {
	value, err := inner.LookupBytes(uint32(0))
	if err != nil {
		return nil, err
	}
	return unpackSmall(value), nil
}

// packSmall returns a struct small_table.
func packSmall(slots []uint32) ([]byte, error) {
	value := make([]byte, smallList, smallList+len(slots))
	var ids []uint32
	// Where in ids an id is, and 1 more; hashed, as this is done for every slot of thousands of services.
	var places [2 * smallBackends]int
	for _, slot := range slots {
		id := slot & slotBackend
		place := id % uint32(len(places))
		for places[place] != 0 && ids[places[place]-1] != id {
			place = (place + 1) % uint32(len(places))
		}
		if places[place] == 0 {
			if len(ids) == smallBackends {
				return nil, fmt.Errorf("table of %d slots: it leads to more than %d backends", len(slots), smallBackends)
			}
			ids = append(ids, id)
			places[place] = len(ids)
		}
		in := byte(places[place] - 1)
		if slot&SlotMoved != 0 {
			in |= smallMoved
		}
		value = append(value, in)
	}
	for i, id := range ids {
		binary.NativeEndian.PutUint32(value[4*i:], id)
	}
	return value, nil
}

func unpackSmall(value []byte) []uint32 {
	slots := make([]uint32, len(value)-smallList)
	for i, in := range value[smallList:] {
		slots[i] = binary.NativeEndian.Uint32(value[4*int(in%smallBackends):])
		if in&smallMoved != 0 {
			slots[i] |= SlotMoved
		}
	}
	return slots
}

// Slots of large tables are packed three to a word (enum slot).
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

// largeTable is the form of tables of all other sizes: an array of words.
type largeTable struct{}

func (largeTable) mapName() string        { return "tables" }
func (largeTable) takes(size uint32) bool { return !isSmall(size) }

// BPF_F_INNER_MAP lets tables of any size stand in for the template in bpf/.
func (largeTable) spec(name string, size uint32) *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: name, Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: words(size), Flags: unix.BPF_F_INNER_MAP}
}

func (largeTable) slots(inner *ebpf.Map) uint32 { return inner.MaxEntries() * slotsPerWord }

func (largeTable) put(inner *ebpf.Map, slots []uint32) error {
	packed := pack(slots)
	keys := make([]uint32, len(packed))
	for i := range keys {
		keys[i] = uint32(i)
	}
	_, err := inner.BatchUpdate(keys, packed, nil)
	return err
}

func (largeTable) read(inner *ebpf.Map, size uint32) ([]uint32, error) {
	packed := make([]uint64, inner.MaxEntries())
	keys := make([]uint32, len(packed))
	var cursor ebpf.MapBatchCursor
	n, err := inner.BatchLookup(&cursor, keys, packed, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, err
	}
	if n != len(packed) {
		return nil, fmt.Errorf("%d words of %d", n, len(packed))
	}
	return unpack(packed, size), nil
}
