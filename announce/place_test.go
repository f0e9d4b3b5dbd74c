package announce

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seamark-lb/seamark/state"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func addr(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 10, byte(i)}) }

func service(name string, addrs ...netip.Addr) state.Service {
	return state.Service{Name: state.ObjectName{Namespace: "default", Name: name}, Type: "LoadBalancer",
		Labels: map[string]string{"app": name}, Ingress: addrs}
}

func matchLabels(k, v string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{k: v}}
}

// lease of a node whose eth1 has 192.168.10.x/24.
func lease(node string, x int) state.NodeLease {
	return state.NodeLease{Node: node, Duration: 3 * time.Second, Renewal: "1", Interfaces: []state.LeaseInterface{{
		Name: "eth1", MAC: fmt.Sprintf("02:00:00:00:00:%02x", x), Up: true,
		Prefixes: []netip.Prefix{netip.PrefixFrom(addr(0), 24)},
	}}}
}

// lab is three live nodes on one subnet, a policy for eth1 and a Service with 192.168.10.211.
func lab() Inputs {
	in := Inputs{
		Services: []state.Service{service("web", addr(211))},
		Policies: []state.L2Policy{{Name: "all", Origin: policyRef("all"), Interfaces: []string{"^eth1$"}, LoadBalancerIPs: true, ExternalIPs: true}},
		Verdicts: map[string]Verdict{},
	}
	for i, node := range []string{"a", "b", "c"} {
		in.Nodes = append(in.Nodes, state.Node{Name: node, Labels: map[string]string{"name": node}})
		in.Leases = append(in.Leases, lease(node, i+1))
		in.Verdicts[node] = Live
	}
	return in
}

func holders(rows []state.Assignment) map[string]string {
	m := map[string]string{}
	for _, r := range rows {
		m[r.Addr.String()] = r.Node
	}
	return m
}

