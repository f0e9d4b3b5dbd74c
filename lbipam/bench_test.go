package lbipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

const (
	manyServices = 100_000
	manyPools    = 50
	// bound is what one pass over so many may take of one core.
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

// busy is how long this process has kept cores busy: others share the machine.
func busy(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkAllocate(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	measure := func(name string, services []state.Service, pools []state.Pool) {
		b.Run(name, func(b *testing.B) {
			runtime.GC()
			began := busy(b)
			for b.Loop() {
				allocate(services, pools)
			}
			took := (busy(b) - began) / time.Duration(b.N)
			b.ReportMetric(took.Seconds(), "core-s/op")
			if took > bound {
				b.Errorf("%v for %d Services × %d pools, want under %v", took, len(services), len(pools), bound)
			}
		})
	}
	services, pools := large(2000)
	measure("new", services, pools)

	rows, _ := allocate(services, pools)
	carrying := written(services, rows)
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

// TestWideAsNarrow: a /48, or /64, of IPv6 costs what a /29, or /30, of IPv4 costs.
func TestWideAsNarrow(t *testing.T) {
	allocs := func(ranges string, f string) float64 {
		pools := []state.Pool{pl("p", 0, ranges)}
		services := []state.Service{svc("a", 1, families(f)), svc("b", 2, families(f))}
		return testing.AllocsPerRun(100, func() { allocate(services, pools) })
	}
	for _, c := range []struct{ narrow, wide string }{
		{"10.0.0.0-10.0.0.7", "fd00:10::-fd00:10:0:ffff:ffff:ffff:ffff:ffff"},
		{"10.0.0.0-10.0.0.3", "fd00:10::-fd00:10::ffff:ffff:ffff:ffff"},
	} {
		if narrow, wide := allocs(c.narrow, "IPv4"), allocs(c.wide, "IPv6"); wide > narrow*1.5 {
			t.Errorf("%s: %v allocations, %s: %v", c.wide, wide, c.narrow, narrow)
		}
	}
}

// BenchmarkChange is one change beside many Services that have what they want,
// and what a look at all of them takes instead.
func BenchmarkChange(b *testing.B) {
	services, pools := large(2100)
	rows, _ := allocate(services, pools)
	carrying := written(services, rows)
	one := func(name string, change func(i int) []Change) {
		b.Run(name, func(b *testing.B) {
			a := New(Inputs{Services: carrying, Decided: rows, Pools: pools})
			b.ResetTimer()
			i := 0
			for b.Loop() {
				if _, _, ok := a.Change(change(i)); !ok {
					b.Fatal("decided anew for all")
				}
				i++
			}
		})
	}
	one("come and go", func(i int) []Change {
		s := svc("default/new", manyServices)
		if i%2 == 1 {
			return []Change{{Name: s.Name}}
		}
		return []Change{{s.Name, &s}}
	})
	one("another port", func(i int) []Change {
		s := carrying[i*7919%manyServices]
		s.Ports = []state.ServicePort{{Protocol: state.TCP, Port: uint16(i)}}
		return []Change{{s.Name, &s}}
	})
	one("another address", func(i int) []Change {
		s := carrying[i*7919%manyServices]
		s.Ingress = nil
		s.RequestedIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i % manyPools), 8, byte(i / manyPools % 32)})}
		return []Change{{s.Name, &s}}
	})

	small := slices.Clone(pools)
	small[0].Ranges = []state.Range{{From: pools[0].Ranges[0].From, To: pools[0].Ranges[0].From}}
	for i := 1; i < len(small); i++ {
		small[i].Ranges = nil
	}
	b.Run("one of 100,000 that wait is next", func(b *testing.B) {
		in := Inputs{Services: services, Pools: small}
		a := New(in)
		b.ResetTimer()
		i := 0
		for b.Loop() {
			if _, _, ok := a.Change([]Change{{Name: services[i].Name}}); !ok {
				b.Fatal("decided anew for all")
			}
			if i++; i == len(services) {
				a, i = New(in), 0
			}
		}
	})
}

// What one change makes does not grow with the number of Services.
func TestChangeBesideManyAsBesideFew(t *testing.T) {
	allocs := func(n int) float64 {
		services, pools := large(2100)
		a := New(Inputs{Services: services[:n], Pools: pools})
		s := svc("default/new", manyServices)
		return testing.AllocsPerRun(50, func() {
			for _, change := range []Change{{s.Name, &s}, {Name: s.Name}} {
				if _, _, ok := a.Change([]Change{change}); !ok {
					t.Fatal("decided anew for all")
				}
			}
		})
	}
	if few, many := allocs(10), allocs(5000); many > few*1.5 {
		t.Errorf("%v allocations beside 5000 Services, %v beside 10", many, few)
	}
}
