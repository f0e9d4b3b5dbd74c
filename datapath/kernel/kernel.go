package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Config says where and how to load.
type Config struct {
	// BPFFS is where a BPF filesystem is mounted. Everything is pinned in its
	// directory seamark.
	BPFFS string
	// RunDir holds a lock that keeps a second daemon away, and names the first.
	RunDir string
	// NodeAddr and NodeAddr6 are this node's addresses until SetNodeAddrs says more;
	// what is pinned knows better. Either may be invalid.
	NodeAddr, NodeAddr6 netip.Addr
	// NATPorts are the first and the last port of this node that translated flows
	// are given; zeros: those of bpf/pair.h.
	NATPorts [2]uint16
	// MSSClamp is the largest MSS, in bytes, that a pod may offer to clients of a
	// VIP: the MTU between nodes less 60. 0: any.
	MSSClamp uint16
	// NoSecondChance keeps packets of flows that their pod does not know from being
	// handed on to the other backend of their slot.
	NoSecondChance bool
	Sizes
	// MapMemory is what the tables of flows may take when all are full, in bytes, where
	// Sizes do not say; 0: what they do in bpf/shapes.h.
	MapMemory uint64
	// Modes are where outside devices have their packets balanced.
	Modes Modes
	Log   *slog.Logger
}

// Kernel is what is loaded. Its methods are safe for concurrent use.
type Kernel struct {
	cfg      Config
	locks    []*os.File
	programs map[string]*ebpf.Program // by their names in C
	waiting  *ebpf.CollectionSpec     // with the program that is not loaded yet
	maps     map[string]*ebpf.Map
	specs    map[string]*ebpf.MapSpec
	reasons  []string // names, by number
	tcx      bool
	events   events

	mu      sync.Mutex
	links   map[string]link.Link // by the name of the pin
	why     map[int]string       // Attachment.Why, by ifindex
	leaving map[int]bool         // by ifindex: next hops by it are about to be written
	kept    map[int]bool         // by ifindex: XDP is not in the driver because of a way out
}

