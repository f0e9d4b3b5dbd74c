package lbipam

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"github.com/seamark-lb/seamark/state"
)

// world is a random set of Services, pools and others that have addresses,
// small enough for its parts to get in each other's way.
func world(rng *rand.Rand) Inputs {
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
			Disabled: rng.IntN(6) == 0, AutoAssign: rng.IntN(6) != 0, Priority: rng.Int32N(2), AvoidBuggyIPs: rng.IntN(3) == 0,
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
		s.FamilyPolicy = []string{"", "PreferDualStack"}[rng.IntN(2)]
		if rng.IntN(3) == 0 {
			s.Labels = map[string]string{"app": "x"}
		}
		if rng.IntN(6) == 0 {
			s.Pool = fmt.Sprintf("p%d", rng.IntN(5))
		}
		sociable(rng, &s)
		services = append(services, s)
	}
	others := state.Service{Name: state.ObjectName{Namespace: "other", Name: "s"}, Type: "LoadBalancer", Class: "example.com/lb",
		ClusterIPs: some(2), ExternalIPs: some(2), Ingress: some(2)}
	return Inputs{Services: append(services, others), Pools: pools, Nodes: []state.Node{{Name: "n", Addrs: some(2)}},
		Leases: []state.NodeLease{{Node: "n", Interfaces: []state.LeaseInterface{{Name: "eth1", Gateways: some(2)}}}}}
}

// sociable gives s what sharing an address depends on.
func sociable(rng *rand.Rand, s *state.Service) {
	s.Name.Namespace = []string{"default", "default", "blue"}[rng.IntN(3)]
	s.Sharing = []string{"", "k", "k", "m"}[rng.IntN(4)]
	s.SharingWith = [][]string{nil, {"blue"}, {"default", "blue"}, {"*"}}[rng.IntN(4)]
	s.ExternalTrafficPolicyLocal = rng.IntN(4) == 0
	s.Selector = []map[string]string{nil, {"app": "x"}, {"app": "x"}, {"app": "y"}}[rng.IntN(4)]
	for _, p := range []state.ServicePort{{Protocol: state.TCP, Port: 80}, {Protocol: state.UDP, Port: 80}, {Protocol: state.TCP, Port: 443}} {
		if rng.IntN(3) == 0 {
			s.Ports = append(s.Ports, p)
		}
	}
}

// mayShare says whether two Services may have one address (DESIGN §5).
func mayShare(s, t state.Service) bool {
	for _, p := range s.Ports {
		for _, q := range t.Ports {
			if p.Protocol == q.Protocol && p.Port == q.Port {
				return false
			}
		}
	}
	with := func(s, t state.Service) bool {
		return s.Name.Namespace == t.Name.Namespace || slices.Contains(s.SharingWith, "*") || slices.Contains(s.SharingWith, t.Name.Namespace)
	}
	if s.ExternalTrafficPolicyLocal || t.ExternalTrafficPolicyLocal {
		if s.Name.Namespace != t.Name.Namespace || s.Selector["app"] == "" || s.Selector["app"] != t.Selector["app"] {
			return false
		}
	}
	return s.Sharing != "" && s.Sharing == t.Sharing && with(s, t) && with(t, s)
}

const worlds = 4000

func TestOrderOfInputDoesNotMatter(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range worlds {
		in := world(rng)
		rows, statuses := in.Allocate()
		rng.Shuffle(len(in.Services), reflect.Swapper(in.Services))
		rng.Shuffle(len(in.Pools), reflect.Swapper(in.Pools))
		rows2, statuses2 := in.Allocate()
		if !reflect.DeepEqual(rows, rows2) || !reflect.DeepEqual(statuses, statuses2) {
			t.Fatalf("shuffled, got\n%s%+v\nbefore\n%s%+v", text(rows2), statuses2, text(rows), statuses)
		}
	}
}

func find(services []state.Service, name state.ObjectName) state.Service {
	return services[slices.IndexFunc(services, func(s state.Service) bool { return s.Name == name })]
}