// One address, one thing changed at a time: who holds it, and why the others do not.
func TestCandidates(t *testing.T) {
	const ip = "192.168.10.211"
	for _, tc := range []struct {
		name   string
		change func(*Inputs)
		node   string
		bars   string // of a, b and c
	}{
		{"first by name", func(*Inputs) {}, "a", ""},
		{"expired", func(in *Inputs) { in.Verdicts["a"] = Expired }, "b", "a:LeaseExpired"},
		{"released", func(in *Inputs) { in.Verdicts["a"] = Released }, "b", "a:Released"},
		{"resting gets nothing new", func(in *Inputs) { in.Verdicts["a"] = Resting }, "b", ""},
		{"frozen gets nothing new", func(in *Inputs) { in.Verdicts["a"] = Frozen }, "b", ""},
		{"no lease", func(in *Inputs) { in.Leases = in.Leases[1:]; delete(in.Verdicts, "a") }, "b", "a:NoLease"},
		{"no such node", func(in *Inputs) { in.Nodes = in.Nodes[1:] }, "b", "a:UnknownNode"},
		{"excluded by label", func(in *Inputs) { in.Nodes[0].Labels[labelExclude] = "" }, "b", "a:Excluded"},
		{"drained", func(in *Inputs) { in.Verdicts["a"], in.Leases[0].Drained = Released, true }, "b", "a:Drained"},
		{"shutting down", func(in *Inputs) { in.Nodes[0].Stopping = true }, "b", "a:Stopping"},
		{"cordoned", func(in *Inputs) { in.Nodes[0].Unschedulable = true }, "a", ""},
		{"cordoned, which drains", func(in *Inputs) { in.Nodes[0].Unschedulable, in.DrainCordoned = true, true }, "b", "a:Cordoned"},
		{"node selector", func(in *Inputs) { in.Policies[0].NodeSelector = matchLabels("name", "c") }, "c",
			"a:NotSelected b:NotSelected"},
		{"no such interface", func(in *Inputs) { in.Leases[0].Interfaces[0].Name = "eth10" }, "b", "a:NoInterface"},
		{"down", func(in *Inputs) { in.Leases[0].Interfaces[0].Up = false }, "b", "a:InterfaceDown"},
		{"all down", func(in *Inputs) {
			for i := range in.Leases {
				in.Leases[i].Interfaces[0].Up = false
			}
		}, "", "a:InterfaceDown b:InterfaceDown c:InterfaceDown"},
		{"other subnet", func(in *Inputs) {
			in.Leases[0].Interfaces[0].Prefixes = []netip.Prefix{netip.MustParsePrefix("192.168.20.0/24")}
		}, "b", "a:OffLink"},
		{"address of no subnet", func(in *Inputs) {
			in.Leases[0].Interfaces[0].Prefixes = []netip.Prefix{netip.MustParsePrefix("192.168.20.0/24")}
			in.Services[0].Ingress[0] = netip.MustParseAddr("203.0.113.1")
		}, "a", ""},
		{"the dead say where an address belongs", func(in *Inputs) {
			for i := range in.Leases[1:] {
				in.Leases[i+1].Interfaces[0].Prefixes = []netip.Prefix{netip.MustParsePrefix("192.168.20.0/24")}
			}
			in.Verdicts["a"] = Expired
		}, "", "a:LeaseExpired b:OffLink c:OffLink"},
		{"a VIP on an interface is no subnet", func(in *Inputs) {
			in.Leases[2].Interfaces[0].Prefixes = []netip.Prefix{netip.MustParsePrefix("203.0.113.1/32")}
			in.Services[0].Ingress[0] = netip.MustParseAddr("203.0.113.1")
		}, "a", ""},
		{"no local backend", func(in *Inputs) {
			in.Services[0].ExternalTrafficPolicyLocal = true
			in.Slices = []state.EndpointSlice{{Service: in.Services[0].Name, Endpoints: []state.Backend{
				{Node: "a", Ready: false, Serving: true}, {Node: "c", Ready: true}}}}
		}, "c", "a:NoLocalBackend b:NoLocalBackend"},
		{"local backend of another Service", func(in *Inputs) {
			in.Services[0].ExternalTrafficPolicyLocal = true
			in.Slices = []state.EndpointSlice{{Service: state.ObjectName{Namespace: "other", Name: "web"},
				Endpoints: []state.Backend{{Node: "a", Ready: true}}}}
		}, "", "a:NoLocalBackend b:NoLocalBackend c:NoLocalBackend"},
		{"backend on no node", func(in *Inputs) {
			in.Services[0].ExternalTrafficPolicyLocal = true
			in.Slices = []state.EndpointSlice{{Service: in.Services[0].Name, Endpoints: []state.Backend{{Node: "", Ready: true}}}}
		}, "a", ""},
		{"backend on no node, not ready", func(in *Inputs) {
			in.Services[0].ExternalTrafficPolicyLocal = true
			in.Slices = []state.EndpointSlice{{Service: in.Services[0].Name, Endpoints: []state.Backend{{Node: ""}}}}
		}, "", "a:NoLocalBackend b:NoLocalBackend c:NoLocalBackend"},
		{"backend on no node, beside one that is on one", func(in *Inputs) {
			in.Services[0].ExternalTrafficPolicyLocal = true
			in.Slices = []state.EndpointSlice{{Service: in.Services[0].Name, Endpoints: []state.Backend{{Node: "", Ready: true}, {Node: "b", Ready: true}}}}
		}, "b", "a:NoLocalBackend c:NoLocalBackend"},
		{"no backends: kept", func(in *Inputs) {}, "a", ""},
		{"no backends: withdrawn", func(in *Inputs) {
			in.Policies[0].Withdraw = true
			in.Slices = []state.EndpointSlice{{Service: in.Services[0].Name, Endpoints: []state.Backend{{Node: "a", Serving: true}, {Node: "b", Terminating: true}}}}
		}, "", "a:NoBackend b:NoBackend c:NoBackend"},
		{"withdrawn by one policy, kept by another", func(in *Inputs) {
			in.Policies[0].Withdraw = true
			in.Policies = append(in.Policies, state.L2Policy{Name: "b", Origin: policyRef("b"), LoadBalancerIPs: true})
		}, "a", ""},
		{"withdrawn without backends, and one is ready", func(in *Inputs) {
			in.Policies[0].Withdraw = true
			in.Slices = []state.EndpointSlice{{Service: in.Services[0].Name, Endpoints: []state.Backend{{Node: "c", Ready: true}}}}
		}, "a", ""},
		{"withdrawn without backends, and one serves while it terminates", func(in *Inputs) {
			in.Policies[0].Withdraw = true
			in.Slices = []state.EndpointSlice{{Service: in.Services[0].Name, Endpoints: []state.Backend{{Node: "c", Serving: true, Terminating: true}}}}
		}, "a", ""},
		{"shared address, and the other Service has a backend", func(in *Inputs) {
			in.Policies[0].Withdraw = true
			in.Services = append(in.Services, service("zoo", addr(211)))
			in.Slices = []state.EndpointSlice{{Service: in.Services[1].Name, Endpoints: []state.Backend{{Node: "c", Ready: true}}}}
		}, "a", ""},
		{"preferred", func(in *Inputs) { in.Policies[0].Preferred = prefer("b", 1) }, "b", ""},
		{"preferred, by weight", func(in *Inputs) { in.Policies[0].Preferred = append(prefer("b", 1), prefer("c", 2)...) }, "c", ""},
		{"preferred, by the sum of weights", func(in *Inputs) {
			in.Policies[0].Preferred = slices.Concat(prefer("c", 3), prefer("b", 2), prefer("b", 2))
		}, "b", ""},
		{"preferred by a policy that does not select it", func(in *Inputs) {
			in.Policies[0].Preferred, in.Policies[0].NodeSelector = prefer("b", 1), matchLabels("name", "c")
			in.Policies = append(in.Policies, state.L2Policy{Name: "b", Origin: policyRef("b"), LoadBalancerIPs: true})
		}, "a", ""},
		{"preferred, and dead", func(in *Inputs) {
			in.Policies[0].Preferred = prefer("a", 1)
			in.Verdicts["a"] = Expired
		}, "b", "a:LeaseExpired"},
		{"second policy", func(in *Inputs) {
			in.Policies[0].NodeSelector = matchLabels("name", "c")
			in.Policies = append(in.Policies, state.L2Policy{Name: "b", Origin: policyRef("b"), NodeSelector: matchLabels("name", "b"), LoadBalancerIPs: true})
		}, "b", "a:NotSelected"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := lab()
			tc.change(&in)
			vip := in.Services[0].Ingress[0]
			rows := Place(in, epoch)
			if len(rows) != 1 || rows[0].Node != tc.node {
				t.Errorf("placed %v, want %s on %q", holders(rows), ip, tc.node)
			}
			if tc.node == "" && rows[0].Reason != state.ReasonNoCandidate {
				t.Errorf("reason %s, want NoCandidate", rows[0].Reason)
			}
			if tc.node != "" && (!slices.Equal(rows[0].Interfaces, []string{"eth1"}) || rows[0].Generation != 1 ||
				rows[0].Reason != state.ReasonFirstAssignment || !rows[0].Since.Equal(epoch)) {
				t.Errorf("first assignment is %+v", rows[0])
			}
			var bars []string
			for _, stand := range Explain(in, vip) {
				if stand.Bar != "" {
					bars = append(bars, stand.Node+":"+string(stand.Bar))
				}
			}
			if got := strings.Join(bars, " "); got != tc.bars {
				t.Errorf("explained as %q, want %q", got, tc.bars)
			}
		})
	}
}

