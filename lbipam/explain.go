package lbipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/state"
)

// denial is why c cannot have an address that it asks for. The zero denial is none.
type denial struct {
	reason  state.Reason
	refusal refusal // of its tenants
	holder  string  // that is no tenant
	pool    *pool   // that the address is in
	why     string  // the pool does not give it; "" when c names another
}

func (d denial) any() bool { return d.reason != "" }

// denies says why c cannot have the address, which it is no tenant of.
func (a *Allocator) denies(c *claim, addr netip.Addr) denial {
	t, p := a.tenancies[addr], a.poolOf(addr)
	if t != nil {
		if r := t.refuses(c); r.any() {
			return denial{reason: state.ReasonAlreadyAssigned, refusal: r}
		}
	} else if p == nil {
		return denial{reason: state.ReasonOutsidePools}
	} else if holder := a.reservedFrom(c, addr); holder != "" {
		return denial{reason: state.ReasonAlreadyAssigned, holder: holder}
	}
	if !c.mayUse(p) {
		return denial{reason: state.ReasonPoolNotAllowed, pool: p}
	}
	if why := p.refuses(c, true); why != "" {
		return denial{reason: state.ReasonPoolNotAllowed, pool: p, why: why}
	}
	return denial{}
}

// deniedText says why c does not have an address that it asks for, and what to do.
func (a *Allocator) deniedText(c *claim, addr netip.Addr, d denial) string {
	asked := c.asked(addr)
	switch {
	case d.reason == state.ReasonOutsidePools:
		return a.outsideText(asked, familyOf(addr))
	case d.refusal.any():
		return fmt.Sprintf("%s belongs to %s: ask for another address, or take it from that Service first", asked, d.refusal)
	case d.holder != "":
		return fmt.Sprintf("%s is %s: ask for another address", asked, d.holder)
	case d.why == "":
		return fmt.Sprintf("%s is in pool %s, but %s names pool %s: make the two agree", asked, d.pool.Name, c.svc.PoolField, c.svc.Pool)
	}
	return fmt.Sprintf("%s is in pool %s, which does not give it: %s: ask for another address, or change the pool", asked, d.pool.Name, d.why)
}

// outsideText says that an address which is asked for is in no pool, and what is.
func (a *Allocator) outsideText(asked string, f family) string {
	var pools []*pool
	for _, p := range a.prefer {
		if len(p.addrs.of(f)) > 0 {
			pools = append(pools, p)
		}
	}
	if len(pools) == 0 {
		return fmt.Sprintf("%s is in no pool, and no pool holds %s addresses: create one that holds it", asked, f)
	}
	return fmt.Sprintf("%s is in no pool: ask for an address of %s, or add a block that holds it to a pool",
		asked, list(pools, func(p *pool) string { return p.text(f) }))
}

// shortage says why no pool gave c an address of family f.
func (a *Allocator) shortage(c *claim, f family) (state.Reason, string) {
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
		counts := list(full, func(p *pool) string { return fmt.Sprintf("%s (%s in use)", p.Name, p.counts(f)) })
		return state.ReasonPoolExhausted, fmt.Sprintf("no free %s address in pool %s: add a block, or release an address", f, counts)
	case named && !known:
		return state.ReasonNoPool, fmt.Sprintf("%s names pool %s, and there is none: create it, or name another", c.svc.PoolField, c.svc.Pool)
	case len(refusing) > 0:
		why := list(refusing, func(p *pool) string { return p.Name + " (" + p.refuses(c, named) + ")" })
		return state.ReasonNoPool, fmt.Sprintf("no pool gives this Service an %s address: %s: change one of them, or create another", f, why)
	}
	return state.ReasonNoPool, fmt.Sprintf("no pool holds %s addresses: create one, or add a block", f)
}

// explanation is why c has what it has: the reason of the first thing that it
// lacks, and what is to be said of all.
type explanation struct {
	reason   state.Reason
	messages []string
}

func (e *explanation) add(reason state.Reason, message string) {
	if e.reason == "" {
		e.reason = reason
	}
	if !slices.Contains(e.messages, message) { // both families may lack the same
		e.messages = append(e.messages, message)
	}
}

// maxMessages bounds what is said of one Service: a condition has room for 32 KiB.
const maxMessages = 16

func (e *explanation) text() string {
	said := e.messages[:min(len(e.messages), maxMessages)]
	if more := len(e.messages) - len(said); more > 0 {
		said = append(slices.Clip(said), fmt.Sprintf("and %d more of what it asks for", more))
	}
	return strings.Join(said, "; ")
}