// Open loads the programs, or takes over from an earlier daemon: pinned maps
// are used again, or moved to their new shape with what is in them, and the
// programs on all devices are replaced in place.
func Open(cfg Config) (_ *Kernel, err error) {
	if err := checkHost(cfg.BPFFS); err != nil {
		return nil, err
	}
	k := &Kernel{cfg: cfg, maps: map[string]*ebpf.Map{}, programs: map[string]*ebpf.Program{}, links: map[string]link.Link{}, why: map[int]string{}, leaving: map[int]bool{}, kept: map[int]bool{}, tcx: haveTCX() == nil}
	held, err := lock(cfg.RunDir)
	if err != nil {
		return nil, err
	}
	k.locks = append(k.locks, held)
	defer func() {
		if err != nil {
			err = errors.Join(err, k.Close())
		}
	}()
	spec, err := k.spec()
	if err != nil {
		return nil, err
	}
	k.specs = spec.Maps
	if k.reasons, err = reasonNames(spec); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(linkDir(cfg.BPFFS), 0o700); err != nil {
		return nil, fmt.Errorf("create pin directory: %w", err)
	}
	if held, err = lockPins(pinDir(cfg.BPFFS)); err != nil {
		return nil, err
	}
	k.locks = append(k.locks, held)
	moved, err := k.openMaps(spec)
	defer func() {
		for _, m := range moved {
			m.old.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	if err := k.firstNodeAddrs(); err != nil {
		return nil, err
	}
	if err := k.load(spec); err != nil {
		return nil, err
	}
	if err := k.replacePrograms(); err != nil {
		return nil, err
	}
	// What the old programs wrote between the first copy and their replacement.
	for _, m := range moved {
		if err := m.copy(ebpf.UpdateNoExist); err != nil {
			return nil, err
		}
	}
	if err := k.nextEdition(); err != nil {
		return nil, err
	}
	if err := k.removeStalePins(); err != nil {
		return nil, err
	}
	if err := k.unwatchEvents(); err != nil {
		return nil, err
	}
	if err := k.maps[bpfMapLayout].Put(uint32(0), uint32(bpfLayoutVersionLAYOUT_VERSION)); err != nil {
		return nil, fmt.Errorf("write layout version: %w", err)
	}
	return k, nil
}

func checkHost(bpffs string) error {
	release, err := kernelRelease()
	if err != nil {
		return err
	}
	return errors.Join(checkRights(), checkRelease(release), checkBPFFS(bpffs))
}

// spec returns what to load, as configured.
func (k *Kernel) spec() (*ebpf.CollectionSpec, error) {
	spec, err := loadBpf()
	if err != nil {
		return nil, fmt.Errorf("read programs: %w", err)
	}
	err = spec.Variables[bpfVarMssClamp].Set(k.cfg.MSSClamp)
	if k.cfg.NoSecondChance {
		err = errors.Join(err, spec.Variables[bpfVarSecondChance].Set(uint8(0)))
	}
	if k.cfg.NATPorts != [2]uint16{} {
		err = errors.Join(err, spec.Variables[bpfVarNatPortLow].Set(k.cfg.NATPorts[0]), spec.Variables[bpfVarNatPortHigh].Set(k.cfg.NATPorts[1]))
	}
	if err != nil {
		return nil, fmt.Errorf("configure programs: %w", err)
	}
	resize(spec.Maps, k.cfg.Sizes, k.cfg.MapMemory)
	return spec, nil
}

// load loads the programs over the maps, but for the one that few nodes need and
// that takes the verifier as long as all others: it waits until it is asked for.
func (k *Kernel) load(spec *ebpf.CollectionSpec) error {
	k.waiting = spec.Copy()
	name := programs[kindTCBalance].name
	k.waiting.Programs = map[string]*ebpf.ProgramSpec{name: k.waiting.Programs[name]}
	delete(spec.Programs, name)
	return k.loadAll(spec)
}

// loadAll loads all programs at once: the verifier looks at each by itself.
func (k *Kernel) loadAll(spec *ebpf.CollectionSpec) error {
	type result struct {
		loaded *ebpf.Collection
		err    error
	}
	results := make(chan result)
	for name, program := range spec.Programs {
		one := spec.Copy()
		one.Programs = map[string]*ebpf.ProgramSpec{name: program}
		go func() {
			loaded, err := ebpf.NewCollectionWithOptions(one, ebpf.CollectionOptions{MapReplacements: k.maps})
			results <- result{loaded, err}
		}()
	}
	var errs []error
	for range spec.Programs {
		r := <-results
		if r.err != nil {
			errs = append(errs, fmt.Errorf("load programs: %w", r.err))
			continue
		}
		maps.Copy(k.programs, r.loaded.Programs)
		r.loaded.Programs = nil
		r.loaded.Close() // its own handles of the maps
	}
	return errors.Join(errs...)
}

// Maps returns the maps by the names of bpf/maps.h. They stay the Kernel's to close.
func (k *Kernel) Maps() map[string]*ebpf.Map { return k.maps }

// MapSpecs returns the maps as they were compiled, with the BTF of their keys
// and values, for userspace to compare its own shapes with.
func (k *Kernel) MapSpecs() map[string]*ebpf.MapSpec { return k.specs }

// Close lets go of everything and leaves it at work in the kernel: only the
// pins hold it from then on.
func (k *Kernel) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for _, p := range k.programs {
		errs = append(errs, p.Close())
	}
	for _, l := range k.links {
		errs = append(errs, l.Close())
	}
	for _, m := range k.maps {
		errs = append(errs, m.Close())
	}
	clear(k.links)
	for _, held := range k.locks {
		errs = append(errs, held.Close())
	}
	return errors.Join(errs...)
}

func pinDir(bpffs string) string  { return filepath.Join(bpffs, "seamark") }
func linkDir(bpffs string) string { return filepath.Join(pinDir(bpffs), "links") }

// Cleanup detaches and removes all that was pinned in the bpffs, links first.
// It refuses to while a daemon runs. Nothing there is no error.
func Cleanup(bpffs, runDir string) error {
	if err := errors.Join(checkRights(), checkBPFFS(bpffs)); err != nil {
		return err
	}
	held, err := lock(runDir)
	if err != nil {
		return err
	}
	defer held.Close()
	pins, err := lockPins(pinDir(bpffs))
	if errors.Is(err, os.ErrNotExist) {
		return removeFilters() // nothing was ever pinned, or all of it is gone
	}
	if err != nil {
		return err
	}
	defer pins.Close()
	// The last reference to a link is its pin: with it the program goes.
	if err := os.RemoveAll(linkDir(bpffs)); err != nil {
		return fmt.Errorf("remove links: %w", err)
	}
	if err := removeFilters(); err != nil {
		return err
	}
	if err := os.RemoveAll(pinDir(bpffs)); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}
