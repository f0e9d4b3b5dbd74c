package lbipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
	"k8s.io/apimachinery/pkg/api/meta"
)

// Inputs is all that LB-IPAM looks at. The order of the rows does not matter.
type Inputs struct {
	// Services of every kind: what is not LB-IPAM's to serve may hold
	// addresses of the pools.
	Services   []state.Service
	Pools      []state.Pool
	Namespaces []state.Namespace
	Nodes      []state.Node
	Leases     []state.NodeLease
	// Left is what is other projects'.
	Left state.Leavings
}

// serves says whether LB-IPAM is to serve svc.
func (in Inputs) serves(svc state.Service) bool {
	return svc.ForSeamark() && in.Left.Service(svc) == ""
}

// Ready says whether the sources have told all that ReadInputs reads and that
// an allocation could be wrong without.
func Ready(db *state.DB, r state.Reader) bool {
	return db.Services.Synced(r) && db.Pools.Synced(r) && db.Namespaces.Synced(r) && db.Nodes.Synced(r) && db.Agents.Synced(r)
}

// ReadInputs takes the Inputs from the tables, with what was decided and is
// still on its way to the store.
func ReadInputs(db *state.DB, r state.Reader) Inputs {
	return Inputs{
		Services:   Remember(db.Services.Rows(r), db.Allocations.Rows(r)),
		Pools:      db.Pools.Rows(r),
		Namespaces: db.Namespaces.Rows(r),
		Nodes:      db.Nodes.Rows(r),
		Leases:     db.NodeLeases.Rows(r),
		Left:       state.LeavingsOf(db, r),
	}
}

// Allocate returns what every Service that is Seamark's gets, in the order of
// their names, and what is left in every pool, in the order of theirs.
//
// Addresses a Service carries (Ingress) that lie in any pool stay its own;
// of two Services that carry the same one and may not share it, the older has
// it. Then addresses that are asked for are given, oldest Service first, and
// then, of each family still wanted, the lowest that the Service may share, or
// the lowest free one. A carried address that is no longer asked for stays
// until one that is can be given, and is free for others when it is out of the
// Service's status.
//
// What nodes, gateways, clusterIPs, externalIPs and Services of other load
// balancers have is not free; but nothing that was given is taken for it.
func (in Inputs) Allocate() ([]state.Allocation, []state.PoolStatus) {
	a := newAllocator(in)
	a.adopt()
	for _, c := range a.claims {
		a.giveRequested(c)
	}
	a.openPools()
	for _, c := range a.claims {
		a.giveLowest(c)
	}
	return a.allocations(), a.poolStatuses()
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
	// tenancies are the addresses that Services have, reserved those of the
	// pools that are others'.
	tenancies map[netip.Addr]*tenancy
	reserved  map[netip.Addr][]reservation
	groups    map[string]*group // by sharing key
	// kept are the pools that may hold what no pool is known to.
	kept map[netip.Addr]*pool
}

// claim is one Service and what it has been given so far.
type claim struct {
	svc       *state.Service
	age       int // the place among the claims
	namespace namespaceLabels
	families  []family
	// requested and carried addresses of each family; carried are those this
	// Service has.
	requested, carried, given [2][]netip.Addr
	// reasons are why something wanted was not given.
	reasons  []state.Reason
	messages []string
}

// reservation is why LB-IPAM does not give an address: who has it, as "the
// address of node a". service is set when another field of a Service's has it.
type reservation struct {
	holder  string
	service state.ObjectName
}

func newAllocator(in Inputs) *allocator {
	a := &allocator{
		pools:     newPools(in.Pools),
		tenancies: make(map[netip.Addr]*tenancy, len(in.Services)),
		reserved:  map[netip.Addr][]reservation{},
		groups:    map[string]*group{},
		kept:      map[netip.Addr]*pool{},
	}
	a.prefer = slices.Clone(a.pools)
	slices.SortFunc(a.prefer, byPreference)
	namespaces := make(map[string]map[string]string, len(in.Namespaces))
	for _, n := range in.Namespaces {
		namespaces[n.Name] = n.Labels
	}
	for i := range in.Services {
		if svc := &in.Services[i]; in.serves(*svc) {
			a.claims = append(a.claims, newClaim(svc, namespaces[svc.Name.Namespace]))
		}
	}
	slices.SortFunc(a.claims, func(c, d *claim) int {
		return cmp.Or(c.svc.Created.Compare(d.svc.Created), c.svc.Name.Compare(d.svc.Name))
	})
	for i, c := range a.claims {
		c.age = i
	}
	a.reserve(in)
	return a
}

