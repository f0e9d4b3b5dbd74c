package lbipam

import (
	"cmp"
	"net/netip"
	"slices"
	"sort"

	"github.com/seamark-lb/seamark/state"
)

// index finds the pools that hold an address: stretches in ascending order,
// which do not overlap.
type index []stretch

// stretch is a range of addresses that the same pools hold. giver is the one
// that an address is said to be of: of several, one that gives, or else the oldest.
type stretch struct {
	state.Range
	pools []*pool
	giver *pool
}

// newIndex returns the index of the pools, which are in the order of their age.
func newIndex(pools []*pool) index {
	type part struct {
		state.Range
		age int
	}
	var parts []part
	var starts []netip.Addr // where a range begins, or one has ended
	for age, p := range pools {
		for _, r := range p.addrs {
			parts = append(parts, part{r, age})
			starts = append(starts, r.From)
			if after := r.To.Next(); after.IsValid() {
				starts = append(starts, after)
			}
		}
	}
	slices.SortFunc(parts, func(a, b part) int { return a.From.Compare(b.From) })
	slices.SortFunc(starts, netip.Addr.Compare)
	starts = slices.Compact(starts)
	var x index
	var over []part // the start
	for i, from := range starts {
		over = slices.DeleteFunc(over, func(p part) bool { return p.To.Less(from) })
		for len(parts) > 0 && parts[0].From == from {
			over, parts = append(over, parts[0]), parts[1:]
		}
		if len(over) == 0 {
			continue
		}
		slices.SortFunc(over, func(a, b part) int { return cmp.Compare(a.age, b.age) })
		s := stretch{Range: state.Range{From: from, To: over[0].To}}
		for _, part := range over {
			p := pools[part.age]
			s.pools = append(s.pools, p)
			s.To = earlier(s.To, part.To)
			if s.giver == nil || s.giver.conflict != "" && p.conflict == "" {
				s.giver = p
			}
		}
		if i+1 < len(starts) && s.Contains(starts[i+1]) {
			s.To = starts[i+1].Prev()
		}
		x = append(x, s)
	}
	return x
}

// find returns the stretch that addr is in, nil when no pool holds it.
func (x index) find(addr netip.Addr) *stretch {
	i := sort.Search(len(x), func(i int) bool { return addr.Compare(x[i].To) <= 0 })
	if i == len(x) || !x[i].Contains(addr) {
		return nil
	}
	return &x[i]
}

// pools returns those that hold addr.
func (x index) pools(addr netip.Addr) []*pool {
	if s := x.find(addr); s != nil {
		return s.pools
	}
	return nil
}
