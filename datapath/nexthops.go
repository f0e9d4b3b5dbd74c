package datapath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"sync"
	"time"
)

// Hop is a way out of this node, shared by all addresses on one node that are
// reached by it.
type Hop struct {
	Gateway netip.Addr // whose MAC frames go to: a router, or, on link, the address itself
	Ifindex int
	Source  netip.Addr // that the kernel would send from
	MTU     int        // of the route, as far as it is smaller than the device's; 0: it is not
	Node    NodeAddrs  // the node it leads to, where that is known
}

// Neighbour is what the kernel's neighbour table says of a Hop's gateway.
type Neighbour struct {
	MAC MAC // zero: not resolved
	// Fresh: confirmed lately, or never to be confirmed. What is not fresh
	// wants a probe, because packets that XDP sends do not count as use.
	Fresh bool
}

// NeighbourKey is an entry of the neighbour table.
type NeighbourKey struct {
	Addr    netip.Addr
	Ifindex int
}

// Link is a device that is up and that BPF can send frames by.
type Link struct {
	MAC MAC // zero: it has none, or is of a kind that BPF cannot send by
	MTU int // of IP packets
	// Ifindex is where the frames are to go: the device itself, or, of a VLAN,
	// the device below it.
	Ifindex int
	VLAN    uint16 // tag that they need there; 0: none
}

// MACs are the link-layer addresses that the kernel knows.
type MACs struct {
	Devices    map[int]Link // by ifindex
	Neighbours map[NeighbourKey]Neighbour
}

// Resolver reads the kernel's routes and neighbours. NetlinkResolver is the
// real one.
type Resolver interface {
	// Route returns the way to addr; the zero Hop when there is none that
	// leads to a gateway.
	Route(addr netip.Addr) (Hop, error)
	MACs() (MACs, error)
	// Probe makes the kernel resolve the gateway, or confirm it.
	Probe(Hop) error
	// Watch calls changed (routes: not the neighbours only) after every
	// change, until ctx ends or the subscription fails.
	Watch(ctx context.Context, changed func(routes bool)) error
}

// NextHops keeps the next_hops map as routes and neighbours are. It
// implements Hops.
type NextHops struct {
	// Every is the time between full passes, 10 s unless set before Run; each
	// probes the neighbours that are not fresh.
	Every time.Duration
	// Settle is how long a change waits for more, 50 ms unless set before Run.
	Settle time.Duration
	// LeavesBy, if set before first use, is told of a device before a next hop that
	// led by no device, or by another, is written to lead by it.
	LeavesBy func(ifindex int)

	resolver Resolver
	log      *slog.Logger

	mu     sync.Mutex
	loaded bool
	kernel *mirror[uint32, NextHopEntry]
	hopOf  map[netip.Addr]Hop // of the addresses in use; one that leads nowhere: no way
	index  map[Hop]uint32
	free   indexPool
	freed  []uint32 // emptied in the last pass, given out after the next
	kept   bool     // Keep has said which addresses are in use
	moved  bool     // an address has another index, and its row does not say so yet
	macs   *MACs    // nil: never read
}

// NewNextHops returns NextHops over the map.
func NewNextHops(maps Maps, resolver Resolver, log *slog.Logger) *NextHops {
	return &NextHops{
		Every: 10 * time.Second, Settle: 50 * time.Millisecond,
		resolver: resolver, log: log,
		kernel: newMirror("next_hops", maps.NextHops),
		hopOf:  map[netip.Addr]Hop{}, index: map[Hop]uint32{},
	}
}

// Run keeps the map fresh until ctx ends. rewrite makes the backends' rows
// lead where Index says (FrontendTarget.RewriteNextHops).
func (n *NextHops) Run(ctx context.Context, rewrite func() error) error {
	changes := make(chan bool, 1)
	changed := func(routes bool) {
		select {
		case earlier := <-changes:
			routes = routes || earlier
		default:
		}
		select {
		case changes <- routes:
		default: // two at once: the other stands for both, and the next pass for what it lacks
		}
	}
	go n.watch(ctx, changed)
	tick := time.NewTicker(n.Every)
	defer tick.Stop()
	routes, probe := true, true
	for {
		if err := n.Refresh(routes, probe, rewrite); err != nil {
			n.log.Warn("refresh next hops", "retry", n.Every, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			routes, probe = true, true
		case routes = <-changes:
			probe = false
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(n.Settle):
			}
		}
	}
}

func (n *NextHops) watch(ctx context.Context, changed func(bool)) {
	for ctx.Err() == nil {
		if err := n.resolver.Watch(ctx, changed); err != nil && ctx.Err() == nil {
			n.log.Warn("watch routes and neighbours", "retry", n.Every, "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(n.Every):
			}
		}
		changed(true) // whatever was missed
	}
}

