package lbipam

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/state"
)

// Allocator holds who has which address, for as long as nothing but Services
// changes. It is a value that is carried from one decision to the next: it has
// no clock and no lock, and what it says depends on what it was told alone.
//
// Addresses that were decided, and those a Service carries, stay its own if they
// lie in any pool; of two Services that carry the same one and may not share it,
// the older has it. Then addresses that are asked for are given, oldest Service first, and then,
// of each family still wanted, the one that the Service had when its pool went
// away, the lowest that it may share, or the lowest free one. A carried address that is no longer asked for stays until
// one that is can be given, and is free for others when it is out of the
// Service's status.
//
// What nodes, gateways, clusterIPs, externalIPs and Services of other load
// balancers have is not free; but nothing that was given is taken for it.
type Allocator struct {
	in         Inputs // without Services and Decided
	namespaces map[string]map[string]string
	pools      []*pool // by age
	prefer     []*pool // by preference
	index      index   // of pools
	claims     map[state.ObjectName]*claim
	// tenancies are the addresses that Services have, reserved those of the
	// pools that are others', reserves which of them are by a Service's own doing.
	tenancies map[netip.Addr]*tenancy
	reserved  map[netip.Addr][]reservation
	reserves  map[state.ObjectName][]reserve
	groups    map[string]*group // by sharing key
	// kept are the pools that may hold what no pool is known to.
	kept map[netip.Addr]*pool

	// opened: what is free in the pools is known, and kept so.
	opened bool
	// Who waits for what: addresses asked for, addresses carried that are
	// another's (how many), any address of a family (by age), and the second
	// of two families.
	waiting   map[netip.Addr][]*claim
	contested map[netip.Addr]int
	short     [2][]*claim
	withheld  map[*claim]bool
	// loose are the claims that hold what is neither in the Service's status nor
	// to be: the next Change frees it.
	loose map[*claim]bool
	// touched is what a Change has changed so far; nil when there is none.
	touched map[touch]bool
}

// New decides for all Services.
func New(in Inputs) *Allocator {
	a := newAllocator(in)
	claims := a.newClaims(in)
	for _, c := range claims {
		a.adopt(c, c.decided())
	}
	for _, c := range claims {
		a.adopt(c, c.svc.Ingress)
	}
	for _, c := range claims {
		a.giveRequested(c)
	}
	a.open()
	for _, c := range claims {
		a.giveLost(c)
	}
	for _, c := range claims {
		a.giveLowest(c)
	}
	for _, c := range claims {
		a.conclude(c)
	}
	return a
}

func newAllocator(in Inputs) *Allocator {
	a := &Allocator{
		in:         in,
		namespaces: make(map[string]map[string]string, len(in.Namespaces)),
		pools:      newPools(in.Pools),
		claims:     make(map[state.ObjectName]*claim, len(in.Services)),
		tenancies:  make(map[netip.Addr]*tenancy, len(in.Services)),
		reserved:   map[netip.Addr][]reservation{},
		reserves:   map[state.ObjectName][]reserve{},
		groups:     map[string]*group{},
		kept:       map[netip.Addr]*pool{},
		waiting:    map[netip.Addr][]*claim{},
		contested:  map[netip.Addr]int{},
		withheld:   map[*claim]bool{},
		loose:      map[*claim]bool{},
	}
	a.prefer = slices.Clone(a.pools)
	slices.SortFunc(a.prefer, byPreference)
	a.index = newIndex(a.pools)
	for _, n := range in.Namespaces {
		a.namespaces[n.Name] = n.Labels
	}
	a.reserveAll(in)
	a.in.Services, a.in.Decided = nil, nil
	return a
}

// newClaims returns the claims of the Services that are Seamark's, by age.
func (a *Allocator) newClaims(in Inputs) []*claim {
	decided := make(map[state.ObjectName]*state.Allocation, len(in.Decided))
	for i := range in.Decided {
		if d := &in.Decided[i]; d.Status.Wanted() {
			decided[d.Service] = d
		}
	}
	claims := make([]*claim, 0, len(in.Services))
	for i := range in.Services {
		svc := &in.Services[i]
		if !in.serves(*svc) {
			continue
		}
		var before state.Allocation
		if d := decided[svc.Name]; d != nil {
			before = *d
		}
		c := newClaim(svc, a.namespaces[svc.Name.Namespace], before)
		a.claims[svc.Name] = c
		claims = append(claims, c)
	}
	slices.SortFunc(claims, older)
	return claims
}

// adopt lets c have what it carries. What Seamark gave and no pool holds stays
// while there is a pool that cannot be read: it may hold it.
func (a *Allocator) adopt(c *claim, carries []netip.Addr) {
	for _, addr := range carries {
		f := familyOf(addr)
		if slices.Contains(c.carried[f], addr) || slices.Contains(c.contested, addr) {
			continue
		}
		if a.poolOf(addr) == nil {
			unread := slices.IndexFunc(a.pools, func(p *pool) bool { return p.Unread() })
			if unread < 0 || !c.ours() {
				continue
			}
			a.kept[addr] = a.pools[unread]
		}
		if t := a.tenancies[addr]; t != nil && t.refuses(c).any() {
			c.contested = append(c.contested, addr)
			continue
		}
		a.settle(c, addr)
		c.carried[f] = append(c.carried[f], addr)
	}
}

