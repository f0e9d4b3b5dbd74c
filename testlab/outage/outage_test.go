package outage

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab"
	"github.com/seamark-lb/seamark/testlab/traffic"
)

// What the faults name is in the topology, and any node's pods can be reached from any
// other's segment.
func TestTopology(t *testing.T) {
	plan := Topology()
	for _, node := range nodes {
		i := slices.IndexFunc(plan.Hosts, func(h testlab.HostSpec) bool { return h.Name == node })
		if i < 0 || plan.Hosts[i].Role != testlab.RoleNode {
			t.Fatalf("no node %s", node)
		}
		onFront := slices.ContainsFunc(plan.Hosts[i].Interfaces, func(i testlab.Interface) bool { return i.Name == "eth1" && i.Network == "front" })
		if onFront != slices.Contains(front, node) {
			t.Errorf("%s is on the front segment: %v", node, onFront)
		}
		if !slices.ContainsFunc(plan.Pods, func(p testlab.PodSpec) bool { return p.Name == podOn(node) && p.Node == node }) {
			t.Errorf("no pod %s on %s", podOn(node), node)
		}
		for _, other := range plan.Hosts {
			far := other.Role == testlab.RoleNode && slices.Contains(front, other.Name) != onFront
			routed := slices.ContainsFunc(other.Routes, func(r testlab.Route) bool { return r.To == plan.Hosts[i].PodCIDRs[0] })
			if (far || other.Name == router) != routed {
				t.Errorf("%s has a route to the pods of %s: %v", other.Name, node, routed)
			}
		}
	}
}

func TestJudge(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	streams := traffic.StreamsResult{Streams: []traffic.Stream{
		{Pod: "webpod-0", LongestGap: 9 * time.Second, Error: "reset", Local: netip.MustParseAddrPort("192.168.10.200:1")},
		{Pod: "webpod-1", LongestGap: 2 * time.Second, Error: "reset"},
		{Pod: "webpod-3", LongestGap: time.Second},
	}}
	probed := traffic.ProbeResult{Sent: 100, Answered: 87, Late: 3, Outage: 3 * time.Second}
	arp := traffic.ARPResult{Silence: 4 * time.Second, Doubles: []traffic.ARPDouble{{At: begin}, {At: begin.Add(time.Second)}, {At: begin.Add(5 * time.Second)}}}
	for _, tc := range []struct {
		dead []string
		want Run
	}{
		{[]string{"n0"}, Run{UDP: 3 * time.Second, Lost: 10, Late: 3, TCP: 2 * time.Second, Broken: 1, Why: "webpod-1: reset", Silence: 4 * time.Second, Doubles: 3, Double: 5 * time.Second}},
		{nil, Run{UDP: 3 * time.Second, Lost: 10, Late: 3, TCP: 9 * time.Second, Broken: 2, Why: "webpod-0: reset", Silence: 4 * time.Second, Doubles: 3, Double: 5 * time.Second}},
		{[]string{"n0", "n1"}, Run{UDP: 3 * time.Second, Lost: 10, Late: 3, TCP: time.Second, Silence: 4 * time.Second, Doubles: 3, Double: 5 * time.Second}},
	} {
		if got := judge(probed, streams, arp, tc.dead); got != tc.want {
			t.Errorf("%v: %+v, want %+v", tc.dead, got, tc.want)
		}
	}
}

func TestPrint(t *testing.T) {
	var out strings.Builder
	second := func(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }
	err := Print(&out, []Result{
		{"power off", []Run{{UDP: second(3), Lost: 300, Moved: true}, {UDP: second(1.25), Lost: 125, Late: 2}, {UDP: second(2), Lost: 9, Broken: 1, Moved: true}}},
		{"cut off", []Run{{TCP: second(2)}, {TCP: second(1)}}},
		{"never run", nil},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `fault      UDP outage s    UDP lost   UDP late  TCP stall s     TCP broken  ARP silence s   two answered s  moved
power off  1.25/2.00/3.00  9/125/300  0/0/2     0.00/0.00/0.00  0/0/1       0.00/0.00/0.00  0.00/0.00/0.00  2 of 3
cut off    0.00/0.00/0.00  0/0/0      0/0/0     1.00/1.00/2.00  0/0/0       0.00/0.00/0.00  0.00/0.00/0.00  0 of 2
never run                                                                                                   0 of 0
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}

// Over BGP the faults matter that change paths; the rest of the table is left out.
func TestPrintBGP(t *testing.T) {
	var out strings.Builder
	if err := PrintBGP(&out, []Result{{"power off", []Run{{UDP: time.Second, Lost: 300, TCP: 9 * time.Second}, {Lost: 9, Broken: 1}}}}); err != nil {
		t.Fatal(err)
	}
	want := `fault      UDP lost   UDP late  TCP stall s     TCP broken
power off  9/9/300    0/0/0     0.00/0.00/9.00  0/0/1
`
	if strings.Join(strings.Fields(out.String()), " ") != strings.Join(strings.Fields(want), " ") {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}

// The lab over BGP is the other one, whose router speaks BGP, with a client behind it.
func TestBGPTopology(t *testing.T) {
	plan, err := BGPTopology()
	if err != nil {
		t.Fatal(err)
	}
	host := func(name string) testlab.HostSpec {
		i := slices.IndexFunc(plan.Hosts, func(h testlab.HostSpec) bool { return h.Name == name })
		if i < 0 {
			t.Fatalf("no host %s", name)
		}
		return plan.Hosts[i]
	}
	if !strings.Contains(host(router).FRR, "router bgp 65000") {
		t.Errorf("the router runs %q", host(router).FRR)
	}
	if got := host(victim).Interfaces[1].Addresses[0].Addr().String(); got != victimAddr {
		t.Errorf("the victim is %s, want %s", got, victimAddr)
	}
	if slices.ContainsFunc(plan.Pods, func(p testlab.PodSpec) bool { return p.Node == victim }) {
		t.Error("the victim has a pod")
	}
	via := host(client).Routes[0].Via
	if !slices.ContainsFunc(host(router).Interfaces, func(i testlab.Interface) bool { return i.Addresses[0].Addr() == via }) {
		t.Errorf("the client's gateway %s is not the router", via)
	}
}

// Every fault can be named, and says what it does.
func TestFaults(t *testing.T) {
	overBGP := make([]Fault, 0, len(BGPFaults))
	for _, f := range BGPFaults {
		overBGP = append(overBGP, f.Fault)
	}
	for _, faults := range [][]Fault{Faults, overBGP} {
		names := map[string]bool{}
		for _, f := range faults {
			if f.Name == "" || names[f.Name] || f.Inject == nil || f.Heal == nil || f.Dead == nil || f.Lasts <= 0 {
				t.Errorf("fault %q is incomplete, or its name another's", f.Name)
			}
			names[f.Name] = true
		}
	}
}
