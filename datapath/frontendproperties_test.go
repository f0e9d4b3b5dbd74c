package datapath

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
)

// randomInput is a small cluster in which much collides.
func randomInput(rng *rand.Rand) FrontendInput {
	conditions := []string{"ready", "ready", "ready", "idle", "draining", "gone", "failing"}
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	in := FrontendInput{Node: state.Node{Name: "n1", Labels: map[string]string{corev1.LabelTopologyZone: "a"}}, Inside: rng.IntN(4) > 0,
		NodePortAddrs: addrList("192.168.10.101", "fd00:10::101"), HostPortAddrs: addrList("192.168.10.101", "fd00:10::101"),
		Defaults: Defaults{Forwarding: state.Forwarding(pick("", "dsr", "snat", "hybrid")), Dispatch: state.Dispatch(pick("", "ipip", "geneve"))}}
	for i := range rng.IntN(6) {
		svc := state.Service{Name: named(fmt.Sprintf("d/%d", i)), Created: time.Unix(int64(rng.IntN(2)), 0), Type: pick("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
			ExternalTrafficPolicyLocal: rng.IntN(2) == 0, InternalTrafficPolicyLocal: rng.IntN(2) == 0, Headless: rng.IntN(8) == 0,
			Ingress: addrList(pick("10.0.0.1", "10.0.0.2"), "fd00::1"), ExternalIPs: addrList(pick("10.0.0.1", "10.0.0.3")),
			ClusterIPs: addrList(fmt.Sprintf("10.96.0.%d", i), fmt.Sprintf("fd00:96::%d", i))}
		for p := range 1 + rng.IntN(2) {
			svc.Ports = append(svc.Ports, state.ServicePort{Name: fmt.Sprint(p), Port: uint16(80 + p), NodePort: uint16(rng.IntN(2) * (30080 + p)),
				Protocol: []state.Protocol{state.TCP, state.UDP, state.SCTP}[rng.IntN(3)]})
		}
		in.Services = append(in.Services, svc)
		for s := range rng.IntN(3) {
			slice := state.EndpointSlice{Name: named(fmt.Sprintf("d/%d-%d", i, s)), Service: svc.Name}
			for _, p := range svc.Ports {
				slice.Ports = append(slice.Ports, state.EndpointPort{Name: p.Name, Protocol: p.Protocol, Port: uint16(80 + rng.IntN(2))})
			}
			for range rng.IntN(5) {
				b := backend(pick("172.20.0.1", "172.20.0.2", "172.20.0.3", "fd00:20::1", "fd00:20::2"), pick("n1", "n2", ""), conditions[rng.IntN(len(conditions))])
				b.ForZones, b.ForNodes = pick("", "a", "a,b", "b"), pick("", "", "n1", "n2")
				slice.Endpoints = append(slice.Endpoints, b)
			}
			in.Slices = append(in.Slices, slice)
		}
	}
	for i := range rng.IntN(3) {
		in.Endpoints = append(in.Endpoints, state.Endpoint{ContainerID: fmt.Sprint(i), Pod: named(fmt.Sprintf("d/p%d", i)), Addr: netip.MustParseAddr(pick("172.20.0.7", "fd00:20::7")),
			HostPorts: []state.HostPort{{Port: uint16(30080 + rng.IntN(2)), Protocol: state.TCP, Target: 80}}})
	}
	return in
}

// Whatever is asked for, in whatever order: the same rows, each address:port
// once, and backends of its family and port, each in one list alone.
func TestFrontendsProperties(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 7))
	served := map[state.FrontendKind]int{}
	for range 300 {
		in := randomInput(rng)
		rows, problems := Frontends(in)
		other := in
		other.Services, other.Slices, other.Endpoints = slices.Clone(in.Services), slices.Clone(in.Slices), slices.Clone(in.Endpoints)
		rng.Shuffle(len(other.Services), func(i, j int) { other.Services[i], other.Services[j] = other.Services[j], other.Services[i] })
		rng.Shuffle(len(other.Slices), func(i, j int) { other.Slices[i], other.Slices[j] = other.Slices[j], other.Slices[i] })
		rng.Shuffle(len(other.Endpoints), func(i, j int) { other.Endpoints[i], other.Endpoints[j] = other.Endpoints[j], other.Endpoints[i] })
		if again, problemsAgain := Frontends(other); !reflect.DeepEqual(rows, again) || !reflect.DeepEqual(problems, problemsAgain) {
			t.Fatalf("in another order\n%+v\n%v\nwant\n%+v\n%v", again, problemsAgain, rows, problems)
		}
		checkRows(t, in, rows)
		for _, row := range rows {
			served[row.Kind]++
		}
	}
	for _, kind := range []state.FrontendKind{state.KindLoadBalancer, state.KindExternalIP, state.KindClusterIP, state.KindNodePort, state.KindHostPort} {
		if served[kind] < 20 {
			t.Errorf("only %d rows of kind %s: they show nothing", served[kind], kind)
		}
	}
}

