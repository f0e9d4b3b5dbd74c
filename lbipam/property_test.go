package lbipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/seamark-lb/seamark/state"
)

// world is a random set of Services and pools, small enough for its parts to
// get in each other's way.
func world(rng *rand.Rand) ([]state.Service, []state.Pool) {
	v4 := func() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(24))}) }
	addr := func() netip.Addr {
		if rng.IntN(3) == 0 {
			b := ip("fd00::").As16()
			b[15] = byte(rng.IntN(24))
			return netip.AddrFrom16(b)
		}
		return v4()
	}
	some := func(n int) []netip.Addr {
		var out []netip.Addr
		for range rng.IntN(n) {
			out = append(out, addr())
		}
		return out
	}
	var pools []state.Pool
	for i := range rng.IntN(5) {
		p := state.Pool{
			Name: fmt.Sprintf("p%d", i), Created: age(rng.IntN(3)),
			Disabled: rng.IntN(6) == 0, AutoAssign: rng.IntN(6) != 0, Priority: rng.Int32N(2),
		}
		if rng.IntN(4) == 0 {
			selecting("app", "x")(&p)
		}
		for range 1 + rng.IntN(2) {
			r := state.Range{From: addr()}
			r.To = r.From
			for range rng.IntN(6) {
				r.To = r.To.Next()
			}
			p.Ranges = append(p.Ranges, r)
		}
		pools = append(pools, p)
	}
	var services []state.Service
	for i := range rng.IntN(12) {
		s := svc(fmt.Sprintf("s%d", i), rng.IntN(3), families([][]string{{"IPv4"}, {"IPv6"}, {"IPv4", "IPv6"}}[rng.IntN(3)]...))
		s.Ingress, s.RequestedIPs = some(3), some(2)
		if rng.IntN(3) == 0 {
			s.Labels = map[string]string{"app": "x"}
		}
		if rng.IntN(6) == 0 {
			s.Annotations = map[string]string{"seamark.dev/pool": fmt.Sprintf("p%d", rng.IntN(5))}
		}
		services = append(services, s)
	}
	return services, pools
}

const worlds = 4000

func TestOrderOfInputDoesNotMatter(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range worlds {
		services, pools := world(rng)
		rows, statuses := Allocate(services, pools)
		rng.Shuffle(len(services), func(i, j int) { services[i], services[j] = services[j], services[i] })
		rng.Shuffle(len(pools), func(i, j int) { pools[i], pools[j] = pools[j], pools[i] })
		rows2, statuses2 := Allocate(services, pools)
		if !reflect.DeepEqual(rows, rows2) || !reflect.DeepEqual(statuses, statuses2) {
			t.Fatalf("shuffled, got\n%s%+v\nbefore\n%s%+v", text(rows2), statuses2, text(rows), statuses)
		}
	}
}

func TestNoAddressTwiceAndAllFromPools(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	given := 0
	for range worlds {
		services, pools := world(rng)
		rows, _ := Allocate(services, pools)
		if len(rows) != len(services) {
			t.Fatalf("%d rows for %d Services", len(rows), len(services))
		}
		owner := map[netip.Addr]state.ObjectName{}
		for _, r := range rows {
			for i, a := range r.Addrs {
				given++
				if other, ok := owner[a]; ok {
					t.Fatalf("%s given to %s and %s", a, other, r.Service)
				}
				owner[a] = r.Service
				p := pools[slices.IndexFunc(pools, func(p state.Pool) bool { return p.Name == r.Pools[i] })]
				if !slices.ContainsFunc(p.Ranges, func(r state.Range) bool { return r.Contains(a) }) {
					t.Fatalf("%s given from pool %s, which does not hold it", a, p.Name)
				}
			}
			if r.Reason == state.ReasonSatisfied && len(r.Addrs) == 0 || r.Reason != state.ReasonSatisfied && r.Message == "" {
				t.Fatalf("reason does not fit: %s", text([]state.Allocation{r}))
			}
		}
	}
	if given < worlds {
		t.Fatalf("only %d addresses given in %d worlds: the worlds show nothing", given, worlds)
	}
}