// No address is given to two that may not share it, and every one is of a
// pool; what others have is not given to those who did not carry it.
func TestAddressesAreOneOwnersAndFromPools(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	given, shared, reserved := 0, 0, 0
	for range worlds {
		in := world(rng)
		rows, _ := in.Allocate()
		if len(rows) != len(in.Services)-1 {
			t.Fatalf("%d rows for %d Services and one that is not ours", len(rows), len(in.Services)-1)
		}
		owners := map[netip.Addr][]state.Service{}
		for _, r := range rows {
			svc := find(in.Services, r.Service)
			for i, a := range r.Addrs {
				given++
				for _, other := range owners[a] {
					shared++
					if !mayShare(svc, other) {
						t.Fatalf("%s given to %+v and %+v", a, other, svc)
					}
				}
				owners[a] = append(owners[a], svc)
				p := in.Pools[slices.IndexFunc(in.Pools, func(p state.Pool) bool { return p.Name == r.Pools[i] })]
				if !p.Holds(a) {
					t.Fatalf("%s given from pool %s, which does not hold it", a, p.Name)
				}
			}
			if r.Reason == state.ReasonSatisfied && len(r.Addrs) == 0 || r.Reason != state.ReasonSatisfied && r.Message == "" {
				t.Fatalf("reason does not fit: %s", text([]state.Allocation{r}))
			}
		}
		other := find(in.Services, state.ObjectName{Namespace: "other", Name: "s"})
		for _, a := range slices.Concat(other.ClusterIPs, other.ExternalIPs, other.Ingress, in.Nodes[0].Addrs, in.Leases[0].Interfaces[0].Gateways) {
			carried := func(s state.Service) bool { return s.Class == "" && slices.Contains(s.Ingress, a) }
			if len(owners[a]) > 0 && !slices.ContainsFunc(in.Services, carried) {
				t.Fatalf("%s is another's, and was given to %s", a, owners[a][0].Name)
			}
			if slices.ContainsFunc(in.Pools, func(p state.Pool) bool { return p.Holds(a) }) {
				reserved++
			}
		}
	}
	if given < worlds || shared < worlds/20 || reserved < worlds/20 {
		t.Fatalf("only %d addresses given, %d shared and %d others' in %d worlds: the worlds show nothing", given, shared, reserved, worlds)
	}
}

// What is counted adds up, and is what is given.
func TestCounts(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	for range worlds {
		in := world(rng)
		rows, statuses := in.Allocate()
		for _, s := range statuses {
			p := in.Pools[slices.IndexFunc(in.Pools, func(p state.Pool) bool { return p.Name == s.Pool })]
			number := func(text string) int { n, err := strconv.Atoi(text); must(t, err); return n }
			if number(s.Total) != number(s.Available)+number(s.Used) {
				t.Fatalf("%+v does not add up", s)
			}
			used := map[netip.Addr]bool{}
			for _, r := range rows {
				for _, a := range r.Addrs {
					if p.Holds(a) {
						used[a] = true
					}
				}
			}
			if number(s.Used) < len(used) {
				t.Fatalf("%+v, but in use are %v", s, used)
			}
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestRestartMovesNothing: when what was decided is in the Services' status,
// deciding again gives the same, also when half of it got there.
func TestRestartMovesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for range worlds {
		in := world(rng)
		rows, _ := in.Allocate()
		all, half := written(in.Services, rows), slices.Clone(in.Services)
		for i := range half {
			if rng.IntN(2) == 0 {
				half[i] = all[i]
			}
		}
		// What is given up becomes free, so more may be given; nothing may move.
		for _, later := range []struct {
			services []state.Service
			decided  []state.Allocation
		}{{all, nil}, {half, rows}, {in.Services, rows}} {
			in := in
			in.Services, in.Decided = later.services, later.decided
			again, _ := in.Allocate()
			for i, r := range rows {
				for _, a := range r.Addrs {
					if !slices.Contains(again[i].Addrs, a) && !replaced(in.Services, again[i], a) {
						t.Fatalf("%s lost %s: got\n%swant\n%s", r.Service, a, text(again), text(rows))
					}
				}
			}
		}
	}
}

// TestPoolsThatAreBackMoveNothing: when all pools were gone for a while, or the
// store said so, everybody has what it had.
func TestPoolsThatAreBackMoveNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(17, 18))
	had := 0
	for range worlds {
		in := world(rng)
		for i := range in.Services {
			in.Services[i].Ingress = nil // what a pool does not give is not given again
		}
		in.Decided = nil
		rows, _ := in.Allocate()
		without := in
		without.Pools, without.Services, without.Decided = nil, written(in.Services, rows), rows
		gone, _ := without.Allocate()
		in.Services, in.Decided = written(in.Services, gone), gone
		again, _ := in.Allocate()
		for i, r := range rows {
			for _, a := range r.Addrs {
				had++
				if !slices.Contains(again[i].Addrs, a) && !replaced(in.Services, again[i], a) {
					t.Fatalf("%s had %s: got\n%swant\n%s", r.Service, a, text(again), text(rows))
				}
			}
		}
	}
	if had == 0 {
		t.Error("nobody had anything")
	}
}

