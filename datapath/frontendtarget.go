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

// tick is the unit of the clock of table entries (bpf/clock.h).
const tick = 1 << 30 * time.Nanosecond

// NodeAddrs are a node's addresses, one of each family; the zero Addr: none, or unknown.
type NodeAddrs struct{ Four, Six netip.Addr }

// Hops says by which next hop an address is reached. NextHops is one.
type Hops interface {
	// Index returns the index into next_hops for addr on the node with the
	// addresses node, or 0 when there is none, and BPF asks the FIB. held is
	// the index that the kernel has for addr now; it is kept if it leads the
	// same way.
	Index(addr netip.Addr, node NodeAddrs, held uint32) uint32
	// Keep forgets every address but these.
	Keep(addrs map[netip.Addr]bool)
}

// FrontendTarget is the state.Target of Frontends over the kernel's maps. Its
// methods may be called concurrently.
//
// A frontend is written from the back: backends, then the spare one of its
// set's three tables, then the set, which flips to that table, then the
// frontend. What fails leaves the old state serving. What is no longer used
// is found by sweeping, and keeps its place for Grace.
type FrontendTarget struct {
	// Grace is DefaultGrace, and Window DefaultWindow, unless set before first use.
	Grace, Window time.Duration
	// Now is the clock, time.Now unless set before first use.
	Now func() time.Time
	// Hash is the flow hash, set before first use. Without it, no window of
	// changes closes while there are pins of its set.
	Hash FlowHash
	// Ticks is the clock of table entries (bpf/clock.h), and FlowTimeout how long the
	// tables remember a flow without a packet, both set before first use. Without
	// them, frontends that once had another way of forwarding never forget it.
	Ticks       func() uint32
	FlowTimeout time.Duration
	// NodeAddrs returns the addresses of a node, set before first use; nil: they are not known.
	NodeAddrs func(node string) NodeAddrs

	maps Maps
	hops Hops
	node string
	log  *slog.Logger

	mu     sync.Mutex
	loaded bool
	loads  uint32

	// What the kernel holds.
	frontends *mirror[FrontendKey, FrontendEntry]
	sets      *mirror[uint32, BackendSet]
	backends  *mirror[uint32, BackendEntry]
	locals    *mirror[LocalKey, LocalTarget]
	sources   *mirror[SourceKey, uint32]
	tables    *tableMirror

	// Whose it is.
	rows     map[FrontendKey]*served
	addrs    map[netip.Addr]map[FrontendKey]addressNeed
	ports    map[balancedPort]*portSets
	portOf   map[FrontendKey]*portSets
	services map[servicePort]uint32
	numbers  map[uint32]servicePort
	known    map[uint32]*backendSet // by set index
	ids      map[netip.AddrPort]uint32
	nodes    map[uint32]string // of backends, by id

	freeSet, freeService, freeID indexPool

	// Who uses it.
	setUse     usage[uint32]        // by frontends
	serviceUse usage[uint32]        // by frontends
	idUse      usage[uint32]        // by sets, for new flows, and by rows, to drain
	serving    usage[uint32]        // ids, by sets only: without users they drain
	left       map[uint32]bool      // ids that may be marked BackendGone
	past       map[uint32]int       // ids, by the previous tables of sets
	localUse   usage[LocalKey]      // by rows
	sourceUse  usage[SourceKey]     // by rows
	gone       map[uint32]time.Time // since when ids have no row; something may still mention them
	garbage    purge
	read       bool // the maps that flows fill were read for ids
}

// served is what one row has in the maps besides its frontend.
type served struct {
	locals  []LocalKey
	sources []SourceKey
	drains  []uint32 // ids
}

// addressNeed is what one row wants of its address's own row.
type addressNeed struct {
	inside, refuse bool
	unseen         bool // the frontend is an earlier process's, and its row has not come yet
}

