package lbipam

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/seamark-lb/seamark/state"
)

// Change is a Service that is new or has changed, or, with none, is gone.
type Change struct {
	Name    state.ObjectName
	Service *state.Service
}

// Change decides anew for what the changes concern, and returns the rows that
// are new or have changed, and the Services that have none any longer. Of several
// changes of one Service the last counts; their order does not matter otherwise.
//
// It costs what it touches: the Services that changed, those that wait for
// what these give up, and those that share addresses with them. What would
// move an address that another Service has, or is about addresses that are not
// LB-IPAM's to give, it leaves to New: then it returns false, and the Allocator
// is of no use any longer.
func (a *Allocator) Change(changes []Change) (rows []state.Allocation, gone []state.ObjectName, ok bool) {
	a.touched = map[touch]bool{}
	defer func() { a.touched = nil }()

	fresh, gone, ok := a.replace(changes)
	if !ok {
		return nil, nil, false
	}
	if !a.readopt(fresh) {
		return nil, nil, false
	}
	asking, ok := a.asking(fresh)
	if !ok {
		return nil, nil, false
	}
	for _, c := range asking {
		a.giveRequested(c)
	}
	for _, c := range a.concerned(a.giveWanted(asking)) {
		if a.conclude(c) {
			rows = append(rows, c.row)
		}
	}
	return rows, gone, true
}

// replace puts the claims of the changed Services, by age, in the place of
// those that there were. It is not ok when what they reserve has changed, or
// somebody may have, by its status, what they or others give up.
func (a *Allocator) replace(changes []Change) (fresh []*claim, gone []state.ObjectName, ok bool) {
	for addr := range a.contested {
		if slices.ContainsFunc(a.tenancies[addr].tenants, func(t *claim) bool { return !slices.Contains(t.decided(), addr) }) {
			return nil, nil, false
		}
	}
	last := make(map[state.ObjectName]*state.Service, len(changes)+len(a.loose))
	for c := range a.loose {
		last[c.svc.Name] = c.svc
	}
	clear(a.loose)
	for _, change := range changes {
		last[change.Name] = change.Service
	}
	for name, svc := range last {
		old := a.claims[name]
		if old != nil {
			a.unwait(old)
			a.release(old)
			delete(a.claims, name)
		}
		var reserves []reserve
		if svc != nil {
			reserves = a.reservedBy(svc)
		}
		if !slices.Equal(reserves, a.reserves[name]) {
			return nil, nil, false
		}
		if svc == nil || !a.in.serves(*svc) {
			if old != nil {
				gone = append(gone, name)
			}
			continue
		}
		var decided state.Allocation
		if old != nil {
			decided = old.row
		}
		c := newClaim(svc, a.namespaces[name.Namespace], decided)
		a.claims[name] = c
		fresh = append(fresh, c)
	}
	for t := range a.touched {
		if a.contested[t.addr] > 0 {
			return nil, nil, false
		}
	}
	slices.SortFunc(fresh, older)
	slices.SortFunc(gone, state.ObjectName.Compare)
	return fresh, gone, true
}

// readopt is adopt after others have. It is not ok when one of the fresh claims
// would have gone before another that has an address, or when the address is only
// kept for the other.
func (a *Allocator) readopt(fresh []*claim) (ok bool) {
	for _, c := range fresh {
		a.adopt(c, c.decided())
	}
	for _, c := range fresh {
		a.adopt(c, c.svc.Ingress)
	}
	for _, c := range fresh {
		for _, addr := range c.contested {
			if slices.ContainsFunc(a.tenancies[addr].tenants, func(t *claim) bool { return before(c, t, addr) }) {
				return false
			}
		}
		if slices.ContainsFunc(slices.Concat(c.holds, c.contested), a.onlyKept) {
			return false
		}
	}
	return true
}

// before says whether c adopts the address before d does.
func before(c, d *claim, addr netip.Addr) bool {
	if first := slices.Contains(c.decided(), addr); first != slices.Contains(d.decided(), addr) {
		return first
	}
	return older(c, d) < 0
}

// onlyKept says whether a Service that the address is withheld from holds it.
func (a *Allocator) onlyKept(addr netip.Addr) bool {
	if len(a.withheld) == 0 || a.tenancies[addr] == nil {
		return false
	}
	return slices.ContainsFunc(a.tenancies[addr].tenants, func(t *claim) bool { return t.withheld })
}

// asking returns those that a look at what they ask for may help, by age: the
// fresh ones, and who waits for what was touched. It is not ok when one asks for
// what is only kept for another: who is first may change.
func (a *Allocator) asking(fresh []*claim) (asking []*claim, ok bool) {
	for _, c := range fresh {
		if slices.ContainsFunc(slices.Concat(c.requested[ipv4], c.requested[ipv6]), a.onlyKept) {
			return nil, false
		}
	}
	claims := claimSet{}
	claims.add(fresh...)
	for t := range a.touched {
		claims.add(a.waiting[t.addr]...)
	}
	return claims.byAge(), true
}