// settle makes c a tenant of the address.
func (a *Allocator) settle(c *claim, addr netip.Addr) {
	c.holds = append(c.holds, addr)
	a.touch(addr, c)
	if t := a.tenancies[addr]; t != nil {
		t.join(c)
		return
	}
	t := newTenancy(c)
	a.tenancies[addr] = t
	if key := c.svc.Sharing; key != "" {
		a.group(key).add(addr, t)
	}
	if a.opened && len(a.reserved[addr]) == 0 {
		for _, p := range a.index.pools(addr) {
			p.occupy(addr)
		}
	}
}

// release ends all tenancies of c.
func (a *Allocator) release(c *claim) {
	for _, addr := range c.holds {
		a.touch(addr, c)
		t, g := a.tenancies[addr], a.groups[c.svc.Sharing]
		if g != nil {
			g.freed(addr, portsOf(c))
		}
		if t.leave(c); len(t.tenants) > 0 {
			continue
		}
		delete(a.tenancies, addr)
		delete(a.kept, addr)
		if g != nil {
			if g.remove(addr); g.empty() {
				delete(a.groups, c.svc.Sharing)
			}
		}
		if len(a.reserved[addr]) == 0 {
			for _, p := range a.index.pools(addr) {
				p.vacate(addr)
			}
		}
	}
	c.holds = nil
}

// poolOf returns the pool that addr is in: of several, one that gives, or else the oldest.
func (a *Allocator) poolOf(addr netip.Addr) *pool {
	if s := a.index.find(addr); s != nil {
		return s.giver
	}
	return a.kept[addr]
}

// giveRequested gives what c asks for by address, or else what it carries.
func (a *Allocator) giveRequested(c *claim) {
	for _, f := range c.families {
		c.given[f] = nil
		for _, addr := range c.requested[f] {
			if !slices.Contains(c.holds, addr) {
				if a.denies(c, addr).any() {
					continue
				}
				a.settle(c, addr)
			}
			c.given[f] = append(c.given[f], addr)
		}
		if len(c.given[f]) == 0 {
			c.given[f] = c.carried[f]
		}
	}
}

// open fills in what is free in the pools.
func (a *Allocator) open() {
	used := make([]netip.Addr, 0, len(a.tenancies)+len(a.reserved))
	for addr := range a.tenancies {
		used = append(used, addr)
	}
	for addr := range a.reserved {
		used = append(used, addr)
	}
	slices.SortFunc(used, netip.Addr.Compare)
	used = slices.Compact(used)
	for _, p := range a.pools {
		p.open(used)
	}
	a.opened = true
}

// giveLost gives c what it had before its pools went away, where they are back.
func (a *Allocator) giveLost(c *claim) {
	for _, f := range c.families {
		if !c.lacks(f) {
			continue
		}
		if addr, ok := a.lost(c, f); ok {
			a.settle(c, addr)
			c.given[f] = []netip.Addr{addr}
		}
	}
}

// lost returns the first address of the family that c lost and may have again.
func (a *Allocator) lost(c *claim, f family) (netip.Addr, bool) {
	for _, addr := range c.row.Lost {
		if familyOf(addr) != f || c.row.UID != c.svc.UID {
			continue
		}
		t := a.tenancies[addr] // of who had it together with c
		if t != nil && t.refuses(c).any() {
			continue
		}
		for _, p := range a.index.pools(addr) {
			if (t != nil || p.free[f].contains(addr)) && c.mayUse(p) && p.refuses(c, c.svc.Pool != "") == "" {
				return addr, true
			}
		}
	}
	return netip.Addr{}, false
}

// giveLowest gives c one address of each family that it wants, has none of and
// asks for none of by address. It returns whether that changes what c has.
func (a *Allocator) giveLowest(c *claim) bool {
	was := c.withheld
	var found [2]netip.Addr
	whole := true
	for _, f := range c.families {
		if c.lacks(f) {
			found[f] = a.lowest(c, f)
		}
		whole = whole && (len(c.given[f]) > 0 || found[f].IsValid())
	}
	if c.withheld = !whole && c.needsBoth(); c.withheld {
		return !was
	}
	changed := was
	for _, f := range c.families {
		if found[f].IsValid() {
			a.settle(c, found[f])
			c.given[f] = []netip.Addr{found[f]}
			changed = true
		}
	}
	return changed
}

// lowest returns the address of the family that c lost, the lowest that it may
// share, or the lowest free one in the best pool; not valid when there is none.
func (a *Allocator) lowest(c *claim, f family) netip.Addr {
	if addr, ok := a.lost(c, f); ok {
		return addr
	}
	if addr, ok := a.lowestShared(c, f); ok {
		return addr
	}
	for _, p := range a.prefer {
		if len(p.free[f]) == 0 || !c.mayUse(p) || p.refuses(c, c.svc.Pool != "") != "" {
			continue
		}
		if addr, ok := p.lowest(f); ok {
			return addr
		}
	}
	return netip.Addr{}
}

// Allocations returns the decisions, in the order of the Services' names.
func (a *Allocator) Allocations() []state.Allocation {
	claims := slices.SortedFunc(maps.Values(a.claims), func(c, d *claim) int { return c.svc.Name.Compare(d.svc.Name) })
	rows := make([]state.Allocation, len(claims))
	for i, c := range claims {
		rows[i] = c.row
	}
	return rows
}

// PoolStatuses returns what is left in every pool, in the order of their names.
func (a *Allocator) PoolStatuses() []state.PoolStatus {
	rows := make([]state.PoolStatus, len(a.pools))
	for i, p := range a.pools {
		rows[i] = p.status()
	}
	slices.SortFunc(rows, func(a, b state.PoolStatus) int { return strings.Compare(a.Pool, b.Pool) })
	return rows
}
