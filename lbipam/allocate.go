package lbipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/state"
)

// poolAnnotation on a Service names the one pool its addresses may come from.
const poolAnnotation = "seamark.dev/pool"

// requestFields are where a Service asks for addresses, for messages.
const requestFields = "spec.loadBalancerIP or annotation seamark.dev/ips"

// Allocate returns what every Service that is Seamark's gets, in the order of
// their names, and what is left in every pool, in the order of theirs. The
// order of the arguments does not matter.
//
// Addresses a Service carries (Ingress) that lie in any pool stay its own;
// of two Services that carry the same one, the older has it. Then addresses
// that are asked for are given, oldest Service first, and then the lowest free
// one of each family still wanted. A carried address that is no longer asked
// for stays until one that is can be given, and is free for others when it is
// out of the Service's status.
func Allocate(services []state.Service, pools []state.Pool) ([]state.Allocation, []state.PoolStatus) {
	a := newAllocator(services, pools)
	a.adopt()
	for _, c := range a.claims {
		a.giveRequested(c)
	}
	a.openPools()
	for _, c := range a.claims {
		a.giveLowestFree(c)
	}
	return a.allocations(), a.poolStatuses()
}

// Ours says whether LB-IPAM is to serve svc: its type and class.
func Ours(svc state.Service) bool {
	if svc.Type != "LoadBalancer" {
		return false
	}
	switch svc.Class {
	case "", "seamark.dev/l2", "seamark.dev/bgp", "io.cilium/l2-announcer", "io.cilium/bgp-control-plane":
		return true
	}
	return false
}

// Remember returns services as they will be when what was decided before is
// in their status: with each decided address carried. It keeps a decision in
// force while it is on its way to the store.
func Remember(services []state.Service, decided []state.Allocation) []state.Service {
	byName := make(map[state.ObjectName]state.Allocation, len(decided))
	for _, d := range decided {
		if d.Status.Wanted() {
			byName[d.Service] = d
		}
	}
	services = slices.Clone(services)
	for i, svc := range services {
		d, ok := byName[svc.Name]
		if !ok || d.UID != svc.UID {
			continue
		}
		ingress := slices.Clone(svc.Ingress)
		for _, addr := range d.Addrs {
			if !slices.Contains(ingress, addr) {
				ingress = append(ingress, addr)
			}
		}
		services[i].Ingress = ingress
	}
	return services
}

// allocator is one pass.
type allocator struct {
	pools  []*pool  // by age
	prefer []*pool  // by preference
	claims []*claim // by age of the Service
	// owners of every address that is not free.
	owners map[netip.Addr]*claim
}

// claim is one Service and what it has been given so far.
type claim struct {
	svc      *state.Service
	families []family
	// requested and carried addresses of each family; carried are those this
	// Service owns.
	requested, carried map[family][]netip.Addr
	given              map[family][]netip.Addr
	// reasons are why something wanted was not given.
	reasons  []state.Reason
	messages []string
}

func newAllocator(services []state.Service, pools []state.Pool) *allocator {
	a := &allocator{pools: newPools(pools), owners: make(map[netip.Addr]*claim, len(services))}
	a.prefer = slices.Clone(a.pools)
	slices.SortFunc(a.prefer, byPreference)
	for i := range services {
		if Ours(services[i]) {
			a.claims = append(a.claims, newClaim(&services[i]))
		}
	}
	slices.SortFunc(a.claims, func(c, d *claim) int {
		return cmp.Or(c.svc.Created.Compare(d.svc.Created), c.svc.Name.Compare(d.svc.Name))
	})
	return a
}