// giveWanted gives the lowest addresses to those that it may help, by age:
// those who asked, who waits to share with them, and who waits for any address,
// while there are some that were taken before. It returns whom it looked at, of
// the last those alone that were given one.
func (a *Allocator) giveWanted(asking []*claim) (decided []*claim) {
	first := claimSet{}
	first.add(asking...)
	keys := map[string]bool{}
	for t := range a.touched {
		keys[t.key] = true
	}
	for c := range first {
		keys[c.svc.Sharing] = true
	}
	for key := range keys {
		if g := a.groups[key]; g != nil {
			first.add(slices.Collect(maps.Keys(g.short))...)
		}
	}
	vacant := a.vacancies()
	queues := [][]*claim{first.byAge(), a.short[ipv4], a.short[ipv6]}
	for {
		if vacant = a.stillVacant(vacant); len(vacant) == 0 {
			queues = queues[:1]
		}
		c := oldest(queues)
		if c == nil {
			return decided
		}
		if first[c] {
			a.giveLowest(c)
			decided = append(decided, c)
		} else if helps(vacant, c) && a.giveLowest(c) {
			decided = append(decided, c)
			if g := a.groups[c.svc.Sharing]; g != nil { // they may share it
				for d := range g.short {
					if !first[d] && older(c, d) < 0 {
						first[d] = true
						at, _ := slices.BinarySearchFunc(queues[0], d, older)
						queues[0] = slices.Insert(queues[0], at, d)
					}
				}
			}
		}
	}
}

// oldest takes the oldest claim from the queues, which are by age; nil when they are empty.
func oldest(queues [][]*claim) *claim {
	var c *claim
	for _, q := range queues {
		if len(q) > 0 && (c == nil || older(q[0], c) < 0) {
			c = q[0]
		}
	}
	for i, q := range queues {
		if len(q) > 0 && q[0] == c {
			queues[i] = q[1:]
		}
	}
	return c
}

// vacancy is what has become free in a pool that gives.
type vacancy struct {
	pool  *pool
	addrs []netip.Addr // of one family
}

// vacancies are the touched addresses that are free.
func (a *Allocator) vacancies() []vacancy {
	var all []vacancy
	for t := range a.touched {
		if !a.free(t.addr) {
			continue
		}
		for _, p := range a.index.pools(t.addr) {
			if p.closed != "" {
				continue
			}
			at := slices.IndexFunc(all, func(v vacancy) bool { return v.pool == p && familyOf(v.addrs[0]) == familyOf(t.addr) })
			if at < 0 {
				at = len(all)
				all = append(all, vacancy{pool: p})
			}
			all[at].addrs = append(all[at].addrs, t.addr)
		}
	}
	return all
}

func (a *Allocator) free(addr netip.Addr) bool {
	return a.tenancies[addr] == nil && len(a.reserved[addr]) == 0
}

// stillVacant leaves out what was given.
func (a *Allocator) stillVacant(vacancies []vacancy) []vacancy {
	for i := range vacancies {
		v := &vacancies[i]
		for len(v.addrs) > 0 && !a.free(v.addrs[0]) {
			v.addrs = v.addrs[1:]
		}
	}
	return slices.DeleteFunc(vacancies, func(v vacancy) bool { return len(v.addrs) == 0 })
}

// helps says whether c may have one of the vacancies.
func helps(vacancies []vacancy, c *claim) bool {
	return slices.ContainsFunc(vacancies, func(v vacancy) bool {
		return c.short[familyOf(v.addrs[0])] && c.mayUse(v.pool) && v.pool.refuses(c, c.svc.Pool != "") == ""
	})
}

// concerned returns those whose rows may say something else now, by age.
func (a *Allocator) concerned(decided []*claim) []*claim {
	claims := claimSet{}
	claims.add(decided...)
	for t := range a.touched {
		claims.add(a.waiting[t.addr]...)
		if a.avoided(t.addr) { // the total is another: it is in the texts of all who wait
			claims.add(a.short[ipv4]...)
		}
		if t.key == "" {
			continue
		}
		if tenancy := a.tenancies[t.addr]; tenancy != nil {
			claims.add(tenancy.tenants...)
		}
		g := a.groups[t.key]
		if f := familyOf(t.addr); g != nil && (len(g.held[f]) == 0 || t.addr.Compare(g.held[f][0].addr) <= 0) {
			claims.add(slices.Collect(maps.Keys(g.alone))...)
		}
	}
	claims.add(slices.Collect(maps.Keys(a.withheld))...)
	return claims.byAge()
}

// avoided says whether some pool gives the address only to who asks for it.
func (a *Allocator) avoided(addr netip.Addr) bool {
	return buggy(addr) && slices.ContainsFunc(a.index.pools(addr), func(p *pool) bool { return p.avoids(addr) })
}

// touch is an address that a Service with the sharing key has come to, or left.
type touch struct {
	addr netip.Addr
	key  string
}

// touch takes a note for the Change that is going on, if one is.
func (a *Allocator) touch(addr netip.Addr, c *claim) {
	if a.touched != nil {
		a.touched[touch{addr, c.svc.Sharing}] = true
	}
}

type claimSet map[*claim]bool

func (s claimSet) add(claims ...*claim) {
	for _, c := range claims {
		s[c] = true
	}
}

func (s claimSet) byAge() []*claim { return slices.SortedFunc(maps.Keys(s), older) }