// TestRestartMovesNothing: when what was decided is in the Services' status,
// deciding again gives the same, also when half of it got there.
func TestRestartMovesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for range worlds {
		services, pools := world(rng)
		rows, _ := Allocate(services, pools)
		written, half := slices.Clone(services), slices.Clone(services)
		for i, s := range services {
			r := rows[slices.IndexFunc(rows, func(r state.Allocation) bool { return r.Service == s.Name })]
			written[i].Ingress = r.Addrs
			if rng.IntN(2) == 0 {
				half[i].Ingress = r.Addrs
			}
		}
		// What is given up becomes free, so more may be given; nothing may move.
		for _, later := range [][]state.Service{written, Remember(half, rows), Remember(services, rows)} {
			again, _ := Allocate(later, pools)
			for i, r := range rows {
				for _, a := range r.Addrs {
					if !slices.Contains(again[i].Addrs, a) && !replaced(services, again[i], a) {
						t.Fatalf("%s lost %s: got\n%swant\n%s", r.Service, a, text(again), text(rows))
					}
				}
			}
		}
	}
}

// replaced says whether r's Service has in the place of a an address that it asks for.
func replaced(services []state.Service, r state.Allocation, a netip.Addr) bool {
	s := services[slices.IndexFunc(services, func(s state.Service) bool { return s.Name == r.Service })]
	return !slices.Contains(s.RequestedIPs, a) && slices.ContainsFunc(r.Addrs, func(b netip.Addr) bool {
		return b.BitLen() == a.BitLen() && slices.Contains(s.RequestedIPs, b)
	})
}

// TestLowestFree holds what is given to Services that ask for nothing against
// a search address by address.
func TestLowestFree(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	for range worlds {
		_, pools := world(rng)
		pools = slices.DeleteFunc(pools, func(p state.Pool) bool { return p.Disabled || !p.AutoAssign || p.ServiceSelector != nil })
		_, statuses := Allocate(nil, pools)
		open := slices.DeleteFunc(slices.Clone(pools), func(p state.Pool) bool {
			return slices.ContainsFunc(statuses, func(s state.PoolStatus) bool { return s.Pool == p.Name && s.Conflict != "" })
		})
		slices.SortFunc(open, func(p, q state.Pool) int {
			switch {
			case p.Priority != q.Priority:
				return int(q.Priority - p.Priority)
			case !p.Created.Equal(q.Created):
				return p.Created.Compare(q.Created)
			}
			return int(p.Name[1]) - int(q.Name[1])
		})
		taken := map[netip.Addr]bool{}
		var services []state.Service
		for i := range 12 {
			s := svc(fmt.Sprintf("s%02d", i), i)
			if rng.IntN(3) == 0 {
				a := netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(24))})
				if !taken[a] {
					s.Ingress = []netip.Addr{a}
					taken[a] = slices.ContainsFunc(pools, func(p state.Pool) bool { return holds(p, a) })
				}
			}
			services = append(services, s)
		}
		rows, _ := Allocate(services, pools)
		for i, r := range rows {
			if len(services[i].Ingress) > 0 && taken[services[i].Ingress[0]] {
				continue
			}
			var want []netip.Addr
			for _, p := range open {
				for a := ip("10.0.0.0"); len(want) == 0 && a.Less(ip("10.0.1.0")); a = a.Next() {
					if !taken[a] && holds(p, a) {
						want, taken[a] = []netip.Addr{a}, true
					}
				}
			}
			if !slices.Equal(r.Addrs, want) {
				t.Fatalf("%s: want %s in\n%s", r.Service, want, text(rows))
			}
		}
	}
}

func holds(p state.Pool, a netip.Addr) bool {
	return slices.ContainsFunc(p.Ranges, func(r state.Range) bool { return r.Contains(a) })
}