func prefer(node string, weight int32) []state.NodePreference {
	return []state.NodePreference{{Selector: matchLabels("name", node), Weight: weight}}
}

func TestWantedAddresses(t *testing.T) {
	for _, tc := range []struct {
		name    string
		change  func(*Inputs)
		want    string
		problem string
	}{
		{"load balancer address", func(*Inputs) {}, "192.168.10.211=default/web", ""},
		{"external address", func(in *Inputs) {
			in.Services[0] = state.Service{Name: in.Services[0].Name, Type: "ClusterIP", Ingress: []netip.Addr{addr(1)}, ExternalIPs: []netip.Addr{addr(2)}}
		}, "192.168.10.2=default/web", ""},
		{"neither asked for", func(in *Inputs) {
			in.Policies[0].LoadBalancerIPs, in.Policies[0].ExternalIPs = false, false
			in.Services[0].ExternalIPs = []netip.Addr{addr(2)}
		}, "", ""},
		{"for L2", func(in *Inputs) { in.Services[0].Class = "seamark.dev/l2" }, "192.168.10.211=default/web", ""},
		{"for BGP", func(in *Inputs) {
			in.Services[0].Class, in.Services[0].ExternalIPs = "seamark.dev/bgp", []netip.Addr{addr(2)}
		}, "", ""},
		{"for another's L2, which the source has not translated", func(in *Inputs) { in.Services[0].Class = "io.cilium/l2-announcer" }, "", ""},
		{"no longer a load balancer's", func(in *Inputs) { in.Services[0].Type = "ClusterIP" }, "", ""},
		{"for another load balancer", func(in *Inputs) { in.Services[0].Class = "example.com/lb" }, "", ""},
		{"service selector", func(in *Inputs) { in.Policies[0].ServiceSelector = matchLabels("app", "shop") }, "", ""},
		{"by namespace", func(in *Inputs) { in.Policies[0].ServiceSelector = matchLabels(state.LabelServiceNamespace, "default") },
			"192.168.10.211=default/web", ""},
		{"shared address", func(in *Inputs) { in.Services = append(in.Services, service("shop", addr(211))) },
			"192.168.10.211=default/shop", ""},
		{"bad preference", func(in *Inputs) {
			in.Policies[0].Preferred = []state.NodePreference{{Selector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "x", Operator: "Near"}}}}}
		}, "", "l2policy/all: spec.preferredNodes[0].nodeSelector"},
		{"bad expression", func(in *Inputs) { in.Policies[0].Interfaces = []string{"eth1", "eth["} }, "",
			"l2policy/all: spec.interfaces[1]: \"eth[\": error parsing regexp"},
		{"bad expression beside a good one", func(in *Inputs) {
			in.Policies = append(in.Policies, state.L2Policy{Name: "bad", Origin: policyRef("bad"), Interfaces: []string{"("}, LoadBalancerIPs: true})
		}, "192.168.10.211=default/web", "l2policy/bad: spec.interfaces[0]"},
		{"bad selector", func(in *Inputs) {
			in.Policies[0].NodeSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "x", Operator: "Near"}}}
		}, "", "l2policy/all: spec.nodeSelector"},
		{"matches nothing", func(in *Inputs) { in.Policies[0].Interfaces = []string{"^eth1$", "bond0"} },
			"192.168.10.211=default/web", "l2policy/all: spec.interfaces[1]: \"bond0\" matches no interface"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := lab()
			tc.change(&in)
			var got []string
			for _, row := range Place(in, epoch) {
				got = append(got, row.Addr.String()+"="+row.Service.String())
			}
			if s := strings.Join(got, " "); s != tc.want {
				t.Errorf("placed %q, want %q", s, tc.want)
			}
			problems := Problems(in)
			switch {
			case tc.problem == "" && len(problems) != 0:
				t.Errorf("problems %v, want none", problems)
			case tc.problem != "" && (len(problems) != 1 || !strings.HasPrefix(problems[0].String(), tc.problem)):
				t.Errorf("problems %v, want one: %s", problems, tc.problem)
			}
		})
	}
}

