package lbipam

import (
	"net/netip"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func avoiding(p *state.Pool) { p.AvoidBuggyIPs = true }

// Addresses that old equipment takes for others' are given to who asks for
// them, and are no part of what is counted until then.
func TestAvoidBuggyIPs(t *testing.T) {
	for _, c := range []struct {
		name             string
		services         []state.Service
		ranges           string
		want             string
		total, available string
	}{
		{"both ends of a /24", []state.Service{svc("a", 1)}, "10.0.0.0-10.0.0.255",
			"a 10.0.0.1@p\n", "254", "253"},
		{"over the end", []state.Service{svc("a", 1, carries("10.0.0.254")), svc("b", 2)}, "10.0.0.254-10.0.1.1",
			"a 10.0.0.254@p\nb 10.0.1.1@p\n", "2", "0"},
		{"asked for", []state.Service{svc("a", 1, asks("10.0.1.0")), svc("b", 2)}, "10.0.0.255-10.0.1.1",
			"a 10.0.1.0@p\nb 10.0.1.1@p\n", "2", "0"},
		{"carried", []state.Service{svc("a", 1, carries("10.0.0.255")), svc("b", 2)}, "10.0.0.255-10.0.1.1",
			"a 10.0.0.255@p\nb 10.0.1.1@p\n", "2", "0"},
		{"none is left but those", []state.Service{svc("a", 1), svc("b", 2)}, "10.0.0.254-10.0.1.0",
			"a 10.0.0.254@p\nb PoolExhausted: no free IPv4 address in pool p (1 of 1 in use): add a block, or release an address\n", "1", "0"},
		{"there is nothing but those", []state.Service{svc("a", 1)}, "10.0.0.255-10.0.1.0",
			"a PoolExhausted: no free IPv4 address in pool p (0 of 0 in use): add a block, or release an address\n", "0", "0"},
		{"IPv6 has none", []state.Service{svc("a", 1, families("IPv6"))}, "fd00::-fd00::1",
			"a fd00::@p\n", "2", "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rows, statuses := allocate(c.services, []state.Pool{pl("p", 0, c.ranges, avoiding)})
			if got := text(rows); got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
			if s := statuses[0]; s.Total != c.total || s.Available != c.available {
				t.Errorf("%s of %s available, want %s of %s", s.Available, s.Total, c.available, c.total)
			}
		})
	}
}

func TestBuggyCount(t *testing.T) {
	for _, c := range []struct {
		from, to string
		want     int64
	}{
		{"0.0.0.0", "0.0.0.0", 1}, {"0.0.0.0", "255.255.255.255", 1 << 25}, {"10.0.0.0", "10.255.255.255", 1 << 17},
		{"10.0.0.1", "10.0.0.254", 0}, {"10.0.0.1", "10.0.0.255", 1}, {"10.0.0.255", "10.0.1.0", 2}, {"10.0.0.9", "10.0.2.0", 4},
	} {
		s := set{{From: ip(c.from), To: ip(c.to)}}
		if got := s.buggy(); got != c.want {
			t.Errorf("%s to %s: %d, want %d", c.from, c.to, got, c.want)
		}
	}
	s := set{span("10.0.3.250", "10.0.9.3")}
	n := int64(0)
	for a := s[0].From; a.Compare(s[0].To) <= 0; a = a.Next() {
		if b := a.As4()[3]; b == 0 || b == 255 {
			n++
		}
	}
	if got := s.buggy(); got != n {
		t.Errorf("%d, counted one by one %d", got, n)
	}
}

// A /8 that avoids them costs what a /30 costs.
func TestAvoidBuggyIPsOfALargePool(t *testing.T) {
	allocs := func(ranges string) float64 {
		pools := []state.Pool{pl("p", 0, ranges, avoiding)}
		services := []state.Service{svc("a", 1), svc("b", 2)}
		return testing.AllocsPerRun(100, func() { allocate(services, pools) })
	}
	if narrow, wide := allocs("10.0.0.4-10.0.0.7"), allocs("10.0.0.0-10.255.255.255"); wide > narrow*1.5 {
		t.Errorf("/8: %v allocations, /30: %v", wide, narrow)
	}
}

