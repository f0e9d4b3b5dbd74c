package datapath

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// DefaultGrace is how long a backend that was removed keeps its id and its
// row, so that it drains: packets in flight, and other nodes that have not
// heard of the change yet, still reach it and never a stranger.
const DefaultGrace = 30 * time.Second

// Hops says by which next hop an address is reached. NextHops is one.
type Hops interface {
	// Index returns the index into next_hops for addr, or 0 when there is
	// none, and BPF asks the FIB. held is the index that the kernel has for
	// addr now; it is kept if it leads the same way.
	Index(addr netip.Addr, held uint32) uint32
	// Keep forgets every address but these.
	Keep(addrs map[netip.Addr]bool)
}

// FrontendTarget is the state.Target of Frontends over the kernel's maps. Its
// methods may be called concurrently.
//
// A frontend is written from the back: backends, then the spare one of its
// set's two tables, then the set, which flips to that table, then the
// frontend. What fails leaves the old state serving. What is no longer used
// is found by sweeping, and keeps its place for Grace.
type FrontendTarget struct {
	// Grace is DefaultGrace unless set before first use.
	Grace time.Duration
	// Now is the clock, time.Now unless set before first use.
	Now func() time.Time

	maps Maps
	hops Hops
	node string
	log  *slog.Logger

	mu     sync.Mutex
	loaded bool

	// What the kernel holds.
	frontends *frontendMirror
	sets      *mirror[uint32, BackendSet]
	backends  *mirror[uint32, BackendEntry]
	locals    *mirror[LocalKey, LocalTarget]
	tables    *tableMirror

	// Whose it is.
	setOf   map[servicePort]uint32
	known   map[uint32]*backendSet // by set index
	ids     map[netip.AddrPort]uint32
	rows    map[FrontendKey]map[LocalKey]bool // the local targets of the rows seen
	alone   map[IPv4]bool                     // addresses wanted without a port
	freeSet indexPool
	freeID  indexPool

	// What is no longer used, and until when it keeps its place.
	oldSets   map[uint32]time.Time
	oldIDs    map[uint32]time.Time
	oldLocals map[LocalKey]time.Time
}

// servicePort is what a backend set belongs to: the frontends of one service
// port have the same backends, whatever their address.
type servicePort struct {
	service  state.ObjectName
	port     string
	protocol state.Protocol
}

// backendSet is what the target knows of a set.
type backendSet struct {
	owner servicePort // zero: not claimed by a row since the start
	// members are the ids in the table that is looked up.
	members []uint32
	// want is the table for these backends and ids.
	want     maglevTable
	backends []state.Backend
	ids      []uint32
}

// NewFrontendTarget returns the target for the named node. hops may be nil:
// BPF then asks the FIB for every packet.
func NewFrontendTarget(maps Maps, hops Hops, node string, log *slog.Logger) *FrontendTarget {
	return &FrontendTarget{
		Grace: DefaultGrace, Now: time.Now,
		maps: maps, hops: hops, node: node, log: log,
		frontends: newFrontendMirror(maps.Frontends),
		sets:      newMirror("sets", maps.Sets),
		backends:  newMirror("backends", maps.Backends),
		locals:    newMirror("local_targets", maps.LocalTargets),
		tables:    newTableMirror(maps.Maglev),
		setOf:     map[servicePort]uint32{},
		known:     map[uint32]*backendSet{},
		rows:      map[FrontendKey]map[LocalKey]bool{},
		alone:     map[IPv4]bool{},
		freeSet:   newIndexPool[bool](maxSets, nil),
		freeID:    newIndexPool[bool](maxBackends, nil),
		oldSets:   map[uint32]time.Time{},
		oldIDs:    map[uint32]time.Time{},
		oldLocals: map[LocalKey]time.Time{},
	}
}

// Update makes the kernel serve row.
func (t *FrontendTarget) Update(ctx context.Context, row state.Frontend) error {
	return t.UpdateAll(ctx, []state.Frontend{row})[0]
}

// Delete makes the kernel not serve row.
func (t *FrontendTarget) Delete(ctx context.Context, row state.Frontend) error {
	return t.DeleteAll(ctx, []state.Frontend{row})[0]
}

// updateBatch is how many rows have their new tables made in one go.
const updateBatch = 256

// UpdateAll is Update of many rows, with one wait for RCU for all new tables.
func (t *FrontendTarget) UpdateAll(_ context.Context, rows []state.Frontend) []error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all(rows, func(batch []state.Frontend) {
		t.writeSpares(batch)
	}, t.apply)
}

// DeleteAll is Delete of many rows.
func (t *FrontendTarget) DeleteAll(_ context.Context, rows []state.Frontend) []error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all(rows, func([]state.Frontend) {}, t.unserve)
}