// Of web's 211 in pool lab and shop's 221 in theirs, and the external 2.
func TestPolicyLimitedToPools(t *testing.T) {
	for _, tc := range []struct {
		name     string
		pools    []string
		selector *metav1.LabelSelector
		want     string
		problem  string
	}{
		{"absent: no limit", nil, nil, "2 211 221 230", ""},
		{"one", []string{"lab"}, nil, "2 211", ""},
		{"another project's, by its name there", []string{"theirs"}, nil, "2 221", ""},
		{"another project's, by its row", []string{"IPAddressPool/metallb-system/theirs"}, nil, "2 221", ""},
		{"by labels", nil, matchLabels("tier", "gold"), "2 221", ""},
		{"by name or labels", []string{"lab"}, matchLabels("tier", "gold"), "2 211 221", ""},
		{"by labels that no pool has", nil, matchLabels("tier", "tin"), "2", ""},
		{"every pool", nil, &metav1.LabelSelector{}, "2 211 221 230", ""},
		{"one that is not there", []string{"lab", "gone"}, nil, "2 211",
			`l2policy/all: spec.pools[1]: there is no pool "gone"; create it, or name IPAddressPool/metallb-system/theirs, lab, unread`},
		{"one that nobody can read: what no pool holds may be of it", []string{"unread"}, nil, "2 230", ""},
		{"bad selector", nil, &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "x", Operator: "Near"}}},
			"", "l2policy/all: spec.poolSelector: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := lab()
			in.Services = append(in.Services, service("shop", addr(221)), service("unread", addr(230)))
			in.Services[0].ExternalIPs = []netip.Addr{addr(2)}
			in.Policies[0].Pools, in.Policies[0].PoolSelector = tc.pools, tc.selector
			in.Pools = []state.Pool{
				{Name: "lab", Origin: state.ObjectRef{Kind: "IPPool", Name: "lab"}, Ranges: []state.Range{{From: addr(211), To: addr(215)}}},
				{Name: "IPAddressPool/metallb-system/theirs", Origin: state.ObjectRef{Kind: "IPAddressPool", Namespace: "metallb-system", Name: "theirs"},
					Labels: map[string]string{"tier": "gold"}, Ranges: []state.Range{{From: addr(221), To: addr(225)}}},
				{Name: "unread", Invalid: "spec.blocks[0].cidr: oops is no CIDR"},
			}
			var got []string
			for _, row := range Place(in, epoch) {
				got = append(got, fmt.Sprint(row.Addr.As4()[3]))
			}
			if s := strings.Join(got, " "); s != tc.want {
				t.Errorf("placed %q, want %q", s, tc.want)
			}
			problems := Problems(in)
			if tc.problem == "" && len(problems) != 0 || tc.problem != "" && (len(problems) != 1 || !strings.HasPrefix(problems[0].String(), tc.problem)) {
				t.Errorf("problems %v, want %q", problems, tc.problem)
			}
		})
	}
}