func TestNamespaces(t *testing.T) {
	in := Inputs{
		Services: []state.Service{svc("blue/a", 1), svc("green/b", 2), svc("unknown/c", 3)},
		Pools: []state.Pool{pl("gold", 0, "10.0.1.1-10.0.1.9", inNamespaces("tier", "gold")),
			pl("name", 1, "10.0.2.1-10.0.2.9", inNamespaces("kubernetes.io/metadata.name", "unknown"))},
		Namespaces: []state.Namespace{{Name: "green", Labels: map[string]string{"tier": "tin"}}, {Name: "blue", Labels: map[string]string{"tier": "gold"}}},
	}
	rows, _ := in.Allocate()
	want := "blue/a 10.0.1.1@gold\n" +
		"green/b NoPool: no pool gives this Service an IPv4 address: gold (its namespaceSelector does not select namespace green), name (its namespaceSelector does not select namespace green): change one of them, or create another\n" +
		"unknown/c 10.0.2.1@name\n"
	if got := text(rows); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// What others have of a pool is not free, and nobody loses what was given.
func TestReserved(t *testing.T) {
	other := func(name string, f func(*state.Service)) state.Service {
		s := state.Service{Name: state.ObjectName{Namespace: "other", Name: name}, Type: "ClusterIP"}
		f(&s)
		return s
	}
	external := other("external", func(s *state.Service) { s.ExternalIPs = ips([]string{"10.0.0.1"}) })
	foreign := other("foreign", func(s *state.Service) {
		s.Type, s.Class, s.Ingress = "LoadBalancer", "example.com/lb", ips([]string{"10.0.0.1"})
	})
	cluster := other("cluster", func(s *state.Service) { s.ClusterIPs = ips([]string{"10.0.0.1"}) })
	node := []state.Node{{Name: "n", Addrs: ips([]string{"10.0.0.1"})}}
	lease := []state.NodeLease{{Node: "n", Interfaces: []state.LeaseInterface{{Name: "eth1", Gateways: ips([]string{"10.0.0.1"})}}}}
	for _, c := range []struct {
		name   string
		in     Inputs
		holder string
	}{
		{"a node", Inputs{Nodes: node}, "the address of node n"},
		{"a gateway", Inputs{Leases: lease}, "a gateway of node n, through eth1"},
		{"a clusterIP", Inputs{Services: []state.Service{cluster}}, "the clusterIP of service/other/cluster"},
		{"an externalIP", Inputs{Services: []state.Service{external}}, "in spec.externalIPs of Service other/external"},
		{"another load balancer's", Inputs{Services: []state.Service{foreign}}, "in the status of Service other/foreign, of loadBalancerClass example.com/lb"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := c.in
			in.Pools = []state.Pool{pl("p", 0, few)}
			in.Services = append([]state.Service{svc("a", 1), svc("b", 2, asks("10.0.0.1"))}, c.in.Services...)
			rows, statuses := in.Allocate()
			want := "a 10.0.0.2@p\nb AlreadyAssigned: 10.0.0.1, asked for in spec.loadBalancerIP, is " + c.holder + ": ask for another address\n"
			if got := text(rows); got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
			if s := statuses[0]; s.Used != "2" || s.Available != "1" {
				t.Errorf("%s used, %s available; want 2 and 1", s.Used, s.Available)
			}
			in.Services = append([]state.Service{svc("a", 1), svc("b", 2, carries("10.0.0.1"))}, c.in.Services...)
			rows, _ = in.Allocate()
			if got, want := text(rows), "a 10.0.0.2@p\nb 10.0.0.1@p\n"; got != want {
				t.Errorf("carried: got\n%swant\n%s", got, want)
			}
		})
	}
	t.Run("its own externalIP", func(t *testing.T) {
		a := svc("a", 1, asks("10.0.0.1"))
		a.ExternalIPs = ips([]string{"10.0.0.1"})
		rows, _ := allocate([]state.Service{a}, []state.Pool{pl("p", 0, few)})
		if got, want := text(rows), "a 10.0.0.1@p\n"; got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	})
}