func (t *FrontendTarget) all(rows []state.Frontend, prepare func([]state.Frontend), one func(state.Frontend) error) []error {
	errs := make([]error, 0, len(rows))
	if !t.loaded {
		if err := t.load(); err != nil {
			return slices.Repeat([]error{err}, len(rows))
		}
	}
	for batch := range slices.Chunk(rows, updateBatch) {
		prepare(batch)
		for _, row := range batch {
			errs = append(errs, one(row))
		}
	}
	if err := t.sweep(); err != nil {
		t.log.Warn("remove what is no longer used from the maps", "err", err) // not the rows' fault; the next sweep tries again
	}
	return errs
}

// Prune reads the maps anew and removes what is in them and not in wanted,
// but for addresses that the responder still answers for.
func (t *FrontendTarget) Prune(_ context.Context, wanted []state.Frontend) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.load(); err != nil {
		return err
	}
	announced, err := t.maps.Announced.All()
	if err != nil {
		return fmt.Errorf("read map announced: %w", err)
	}
	keep := map[FrontendKey]bool{}
	for _, row := range wanted {
		if key, err := keyOf(row); err == nil {
			keep[key], keep[vipKey(key.Addr)] = true, true
		}
	}
	answered := map[IPv4]bool{}
	for key := range announced {
		answered[key.Addr] = true
	}
	for key := range t.frontends.have {
		if keep[key] || answered[key.Addr] {
			continue
		}
		if err := t.frontends.remove(key); err != nil {
			return err
		}
		delete(t.rows, key)
	}
	return t.sweep()
}

// RewriteNextHops makes the backends' rows lead where Hops says now.
func (t *FrontendTarget) RewriteNextHops() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.loaded {
		return nil // load does it
	}
	return t.rewriteHops()
}

func (t *FrontendTarget) rewriteHops() error {
	for id, entry := range t.backends.have {
		if entry.Flags&BackendLocal != 0 {
			continue
		}
		entry.NextHop = t.hop(entry.Addr.Addr(), entry.NextHop)
		if err := t.backends.put(id, entry); err != nil {
			return err
		}
	}
	return nil
}

func (t *FrontendTarget) hop(addr netip.Addr, held uint32) uint32 {
	if t.hops == nil {
		return 0
	}
	return t.hops.Index(addr, held)
}

func keyOf(row state.Frontend) (FrontendKey, error) {
	addr, err := ipv4(row.Addr)
	if err != nil {
		return FrontendKey{}, fmt.Errorf("program frontend %s: %w", row.RowKey(), err)
	}
	return FrontendKey{Addr: addr, Port: NewPort(row.Port), Proto: row.Protocol}, nil
}

// apply writes one frontend.
func (t *FrontendTarget) apply(row state.Frontend) error {
	key, err := keyOf(row)
	if err != nil {
		return err
	}
	if key.isVIP() {
		t.alone[key.Addr] = true
		return t.frontends.put(key, FrontendEntry{})
	}
	set, err := t.claim(key, row)
	if err != nil {
		return err
	}
	locals := map[LocalKey]bool{}
	for _, b := range row.Backends {
		if b.Node != t.node {
			continue
		}
		pod, err := ipv4(b.Addr)
		if err != nil {
			return fmt.Errorf("program frontend %s: backend: %w", row.RowKey(), err)
		}
		local := LocalKey{VIP: key.Addr, Pod: pod, Port: key.Port, Proto: key.Proto}
		if locals[local] {
			continue // one pod, two target ports: the lower serves those who come from other nodes
		}
		locals[local] = true
		if err := t.locals.put(local, LocalTarget{Port: NewPort(b.Port)}); err != nil {
			return err
		}
	}
	if err := t.fill(set, row.Backends); err != nil {
		return err
	}
	if err := t.frontends.put(key, FrontendEntry{Set: set}); err != nil {
		return err
	}
	t.rows[key] = locals // the old ones drain only from here on
	return t.frontends.put(vipKey(key.Addr), FrontendEntry{})
}

// unserve removes one frontend, and its address with the last of them.
func (t *FrontendTarget) unserve(row state.Frontend) error {
	key, err := keyOf(row)
	if err != nil {
		return nil // such a row was never written
	}
	if key.isVIP() {
		delete(t.alone, key.Addr)
	} else {
		if err := t.frontends.remove(key); err != nil {
			return err
		}
		delete(t.rows, key)
	}
	if t.alone[key.Addr] || t.frontends.ofAddr[key.Addr] > 0 {
		return nil
	}
	return t.frontends.remove(vipKey(key.Addr))
}

// claim returns the set of the row's service port. After a restart that is
// the set the kernel's frontend has: if its backends are the row's, or if no
// other frontend looks it up, which then could be another service's.
func (t *FrontendTarget) claim(key FrontendKey, row state.Frontend) (uint32, error) {
	owner := servicePort{row.Service, row.PortName, row.Protocol}
	if set, ok := t.setOf[owner]; ok {
		return set, nil
	}
	set := t.frontends.have[key].Set
	if known := t.known[set]; set == 0 || known == nil || known.owner != (servicePort{}) ||
		!t.holds(known, row.Backends) && t.frontends.ofSet[set] > 1 {
		var err error
		if set, err = t.freeSet.take(); err != nil {
			return 0, fmt.Errorf("program frontend %s: allocate a backend set: %w", key, err)
		}
		t.known[set] = &backendSet{}
	}
	t.known[set].owner = owner
	t.setOf[owner] = set
	return set, nil
}

