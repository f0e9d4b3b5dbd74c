package lbipam

import (
	"fmt"
	"net/netip"

	"github.com/seamark-lb/seamark/state"
)

// outsideText says that an address which c asks for is in no pool, and what is.
func (a *allocator) outsideText(c *claim, addr netip.Addr) string {
	f := familyOf(addr)
	var pools []*pool
	for _, p := range a.prefer {
		if len(p.addrs.of(f)) > 0 {
			pools = append(pools, p)
		}
	}
	if len(pools) == 0 {
		return fmt.Sprintf("%s is in no pool, and no pool holds %s addresses: create one that holds it", c.asked(addr), f)
	}
	return fmt.Sprintf("%s is in no pool: ask for an address of %s, or add a block that holds it to a pool",
		c.asked(addr), list(pools, func(p *pool) string { return p.text(f) }))
}

// shortage says why no pool gave c an address of family f.
func (a *allocator) shortage(c *claim, f family) (state.Reason, string) {
	var full, refusing []*pool
	named := c.svc.Pool != ""
	known := false
	for _, p := range a.prefer {
		if !c.mayUse(p) {
			continue
		}
		known = true
		if p.refuses(c, named) != "" {
			refusing = append(refusing, p)
		} else if len(p.addrs.of(f)) > 0 {
			full = append(full, p)
		}
	}
	switch {
	case len(full) > 0:
		counts := list(full, func(p *pool) string {
			return fmt.Sprintf("%s (%s of %s in use)", p.Name, p.total[f], p.total[f])
		})
		return state.ReasonPoolExhausted, fmt.Sprintf("no free %s address in pool %s: add a block, or release an address", f, counts)
	case named && !known:
		return state.ReasonNoPool, fmt.Sprintf("%s names pool %s, and there is none: create it, or name another", c.svc.PoolField, c.svc.Pool)
	case len(refusing) > 0:
		why := list(refusing, func(p *pool) string { return p.Name + " (" + p.refuses(c, named) + ")" })
		return state.ReasonNoPool, fmt.Sprintf("no pool gives this Service an %s address: %s: change one of them, or create another", f, why)
	}
	return state.ReasonNoPool, fmt.Sprintf("no pool holds %s addresses: create one, or add a block", f)
}