// While another project's programs run, Services without a class are theirs.
func TestLeftToOthers(t *testing.T) {
	db, w := state.New()
	w.Update(func(tx *state.Tx) {
		db.Agents.Put(tx, state.Agent{Product: "MetalLB", Role: state.AgentAllocates})
		db.Pools.Put(tx, state.Pool{Name: "theirs", Origin: state.ObjectRef{Kind: "IPAddressPool", Name: "theirs"}})
	})
	in := Inputs{
		Services: []state.Service{svc("a", 1, carries("10.0.0.1")), svc("b", 2, class("seamark.dev/l2")), svc("c", 3, class("seamark.dev/bgp"), asks("10.0.0.1"))},
		Pools:    []state.Pool{pl("p", 0, few)},
		Left:     state.LeavingsOf(db, db.Snapshot()),
	}
	rows, _ := in.Allocate()
	want := "b 10.0.0.2@p\n" +
		"c AlreadyAssigned: 10.0.0.1, asked for in spec.loadBalancerIP, is in the status of Service default/a, which is left to MetalLB: ask for another address\n"
	if got := text(rows); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	in.Left = state.Leavings{}
	rows, _ = in.Allocate()
	if got, want := text(rows[:2]), "a 10.0.0.1@p\nb 10.0.0.2@p\n"; got != want {
		t.Errorf("when they are gone, got\n%swant\n%s", got, want)
	}
}

// One Service and its neighbour through changes of what there is. The status
// is written after each.
func TestLife(t *testing.T) {
	in := Inputs{
		Services: []state.Service{svc("a", 1), svc("b", 2)},
		Pools:    []state.Pool{pl("p", 0, few), pl("q", 1, "10.0.1.1-10.0.1.3")},
	}
	a := &in.Services[0]
	for _, step := range []struct {
		name   string
		change func()
		want   string
	}{
		{"at first", func() {}, "a 10.0.0.1@p\nb 10.0.0.2@p\n"},
		{"of BGP now", func() { a.Class = "seamark.dev/bgp" }, "a 10.0.0.1@p\nb 10.0.0.2@p\n"},
		{"another load balancer's: no row, and what it carries is not free", func() { a.Class = "example.com/lb"; in.Services[1].Ingress = nil },
			"b 10.0.0.2@p\n"},
		{"Seamark's again", func() { a.Class = "" }, "a 10.0.0.1@p\nb 10.0.0.2@p\n"},
		{"no load balancer's", func() { a.Type = "NodePort"; a.Ingress = nil }, "b 10.0.0.2@p\n"},
		{"a load balancer's again", func() { a.Type = "LoadBalancer" }, "a 10.0.0.1@p\nb 10.0.0.2@p\n"},
		{"pool disabled", func() { in.Pools[0].Disabled = true }, "a 10.0.0.1@p\nb 10.0.0.2@p\n"},
		{"pool shrinks", func() { in.Pools[0].Ranges = []state.Range{span("10.0.0.2", "10.0.0.3")} }, "a 10.0.1.1@q\nb 10.0.0.2@p\n"},
		{"pool does not parse: its last ranges hold", func() { in.Pools[0].Invalid = "spec.blocks[0]: bad" }, "a 10.0.1.1@q\nb 10.0.0.2@p\n"},
		{"pool gone", func() { in.Pools = in.Pools[1:] }, "a 10.0.1.1@q\nb 10.0.1.2@q\n"},
		{"pool of the same name, created anew", func() { in.Pools = append(in.Pools, pl("p", 9, few)) }, "a 10.0.1.1@q\nb 10.0.1.2@q\n"},
		{"recreated under the same name", func() { a.UID, a.Created, a.Ingress = "another", age(5), nil }, "a 10.0.1.1@q\nb 10.0.1.2@q\n"},
		{"every pool gone", func() { in.Pools = nil },
			"a NoPool: no pool holds IPv4 addresses: create one, or add a block\nb NoPool: no pool holds IPv4 addresses: create one, or add a block\n"},
		{"the pools are back: what it had, and not the lowest", func() { in.Pools = []state.Pool{pl("p", 0, few), pl("q", 1, "10.0.1.1-10.0.1.3")} },
			"a 10.0.1.1@q\nb 10.0.1.2@q\n"},
		{"gone again", func() { in.Pools = nil },
			"a NoPool: no pool holds IPv4 addresses: create one, or add a block\nb NoPool: no pool holds IPv4 addresses: create one, or add a block\n"},
		{"one is back: what it had or may have", func() { in.Pools = []state.Pool{pl("q", 1, "10.0.1.2-10.0.1.3")} }, "a 10.0.1.3@q\nb 10.0.1.2@q\n"},
		{"all back: what it has stays", func() { in.Pools = []state.Pool{pl("p", 0, few), pl("q", 1, "10.0.1.1-10.0.1.3")} },
			"a 10.0.1.3@q\nb 10.0.1.2@q\n"},
	} {
		step.change()
		rows, _ := in.Allocate()
		in.Decided = rows
		if got := text(rows); got != step.want {
			t.Fatalf("%s: got\n%swant\n%s", step.name, got, step.want)
		}
		for _, r := range rows {
			for i := range in.Services {
				if in.Services[i].Name == r.Service {
					in.Services[i].Ingress = r.Addrs
				}
			}
		}
	}
}