// holds says whether the set's backends are these.
func (t *FrontendTarget) holds(set *backendSet, backends []state.Backend) bool {
	if len(set.members) != len(backends) {
		return false
	}
	for _, b := range backends {
		id, ok := t.ids[netip.AddrPortFrom(b.Addr, b.Port)]
		if !ok || !slices.Contains(set.members, id) {
			return false
		}
	}
	return true
}

// fill makes packets to the set go to backends.
func (t *FrontendTarget) fill(set uint32, backends []state.Backend) error {
	known := t.known[set]
	if err := t.plan(known, backends); err != nil {
		return err
	}
	for i, b := range backends {
		if err := t.putBackend(known.ids[i], b); err != nil {
			return err
		}
	}
	entry, live, err := t.looksUp(set, known.want)
	if err != nil {
		return err
	}
	if !live {
		spare := entry.Active&1 ^ 1
		if known.want.size > 0 && !t.tables.holds(tableIndex(set, spare), known.want) {
			slots := map[uint32][]uint32{tableIndex(set, spare): known.slots()}
			if err := t.tables.write(slots); err != nil {
				return err
			}
		}
		// Two writes: a packet that sees the new index sees the new size too.
		entry.Size[spare] = known.want.size
		if err := t.sets.put(set, entry); err != nil {
			return err
		}
		entry.Active = spare
		if err := t.sets.put(set, entry); err != nil {
			return err
		}
	}
	known.members = known.ids
	return nil
}

// looksUp returns the set's row, and whether it leads to the table want.
func (t *FrontendTarget) looksUp(set uint32, want maglevTable) (BackendSet, bool, error) {
	entry, _, err := t.sets.get(set)
	if err != nil {
		return entry, false, err
	}
	active := entry.Active & 1
	live := entry.Size[active] == want.size && (want.size == 0 || t.tables.holds(tableIndex(set, active), want))
	return entry, live, nil
}

// writeSpares writes the tables that the rows need and have not, all at once.
// What fails here is done again, and reported, row by row.
func (t *FrontendTarget) writeSpares(rows []state.Frontend) {
	slots := map[uint32][]uint32{}
	for _, row := range rows {
		key, err := keyOf(row)
		if err != nil || key.isVIP() || len(row.Backends) == 0 {
			continue
		}
		set, err := t.claim(key, row)
		if err != nil {
			continue
		}
		known := t.known[set]
		if t.plan(known, row.Backends) != nil {
			continue
		}
		entry, live, err := t.looksUp(set, known.want)
		spare := tableIndex(set, entry.Active&1^1)
		if err == nil && !live && !t.tables.holds(spare, known.want) {
			slots[spare] = known.slots()
		}
	}
	if len(slots) > 1 {
		_ = t.tables.write(slots)
	}
}

// plan gives the backends ids and computes their table, unless it was
// computed last time.
func (t *FrontendTarget) plan(set *backendSet, backends []state.Backend) error {
	ids := make([]uint32, len(backends))
	for i, b := range backends {
		addr := netip.AddrPortFrom(b.Addr, b.Port)
		id, ok := t.ids[addr]
		if !ok {
			if _, err := ipv4(b.Addr); err != nil {
				return fmt.Errorf("program backend %s: %w", addr, err)
			}
			var err error
			if id, err = t.freeID.take(); err != nil {
				return fmt.Errorf("program backend %s: allocate a backend id: %w", addr, err)
			}
			t.ids[addr] = id
		}
		ids[i] = id
	}
	if slices.Equal(ids, set.ids) && slices.Equal(backends, set.backends) {
		return nil
	}
	set.ids, set.backends = ids, backends
	set.want = t.tables.sum(set.slots())
	return nil
}

// slots computes the set's Maglev table, with backend ids in the slots.
func (s *backendSet) slots() []uint32 {
	backends := make([]MaglevBackend, len(s.backends))
	for i, b := range s.backends {
		backends[i] = MaglevBackend{Addr: netip.AddrPortFrom(b.Addr, b.Port), Weight: b.Weight}
	}
	slots := MaglevTable(backends, MaglevSize(len(backends)))
	for i, b := range slots {
		slots[i] = s.ids[b]
	}
	return slots
}

func (t *FrontendTarget) putBackend(id uint32, b state.Backend) error {
	entry := BackendEntry{Addr: b.Addr.As4(), Port: NewPort(b.Port)}
	if b.Node == t.node {
		entry.Flags = BackendLocal
	} else {
		entry.NextHop = t.hop(b.Addr, 0) // what was held is known since load
	}
	return t.backends.put(id, entry)
}