// NewFrontendTarget returns the target for the named node. hops may be nil:
// BPF then asks the FIB for every packet.
func NewFrontendTarget(maps Maps, hops Hops, node string, log *slog.Logger) *FrontendTarget {
	return &FrontendTarget{
		Grace: DefaultGrace, Window: DefaultWindow, Now: time.Now,
		maps: maps, hops: hops, node: node, log: log,
		frontends:   newMirror("frontends", maps.Frontends),
		sets:        newMirror("sets", maps.Sets),
		backends:    newMirror("backends", maps.Backends),
		locals:      newMirror("local_targets", maps.LocalTargets),
		sources:     newMirror("sources", maps.Sources),
		tables:      newTableMirror(maps.Tables),
		rows:        map[FrontendKey]*served{},
		addrs:       map[netip.Addr]map[FrontendKey]addressNeed{},
		ports:       map[balancedPort]*portSets{},
		portOf:      map[FrontendKey]*portSets{},
		services:    map[servicePort]uint32{},
		numbers:     map[uint32]servicePort{},
		known:       map[uint32]*backendSet{},
		ids:         map[netip.AddrPort]uint32{},
		nodes:       map[uint32]string{},
		freeSet:     newIndexPool[bool](maxSets, nil),
		freeService: newIndexPool[bool](maxServices, nil),
		freeID:      newIndexPool[bool](maxBackends, nil),
		setUse:      newUsage[uint32](),
		serviceUse:  newUsage[uint32](),
		idUse:       newUsage[uint32](),
		serving:     newUsage[uint32](),
		left:        map[uint32]bool{},
		past:        map[uint32]int{},
		localUse:    newUsage[LocalKey](),
		sourceUse:   newUsage[SourceKey](),
		gone:        map[uint32]time.Time{},
		garbage:     newPurge(),
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
	if err := t.ensureLoaded(); err != nil {
		return slices.Repeat([]error{err}, len(rows))
	}
	t.want(rows)
	errs := make([]error, 0, len(rows))
	for batch := range slices.Chunk(rows, updateBatch) {
		t.writeSpares(batch)
		for _, row := range batch {
			errs = append(errs, t.apply(row))
		}
	}
	t.sweepOrWarn()
	return errs
}

// DeleteAll is Delete of many rows.
func (t *FrontendTarget) DeleteAll(_ context.Context, rows []state.Frontend) []error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.ensureLoaded(); err != nil {
		return slices.Repeat([]error{err}, len(rows))
	}
	errs := make([]error, len(rows))
	for i, row := range rows {
		errs[i] = t.unserve(row)
	}
	t.sweepOrWarn()
	return errs
}

// Prune reads the maps anew and removes what is in them and not in wanted,
// but for addresses that the responder still answers for. It closes the windows
// of changes that are over, and those of ways of forwarding, frees what nothing mentions any more, and makes the
// tables that the next changes will want.
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
		key, err := keyOf(row)
		if err != nil {
			continue
		}
		keep[key] = true
		if ownsAddress(row) {
			keep[vipKey(key.Addr)] = true
		}
	}
	answered := map[netip.Addr]bool{}
	for key := range announced {
		answered[key.Addr] = true
	}
	for key := range t.frontends.have {
		if keep[key] || answered[key.Addr] {
			continue
		}
		if err := t.removeFrontend(key); err != nil {
			return err
		}
		delete(t.addrs[key.Addr], key)
		if keep[vipKey(key.Addr)] {
			if err := t.putAddress(key.Addr); err != nil {
				return err
			}
		}
	}
	return firstError(t.closeWindows, t.forgetFormerWays, t.sweep, t.free, t.makeSpares)
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

// Trace makes every packet of a frontend be told to events, or no longer.
func (t *FrontendTarget) Trace(frontend FrontendKey, on bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.ensureLoaded(); err != nil {
		return err
	}
	entry, ok, err := t.frontends.get(frontend)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("trace frontend %s: not in the kernel; seamark bpf lb list shows what is", frontend)
	}
	entry.Flags &^= FrontendTraced
	if on {
		entry.Flags |= FrontendTraced
	}
	return t.putFrontend(frontend, entry)
}

func (t *FrontendTarget) ensureLoaded() error {
	if t.loaded {
		return nil
	}
	return t.load()
}

func keyOf(row state.Frontend) (FrontendKey, error) {
	if !row.Addr.IsValid() || row.Addr.Is4In6() || row.Addr.Zone() != "" {
		return FrontendKey{}, fmt.Errorf("program frontend %s: not an address that packets have", row.RowKey())
	}
	return FrontendKey{Addr: row.Addr, Port: row.Port, Proto: row.Protocol}, nil
}

// ownsAddress says whether the row's address is a VIP: all packets to it are
// the frontends' business. That of a NodePort or HostPort is the node's own.
func ownsAddress(row state.Frontend) bool {
	return row.Kind != state.KindNodePort && row.Kind != state.KindHostPort
}

