package state_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func addrs(list ...string) []netip.Addr {
	var all []netip.Addr
	for _, a := range list {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

func TestRightful(t *testing.T) {
	svc := func(f func(*state.Service)) state.Service {
		s := state.Service{Name: state.ObjectName{Namespace: "d", Name: "web"}, Type: "LoadBalancer", ClusterIPs: addrs("10.96.0.7")}
		f(&s)
		return s
	}
	const refused = ", and is neither served nor announced for this Service; "
	for _, tc := range []struct {
		name    string
		service state.Service
		left    string // ingress | externalIPs
		problem string // after the object
	}{
		{"its own", svc(func(s *state.Service) { s.Ingress, s.ExternalIPs = addrs("192.168.10.211"), addrs("203.0.113.1") }),
			"192.168.10.211 | 203.0.113.1", ""},
		{"node's address outside", svc(func(s *state.Service) { s.ExternalIPs = addrs("192.168.10.100", "203.0.113.1") }),
			" | 203.0.113.1", "spec.externalIPs: 192.168.10.100 is the address of node a" + refused + "use an address that is no node's"},
		{"node's address in status, as IPv6", svc(func(s *state.Service) { s.Ingress = addrs("::ffff:192.168.10.100") }),
			" | ", "status.loadBalancer.ingress: ::ffff:192.168.10.100 is the address of node a" + refused},
		{"gateway of another node", svc(func(s *state.Service) { s.ExternalIPs = addrs("192.168.20.200") }),
			" | ", "spec.externalIPs: 192.168.20.200 is a gateway of node b, through eth1" + refused + "use an address that is no gateway's"},
		{"gateway of this node", svc(func(s *state.Service) { s.ExternalIPs = addrs("fd00::1") }),
			" | ", "spec.externalIPs: fd00::1 is a gateway of this node, through eth0" + refused},
		{"gateway in status", svc(func(s *state.Service) { s.Ingress = addrs("192.168.20.200", "192.168.10.211") }),
			"192.168.10.211 | ", "status.loadBalancer.ingress: 192.168.20.200 is a gateway of node b"},
		{"another's clusterIP", svc(func(s *state.Service) { s.ExternalIPs = addrs("10.96.0.10") }),
			" | ", "spec.externalIPs: 10.96.0.10 is the clusterIP of service/kube-system/dns" + refused + "use an address of your own"},
		{"its own clusterIP", svc(func(s *state.Service) { s.ExternalIPs = addrs("10.96.0.7") }), " | 10.96.0.7", ""},
		{"an address of a pool", svc(func(s *state.Service) { s.ExternalIPs = addrs("192.168.10.212") }),
			" | ", "spec.externalIPs: 192.168.10.212 is in pool lab, whose addresses LB-IPAM gives to Services of type LoadBalancer" + refused + "use an address that is in no pool, or type LoadBalancer"},
		{"an address of a pool, given to it", svc(func(s *state.Service) { s.Ingress, s.ExternalIPs = addrs("192.168.10.212"), addrs("192.168.10.212") }),
			"192.168.10.212 | 192.168.10.212", ""},
		{"an address of a pool, which it was given once", svc(func(s *state.Service) {
			s.Type, s.Ingress, s.ExternalIPs = "ClusterIP", addrs("192.168.10.212"), addrs("192.168.10.212")
		}), " | ", "spec.externalIPs: 192.168.10.212 is in pool lab"},
		{"given in to another controller", svc(func(s *state.Service) {
			s.Ingress = addrs("192.168.10.212")
			s.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionIPAMRequestSatisfied, Status: metav1.ConditionFalse, Reason: string(state.ReasonDisputed)}}
		}), " | ", ""},
		{"another node's address in the management network", svc(func(s *state.Service) { s.ExternalIPs = addrs("10.0.2.16") }),
			" | ", "spec.externalIPs: 10.0.2.16 is an address of node b" + refused + "use an address that is no node's"},
		{"this node's", svc(func(s *state.Service) { s.ExternalIPs = addrs("10.0.2.15", "203.0.113.1") }),
			" | 203.0.113.1", "spec.externalIPs: 10.0.2.15 is an address of this node, on eth0" + refused},
		{"one that somebody put on this node's device for it", svc(func(s *state.Service) { s.ExternalIPs = addrs("203.0.113.9") }),
			" | 203.0.113.9", ""},
		{"another load balancer's Service", svc(func(s *state.Service) {
			s.Class, s.Ingress = "example.com/lb", addrs("192.168.10.212")
		}), " | ", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			db, w := state.New()
			w.Update(func(tx *state.Tx) {
				db.Services.Put(tx, tc.service)
				db.Services.Put(tx, state.Service{Name: state.ObjectName{Namespace: "kube-system", Name: "dns"}, ClusterIPs: addrs("10.96.0.10")})
				db.Nodes.Put(tx, state.Node{Name: "a", Addrs: addrs("192.168.10.100")})
				db.NodeLeases.Put(tx, state.NodeLease{Node: "b", Interfaces: []state.LeaseInterface{{Name: "eth1", Gateways: addrs("192.168.20.200")}},
					Addrs: addrs("10.0.2.16", "192.168.20.100")})
				db.Devices.Put(tx, state.Device{Name: "eth0", Gateways: addrs("fd00::1"), Prefixes: prefixes("10.0.2.15/24", "203.0.113.9/32")})
				db.Pools.Put(tx, state.Pool{Name: "lab", Ranges: []state.Range{{From: addrs("192.168.10.211")[0], To: addrs("192.168.10.215")[0]}}})
			})
			before := slices.Concat(tc.service.Ingress, tc.service.ExternalIPs)
			services, problems := state.Rightful(db, db.Snapshot())
			if len(services) != 2 {
				t.Fatalf("%d services", len(services))
			}
			text := func(list []netip.Addr) string { return strings.Trim(fmt.Sprint(list), "[]") }
			if got := text(services[0].Ingress) + " | " + text(services[0].ExternalIPs); got != tc.left {
				t.Errorf("left %q, want %q", got, tc.left)
			}
			switch {
			case tc.problem == "" && len(problems) > 0:
				t.Errorf("problems %v", problems)
			case tc.problem != "" && (len(problems) != 1 || !strings.HasPrefix(problems[0].String(), "service/d/web: "+tc.problem)):
				t.Errorf("problems %v, want %s", problems, tc.problem)
			}
			if !slices.Equal(before, slices.Concat(tc.service.Ingress, tc.service.ExternalIPs)) {
				t.Error("the row in the table was changed")
			}
		})
	}
}

