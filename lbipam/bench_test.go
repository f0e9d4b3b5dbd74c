package lbipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

const (
	manyServices = 100_000
	manyPools    = 50
	// bound is what one pass over so many may take.
	bound = 2 * time.Second
)

// large returns 100,000 Services and 50 pools of perPool addresses each.
func large(perPool int) ([]state.Service, []state.Pool) {
	services := make([]state.Service, manyServices)
	for i := range services {
		services[i] = svc(fmt.Sprintf("ns%d/s%d", i%100, i), i)
		services[i].ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{172, byte(i >> 16), byte(i >> 8), byte(i)})}
	}
	pools := make([]state.Pool, manyPools)
	for i := range pools {
		from := netip.AddrFrom4([4]byte{10, byte(i), 0, 0})
		to := netip.AddrFrom4([4]byte{10, byte(i), byte((perPool - 1) >> 8), byte(perPool - 1)})
		pools[i] = state.Pool{Name: fmt.Sprintf("p%d", i), Created: age(i), AutoAssign: true, Ranges: []state.Range{{From: from, To: to}}}
	}
	return services, pools
}

func BenchmarkAllocate(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	measure := func(name string, services []state.Service, pools []state.Pool) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				allocate(services, pools)
			}
			if took := b.Elapsed() / time.Duration(b.N); took > bound {
				b.Errorf("%v for %d Services × %d pools, want under %v", took, len(services), len(pools), bound)
			}
		})
	}
	services, pools := large(2000)
	measure("new", services, pools)

	rows, _ := allocate(services, pools)
	carrying := Remember(services, rows)
	measure("adopted", carrying, pools)

	holes := make([]state.Service, len(carrying))
	for i, s := range carrying {
		if rng.IntN(2) == 0 {
			s.Ingress = nil
		}
		holes[i] = s
	}
	measure("half adopted, in holes", holes, pools)

	asking := make([]state.Service, len(services))
	for i, s := range services {
		s.RequestedIPs = carrying[i].Ingress
		asking[i] = s
	}
	measure("requested", asking, pools)

	_, small := large(1000)
	measure("half exhausted", services, small)

	_, wide := large(2000)
	for i := range wide {
		wide[i].Ranges = []state.Range{span(fmt.Sprintf("fd00:%x::", i), fmt.Sprintf("fd00:%x:0:ffff:ffff:ffff:ffff:ffff", i))}
	}
	six := make([]state.Service, len(services))
	for i, s := range services {
		s.Families = []string{"IPv6"}
		six[i] = s
	}
	measure("IPv6 of /48s", six, wide)
}

// TestWideAsNarrow: a /48 of IPv6 costs what a /29 of IPv4 costs.
func TestWideAsNarrow(t *testing.T) {
	allocs := func(ranges string, f string) float64 {
		pools := []state.Pool{pl("p", 0, ranges)}
		services := []state.Service{svc("a", 1, families(f)), svc("b", 2, families(f))}
		return testing.AllocsPerRun(100, func() { allocate(services, pools) })
	}
	narrow := allocs("10.0.0.0-10.0.0.7", "IPv4")
	wide := allocs("fd00:10::-fd00:10:0:ffff:ffff:ffff:ffff:ffff", "IPv6")
	if wide > narrow*1.5 {
		t.Errorf("/48: %v allocations, /29: %v", wide, narrow)
	}
}