// forPodsAlone says whether what comes from outside is not the address's.
func forPodsAlone(row state.Frontend) bool { return row.Kind == state.KindClusterIP && !row.Exposed }

func flagsOf(row state.Frontend) (flags FrontendFlags) {
	for flag, set := range map[FrontendFlags]bool{
		FrontendInside:   forPodsAlone(row) || row.Forwarding == state.ForwardKubeProxy,
		FrontendSNAT:     row.Forwarding == state.ForwardSNAT,
		FrontendGeneve:   row.Forwarding == state.ForwardDSR && row.Dispatch == state.DispatchGeneve,
		FrontendAffinity: row.Affinity > 0,
		FrontendSources:  row.Sources != nil,
		FrontendRefuse:   row.Refuse,
	} {
		if set {
			flags |= flag
		}
	}
	return flags
}

// want takes note of all rows before the first is written: what they have in
// common is decided by all of them.
func (t *FrontendTarget) want(rows []state.Frontend) {
	var fresh []state.Frontend
	for _, row := range rows {
		key, err := keyOf(row)
		if err != nil {
			continue
		}
		t.wantAddress(key, row)
		if key.isVIP() {
			continue
		}
		if _, ok := t.frontends.have[key]; ok {
			t.wantPort(key, row)
		} else {
			fresh = append(fresh, row) // after those that know which sets are theirs
		}
	}
	for _, row := range fresh {
		key, _ := keyOf(row)
		t.wantPort(key, row)
	}
}

// apply writes one frontend, and its address.
func (t *FrontendTarget) apply(row state.Frontend) error {
	key, err := keyOf(row)
	if err != nil {
		return err
	}
	if !key.isVIP() {
		if err := t.serve(key, row); err != nil {
			return err
		}
	}
	if !ownsAddress(row) {
		return nil
	}
	return t.putAddress(key.Addr)
}

func (t *FrontendTarget) serve(key FrontendKey, row state.Frontend) (err error) {
	if err := checkRow(row); err != nil {
		return fmt.Errorf("program frontend %s: %w", key, err)
	}
	entry, err := t.arrange(key, row)
	if err != nil {
		return fmt.Errorf("program frontend %s: %w", key, err)
	}
	fresh := t.use(key, row, entry.Service)
	defer func() {
		if err != nil { // what was written for it goes
			t.leave(fresh)
		}
	}()
	if err := t.putLocals(key, row); err != nil {
		return err
	}
	for _, source := range fresh.sources {
		if err := t.sources.put(source, 1); err != nil {
			return err
		}
	}
	for _, set := range slices.Compact([]uint32{entry.Set, entry.Inside}) {
		if err := t.fill(set, ticks(row.Affinity)); err != nil {
			return err
		}
	}
	if err := t.noteSwitch(key, entry); err != nil {
		return err
	}
	if err := t.putFrontend(key, entry); err != nil {
		return err
	}
	// What the row had before drains only from here on.
	if old := t.rows[key]; old != nil {
		t.leave(old)
	}
	t.rows[key] = fresh
	return nil
}

func checkRow(row state.Frontend) error {
	for _, b := range slices.Concat(row.Backends, row.Inside, row.Draining) {
		if b.Addr.Is4() != row.Addr.Is4() || !b.Addr.IsValid() {
			return fmt.Errorf("backend %s: of another family", b.Addr)
		}
	}
	if row.TableSize != 0 && row.TableSize != soleSize && !slices.Contains(maglevSizes[:], row.TableSize) {
		return fmt.Errorf("table of %d slots: the sizes are %d and %v", row.TableSize, soleSize, maglevSizes)
	}
	return nil
}

// unserve removes one frontend, and its address with the last of them.
func (t *FrontendTarget) unserve(row state.Frontend) error {
	key, err := keyOf(row)
	if err != nil {
		return nil // such a row was never written
	}
	if !key.isVIP() {
		if err := t.removeFrontend(key); err != nil {
			return err
		}
	}
	if !ownsAddress(row) {
		return nil
	}
	delete(t.addrs[key.Addr], key)
	return t.putAddress(key.Addr)
}