// Whatever changes, one thing after another: what is decided for those that
// changed comes to what would be decided for all.
func TestFrontendDecider(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 15))
	partial := 0
	for range 40 {
		db, w := state.New()
		changes := w.Collect(db.EndpointSlices.Name())
		decider := FrontendDecider{DB: db, Node: "n1"}
		put := func(tx *state.Tx, in FrontendInput, what int) {
			switch what {
			case 0:
				for i, svc := range in.Services {
					if i%2 == 0 {
						svc.Probing = state.Probing{By: state.ProbeTCP}
					}
					db.Services.Put(tx, svc)
				}
			case 1:
				for _, pod := range in.Endpoints {
					pod.Interface = "eth0"
					db.Endpoints.Put(tx, pod)
				}
			case 2:
				db.Nodes.Put(tx, state.Node{Name: "n1", Addrs: in.NodePortAddrs[:rng.IntN(3)], Labels: in.Node.Labels})
			case 3: // some go
				for _, row := range db.EndpointSlices.Rows(tx) {
					if rng.IntN(3) == 0 {
						db.EndpointSlices.Delete(tx, row.RowKey())
					}
				}
			case 4, 5: // backends go down and up
				for _, s := range in.Slices {
					for _, b := range s.Endpoints {
						for _, port := range s.Ports {
							db.BackendHealth.Put(tx, state.BackendHealth{Service: s.Service, Addr: b.Addr.Unmap(), Port: port.Port, Up: rng.IntN(2) == 0})
						}
					}
				}
			default:
				for _, s := range in.Slices {
					if rng.IntN(2) == 0 {
						db.EndpointSlices.Put(tx, s)
					}
				}
			}
		}
		w.Update(func(tx *state.Tx) {
			for what := range 7 {
				put(tx, randomInput(rng), what)
			}
		})
		for range 30 {
			snap, changed := changes.Take()
			rows, problems, all := decider.Decide(snap, changed, false)
			w.Update(func(tx *state.Tx) {
				if all {
					state.Want(tx, db.Frontends, rows, time.Time{})
					return
				}
				partial++
				state.WantAlso(tx, db.Frontends, rows, time.Time{})
			})
			want, wantProblems := FrontendsOf(db, snap, "n1", Defaults{})
			wanted := map[string]state.Frontend{}
			for _, row := range want {
				wanted[row.RowKey()] = row
			}
			for _, row := range db.Frontends.Rows(db.Snapshot()) {
				if w, ok := wanted[row.RowKey()]; ok != row.Status.Wanted() || ok && !w.SameSpec(row) {
					t.Fatalf("all %v: row\n%+v\nwant\n%+v", all, row, w)
				}
				delete(wanted, row.RowKey())
			}
			if len(wanted) > 0 {
				t.Fatalf("all %v: %v are missing", all, wanted)
			}
			if got, want := sortedProblems(problems), sortedProblems(wantProblems); !slices.Equal(got, want) {
				t.Fatalf("all %v: problems\n%v\nwant\n%v", all, got, want)
			}
			w.Update(func(tx *state.Tx) { put(tx, randomInput(rng), rng.IntN(14)) })
		}
	}
	if partial < 300 {
		t.Errorf("only %d decisions were for those that changed: they show nothing", partial)
	}
}