func newClaim(svc *state.Service) *claim {
	c := &claim{
		svc: svc, requested: map[family][]netip.Addr{},
		carried: map[family][]netip.Addr{}, given: map[family][]netip.Addr{},
	}
	for _, f := range []family{ipv4, ipv6} {
		if slices.Contains(svc.Families, string(f)) {
			c.families = append(c.families, f)
		}
	}
	if len(c.families) == 2 && svc.Families[0] == string(ipv6) {
		slices.Reverse(c.families)
	}
	if len(c.families) == 0 {
		c.families = []family{ipv4}
	}
	for _, addr := range svc.RequestedIPs {
		f := familyOf(addr)
		if !slices.Contains(c.families, f) {
			c.refuse(state.ReasonWrongFamily, fmt.Sprintf("%s, asked for in %s, is %s, but spec.ipFamilies of the Service is %s: add the family there, or ask for another address",
				addr, requestFields, f, c.familiesText()))
			continue
		}
		if !slices.Contains(c.requested[f], addr) {
			c.requested[f] = append(c.requested[f], addr)
		}
	}
	return c
}

func (c *claim) familiesText() string {
	var names []string
	for _, f := range c.families {
		names = append(names, string(f))
	}
	return strings.Join(names, ", ")
}

func (c *claim) refuse(reason state.Reason, message string) {
	if slices.Contains(c.messages, message) {
		return // both families lack the same
	}
	c.reasons = append(c.reasons, reason)
	c.messages = append(c.messages, message)
}

func (c *claim) poolNamed() string { return c.svc.Annotations[poolAnnotation] }

// adopt makes every Service the owner of what it carries.
func (a *allocator) adopt() {
	for _, c := range a.claims {
		for _, addr := range c.svc.Ingress {
			if a.owners[addr] != nil || a.poolOf(addr) == nil {
				continue
			}
			a.owners[addr] = c
			f := familyOf(addr)
			c.carried[f] = append(c.carried[f], addr)
		}
	}
}

// poolOf returns the pool that addr is in: of several, one that gives, or else the oldest.
func (a *allocator) poolOf(addr netip.Addr) *pool {
	var found *pool
	for _, p := range a.pools {
		if p.addrs.contains(addr) && (found == nil || found.conflict != "" && p.conflict == "") {
			found = p
		}
	}
	return found
}

// giveRequested gives what c asks for by address, or else what it carries.
func (a *allocator) giveRequested(c *claim) {
	for _, f := range c.families {
		for _, addr := range c.requested[f] {
			if a.give(c, addr) {
				c.given[f] = append(c.given[f], addr)
			}
		}
		if len(c.given[f]) == 0 {
			c.given[f] = c.carried[f]
		}
	}
}

// give makes c the owner of an address it asks for, or says why it cannot be.
func (a *allocator) give(c *claim, addr netip.Addr) bool {
	p := a.poolOf(addr)
	switch owner := a.owners[addr]; {
	case owner == c:
		return true
	case owner != nil:
		c.refuse(state.ReasonAlreadyAssigned, fmt.Sprintf("%s, asked for in %s, belongs to Service %s: ask for another address, or take it from that Service first",
			addr, requestFields, owner.svc.Name))
	case p == nil:
		c.refuse(state.ReasonOutsidePools, a.outsideText(addr))
	case c.poolNamed() != "" && c.poolNamed() != p.Name:
		c.refuse(state.ReasonPoolNotAllowed, fmt.Sprintf("%s, asked for in %s, is in pool %s, but annotation %s names pool %s: make the two agree",
			addr, requestFields, p.Name, poolAnnotation, c.poolNamed()))
	default:
		if why := p.refuses(c.svc, true); why != "" {
			c.refuse(state.ReasonPoolNotAllowed, fmt.Sprintf("%s, asked for in %s, is in pool %s, which does not give it: %s: ask for another address, or change the pool",
				addr, requestFields, p.Name, why))
			return false
		}
		a.owners[addr] = c
		return true
	}
	return false
}

func (a *allocator) outsideText(addr netip.Addr) string {
	f := familyOf(addr)
	var pools []*pool
	for _, p := range a.prefer {
		if len(p.addrs.of(f)) > 0 {
			pools = append(pools, p)
		}
	}
	if len(pools) == 0 {
		return fmt.Sprintf("%s, asked for in %s, is in no IPPool, and no IPPool holds %s addresses: create one that holds it", addr, requestFields, f)
	}
	return fmt.Sprintf("%s, asked for in %s, is in no IPPool: ask for an address of %s, or add a block that holds it to a pool",
		addr, requestFields, list(pools, func(p *pool) string { return p.text(f) }))
}