// Index returns the index of the next hop towards addr on node, and from then
// on keeps that next hop fresh; 0 when there is none. Of a node that is not
// known, held may know.
func (n *NextHops) Index(addr netip.Addr, node NodeAddrs, held uint32) uint32 {
	n.mu.Lock()
	defer n.mu.Unlock()
	index, err := n.lookUp(addr, node, held)
	if err != nil {
		n.log.Warn("resolve next hop", "addr", addr, "retry", n.Every, "err", err)
	}
	return index
}

func (n *NextHops) lookUp(addr netip.Addr, node NodeAddrs, held uint32) (uint32, error) {
	if err := n.load(); err != nil {
		return 0, err
	}
	hop, known := n.hopOf[addr]
	if node == (NodeAddrs{}) {
		node = hop.Node
	}
	if node == (NodeAddrs{}) {
		node = nodeIn(n.kernel.have[held])
	}
	if !known {
		var err error
		if hop, err = n.resolver.Route(addr); err != nil {
			n.hopOf[addr] = Hop{Node: node} // the next pass tries again
			return 0, fmt.Errorf("find route: %w", err)
		}
	}
	hop.Node = node
	n.hopOf[addr] = hop
	if !hop.leads() {
		return 0, nil
	}
	index, err := n.assign(hop, held)
	if err != nil {
		n.hopOf[addr] = Hop{Node: node} // as above
	}
	return index, err
}

// load learns what the map holds, once.
func (n *NextHops) load() error {
	if n.loaded {
		return nil
	}
	macs, err := n.resolver.MACs()
	if err != nil {
		return fmt.Errorf("read neighbours: %w", err)
	}
	if err := n.kernel.load(); err != nil {
		return err
	}
	n.macs, n.loaded = &macs, true
	n.free = newIndexPool(maxNextHops, n.kernel.have)
	return nil
}

// assign returns the hop's index; a new one's entry is written first.
func (n *NextHops) assign(hop Hop, held uint32) (uint32, error) {
	index, known := n.index[hop]
	if known && !n.kernel.unsure[index] {
		return index, nil
	}
	if n.macs.entry(hop) == (NextHopEntry{}) { // it may have been resolved since the last pass
		macs, err := n.resolver.MACs()
		if err != nil {
			return 0, fmt.Errorf("read neighbours: %w", err)
		}
		n.macs = &macs
	}
	if !n.macs.Neighbours[hop.neighbour()].Fresh {
		if err := n.resolver.Probe(hop); err != nil {
			return 0, fmt.Errorf("probe %s: %w", hop.Gateway, err)
		}
	}
	if !known {
		if index = held; !n.mayAdopt(hop, held) {
			var err error
			if index, err = n.free.take(); err != nil {
				return 0, fmt.Errorf("allocate a next hop: %w", err)
			}
		}
		n.index[hop] = index
	}
	if err := n.put(index, n.macs.entry(hop)); err != nil {
		return 0, err
	}
	return index, nil
}

func (n *NextHops) put(index uint32, entry NextHopEntry) error {
	if held := n.kernel.have[index]; n.LeavesBy != nil && entry.Ifindex != 0 && entry.Ifindex != held.Ifindex {
		n.LeavesBy(int(entry.Ifindex))
	}
	return n.kernel.put(index, entry)
}

// mayAdopt says whether the entry at held, left by an earlier process, is this hop's.
func (n *NextHops) mayAdopt(hop Hop, held uint32) bool {
	entry, ok := n.kernel.have[held]
	if held == 0 || !ok {
		return false
	}
	for _, index := range n.index {
		if index == held {
			return false
		}
	}
	mac := n.macs.Neighbours[hop.neighbour()].MAC
	return n.macs.alike(hop, entry) && (mac == MAC{} || mac == entry.Dmac)
}

// Keep forgets every address but these.
func (n *NextHops) Keep(addrs map[netip.Addr]bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for addr := range n.hopOf {
		if !addrs[addr] {
			delete(n.hopOf, addr)
		}
	}
	n.kept = true
}

// Refresh makes one pass: over the routes too if routes is set, and with
// probes of what is not fresh if probe is. Entries are written before rewrite
// makes rows lead to them, and emptied after nothing leads to them any more.
func (n *NextHops) Refresh(routes, probe bool, rewrite func() error) error {
	moved, err := n.resolve(routes, probe)
	if moved {
		if errRewrite := rewrite(); errRewrite != nil {
			return errors.Join(err, errRewrite)
		}
	}
	return errors.Join(err, n.collect(moved))
}