// A policy that a new coordinator cannot read takes no announcement away.
func TestUnreadPolicy(t *testing.T) {
	in := lab()
	in.Services = append(in.Services, service("gone", addr(212)))
	in.Decided = Place(in, epoch)
	if len(in.Decided) != 2 {
		t.Fatalf("placed %v", in.Decided)
	}
	in.Services = in.Services[:len(in.Services)-1]
	before := in.Decided[0]
	in.Policies = []state.L2Policy{{Name: "all", Origin: policyRef("all"), Invalid: "spec.interfaces[0]: bad"}}
	if rows := Place(in, epoch.Add(time.Hour)); len(rows) != 1 || !rows[0].SameSpec(before) {
		t.Errorf("unread: %v, want %v", rows, before)
	}
	in.Policies = nil
	if rows := Place(in, epoch); len(rows) != 0 {
		t.Errorf("without a policy: %v", rows)
	}
}

// What the datapath does not serve is not announced.
func TestReadInputsRefuses(t *testing.T) {
	db, w := state.New()
	web := service("web", addr(211))
	web.ExternalIPs = []netip.Addr{addr(9), addr(212), addr(200)}
	w.Update(func(tx *state.Tx) {
		db.Services.Put(tx, web)
		db.L2Policies.Put(tx, lab().Policies[0])
		db.Pools.Put(tx, state.Pool{Name: "lab", Ranges: []state.Range{{From: addr(211), To: addr(215)}}})
		for i, node := range lab().Nodes {
			db.Nodes.Put(tx, node)
			l := lease(node.Name, i+1)
			l.Interfaces[0].Gateways = []netip.Addr{addr(200)}
			db.NodeLeases.Put(tx, l)
		}
	})
	var got []string
	for _, row := range Place(readInputs(db, db.Snapshot(), &view{verdicts: lab().Verdicts}), epoch) {
		got = append(got, fmt.Sprint(row.Addr.As4()[3]))
	}
	if s := strings.Join(got, " "); s != "9 211" {
		t.Errorf("placed %q, want the address it was given and the one that is nobody's", s)
	}
}