func newClaim(svc *state.Service, namespace map[string]string) *claim {
	c := &claim{svc: svc, namespace: namespaceLabels{svc.Name.Namespace, namespace}}
	for _, f := range []family{ipv4, ipv6} {
		if slices.Contains(svc.Families, f.String()) {
			c.families = append(c.families, f)
		}
	}
	if len(c.families) == 2 && svc.Families[0] == ipv6.String() {
		slices.Reverse(c.families)
	}
	if len(c.families) == 0 {
		c.families = []family{ipv4}
	}
	for _, addr := range svc.RequestedIPs {
		f := familyOf(addr)
		if !slices.Contains(c.families, f) {
			c.refuse(state.ReasonWrongFamily, fmt.Sprintf("%s is %s, but spec.ipFamilies of the Service is %s: add the family there, or ask for another address",
				c.asked(addr), f, list(c.families, family.String)))
			continue
		}
		if !slices.Contains(c.requested[f], addr) {
			c.requested[f] = append(c.requested[f], addr)
		}
	}
	return c
}

// asked begins a message about an address that c asks for.
func (c *claim) asked(addr netip.Addr) string {
	return fmt.Sprintf("%s, asked for in %s,", addr, c.svc.RequestField)
}

func (c *claim) refuse(reason state.Reason, message string) {
	if slices.Contains(c.messages, message) {
		return // both families lack the same
	}
	c.reasons = append(c.reasons, reason)
	c.messages = append(c.messages, message)
}

// mayUse says whether c takes addresses of p: it names none, or p.
func (c *claim) mayUse(p *pool) bool { return c.svc.Pool == "" || p.Called(c.svc.Pool) }

// reserve records which addresses of pools others have.
func (a *allocator) reserve(in Inputs) {
	pools := state.IndexPools(in.Pools)
	reserve := func(addrs []netip.Addr, holder string, service state.ObjectName) {
		for _, addr := range addrs {
			if _, ok := pools.Holding(addr.Unmap()); ok {
				a.reserved[addr.Unmap()] = append(a.reserved[addr.Unmap()], reservation{holder, service})
			}
		}
	}
	for addr, h := range state.Holders(in.Services, in.Nodes, in.Leases, nil) {
		if _, ok := pools.Holding(addr); ok {
			a.reserved[addr] = []reservation{{holder: h.String()}}
		}
	}
	for _, svc := range in.Services {
		if len(svc.ExternalIPs) > 0 {
			reserve(svc.ExternalIPs, "in spec.externalIPs of Service "+svc.Name.String(), svc.Name)
		}
		if svc.Type == "LoadBalancer" && !in.serves(svc) {
			whose := "of loadBalancerClass " + svc.Class
			if by := in.Left.Service(svc); by != "" {
				whose = "which is left to " + by
			}
			reserve(svc.Ingress, "in the status of Service "+svc.Name.String()+", "+whose, svc.Name)
		}
	}
	for _, all := range a.reserved {
		slices.SortFunc(all, func(r, s reservation) int {
			return cmp.Or(r.service.Compare(s.service), strings.Compare(r.holder, s.holder))
		})
	}
}

// reservedFrom returns who but c has the address, "" when nobody has.
func (a *allocator) reservedFrom(c *claim, addr netip.Addr) string {
	for _, r := range a.reserved[addr] {
		if r.service != c.svc.Name {
			return r.holder
		}
	}
	return ""
}

// adopt lets every Service have what it carries. What Seamark gave and no pool
// holds stays while there is a pool that cannot be read: it may hold it.
func (a *allocator) adopt() {
	unread := slices.IndexFunc(a.pools, func(p *pool) bool { return p.Unread() })
	for _, c := range a.claims {
		ours := meta.FindStatusCondition(c.svc.Conditions, v1alpha1.ConditionIPAMRequestSatisfied) != nil
		for _, addr := range c.svc.Ingress {
			f := familyOf(addr)
			if slices.Contains(c.carried[f], addr) {
				continue
			}
			if a.poolOf(addr) == nil {
				if unread < 0 || !ours {
					continue
				}
				a.kept[addr] = a.pools[unread]
			}
			if t := a.tenancies[addr]; t != nil && t.refuses(c).any() {
				continue
			}
			a.settle(c, addr)
			c.carried[f] = append(c.carried[f], addr)
		}
	}
}