// Whatever Services claim: no row takes an address that is the nodes' own, a
// gateway's, or a pool's that did not give it; and each claim has a Problem.
func TestFrontendsClaimNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(20, 8))
	free := addrList("203.0.113.1", "203.0.113.2", "2001:db8::1")
	taken := addrList("192.168.10.101", "10.0.2.15", "10.0.2.16", "192.168.10.200", "192.168.10.212", "fd00:10::101")
	pick := func() []netip.Addr {
		var some []netip.Addr
		for _, a := range slices.Concat(free, taken) {
			if rng.IntN(3) == 0 {
				some = append(some, a)
			}
		}
		return some
	}
	served, refused := 0, 0
	for range 200 {
		db, w := state.New()
		claims := map[netip.Addr]bool{}
		w.Update(func(tx *state.Tx) {
			db.Nodes.Put(tx, state.Node{Name: "n1", Addrs: addrList("192.168.10.101")})
			db.Devices.Put(tx, state.Device{Name: "eth0", Prefixes: prefixList("10.0.2.15/24")})
			db.Devices.Put(tx, state.Device{Name: "eth1", Prefixes: prefixList("192.168.10.101/24", "fd00:10::101/64"), Gateways: addrList("192.168.10.200")})
			db.NodeLeases.Put(tx, state.NodeLease{Node: "n2", Addrs: addrList("10.0.2.16")})
			db.Pools.Put(tx, state.Pool{Name: "p", Ranges: []state.Range{{From: taken[4], To: taken[4]}}})
			for i := range 4 {
				svc := state.Service{Name: named(fmt.Sprintf("d/%d", i)), Type: "NodePort", ExternalIPs: pick(), ClusterIPs: addrList(fmt.Sprintf("10.96.0.%d", i)),
					Ports: []state.ServicePort{{Protocol: state.TCP, Port: uint16(80 + i), NodePort: uint16(30080 + i)}}}
				if i == 0 {
					svc.ClusterIPs = pick()
				}
				for _, a := range slices.Concat(svc.ExternalIPs, svc.ClusterIPs) {
					claims[a] = true
				}
				db.Services.Put(tx, svc)
			}
		})
		rows, problems := FrontendsOf(db, db.Snapshot(), "n1", Defaults{})
		said := fmt.Sprint(problems)
		for _, row := range rows {
			served++
			if row.Kind != state.KindNodePort && row.Kind != state.KindClusterIP && slices.Contains(taken, row.Addr) {
				t.Fatalf("%s is served as %s", row.RowKey(), row.Kind)
			}
			if row.Kind == state.KindNodePort && !slices.Contains(addrList("192.168.10.101", "fd00:10::101"), row.Addr) {
				t.Fatalf("node port at %s", row.RowKey())
			}
			if row.Kind == state.KindClusterIP && slices.Contains(taken, row.Addr) && row.Addr != taken[4] {
				t.Fatalf("%s is served as %s", row.RowKey(), row.Kind)
			}
		}
		for a := range claims {
			if slices.Contains(taken, a) && a != taken[4] {
				refused++
				if !strings.Contains(said, a.String()+" is ") {
					t.Fatalf("nothing is said of %s: %s", a, said)
				}
			}
		}
	}
	if served < 500 || refused < 200 {
		t.Errorf("%d rows, %d claims refused: they show nothing", served, refused)
	}
}

func sortedProblems(problems []state.Problem) []string {
	var all []string
	for _, p := range problems {
		all = append(all, p.String())
	}
	slices.Sort(all)
	return all
}

