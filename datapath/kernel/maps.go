package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// openMaps fills k.maps with the pinned maps, made where they are missing and
// moved where their shape is an older one. It returns the moves.
func (k *Kernel) openMaps(spec *ebpf.CollectionSpec) (moved []move, err error) {
	dir := pinDir(k.cfg.BPFFS)
	if err := checkLayout(dir); err != nil {
		return nil, err
	}
	split, err := k.splitTables(spec.Maps)
	if err != nil {
		return nil, err
	}
	for name, m := range split {
		k.maps[name] = m
		if err := pinOver(m, filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	for name, want := range spec.Maps {
		if name[0] == '.' || split[name] != nil { // constants of the programs
			continue
		}
		path := filepath.Join(dir, name)
		pinned, err := ebpf.LoadPinnedMap(path, nil)
		var why error // it is of no use as it is
		if err == nil {
			why = errors.Join(want.Compatible(pinned), sameMeaning(pinned, want))
		}
		if err == nil && why == nil {
			k.maps[name] = pinned
			continue
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return moved, fmt.Errorf("open pinned map %s: %w", path, err)
		}
		fresh, err := ebpf.NewMap(want)
		if err != nil {
			return moved, fmt.Errorf("create map %s: %w", name, err)
		}
		k.maps[name] = fresh
		if pinned != nil {
			m := move{name: name, old: pinned, new: fresh, begins: errors.Is(why, errOtherMeaning)}
			moved = append(moved, m)
			k.cfg.Log.Info("move map to a new shape", "map", name, "why", why, "empty", m.begins)
			if err := m.copy(ebpf.UpdateAny); err != nil {
				return moved, err
			}
		}
		if err := pinOver(fresh, path); err != nil {
			return moved, err
		}
	}
	return moved, nil
}

// pinOver pins a map, in place of the one that has the path. It is pinned aside and
// renamed, so that the path always has a whole map.
func pinOver(m *ebpf.Map, path string) error {
	aside := path + "_new"
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("pin map %s: %w", path, err)
	}
	if err := m.Pin(aside); err != nil {
		return fmt.Errorf("pin map %s: %w", path, err)
	}
	if err := os.Rename(aside, path); err != nil {
		return fmt.Errorf("pin map %s: %w", path, err)
	}
	return nil
}

// checkLayout refuses pins of a daemon newer than this one.
func checkLayout(dir string) error {
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, bpfMapLayout), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read layout version: %w", err)
	}
	defer m.Close()
	var version uint32
	if err := m.Lookup(uint32(0), &version); err != nil {
		return fmt.Errorf("read layout version: %w", err)
	}
	if version > uint32(bpfLayoutVersionLAYOUT_VERSION) {
		return fmt.Errorf("open pinned maps in %s: their layout %d is newer than this seamarkd's %d: run the newer seamarkd, or drop its state and all connections with: seamarkd cleanup",
			dir, version, bpfLayoutVersionLAYOUT_VERSION)
	}
	return nil
}

// move is the way of a map's entries into one of another shape.
type move struct {
	name     string
	old, new *ebpf.Map
	begins   bool // anew: what was in it means something else now
}

// copy copies what still fits: keys as they were, values as they were or grown
// at the end. Whatever else was in the map is made anew by userspace, except
// for counters, which begin again.
func (m move) copy(flags ebpf.MapUpdateFlags) error {
	if m.begins {
		return nil
	}
	if m.old.Type() == ebpf.ArrayOfMaps && m.new.Type() == ebpf.ArrayOfMaps {
		return m.copyTables()
	}
	if !entries(m.old.Type()) || !entries(m.new.Type()) ||
		m.old.KeySize() != m.new.KeySize() || m.old.ValueSize() > m.new.ValueSize() {
		return nil
	}
	if m.new.Type() == ebpf.Array && flags == ebpf.UpdateNoExist {
		return nil // only userspace writes these
	}
	key, value := make([]byte, m.old.KeySize()), make([]byte, m.old.ValueSize())
	grown := make([]byte, m.new.ValueSize())
	it := m.old.Iterate()
	for it.Next(&key, &value) {
		copy(grown, value)
		err := m.new.Update(key, grown, flags)
		switch {
		case errors.Is(err, ebpf.ErrKeyExist):
		case errors.Is(err, ebpf.ErrKeyNotExist) && m.new.Type() == ebpf.Array: // it has shrunk
		case err != nil:
			return fmt.Errorf("copy map %s: %w", m.name, err)
		}
	}
	// Programs that still write into a map can make its walk start over too often.
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("copy map %s: %w", m.name, err)
	}
	return nil
}

