package lbipam

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/seamark-lb/seamark/state"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// span reads "from-to", or one address.
func span(from, to string) state.Range { return state.Range{From: ip(from), To: ip(to)} }

func TestNewSetMerges(t *testing.T) {
	got := newSet([]state.Range{
		span("10.0.0.8", "10.0.0.9"), span("fd00::1", "fd00::1"), span("10.0.0.1", "10.0.0.4"),
		span("10.0.0.2", "10.0.0.3"), span("10.0.0.5", "10.0.0.6"), span("255.255.255.255", "255.255.255.255"), span("::", "::"),
	})
	want := set{
		span("10.0.0.1", "10.0.0.6"), span("10.0.0.8", "10.0.0.9"), span("255.255.255.255", "255.255.255.255"),
		span("::", "::"), span("fd00::1", "fd00::1"),
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := want.of(ipv4); !slices.Equal(got, want[:3]) {
		t.Errorf("IPv4: got %v", got)
	}
	if got := want.of(ipv6); !slices.Equal(got, want[3:]) {
		t.Errorf("IPv6: got %v", got)
	}
}

func TestSizeOfWholeSpaces(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{"0.0.0.0", "255.255.255.255", "4294967296"},
		{"::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "340282366920938463463374607431768211456"},
		{"fd00:10::", "fd00:10:0:ffff:ffff:ffff:ffff:ffff", "1208925819614629174706176"},
		{"10.0.0.1", "10.0.0.1", "1"},
	} {
		if got := newSet([]state.Range{span(c.from, c.to)}).size().String(); got != c.want {
			t.Errorf("%s–%s: got %s, want %s", c.from, c.to, got, c.want)
		}
	}
	if got := set(nil).size().String(); got != "0" {
		t.Errorf("empty: got %s", got)
	}
}

func TestMinusAtTheEdges(t *testing.T) {
	all := set{span("255.255.255.253", "255.255.255.255"), span("::", "::2")}
	for _, c := range []struct {
		name string
		gone []netip.Addr
		want set
	}{
		{"nothing", nil, all},
		{"last of IPv4", []netip.Addr{ip("255.255.255.255")}, set{span("255.255.255.253", "255.255.255.254"), span("::", "::2")}},
		{"first of IPv6", []netip.Addr{ip("::")}, set{span("255.255.255.253", "255.255.255.255"), span("::1", "::2")}},
		{"middle", []netip.Addr{ip("255.255.255.254")}, set{span("255.255.255.253", "255.255.255.253"), span("255.255.255.255", "255.255.255.255"), span("::", "::2")}},
		{"not in it", []netip.Addr{ip("10.0.0.1"), ip("::9")}, all},
		{"all", []netip.Addr{ip("255.255.255.253"), ip("255.255.255.254"), ip("255.255.255.255"), ip("::"), ip("::1"), ip("::2")}, nil},
	} {
		if got := all.minus(c.gone); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// TestSetAgainstMap holds the set's operations against a plain map of bits.
func TestSetAgainstMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	base := ip("10.0.0.0").As4()
	addr := func(i int) netip.Addr { b := base; b[3] = byte(i); return netip.AddrFrom4(b) }
	random := func() (set, map[netip.Addr]bool) {
		var ranges []state.Range
		in := map[netip.Addr]bool{}
		for range rng.IntN(6) {
			from := rng.IntN(60)
			to := from + rng.IntN(8)
			ranges = append(ranges, state.Range{From: addr(from), To: addr(to)})
			for i := from; i <= to; i++ {
				in[addr(i)] = true
			}
		}
		return newSet(ranges), in
	}
	for range 2000 {
		s, inS := random()
		u, inU := random()
		gone, inGone := []netip.Addr{}, map[netip.Addr]bool{}
		for i := range 70 {
			if rng.IntN(3) == 0 {
				gone, inGone[addr(i)] = append(gone, addr(i)), true
			}
		}
		rest := s.minus(gone)
		lowestShared := netip.Addr{}
		for i := 69; i >= 0; i-- {
			a := addr(i)
			if s.contains(a) != inS[a] {
				t.Fatalf("%v contains %s: want %v", s, a, inS[a])
			}
			if rest.contains(a) != (inS[a] && !inGone[a]) {
				t.Fatalf("%v minus %v = %v: wrong at %s", s, gone, rest, a)
			}
			if inS[a] && inU[a] {
				lowestShared = a
			}
		}
		shared, ok := s.overlap(u)
		if ok != lowestShared.IsValid() || shared.From != lowestShared {
			t.Fatalf("%v overlap %v = %v, want from %v", s, u, shared, lowestShared)
		}
		last := netip.Addr{}
		for range rest.size().Int64() {
			a, ok := rest.lowest(false)
			if !ok || !inS[a] || inGone[a] || last.IsValid() && a.Compare(last) <= 0 {
				t.Fatalf("lowest is %v after %v (%v)", a, last, ok)
			}
			rest.remove(a)
			last = a
		}
		if a, ok := rest.lowest(false); ok {
			t.Fatalf("lowest is %s in an empty set", a)
		}
	}
}

// Sets that addresses come to and go from, one by one, are as if made of them at once.
func TestSetChanges(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 22))
	edges := []netip.Addr{ip("0.0.0.0"), ip("0.0.0.1"), ip("10.0.0.254"), ip("10.0.0.255"), ip("10.0.1.0"), ip("10.0.1.1"), ip("10.0.1.2"),
		ip("255.255.255.254"), ip("255.255.255.255")}
	for range 500 {
		var s set
		in := map[netip.Addr]bool{}
		for range 60 {
			a := edges[rng.IntN(len(edges))]
			if in[a] {
				delete(in, a)
				s.remove(a)
			} else {
				in[a] = true
				s.add(a)
			}
			var ranges []state.Range
			lowest := netip.Addr{}
			for _, e := range edges {
				if in[e] {
					ranges = append(ranges, state.Range{From: e, To: e})
					if !lowest.IsValid() && !buggy(e) {
						lowest = e
					}
				}
			}
			if want := newSet(ranges); !slices.Equal(s, want) {
				t.Fatalf("%v, want %v", s, want)
			}
			if got, ok := s.lowest(true); got != lowest || ok != lowest.IsValid() {
				t.Fatalf("lowest of %v is %v, want %v", s, got, lowest)
			}
		}
	}
}

// The index says of every address what a look at each pool would.
func TestIndex(t *testing.T) {
	rng := rand.New(rand.NewPCG(23, 24))
	for range worlds {
		pools := newPools(world(rng).Pools)
		x := newIndex(pools)
		for i := range 32 {
			six := ip("fd00::").As16()
			six[15] = byte(i)
			for _, a := range []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), netip.AddrFrom16(six)} {
				var holding []*pool
				var giver *pool
				for _, p := range pools {
					if p.Holds(a) {
						holding = append(holding, p)
						if giver == nil || giver.conflict != "" && p.conflict == "" {
							giver = p
						}
					}
				}
				if got := x.pools(a); !slices.Equal(got, holding) {
					t.Fatalf("%s: %d pools, want %d", a, len(got), len(holding))
				}
				if s := x.find(a); s != nil && s.giver != giver {
					t.Fatalf("%s is of pool %s, want %s", a, s.giver.Name, giver.Name)
				}
			}
		}
	}
}