// openPools fills in what is free in the pools that give: all but what is owned.
func (a *allocator) openPools() {
	used := a.used()
	for _, p := range a.pools {
		if p.closed != "" {
			continue
		}
		free := p.addrs.minus(used)
		free4, free6 := free.of(ipv4), free.of(ipv6)
		p.free = map[family]*set{ipv4: &free4, ipv6: &free6}
	}
}

// used returns every address that has an owner, in ascending order.
func (a *allocator) used() []netip.Addr {
	used := make([]netip.Addr, 0, len(a.owners))
	for addr := range a.owners {
		used = append(used, addr)
	}
	slices.SortFunc(used, netip.Addr.Compare)
	return used
}

// giveLowestFree gives c one address of each family that it wants, has none
// of and asks for none of by address.
func (a *allocator) giveLowestFree(c *claim) {
	for _, f := range c.families {
		if len(c.given[f]) > 0 || len(c.requested[f]) > 0 {
			continue
		}
		if addr, ok := a.lowestFree(c, f); ok {
			a.owners[addr] = c
			c.given[f] = []netip.Addr{addr}
		} else {
			c.refuse(a.shortage(c, f))
		}
	}
}

func (a *allocator) lowestFree(c *claim, f family) (netip.Addr, bool) {
	for _, p := range a.prefer {
		if named := c.poolNamed(); named != "" && named != p.Name {
			continue
		}
		if p.closed != "" || len(*p.free[f]) == 0 || p.refuses(c.svc, c.poolNamed() != "") != "" {
			continue
		}
		return p.free[f].takeLowest()
	}
	return netip.Addr{}, false
}

// shortage says why no pool gave c an address of family f.
func (a *allocator) shortage(c *claim, f family) (state.Reason, string) {
	var full, refusing []*pool
	named := c.poolNamed()
	known := false
	for _, p := range a.prefer {
		if named != "" && named != p.Name {
			continue
		}
		known = true
		if p.refuses(c.svc, named != "") != "" {
			refusing = append(refusing, p)
		} else if len(p.addrs.of(f)) > 0 {
			full = append(full, p)
		}
	}
	switch {
	case len(full) > 0:
		counts := list(full, func(p *pool) string {
			n := p.addrs.of(f).size()
			return fmt.Sprintf("%s (%s of %s in use)", p.Name, n, n)
		})
		return state.ReasonPoolExhausted, fmt.Sprintf("no free %s address in pool %s: add a block, or release an address", f, counts)
	case named != "" && !known:
		return state.ReasonNoPool, fmt.Sprintf("annotation %s names pool %s, and there is no such IPPool: create it, or name another", poolAnnotation, named)
	case len(refusing) > 0:
		why := list(refusing, func(p *pool) string { return p.Name + " (" + p.refuses(c.svc, named != "") + ")" })
		return state.ReasonNoPool, fmt.Sprintf("no IPPool gives this Service an %s address: %s: change one of them, or create another", f, why)
	}
	return state.ReasonNoPool, fmt.Sprintf("no IPPool holds %s addresses: create one, or add a block", f)
}

func (a *allocator) allocations() []state.Allocation {
	rows := make([]state.Allocation, 0, len(a.claims))
	for _, c := range a.claims {
		row := state.Allocation{Service: c.svc.Name, UID: c.svc.UID, Reason: state.ReasonSatisfied, Message: strings.Join(c.messages, "; ")}
		if len(c.reasons) > 0 {
			row.Reason = c.reasons[0]
		}
		for _, f := range c.families {
			for _, addr := range c.given[f] {
				row.Addrs = append(row.Addrs, addr)
				row.Pools = append(row.Pools, a.poolOf(addr).Name)
			}
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b state.Allocation) int { return a.Service.Compare(b.Service) })
	return rows
}

func (a *allocator) poolStatuses() []state.PoolStatus {
	used := a.used()
	rows := make([]state.PoolStatus, len(a.pools))
	for i, p := range a.pools {
		rows[i] = p.status(used)
	}
	slices.SortFunc(rows, func(a, b state.PoolStatus) int { return strings.Compare(a.Pool, b.Pool) })
	return rows
}