// A clusterIP is another's to give, and a node's or another Service's all the same.
func TestRightfulClusterIPs(t *testing.T) {
	db, w := state.New()
	w.Update(func(tx *state.Tx) {
		db.Nodes.Put(tx, state.Node{Name: "a", Addrs: addrs("192.168.10.100")})
		for name, ips := range map[string][]netip.Addr{"a": addrs("10.96.0.7", "fd00::7"), "b": addrs("10.96.0.7", "fd00::8"), "c": addrs("192.168.10.100")} {
			db.Services.Put(tx, state.Service{Name: state.ObjectName{Namespace: "d", Name: name}, ClusterIPs: ips})
		}
	})
	services, problems := state.Rightful(db, db.Snapshot())
	var got []string
	for _, s := range services {
		got = append(got, fmt.Sprint(s.Name.Name, s.ClusterIPs))
	}
	for _, p := range problems {
		got = append(got, p.Object.Name+" "+p.Field+" "+strings.Split(p.Message, ",")[0])
	}
	if want := []string{"a[10.96.0.7 fd00::7]", "b[fd00::8]", "c[]", "b spec.clusterIPs 10.96.0.7 is the clusterIP of service/d/a",
		"c spec.clusterIPs 192.168.10.100 is the address of node a"}; !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func prefixes(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range list {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

func TestOwnAddrs(t *testing.T) {
	device := func(name, kind string, list ...string) state.Device {
		return state.Device{Name: name, Type: kind, Prefixes: prefixes(list...)}
	}
	devices := []state.Device{
		device("lo", "loopback", "127.0.0.1/8", "::1/128", "203.0.113.1/32"),
		device("eth1", "device", "192.168.10.100/24", "192.168.10.211/32", "fd00:10::100/64", "fe80::1/64", "fd00:10::211/128"),
		device("eth0", "device", "10.0.2.15/24", "192.168.10.100/24", "169.254.7.7/16"),
		device("wan0", "device", "198.51.100.4/32"), // no VIP: a cloud's way to give a node its one address
		device("kube-ipvs0", "dummy", "10.96.0.1/32", "10.96.0.10/32"),
		device("nodelocaldns", "dummy", "10.96.0.10/32"),
	}
	services := []state.Service{{Ingress: addrs("192.168.10.211", "192.168.10.100")}, {ExternalIPs: addrs("fd00:10::211")}, {ClusterIPs: addrs("10.96.0.10")}}
	want := addrs("10.0.2.15", "192.168.10.100", "198.51.100.4", "fd00:10::100")
	if got := state.OwnAddrs(devices, state.CarriedBy(slices.Values(services))); !slices.Equal(got, want) {
		t.Errorf("own addresses %v, want %v", got, want)
	}
}

// What is not known yet refuses nothing.
func TestRightfulOfEmptyTables(t *testing.T) {
	db, w := state.New()
	w.Update(func(tx *state.Tx) {
		db.Services.Put(tx, state.Service{Name: state.ObjectName{Namespace: "d", Name: "web"}, ExternalIPs: addrs("192.168.10.100")})
	})
	services, problems := state.Rightful(db, db.Snapshot())
	if len(problems) > 0 || len(services) != 1 || len(services[0].ExternalIPs) != 1 {
		t.Errorf("services %v, problems %v", services, problems)
	}
}

// The index says what asking every pool would.
func TestPoolIndex(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	at := func(n int) netip.Addr {
		if n < 40 {
			return netip.AddrFrom4([4]byte{10, 0, 0, byte(n)})
		}
		return netip.AddrFrom16([16]byte{15: byte(n)})
	}
	inside := 0
	for range 2000 {
		var pools []state.Pool
		for i := range rng.IntN(5) {
			p := state.Pool{Name: fmt.Sprint(i)}
			for range rng.IntN(4) {
				from := rng.IntN(80)
				to := min(from+rng.IntN(12), 79)
				if from < 40 {
					to = min(to, 39)
				}
				p.Ranges = append(p.Ranges, state.Range{From: at(from), To: at(to)})
			}
			pools = append(pools, p)
		}
		index := state.IndexPools(pools)
		for n := range 80 {
			pool, ok := index.Holding(at(n))
			if want := slices.ContainsFunc(pools, func(p state.Pool) bool { return p.Holds(at(n)) }); ok != want {
				t.Fatalf("%s held: %v, want %v, by %v", at(n), ok, want, pools)
			}
			if ok {
				inside++
				if !pool.Holds(at(n)) {
					t.Fatalf("%s held by %v", at(n), pool)
				}
			}
		}
	}
	if inside < 1000 {
		t.Fatalf("only %d addresses were in a pool: the pools show nothing", inside)
	}
}