// A table that was not read yet is not one without rows: by that, policies
// limited to pools would announce nothing.
// An appliance announces without being a Node, which a node that was removed does not.
func TestAppliances(t *testing.T) {
	db, w := state.New()
	appliance, removed := lease("lb1", 1), lease("old", 2)
	appliance.Appliance = true
	verdicts := map[string]Verdict{"lb1": Live, "old": Live, "n": Live}
	w.Update(func(tx *state.Tx) {
		db.NodeLeases.Put(tx, appliance)
		db.NodeLeases.Put(tx, removed)
		db.Services.Put(tx, service("web", addr(211)))
		db.L2Policies.Put(tx, lab().Policies[0])
	})
	bars := func() string {
		var all []string
		for _, s := range Explain(readInputs(db, db.Snapshot(), &view{verdicts: verdicts}), addr(211)) {
			all = append(all, s.Node+":"+string(s.Bar))
		}
		return strings.Join(all, " ")
	}
	if got, want := bars(), "lb1: old:UnknownNode"; got != want {
		t.Errorf("stand %s, want %s", got, want)
	}
	if got := holders(Place(readInputs(db, db.Snapshot(), &view{verdicts: verdicts}), epoch)); got["192.168.10.211"] != "lb1" {
		t.Errorf("held by %v", got)
	}
	if problems := Problems(readInputs(db, db.Snapshot(), &view{verdicts: verdicts})); len(problems) > 0 {
		t.Errorf("problems %v: its interfaces are there", problems)
	}
	// One that was drained a moment ago gets nothing, though it was live when looked at.
	drained := appliance
	drained.Drained = true
	w.Update(func(tx *state.Tx) { db.NodeLeases.Put(tx, drained) })
	if got, want := bars(), "lb1:Drained old:UnknownNode"; got != want {
		t.Errorf("drained, it stands %s, want %s", got, want)
	}
	w.Update(func(tx *state.Tx) { db.NodeLeases.Put(tx, appliance) })
	// One that is registered has the labels it is registered with.
	w.Update(func(tx *state.Tx) {
		db.Nodes.Put(tx, state.Node{Name: "lb1", Labels: map[string]string{labelExclude: ""}})
		db.Nodes.Put(tx, state.Node{Name: "n"})
		db.NodeLeases.Put(tx, lease("n", 3))
	})
	if got, want := bars(), "lb1:Excluded n: old:UnknownNode"; got != want {
		t.Errorf("stand %s, want %s", got, want)
	}
}