func TestReadInputs(t *testing.T) {
	db, w := state.New()
	ready := func(want bool) {
		t.Helper()
		if got := Ready(db, db.Snapshot()); got != want {
			t.Errorf("ready %v, want %v", got, want)
		}
	}
	w.Update(func(tx *state.Tx) {
		db.Services.Put(tx, svc("a", 1))
		db.Services.Put(tx, svc("b", 2))
		db.Pools.Put(tx, pl("p", 0, few, inNamespaces("tier", "gold")))
		db.Namespaces.Put(tx, state.Namespace{Name: "default", Labels: map[string]string{"tier": "gold"}})
		db.Nodes.Put(tx, state.Node{Name: "n", Addrs: ips([]string{"10.0.0.1"})})
		db.NodeLeases.Put(tx, state.NodeLease{Node: "n", Interfaces: []state.LeaseInterface{{Gateways: []netip.Addr{ip("10.0.0.2")}}}})
		db.Services.MarkSynced(tx)
		db.Pools.MarkSynced(tx)
		db.Nodes.MarkSynced(tx)
	})
	ready(false)
	w.Update(func(tx *state.Tx) { db.Namespaces.MarkSynced(tx); db.Agents.MarkSynced(tx) })
	ready(true)
	rows, _ := ReadInputs(db, db.Snapshot()).Allocate()
	if got, want := text(rows[:1]), "a 10.0.0.3@p\n"; got != want || len(rows[1].Addrs) > 0 {
		t.Errorf("got\n%s", text(rows))
	}
	// Decided, and not in the status yet: it stays, also when older ones come.
	w.Update(func(tx *state.Tx) {
		state.Want(tx, db.Allocations, rows, time.Now())
		db.Services.Put(tx, svc("older", 0))
	})
	rows, _ = ReadInputs(db, db.Snapshot()).Allocate()
	if len(rows) != 3 || text(rows[:1]) != "a 10.0.0.3@p\n" || len(rows[2].Addrs) > 0 {
		t.Errorf("then\n%s", text(rows))
	}
}

// A pool that a new daemon cannot read: what was given of it stays, and nothing
// new is given for it.
func TestUnreadPool(t *testing.T) {
	ours := func(s *state.Service) {
		s.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionIPAMRequestSatisfied, Status: metav1.ConditionTrue}}
	}
	broken := state.Pool{Name: "broken", AutoAssign: true, Invalid: "spec.blocks[1].cidr: 10.0.1.0-oops is no CIDR"}
	services := []state.Service{svc("given", 1, carries("10.0.9.1"), ours), svc("twice", 2, carries("10.0.9.1"), ours),
		svc("written-by-another", 3, carries("10.0.9.2")), svc("new", 4)}
	rows, _ := allocate(services, []state.Pool{broken, pl("p", 1, few)})
	want := "given 10.0.9.1@broken\nnew 10.0.0.3@p\ntwice 10.0.0.1@p\nwritten-by-another 10.0.0.2@p\n"
	if got := text(rows); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	rows, _ = allocate(services[:1], []state.Pool{pl("p", 1, few)})
	if got, want := text(rows), "given 10.0.0.1@p\n"; got != want {
		t.Errorf("when the pool is gone, got\n%swant\n%s", got, want)
	}
}