// explain says why c lacks what it lacks, as things are now, and notes what it
// waits for.
func (a *Allocator) explain(c *claim) explanation {
	var e explanation
	for _, addr := range c.foreign {
		e.add(state.ReasonWrongFamily, fmt.Sprintf("%s is %s, but spec.ipFamilies of the Service is %s: add the family there, or ask for another address",
			c.asked(addr), familyOf(addr), list(c.families, family.String)))
	}
	for _, f := range c.families {
		for _, addr := range c.requested[f] {
			if slices.Contains(c.given[f], addr) {
				continue
			}
			d := a.denies(c, addr)
			e.add(d.reason, a.deniedText(c, addr, d))
			c.waitsFor = append(c.waitsFor, addr)
		}
	}
	for _, f := range c.families {
		if !c.lacks(f) || c.withheld && a.lowest(c, f).IsValid() {
			continue
		}
		c.short[f] = true
		reason, message := a.shortage(c, f)
		if c.svc.FamilyPolicy == preferDualStack && len(c.given[f.other()]) > 0 {
			e.messages = append(e.messages, fmt.Sprintf("%s alone, as %s allows: %s", f.other(), preferDualStack, message))
			continue
		}
		e.add(reason, message)
	}
	if c.withheld {
		e.messages = append(e.messages, "it gets both families or none: write PreferDualStack as spec.ipFamilyPolicy to have one alone")
	}
	for _, f := range c.families {
		if why := a.unshared(c, f); why != "" {
			e.messages = append(e.messages, why)
		}
	}
	if e.reason == "" {
		e.reason = state.ReasonSatisfied
	}
	return e
}

// conclude makes c's row, and puts it among those that wait. It returns whether
// the row has changed.
func (a *Allocator) conclude(c *claim) bool {
	a.unwait(c)
	e := a.explain(c)
	row := state.Allocation{Service: c.svc.Name, UID: c.svc.UID, Reason: e.reason, Message: e.text()}
	for _, addr := range c.has() {
		row.Addrs = append(row.Addrs, addr)
		row.Pools = append(row.Pools, a.poolOf(addr).Name)
	}
	row.Lost = c.lost(row.Addrs)
	if a.wait(c); !c.withheld && slices.ContainsFunc(c.holds, func(addr netip.Addr) bool {
		return !slices.Contains(c.svc.Ingress, addr) && !slices.Contains(row.Addrs, addr)
	}) {
		a.loose[c] = true
	}
	changed := !row.SameSpec(c.row)
	c.row = row
	c.carried = [2][]netip.Addr{} // by the next decision
	for _, addr := range slices.Concat(row.Addrs, c.svc.Ingress) {
		if f := familyOf(addr); slices.Contains(c.holds, addr) && !slices.Contains(c.carried[f], addr) {
			c.carried[f] = append(c.carried[f], addr)
		}
	}
	return changed
}

// wait puts c among those that wait for what it lacks.
func (a *Allocator) wait(c *claim) {
	c.waits = true
	for _, addr := range c.waitsFor {
		a.waiting[addr] = append(a.waiting[addr], c)
	}
	for _, addr := range c.contested {
		a.contested[addr]++
	}
	for f, short := range c.short {
		if short {
			at, _ := slices.BinarySearchFunc(a.short[f], c, older)
			a.short[f] = slices.Insert(a.short[f], at, c)
		}
	}
	if c.withheld {
		a.withheld[c] = true
	}
	if key := c.svc.Sharing; key != "" {
		if short, alone := c.short[ipv4] || c.short[ipv6], a.alone(c); short || alone {
			a.group(key).wait(c, short, alone)
		}
	}
}

// unwait takes c from among those that wait.
func (a *Allocator) unwait(c *claim) {
	if !c.waits {
		return
	}
	for _, addr := range c.waitsFor {
		rest := slices.DeleteFunc(a.waiting[addr], func(d *claim) bool { return d == c })
		if a.waiting[addr] = rest; len(rest) == 0 {
			delete(a.waiting, addr)
		}
	}
	for _, addr := range c.contested {
		if a.contested[addr]--; a.contested[addr] == 0 {
			delete(a.contested, addr)
		}
	}
	for f, short := range c.short {
		if short {
			at, _ := slices.BinarySearchFunc(a.short[f], c, older)
			a.short[f] = slices.Delete(a.short[f], at, at+1)
		}
	}
	delete(a.withheld, c)
	if g := a.groups[c.svc.Sharing]; g != nil {
		if g.unwait(c); g.empty() {
			delete(a.groups, c.svc.Sharing)
		}
	}
	c.waits, c.waitsFor, c.short = false, nil, [2]bool{}
}