func (n *NextHops) resolve(routes, probe bool) (moved bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.load(); err != nil {
		return false, err
	}
	macs, err := n.resolver.MACs()
	if err != nil {
		return n.moved, fmt.Errorf("read neighbours: %w", err)
	}
	n.macs = &macs
	if probe { // a full pass: mend what else has changed the map
		if err := n.kernel.load(); err != nil {
			return n.moved, err
		}
	}
	var errs []error
	for hop, index := range n.index {
		forgotten := macs.forgot(hop, n.kernel.have[index])
		if !forgotten {
			if err := n.put(index, macs.entry(hop)); err != nil {
				errs = append(errs, err)
			}
		}
		if (probe || forgotten) && !macs.Neighbours[hop.neighbour()].Fresh {
			if err := n.resolver.Probe(hop); err != nil {
				errs = append(errs, fmt.Errorf("probe %s: %w", hop.Gateway, err))
			}
		}
	}
	for addr, old := range n.hopOf {
		if !routes {
			break
		}
		hop, err := n.resolver.Route(addr)
		hop.Node = old.Node
		if err == nil && hop.leads() {
			_, err = n.assign(hop, 0)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("find route to %s: %w", addr, err))
			continue
		}
		if hop != old {
			n.hopOf[addr], n.moved = hop, true
		}
	}
	return n.moved, errors.Join(errs...)
}

// collect empties the entries that no address is reached by. Their indexes
// are given out a pass later, when no packet can still hold one.
func (n *NextHops) collect(rewritten bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if rewritten {
		n.moved = false
	}
	if !n.kept || n.moved {
		return nil // rows may lead to any of them
	}
	for _, index := range n.freed {
		n.free.give(index)
	}
	n.freed = nil
	used := map[uint32]bool{}
	inUse := map[Hop]bool{}
	for _, hop := range n.hopOf {
		inUse[hop] = hop.leads()
	}
	for hop, index := range n.index {
		if inUse[hop] {
			used[index] = true
		} else {
			delete(n.index, hop)
		}
	}
	var errs []error
	for index := range n.free.taken {
		if used[index] {
			continue
		}
		if err := n.kernel.remove(index); err != nil {
			errs = append(errs, err)
			continue
		}
		n.freed = append(n.freed, index)
	}
	return errors.Join(errs...)
}

// leads says whether there is a way.
func (h Hop) leads() bool { return h.Gateway.IsValid() }

func (h Hop) neighbour() NeighbourKey { return NeighbourKey{h.Gateway, h.Ifindex} }

// entry is the hop's row; empty, so that BPF asks the FIB, while a MAC of it is unknown.
func (m *MACs) entry(hop Hop) NextHopEntry {
	dmac := m.Neighbours[hop.neighbour()].MAC
	link := m.Devices[hop.Ifindex]
	if link.MAC == (MAC{}) || dmac == (MAC{}) || !hop.Source.IsValid() {
		return NextHopEntry{}
	}
	entry := m.bare(hop)
	entry.Dmac = dmac
	return entry
}

// bare is the hop's row without the neighbour's MAC.
func (m *MACs) bare(hop Hop) NextHopEntry {
	link := m.Devices[hop.Ifindex]
	entry := NextHopEntry{Ifindex: uint32(link.Ifindex), VLAN: link.VLAN, MTU: uint16(min(link.MTU, math.MaxUint16)), Smac: link.MAC}
	if hop.MTU > 0 && hop.MTU < link.MTU {
		entry.MTU = uint16(min(hop.MTU, math.MaxUint16))
	}
	if hop.Source.Is4() {
		entry.Saddr = hop.Source.As4()
	} else if hop.Source.IsValid() {
		entry.Saddr6 = hop.Source.As16()
	}
	if hop.Node.Four.Is4() {
		entry.Node = hop.Node.Four.As4()
	}
	if hop.Node.Six.Is6() {
		entry.Node6 = hop.Node.Six.As16()
	}
	return entry
}

// alike says whether held is the hop's row but for the neighbour's MAC.
func (m *MACs) alike(hop Hop, held NextHopEntry) bool {
	held.Dmac = MAC{}
	return held.Ifindex != 0 && held == m.bare(hop)
}

// forgot says whether all that the kernel no longer has of the hop is the
// neighbour's MAC. The neighbour is most likely still there: the MAC in held
// stands until the probe is answered by another.
func (m *MACs) forgot(hop Hop, held NextHopEntry) bool {
	return m.entry(hop) == (NextHopEntry{}) && held.Dmac != (MAC{}) && m.alike(hop, held)
}

// nodeIn returns the addresses of the node that an entry leads to.
func nodeIn(entry NextHopEntry) (node NodeAddrs) {
	if entry.Node != (IPv4{}) {
		node.Four = entry.Node.Addr()
	}
	if entry.Node6 != (IPv6{}) {
		node.Six = entry.Node6.Addr()
	}
	return node
}