// settle makes c a tenant of the address.
func (a *allocator) settle(c *claim, addr netip.Addr) {
	if t := a.tenancies[addr]; t != nil {
		t.join(c)
		return
	}
	t := &tenancy{first: c}
	a.tenancies[addr] = t
	if key := c.svc.Sharing; key != "" {
		if a.groups[key] == nil {
			a.groups[key] = &group{}
		}
		a.groups[key].add(addr, t)
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
	if found == nil {
		return a.kept[addr]
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

// give makes c a tenant of an address it asks for, or says why it cannot be.
func (a *allocator) give(c *claim, addr netip.Addr) bool {
	if slices.Contains(c.carried[familyOf(addr)], addr) {
		return true
	}
	t, p := a.tenancies[addr], a.poolOf(addr)
	if t != nil {
		if refusal := t.refuses(c); refusal.any() {
			c.refuse(state.ReasonAlreadyAssigned, fmt.Sprintf("%s belongs to %s: ask for another address, or take it from that Service first",
				c.asked(addr), refusal))
			return false
		}
	} else if p == nil {
		c.refuse(state.ReasonOutsidePools, a.outsideText(c, addr))
		return false
	} else if holder := a.reservedFrom(c, addr); holder != "" {
		c.refuse(state.ReasonAlreadyAssigned, fmt.Sprintf("%s is %s: ask for another address", c.asked(addr), holder))
		return false
	}
	if !c.mayUse(p) {
		c.refuse(state.ReasonPoolNotAllowed, fmt.Sprintf("%s is in pool %s, but %s names pool %s: make the two agree",
			c.asked(addr), p.Name, c.svc.PoolField, c.svc.Pool))
		return false
	}
	if why := p.refuses(c, true); why != "" {
		c.refuse(state.ReasonPoolNotAllowed, fmt.Sprintf("%s is in pool %s, which does not give it: %s: ask for another address, or change the pool",
			c.asked(addr), p.Name, why))
		return false
	}
	a.settle(c, addr)
	return true
}

// openPools fills in what is free in the pools that give.
func (a *allocator) openPools() {
	used := a.used()
	for _, p := range a.pools {
		if p.closed == "" {
			p.open(used)
		}
	}
}

// used returns every address that is not free, in ascending order.
func (a *allocator) used() []netip.Addr {
	used := make([]netip.Addr, 0, len(a.tenancies)+len(a.reserved))
	for addr := range a.tenancies {
		used = append(used, addr)
	}
	for addr := range a.reserved {
		used = append(used, addr)
	}
	slices.SortFunc(used, netip.Addr.Compare)
	return slices.Compact(used)
}

// giveLowest gives c one address of each family that it wants, has none of and
// asks for none of by address.
func (a *allocator) giveLowest(c *claim) {
	for _, f := range c.families {
		if len(c.given[f]) > 0 || len(c.requested[f]) > 0 {
			continue
		}
		addr, ok := a.lowestShared(c, f)
		if !ok {
			addr, ok = a.lowestFree(c, f)
		}
		if !ok {
			c.refuse(a.shortage(c, f))
			continue
		}
		a.settle(c, addr)
		c.given[f] = []netip.Addr{addr}
	}
}

func (a *allocator) lowestFree(c *claim, f family) (netip.Addr, bool) {
	for _, p := range a.prefer {
		if !c.mayUse(p) || len(p.free[f]) == 0 || p.refuses(c, c.svc.Pool != "") != "" {
			continue
		}
		if addr, ok := p.takeLowest(f); ok {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

func (a *allocator) allocations() []state.Allocation {
	byName := slices.Clone(a.claims)
	slices.SortFunc(byName, func(c, d *claim) int { return c.svc.Name.Compare(d.svc.Name) })
	rows := make([]state.Allocation, 0, len(byName))
	for _, c := range byName {
		row := state.Allocation{Service: c.svc.Name, UID: c.svc.UID, Reason: state.ReasonSatisfied}
		if len(c.reasons) > 0 {
			row.Reason = c.reasons[0]
		}
		messages := c.messages
		for _, f := range c.families {
			for _, addr := range c.given[f] {
				row.Addrs = append(row.Addrs, addr)
				row.Pools = append(row.Pools, a.poolOf(addr).Name)
			}
			if why := a.unshared(c, f); why != "" {
				messages = append(messages, why)
			}
		}
		row.Message = strings.Join(messages, "; ")
		rows = append(rows, row)
	}
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