// checkRows checks what holds for rows whatever they were decided by.
func checkRows(t *testing.T, in FrontendInput, rows []state.Frontend) {
	t.Helper()
	rightful := map[state.FrontendKind][]netip.Addr{state.KindNodePort: in.NodePortAddrs, state.KindHostPort: in.HostPortAddrs}
	for _, svc := range in.Services {
		rightful[state.KindLoadBalancer] = append(rightful[state.KindLoadBalancer], svc.Ingress...)
		rightful[state.KindExternalIP] = append(rightful[state.KindExternalIP], svc.ExternalIPs...)
		rightful[state.KindClusterIP] = append(rightful[state.KindClusterIP], svc.ClusterIPs...)
	}
	seen := map[string]bool{}
	for _, row := range rows {
		key := row.RowKey()
		if seen[key] {
			t.Fatalf("%s is there twice", key)
		}
		seen[key] = true
		if !slices.Contains(rightful[row.Kind], row.Addr) {
			t.Fatalf("%s: no address of kind %s", key, row.Kind)
		}
		if row.Port == 0 {
			continue
		}
		if row.Kind != state.KindHostPort && !in.Inside && (row.Kind == state.KindClusterIP || row.Kind == state.KindNodePort) {
			t.Fatalf("%s of kind %s is kube-proxy's", key, row.Kind)
		}
		for _, list := range [][]state.Backend{row.Backends, row.Inside, row.Draining} {
			if !slices.IsSortedFunc(list, state.Backend.Compare) {
				t.Fatalf("%s: %v is not sorted", key, list)
			}
			for _, b := range list {
				if b.Addr.Is4() != row.Addr.Is4() || b.Port == 0 {
					t.Fatalf("%s: backend %v", key, b)
				}
			}
		}
		for _, b := range row.Draining {
			if holdsBackend(row.Backends, b) || holdsBackend(row.Inside, b) {
				t.Fatalf("%s: %v drains and serves", key, b)
			}
		}
		if row.Forwarding == state.ForwardHybrid {
			t.Fatalf("%s is forwarded by %s", key, row.Forwarding)
		}
	}
}

// tenThousandServices are tables with 10,000 Services of 10 backends each, which
// n1 serves 30,000 frontends of.
func tenThousandServices() (*state.DB, *state.Writer) {
	db, w := state.New()
	w.Update(func(tx *state.Tx) {
		db.Nodes.Put(tx, state.Node{Name: "n1", Addrs: addrList("192.168.10.101")})
		db.Devices.Put(tx, state.Device{Name: "eth1", Prefixes: prefixList("192.168.10.101/24")})
		for i := range 10_000 {
			svc := state.Service{Name: named(fmt.Sprintf("d/s%d", i)), Type: "LoadBalancer", Ingress: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})},
				ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})},
				Ports:      []state.ServicePort{{Name: "http", Protocol: state.TCP, Port: 80, NodePort: uint16(20000 + i)}}}
			slice := endpointsOf(svc, 8080)
			for j := range 10 {
				slice.Endpoints = append(slice.Endpoints, state.Backend{Addr: netip.AddrFrom4([4]byte{172, byte(16 + j), byte(i >> 8), byte(i)}),
					Node: fmt.Sprintf("n%d", j), Ready: true, Serving: true})
			}
			db.Services.Put(tx, svc)
			db.EndpointSlices.Put(tx, slice)
		}
	})
	return db, w
}

// BenchmarkFrontends decides 10,000 Services of 10 backends each, from tables.
func BenchmarkFrontends(b *testing.B) {
	db, w := tenThousandServices()
	b.Run("decide", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if rows, _ := FrontendsOf(db, db.Snapshot(), "n1", Defaults{}); len(rows) != 30_000 {
				b.Fatalf("%d rows", len(rows))
			}
		}
	})
	b.Run("one changed", func(b *testing.B) {
		changes := w.Collect(db.EndpointSlices.Name())
		defer changes.Close()
		decider := FrontendDecider{DB: db, Node: "n1"}
		decider.Decide(db.Snapshot(), nil, true)
		slice, _ := db.EndpointSlices.Get(db.Snapshot(), "d/s7")
		b.ReportAllocs()
		for b.Loop() {
			slice.Endpoints = slices.Clone(slice.Endpoints)
			slice.Endpoints[3].Ready = !slice.Endpoints[3].Ready
			w.Update(func(tx *state.Tx) { db.EndpointSlices.Put(tx, slice) })
			snap, changed := changes.Take()
			if rows, _, all := decider.Decide(snap, changed, false); all || len(rows) != 3 {
				b.Fatalf("%d rows", len(rows))
			}
		}
	})
	rows, _ := FrontendsOf(db, db.Snapshot(), "n1", Defaults{})
	b.Run("want", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.Update(func(tx *state.Tx) { state.Want(tx, db.Frontends, rows, time.Now()) })
		}
	})
}
