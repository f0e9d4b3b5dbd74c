package bgp

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/seamark-lb/seamark/state"
)

// crowd is a node with many Services, each with an address that it advertises.
func crowd(services int) Inputs {
	in := world()
	ready := in.Frontends[0].Backends
	in.Services, in.Frontends = nil, nil
	in.Pools = []state.Pool{{Name: "lab", Ranges: []state.Range{{From: netip.MustParseAddr("10.0.0.0"), To: netip.MustParseAddr("10.255.255.255")}}}}
	in.Advertisements[0].Addresses[0].ServiceSelector = selecting("app", "web")
	in.Advertisements[0].Addresses[0].Pools = []string{"lab"}
	a := netip.MustParseAddr("10.0.0.1")
	for i := range services {
		name := state.ObjectName{Namespace: "default", Name: fmt.Sprintf("web-%05d", i)}
		in.Services = append(in.Services, state.Service{Name: name, Type: "LoadBalancer", Labels: map[string]string{"app": "web"}, Ingress: []netip.Addr{a}})
		in.Frontends = append(in.Frontends, state.Frontend{Addr: a, Port: 80, Protocol: state.TCP, Service: name, Kind: state.KindLoadBalancer, Backends: ready})
		a = a.Next()
	}
	return in
}

func BenchmarkDecide(b *testing.B) {
	for _, services := range []int{1000, 10_000} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			in := crowd(services)
			b.ReportAllocs()
			for b.Loop() {
				if d := Decide(in); len(d.Routes) != services {
					b.Fatalf("%d routes", len(d.Routes))
				}
			}
		})
	}
}
