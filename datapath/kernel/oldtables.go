package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
)

// splitTables makes the maps of Maglev tables from what a daemon left that had all of
// them in one map, as words of slots: the small ones are in maps of their size now. So
// the programs find their tables at once, and not when userspace has written them
// anew. nil: what is pinned is no such map.
func (k *Kernel) splitTables(specs map[string]*ebpf.MapSpec) (split map[string]*ebpf.Map, err error) {
	old, err := k.pinnedAs(specs[bpfMapTables])
	if old == nil || err != nil {
		return nil, err
	}
	defer old.Close()
	sets, err := k.pinnedAs(specs[bpfMapSets])
	if sets == nil || err != nil {
		return nil, err
	}
	defer sets.Close()
	var names []string
	for name, spec := range specs {
		if !strings.HasPrefix(name, bpfMapTables) {
			continue
		}
		names = append(names, name)
		if name == bpfMapTables {
			continue
		}
		if m, err := k.pinnedAs(spec); m != nil || err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	split = map[string]*ebpf.Map{}
	defer func() {
		if err != nil {
			closeAll(split)
		}
	}()
	for _, name := range names {
		if split[name], err = ebpf.NewMap(specs[name]); err != nil {
			return nil, fmt.Errorf("create map %s: %w", name, err)
		}
	}
	rows := make([]bpfBackendSet, sets.MaxEntries())
	if _, err := sets.BatchLookup(new(ebpf.MapBatchCursor), make([]uint32, len(rows)), rows, nil); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, fmt.Errorf("read map %s: %w", bpfMapSets, err)
	}
	keys, values := make([]uint32, old.MaxEntries()), make([]uint32, old.MaxEntries())
	count, err := old.BatchLookup(new(ebpf.MapBatchCursor), keys, values, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, fmt.Errorf("read map %s: %w", bpfMapTables, err)
	}
	tables := map[uint32]ebpf.MapID{}
	for i, at := range keys[:count] {
		tables[at] = ebpf.MapID(values[i])
	}
	const batch = 256 // of descriptors; each waits for RCU once
	for first := 0; first < len(rows); first += batch {
		if err := splitSets(split, specs, rows, tables, first, min(first+batch, len(rows))); err != nil {
			return nil, err
		}
	}
	return split, nil
}

// pinnedAs opens a pinned map; nil: there is none, or it is of another shape.
func (k *Kernel) pinnedAs(spec *ebpf.MapSpec) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(pinDir(k.cfg.BPFFS), spec.Name), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open pinned map %s: %w", spec.Name, err)
	}
	if spec.Compatible(m) != nil || sameMeaning(m, spec) != nil {
		return nil, m.Close()
	}
	return m, nil
}

// splitSets puts the tables of some sets where they belong.
func splitSets(split map[string]*ebpf.Map, specs map[string]*ebpf.MapSpec, rows []bpfBackendSet, tables map[uint32]ebpf.MapID, first, end int) (err error) {
	indexes, inners := map[string][]uint32{}, map[string][]*ebpf.Map{}
	defer func() {
		for _, of := range inners {
			for _, inner := range of {
				inner.Close() // the outer map keeps it
			}
		}
	}()
	for set := first; set < end; set++ {
		for which, size := range rows[set].Size[:3] {
			at := uint32(4*set + which)
			id, ok := tables[at]
			if size == 0 || !ok {
				continue
			}
			name := bpfMapTables + "_" + strconv.Itoa(int(size))
			if specs[name] == nil {
				name = bpfMapTables
			}
			inner, err := splitTable(specs[name], id, size)
			if err != nil {
				return fmt.Errorf("move Maglev table %d of %d slots: %w", at, size, err)
			}
			if inner != nil {
				indexes[name], inners[name] = append(indexes[name], at), append(inners[name], inner)
			}
		}
	}
	for name, of := range inners {
		fds := make([]uint32, len(of))
		for i, inner := range of {
			fds[i] = uint32(inner.FD())
		}
		if _, err := split[name].BatchUpdate(indexes[name], fds, nil); err != nil {
			return fmt.Errorf("fill map %s: %w", name, err)
		}
	}
	return nil
}

// splitTable returns a table of words as a map of outer takes it; nil: it has too few
// slots, or leads to more backends than a small one can.
func splitTable(outer *ebpf.MapSpec, id ebpf.MapID, size uint32) (*ebpf.Map, error) {
	large, err := ebpf.NewMapFromID(id)
	if err != nil {
		return nil, err
	}
	words := make([]uint64, large.MaxEntries())
	const perWord = uint32(bpfSlotSLOTS_PER_WORD)
	if large.ValueSize() != 8 || uint32(len(words))*perWord < size {
		return nil, large.Close()
	}
	if outer.Name == bpfMapTables {
		return large, nil
	}
	defer large.Close()
	if _, err := large.BatchLookup(new(ebpf.MapBatchCursor), make([]uint32, len(words)), words, nil); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, err
	}
	value := make([]byte, outer.InnerMap.ValueSize)
	slots := value[4*bpfSmallSlotSMALL_BACKENDS:]
	var backends []uint32
	for i := range size {
		slot := uint32(words[i/perWord] >> (i % perWord * uint32(bpfSlotSLOT_BITS)))
		backend := slot & uint32(bpfSlotSLOT_BACKEND)
		in := slices.Index(backends, backend)
		if in < 0 {
			if in = len(backends); in == int(bpfSmallSlotSMALL_BACKENDS) {
				return nil, nil
			}
			backends = append(backends, backend)
			binary.NativeEndian.PutUint32(value[4*in:], backend)
		}
		if slot&uint32(bpfSlotSLOT_MOVED) != 0 {
			in |= int(bpfSmallSlotSMALL_MOVED)
		}
		slots[i] = byte(in)
	}
	small, err := ebpf.NewMap(outer.InnerMap)
	if err != nil {
		return nil, err
	}
	if err := small.Put(uint32(0), value); err != nil {
		return nil, errors.Join(err, small.Close())
	}
	return small, nil
}

func closeAll(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		m.Close()
	}
}