// errOtherMeaning says that the bytes of a map's keys or values are other fields now.
var errOtherMeaning = errors.New("other fields")

// sameMeaning compares the fields of a map's keys and values with those wanted, by
// the BTF it was made with: all have to be where they were. A map whose BTF
// cannot be had is believed.
func sameMeaning(m *ebpf.Map, want *ebpf.MapSpec) error {
	info, err := m.Info()
	if err != nil {
		return fmt.Errorf("read map: %w", err)
	}
	id, ok := info.BTFID()
	if !ok {
		return nil
	}
	handle, err := btf.NewHandleFromID(id)
	if errors.Is(err, fs.ErrPermission) { // it takes CAP_SYS_ADMIN
		return nil
	}
	if err != nil {
		return fmt.Errorf("read BTF of map: %w", err)
	}
	defer handle.Close()
	types, err := handle.Spec(nil)
	if err != nil {
		return fmt.Errorf("read BTF of map: %w", err)
	}
	for _, t := range []btf.Type{want.Key, want.Value} {
		now, ok := t.(*btf.Struct)
		if !ok {
			continue
		}
		var before *btf.Struct
		if err := types.TypeByName(now.Name, &before); err != nil {
			return fmt.Errorf("it has no struct %s: %w", now.Name, errOtherMeaning)
		}
		if field := displaced(before, now); field != "" {
			return fmt.Errorf("%s.%s is not where it was: %w", now.Name, field, errOtherMeaning)
		}
	}
	return nil
}

// displaced returns a field of before that is not in now, or elsewhere; "" when all
// are where they were. Padding may have become a field.
func displaced(before, now *btf.Struct) string {
	for _, old := range before.Members {
		kept := slices.ContainsFunc(now.Members, func(m btf.Member) bool {
			a, errOld := btf.Sizeof(old.Type)
			b, errNew := btf.Sizeof(m.Type)
			return m.Name == old.Name && m.Offset == old.Offset && errOld == nil && errNew == nil && a == b
		})
		if !kept && old.Name != "pad" {
			return old.Name
		}
	}
	return ""
}

// nextEdition makes the programs forget the rows of frontends that they have found:
// an earlier daemon may have changed some, and died before it told them.
func (k *Kernel) nextEdition() error {
	var edition uint32
	if err := k.maps[bpfMapFrontendsEdition].Lookup(uint32(0), &edition); err != nil {
		return fmt.Errorf("read edition of frontends: %w", err)
	}
	if err := k.maps[bpfMapFrontendsEdition].Put(uint32(0), edition+1); err != nil {
		return fmt.Errorf("write edition of frontends: %w", err)
	}
	return nil
}

// removeStalePins removes what only older daemons had pinned. The programs that
// used it have been replaced.
func (k *Kernel) removeStalePins() error {
	dir := pinDir(k.cfg.BPFFS)
	found, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read pins: %w", err)
	}
	for _, pin := range found {
		if pin.IsDir() || k.maps[pin.Name()] != nil {
			continue
		}
		k.cfg.Log.Info("remove pin that is no longer used", "map", pin.Name())
		if err := os.Remove(filepath.Join(dir, pin.Name())); err != nil {
			return fmt.Errorf("remove pin that is no longer used: %w", err)
		}
	}
	return nil
}

func entries(t ebpf.MapType) bool {
	return t == ebpf.Hash || t == ebpf.LRUHash || t == ebpf.Array
}

func (m move) copyTables() error {
	for i := range min(m.old.MaxEntries(), m.new.MaxEntries()) {
		var table *ebpf.Map
		err := m.old.Lookup(i, &table)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		}
		if err == nil {
			err = errors.Join(m.new.Put(i, table), table.Close())
		}
		if err != nil {
			return fmt.Errorf("copy map %s: %w", m.name, err)
		}
	}
	return nil
}
