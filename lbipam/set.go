package lbipam

import (
	"encoding/binary"
	"math/big"
	"net/netip"
	"slices"
	"sort"

	"github.com/seamark-lb/seamark/state"
)

// set is a set of addresses: ranges in ascending order, IPv4 before IPv6, no
// two of which overlap or touch. The zero set is empty.
type set []state.Range

// newSet returns the union of ranges.
func newSet(ranges []state.Range) set {
	sorted := slices.Clone(ranges)
	slices.SortFunc(sorted, func(a, b state.Range) int { return a.From.Compare(b.From) })
	var s set
	for _, r := range sorted {
		if n := len(s); n > 0 && reaches(s[n-1], r) {
			if s[n-1].To.Less(r.To) {
				s[n-1].To = r.To
			}
			continue
		}
		s = append(s, r)
	}
	return s
}

// reaches says whether b, which starts no earlier than a, overlaps or continues it.
func reaches(a, b state.Range) bool {
	return a.Overlaps(b) || a.To.Next() == b.From
}

// at returns the index of the first range that ends at a or after it.
func (s set) at(a netip.Addr) int {
	return sort.Search(len(s), func(i int) bool { return a.Compare(s[i].To) <= 0 })
}

func (s set) contains(a netip.Addr) bool {
	i := s.at(a)
	return i < len(s) && s[i].Contains(a)
}

// overlap returns the lowest range that both sets hold.
func (s set) overlap(t set) (state.Range, bool) {
	for i, j := 0, 0; i < len(s) && j < len(t); {
		if s[i].Overlaps(t[j]) {
			return state.Range{From: later(s[i].From, t[j].From), To: earlier(s[i].To, t[j].To)}, true
		}
		if s[i].To.Less(t[j].To) {
			i++
		} else {
			j++
		}
	}
	return state.Range{}, false
}

func later(a, b netip.Addr) netip.Addr {
	if a.Less(b) {
		return b
	}
	return a
}

func earlier(a, b netip.Addr) netip.Addr {
	if a.Less(b) {
		return a
	}
	return b
}

// minus returns s without the given addresses, which are in ascending order.
func (s set) minus(addrs []netip.Addr) set {
	var rest set
	for _, r := range s {
		i, _ := slices.BinarySearchFunc(addrs, r.From, netip.Addr.Compare)
		for ; i < len(addrs) && r.From.IsValid() && r.Contains(addrs[i]); i++ {
			if r.From.Less(addrs[i]) {
				rest = append(rest, state.Range{From: r.From, To: addrs[i].Prev()})
			}
			r.From = addrs[i].Next() // the zero Addr after the last one there is
		}
		if r.From.IsValid() && r.From.Compare(r.To) <= 0 {
			rest = append(rest, r)
		}
	}
	return rest
}

// of returns the part of s that is of one family; it shares memory with s.
func (s set) of(f family) set {
	i := sort.Search(len(s), func(i int) bool { return s[i].From.Is6() })
	if f == ipv4 {
		return s[:i]
	}
	return s[i:]
}

// lowest returns the lowest address, or the lowest that is not buggy.
func (s set) lowest(avoid bool) (netip.Addr, bool) {
	for _, r := range s {
		a := r.From
		for avoid && buggy(a) && a != r.To {
			a = a.Next() // two are buggy in a row at most
		}
		if !avoid || !buggy(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// remove takes out an address that is there.
func (s *set) remove(a netip.Addr) {
	i := s.at(a)
	r := &(*s)[i]
	switch {
	case r.From == r.To && i == 0:
		*s = (*s)[1:] // what is given is the lowest, mostly
	case r.From == r.To:
		*s = slices.Delete(*s, i, i+1)
	case r.From == a:
		r.From = a.Next()
	case r.To == a:
		r.To = a.Prev()
	default:
		above := state.Range{From: a.Next(), To: r.To}
		r.To = a.Prev()
		*s = slices.Insert(*s, i+1, above)
	}
}

// add puts in an address that is not there.
func (s *set) add(a netip.Addr) {
	i := s.at(a)
	follows := i > 0 && (*s)[i-1].To == a.Prev()
	precedes := i < len(*s) && (*s)[i].From == a.Next()
	switch {
	case follows && precedes:
		(*s)[i-1].To = (*s)[i].To
		*s = slices.Delete(*s, i, i+1)
	case follows:
		(*s)[i-1].To = a
	case precedes:
		(*s)[i].From = a
	default:
		*s = slices.Insert(*s, i, state.Range{From: a, To: a})
	}
}

// size counts the addresses.
func (s set) size() *big.Int {
	n := new(big.Int)
	for _, r := range s {
		n.Add(n, number(r.To))
		n.Sub(n, number(r.From))
	}
	return n.Add(n, big.NewInt(int64(len(s))))
}

// buggy counts the addresses that some old equipment takes for a network's or
// a broadcast address.
func (s set) buggy() int64 {
	n := int64(0)
	for _, r := range s.of(ipv4) {
		n += buggyUpTo(r.To) - buggyUpTo(r.From)
		if buggy(r.From) {
			n++
		}
	}
	return n
}

// buggyUpTo counts those from 0.0.0.0 to a: two of every 256.
func buggyUpTo(a netip.Addr) int64 {
	b := a.As4()
	n := 2*int64(binary.BigEndian.Uint32(b[:])>>8) + 1
	if b[3] == 255 {
		n++
	}
	return n
}

func buggy(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	last := a.As4()[3]
	return last == 0 || last == 255
}

func number(a netip.Addr) *big.Int { return new(big.Int).SetBytes(a.AsSlice()) }
