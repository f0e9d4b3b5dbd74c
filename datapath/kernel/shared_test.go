package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// worldConfig is what the programs are configured with in the test node's world.
func worldConfig(cfg Config) Config {
	cfg.NodeAddr, cfg.NodeAddr6 = nodeAddr, families[1].node
	cfg.MSSClamp = 1440
	return cfg
}

// shared is one Kernel for all tests that do no more than send packets through
// its programs: the verifier takes far longer for these than the tests do. The
// filesystems that it is on are mounted nowhere, and go with the process.
var shared = sync.OnceValues(func() (*sharedKernel, error) {
	bpffs, err := mountNowhere("bpf")
	if err != nil {
		return nil, err
	}
	runDir, err := mountNowhere("tmpfs")
	if err != nil {
		return nil, err
	}
	k, err := Open(worldConfig(Config{BPFFS: bpffs, RunDir: runDir, Sizes: testSizes, Log: slog.New(slog.DiscardHandler)}))
	return &sharedKernel{Kernel: k, written: written{map[string]map[uint32]bool{}, map[string]map[uint32]*ebpf.Map{}}}, err
})

type sharedKernel struct {
	inUse sync.Mutex
	*Kernel
	written written
}

// written is what tests have written into the large arrays of the shared Kernel, which
// nobody else writes. To have these as new it is enough to empty that; and Maglev tables
// are used again, since it takes a wait for RCU to put one where it belongs.
type written struct {
	rows   map[string]map[uint32]bool
	tables map[string]map[uint32]*ebpf.Map
}

// isTracked says whether written is to know of what is written into a map.
func isTracked(m *ebpf.Map) bool {
	return m.Type() == ebpf.ArrayOfMaps || m.Type() == ebpf.Array && m.MaxEntries() > 1024
}

// note notes a row of an array.
func (w *written) note(m *ebpf.Map, name string, key any) {
	if at, ok := key.(uint32); ok && w != nil && m.Type() == ebpf.Array && isTracked(m) {
		if w.rows[name] == nil {
			w.rows[name] = map[uint32]bool{}
		}
		w.rows[name][at] = true
	}
}

// keep keeps a Maglev table for the next test, if there is to be one.
func (w *written) keep(name string, at uint32, inner *ebpf.Map) bool {
	if w == nil {
		return false
	}
	if w.tables[name] == nil {
		w.tables[name] = map[uint32]*ebpf.Map{}
	}
	w.tables[name][at].Close()
	w.tables[name][at] = inner
	return true
}

// table is the Maglev table that is there, if it is as wanted, or nil.
func (w *written) table(name string, at uint32, spec *ebpf.MapSpec) *ebpf.Map {
	if w == nil {
		return nil
	}
	inner := w.tables[name][at]
	if inner == nil || inner.MaxEntries() != spec.MaxEntries || inner.ValueSize() != spec.ValueSize {
		return nil
	}
	return inner
}

// empty empties all of it.
func (w *written) empty(maps map[string]*ebpf.Map) error {
	for name, rows := range w.rows {
		for at := range rows {
			if err := maps[name].Put(at, make([]byte, maps[name].ValueSize())); err != nil {
				return fmt.Errorf("empty map %s: %w", name, err)
			}
		}
	}
	clear(w.rows)
	for name, tables := range w.tables {
		for _, inner := range tables {
			if _, err := inner.BatchUpdate(numbersTo(inner.MaxEntries()), batchOf(inner.MaxEntries(), inner.ValueSize()), nil); err != nil {
				return fmt.Errorf("empty a table of map %s: %w", name, err)
			}
		}
	}
	return nil
}

// mountNowhere mounts a filesystem of its own that has no place among the
// others, and returns a path to it.
func mountNowhere(kind string) (string, error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("open filesystem %s: %w", kind, err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return "", fmt.Errorf("create filesystem %s: %w", kind, err)
	}
	root, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("mount filesystem %s: %w", kind, err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", root), nil
}

// sharedFor gives the shared Kernel to a test, as good as new.
func sharedFor(t testing.TB) *sharedKernel {
	t.Helper()
	k, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	if !k.inUse.TryLock() {
		t.Fatal("the shared Kernel is one node's at a time: give others their own with nodeWith")
	}
	t.Cleanup(k.inUse.Unlock)
	if err := k.reset(); err != nil {
		t.Fatal(err)
	}
	return k
}

// reset takes the programs off the devices of the test before, and empties the
// maps, but for the counters: they only ever rise, and tests compare them with
// what they were.
func (k *sharedKernel) reset() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for name := range k.links {
		errs = append(errs, k.dropLink(name))
	}
	clear(k.why)
	for name, m := range k.maps {
		if name == bpfMapLayout || isTracked(m) {
			continue
		}
		if err := empty(m); err != nil {
			errs = append(errs, fmt.Errorf("empty map %s: %w", name, err))
		}
	}
	return errors.Join(append(errs, k.written.empty(k.maps), k.firstNodeAddrs())...)
}

// empty makes a map as it was when it was created.
func empty(m *ebpf.Map) error {
	switch m.Type() {
	case ebpf.Array:
		_, err := m.BatchUpdate(numbersTo(m.MaxEntries()), batchOf(m.MaxEntries(), m.ValueSize()), nil)
		return err
	case ebpf.PerCPUArray:
		if m.MaxEntries() > 1 {
			return nil // counters
		}
		cpus, err := ebpf.PossibleCPU()
		if err != nil {
			return err
		}
		return m.Put(uint32(0), batchOf(uint32(cpus), m.ValueSize()))
	case ebpf.Hash, ebpf.LRUHash:
		const batch = 4096
		var cursor ebpf.MapBatchCursor
		for {
			_, err := m.BatchLookupAndDelete(&cursor, batchOf(batch, m.KeySize()), batchOf(batch, m.ValueSize()), nil)
			if errors.Is(err, ebpf.ErrKeyNotExist) {
				return nil // that was all
			}
			if err != nil {
				return err
			}
		}
	case ebpf.LPMTrie:
		var keys [][]byte
		it := m.Iterate()
		for key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize()); it.Next(&key, &value); {
			keys = append(keys, slices.Clone(key))
		}
		return errors.Join(it.Err(), deleteAll(m, keys))
	case ebpf.RingBuf:
		reader, err := ringbuf.NewReader(m)
		if err != nil {
			return err
		}
		defer reader.Close()
		for reader.AvailableBytes() > 0 {
			if _, err := reader.Read(); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("no way to empty a %s", m.Type())
}

func deleteAll[K any](m *ebpf.Map, keys []K) error {
	for _, key := range keys {
		if err := m.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// numbersTo are the keys of an array.
func numbersTo(n uint32) []uint32 {
	keys := make([]uint32, n)
	for i := range keys {
		keys[i] = uint32(i)
	}
	return keys
}

// batchOf is zeros, as a slice of n arrays of size bytes.
func batchOf(n, size uint32) any {
	one := reflect.ArrayOf(int(size), reflect.TypeFor[byte]())
	return reflect.MakeSlice(reflect.SliceOf(one), int(n), int(n)).Interface()
}