func TestPlaceableWithPoolsOnly(t *testing.T) {
	db, w := state.New()
	w.Update(func(tx *state.Tx) {
		db.Services.MarkSynced(tx)
		db.EndpointSlices.MarkSynced(tx)
		db.Nodes.MarkSynced(tx)
		db.L2Policies.MarkSynced(tx)
		db.NodeLeases.MarkSynced(tx)
		db.Assigned.MarkSynced(tx)
	})
	if placeable(db, db.Snapshot()) {
		t.Error("placed before the pools are known")
	}
	w.Update(func(tx *state.Tx) { db.Pools.MarkSynced(tx); db.Agents.MarkSynced(tx) })
	if !placeable(db, db.Snapshot()) {
		t.Error("not placed when all is known")
	}
}

func TestPolicyStatuses(t *testing.T) {
	in := lab()
	good, bad, invalid := in.Policies[0], in.Policies[0], in.Policies[0]
	good.Name, bad.Name, invalid.Name = "good", "bad", "invalid"
	good.Origin, bad.Origin, invalid.Origin = policyRef("good"), policyRef("bad"), policyRef("invalid")
	bad.Interfaces, invalid.Invalid = []string{"bond0", "eth["}, "spec.interfaces[0]: mend it"
	in.Policies = []state.L2Policy{good, bad, invalid}
	rows := policyStatuses(in.Policies, Problems(in))
	if len(rows) != 3 || rows[0].Problem != "" || rows[2].Problem != invalid.Invalid ||
		!strings.HasPrefix(rows[1].Problem, `spec.interfaces[1]: "eth["`) || !strings.Contains(rows[1].Problem, "RE2") {
		t.Errorf("statuses %+v", rows)
	}
}

// One address through its life.
func TestPlaceMoves(t *testing.T) {
	in := lab()
	now := epoch
	for _, step := range []struct {
		name       string
		change     func()
		node       string
		generation int64
		reason     state.Reason
		previous   string
	}{
		{"first", func() {}, "a", 1, state.ReasonFirstAssignment, ""},
		{"nothing", func() {}, "a", 1, state.ReasonFirstAssignment, ""},
		{"the coordinator is not sure of it", func() { in.Verdicts["a"] = Frozen }, "a", 1, state.ReasonFirstAssignment, ""},
		{"its daemon restarts", func() { in.Verdicts["a"] = Resting }, "a", 1, state.ReasonFirstAssignment, ""},
		{"it dies", func() { in.Verdicts["a"] = Expired }, "b", 2, state.ReasonLeaseExpired, "a"},
		{"it is back: no failback", func() { in.Verdicts["a"] = Live }, "b", 2, state.ReasonLeaseExpired, "a"},
		{"drain", func() { in.Verdicts["b"] = Released }, "a", 3, state.ReasonReleased, "b"},
		{"excluded", func() { in.Nodes[0].Labels[labelExclude] = "true" }, "c", 4, state.ReasonNotCandidate, "a"},
		{"cable out, and nobody else", func() { in.Leases[2].Interfaces[0].Up = false }, "", 5, state.ReasonNoCandidate, "c"},
		{"still nobody", func() {}, "", 5, state.ReasonNoCandidate, "c"},
		{"others are back, and so is the last", func() {
			delete(in.Nodes[0].Labels, labelExclude)
			in.Leases[2].Interfaces[0].Up = true
		}, "c", 6, state.ReasonFirstAssignment, "c"},
		{"another is preferred: no failback", func() { in.Policies[0].Preferred = prefer("b", 1) }, "c", 6, state.ReasonFirstAssignment, "c"},
		{"a failback, and it is not there", func() { in.Policies[0].Failback, in.Verdicts["b"] = true, Expired }, "c", 6, state.ReasonFirstAssignment, "c"},
		{"it comes, and the coordinator is not sure of it", func() { in.Verdicts["b"] = Frozen }, "c", 6, state.ReasonFirstAssignment, "c"},
		{"it is back", func() { in.Verdicts["b"] = Live }, "b", 7, state.ReasonPreferred, "c"},
		{"its daemon restarts, too", func() { in.Verdicts["b"] = Resting }, "b", 7, state.ReasonPreferred, "c"},
		{"it dies, too", func() { in.Verdicts["b"] = Expired }, "a", 8, state.ReasonLeaseExpired, "b"},
		{"all others are out", func() {
			in.Verdicts["a"], in.Leases[2].Interfaces[0].Up = Expired, false
		}, "", 9, state.ReasonNoCandidate, "a"},
		{"the last is back, with the preferred", func() { in.Verdicts["a"], in.Verdicts["b"] = Live, Live }, "b", 10, state.ReasonPreferred, "a"},
	} {
		before := slices.Clone(in.Decided)
		step.change()
		now = now.Add(time.Second)
		in.Decided = Place(in, now)
		row := in.Decided[0]
		if row.Node != step.node || row.Generation != step.generation || row.Reason != step.reason || row.Previous != step.previous {
			t.Errorf("%s: %+v, want node %q generation %d reason %s previous %q", step.name, row, step.node, step.generation, step.reason, step.previous)
		}
		if moved := len(before) == 0 || before[0].Node != row.Node; moved != row.Since.Equal(now) {
			t.Errorf("%s: moved %v, since %v, now %v", step.name, moved, row.Since, now)
		}
	}
	in.Services[0].Ingress = nil
	if rows := Place(in, now); len(rows) != 0 {
		t.Errorf("address that no Service carries is placed: %+v", rows)
	}
}