// written returns the Services with what was decided in their status.
func written(services []state.Service, decided []state.Allocation) []state.Service {
	rows := make(map[state.ObjectName]state.Allocation, len(decided))
	for _, r := range decided {
		rows[r.Service] = r
	}
	services = slices.Clone(services)
	for i, s := range services {
		if r, ok := rows[s.Name]; ok {
			services[i].Ingress = r.Addrs
		}
	}
	return services
}

// replaced says whether r's Service has in the place of a an address that it asks for.
func replaced(services []state.Service, r state.Allocation, a netip.Addr) bool {
	s := find(services, r.Service)
	return !slices.Contains(s.RequestedIPs, a) && slices.ContainsFunc(r.Addrs, func(b netip.Addr) bool {
		return b.BitLen() == a.BitLen() && slices.Contains(s.RequestedIPs, b)
	})
}

// TestLowest holds what is given to Services that ask for nothing against a
// search address by address.
func TestLowest(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	shared := 0
	for range worlds {
		pools := slices.DeleteFunc(world(rng).Pools, func(p state.Pool) bool { return p.Disabled || !p.AutoAssign || p.ServiceSelector != nil })
		_, statuses := allocate(nil, pools)
		open := slices.DeleteFunc(slices.Clone(pools), func(p state.Pool) bool {
			return slices.ContainsFunc(statuses, func(s state.PoolStatus) bool { return s.Pool == p.Name && s.Conflict != "" })
		})
		slices.SortFunc(open, func(p, q state.Pool) int {
			return cmp.Or(cmp.Compare(q.Priority, p.Priority), p.Created.Compare(q.Created), cmp.Compare(p.Name, q.Name))
		})
		tenants := map[netip.Addr][]state.Service{}
		var services []state.Service
		for i := range 12 {
			s := svc(fmt.Sprintf("s%02d", i), i)
			sociable(rng, &s)
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(24))})
			if rng.IntN(3) == 0 && tenants[a] == nil {
				s.Ingress = []netip.Addr{a}
				if slices.ContainsFunc(pools, func(p state.Pool) bool { return p.Holds(a) }) {
					tenants[a] = []state.Service{s}
				}
			}
			services = append(services, s)
		}
		rows, _ := allocate(services, pools)
		for _, s := range services {
			if len(s.Ingress) > 0 && len(tenants[s.Ingress[0]]) > 0 {
				continue
			}
			var want []netip.Addr
			for a := ip("10.0.0.0"); s.Sharing != "" && a.Less(ip("10.0.1.0")); a = a.Next() {
				gives := slices.ContainsFunc(open, func(p state.Pool) bool { return p.Holds(a) })
				if gives && len(tenants[a]) > 0 && !slices.ContainsFunc(tenants[a], func(o state.Service) bool { return !mayShare(s, o) }) {
					want = []netip.Addr{a}
					shared++
					break
				}
			}
			for _, p := range open {
				for a := ip("10.0.0.0"); len(want) == 0 && a.Less(ip("10.0.1.0")); a = a.Next() {
					avoided := p.AvoidBuggyIPs && (a.As4()[3] == 0 || a.As4()[3] == 255)
					if len(tenants[a]) == 0 && p.Holds(a) && !avoided {
						want = []netip.Addr{a}
					}
				}
			}
			for _, a := range want {
				tenants[a] = append(tenants[a], s)
			}
			r := rows[slices.IndexFunc(rows, func(r state.Allocation) bool { return r.Service == s.Name })]
			if !slices.Equal(r.Addrs, want) {
				t.Fatalf("%s: want %s in\n%s", r.Service, want, text(rows))
			}
		}
	}
	if shared < worlds/20 {
		t.Fatalf("only %d shared in %d worlds: the worlds show nothing", shared, worlds)
	}
}