// use returns what the row has, and keeps it from being swept.
func (t *FrontendTarget) use(key FrontendKey, row state.Frontend, service uint32) *served {
	s := &served{}
	for _, b := range slices.Concat(row.Backends, row.Inside, row.Draining) {
		if b.Node == t.node {
			s.locals = append(s.locals, localKey(key, b.Addr))
		}
	}
	for _, prefix := range row.Sources {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()).Masked()
		if prefix.Addr().Is4() == key.Addr.Is4() {
			s.sources = append(s.sources, SourceKey{service, prefix})
		}
	}
	for _, b := range row.Draining {
		if id, ok := t.ids[netip.AddrPortFrom(b.Addr, b.Port)]; ok {
			s.drains = append(s.drains, id)
		}
	}
	t.localUse.take(s.locals...)
	t.sourceUse.take(s.sources...)
	t.idUse.take(s.drains...)
	return s
}

func (t *FrontendTarget) leave(s *served) {
	now := t.Now()
	t.localUse.release(now, s.locals...)
	t.sourceUse.release(now, s.sources...)
	t.idUse.release(now, s.drains...)
}

// putLocals writes where the row's pods on this node listen. Of a pod with two
// target ports the first serves those who come from other nodes.
func (t *FrontendTarget) putLocals(key FrontendKey, row state.Frontend) error {
	written := map[LocalKey]bool{}
	for _, b := range slices.Concat(row.Backends, row.Inside, row.Draining) {
		local := localKey(key, b.Addr)
		if b.Node != t.node || written[local] {
			continue
		}
		written[local] = true
		if err := t.locals.put(local, LocalTarget{b.Port}); err != nil {
			return err
		}
	}
	return nil
}

func localKey(frontend FrontendKey, pod netip.Addr) LocalKey {
	return LocalKey{VIP: frontend.Addr, Pod: pod, Port: frontend.Port, Proto: frontend.Proto}
}

// wantAddress notes what the row wants of its address's own row.
func (t *FrontendTarget) wantAddress(key FrontendKey, row state.Frontend) {
	if !ownsAddress(row) {
		delete(t.addrs[key.Addr], key)
		return
	}
	if t.addrs[key.Addr] == nil {
		t.addrs[key.Addr] = map[FrontendKey]addressNeed{}
	}
	t.addrs[key.Addr][key] = addressNeed{inside: forPodsAlone(row), refuse: row.Refuse}
}

// putAddress makes the kernel have the address's own row as its frontends
// want it, and none without any.
func (t *FrontendTarget) putAddress(addr netip.Addr) error {
	needs := t.addrs[addr]
	if len(needs) == 0 {
		delete(t.addrs, addr)
		return t.frontends.remove(vipKey(addr))
	}
	flags, seen := FrontendVIP|FrontendInside, false
	for _, need := range needs {
		if need.unseen {
			if _, ok := t.frontends.have[vipKey(addr)]; ok {
				return nil // it knows better
			}
			continue
		}
		seen = true
		if !need.inside {
			flags &^= FrontendInside
		}
		if need.refuse {
			flags |= FrontendRefuse
		}
	}
	if !seen {
		return nil
	}
	return t.frontends.put(vipKey(addr), FrontendEntry{Flags: flags})
}

// putFrontend and removeFrontend keep count of who uses which set and service number.
func (t *FrontendTarget) putFrontend(key FrontendKey, entry FrontendEntry) error {
	old := t.frontends.have[key]
	err := t.frontends.put(key, entry)
	t.countFrontend(key, old)
	return err
}

func (t *FrontendTarget) removeFrontend(key FrontendKey) error {
	old := t.frontends.have[key]
	err := t.frontends.remove(key)
	t.countFrontend(key, old)
	if err != nil {
		return err
	}
	if s := t.rows[key]; s != nil {
		t.leave(s)
		delete(t.rows, key)
	}
	t.unwantPort(key)
	return nil
}

// countFrontend counts what the kernel's frontend uses now instead of what old used.
func (t *FrontendTarget) countFrontend(key FrontendKey, old FrontendEntry) {
	fresh := t.frontends.have[key]
	if key.isVIP() || fresh == old {
		return
	}
	now := t.Now()
	if fresh != (FrontendEntry{}) {
		t.setUse.take(fresh.Set, fresh.Inside)
		t.serviceUse.take(fresh.Service)
	}
	if old != (FrontendEntry{}) {
		t.setUse.release(now, old.Set, old.Inside)
		t.serviceUse.release(now, old.Service)
	}
}

// ticks returns d on the clock of table entries; no less than one, unless 0.
func ticks(d time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	return uint32(max(d/tick, 1))
}