func TestLatestDecision(t *testing.T) {
	row := func(i int, node string, generation int64) state.Assignment {
		return state.Assignment{Addr: addr(i), Node: node, Generation: generation}
	}
	leaving := row(5, "a", 9)
	leaving.Status.Phase = state.Deleting
	got := latest(
		[]state.Assignment{row(1, "a", 1), row(2, "a", 2), row(3, "b", 2), row(5, "a", 8)},
		[]state.Assignment{row(1, "b", 2), row(2, "a", 2), row(3, "c", 2), row(4, "c", 1), leaving})
	want := []state.Assignment{row(1, "b", 2), row(2, "a", 2), row(3, "b", 2), row(4, "c", 1), row(5, "a", 8)}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("latest decisions\n%v, want\n%v", got, want)
	}
}

func BenchmarkPlace(b *testing.B) {
	in := Inputs{Policies: lab().Policies, Verdicts: map[string]Verdict{}}
	for i := range 1000 {
		node := fmt.Sprintf("n%d", i)
		in.Nodes = append(in.Nodes, state.Node{Name: node})
		in.Leases = append(in.Leases, lease(node, i))
		in.Verdicts[node] = Live
	}
	for i := range 5000 {
		in.Services = append(in.Services, service(fmt.Sprintf("s%d", i), netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)})))
	}
	in.Decided = Place(in, epoch)
	for b.Loop() {
		in.Verdicts["n3"] = Expired
		Place(in, epoch)
	}
}

func policyRef(name string) state.ObjectRef {
	return state.ObjectRef{Group: "seamark.dev", Kind: "L2Policy", Name: name}
}

// A coordinator that has just been elected waits for appliances as it does for nodes.
func TestAllLiveWaitsForAppliances(t *testing.T) {
	db, w := state.New()
	p := &placer{db: db}
	appliance, removed := lease("lb1", 1), lease("old", 2)
	appliance.Appliance = true
	w.Update(func(tx *state.Tx) {
		db.NodeLeases.Put(tx, appliance)
		db.NodeLeases.Put(tx, removed)
	})
	for verdict, want := range map[Verdict]bool{NoLease: false, Expired: false, Frozen: false, Live: true, Resting: true, Released: true} {
		if got := p.allLive(db.Snapshot(), &view{verdicts: map[string]Verdict{"lb1": verdict}}); got != want {
			t.Errorf("verdict %v: %v, want %v", verdict, got, want)
		}
	}
}
