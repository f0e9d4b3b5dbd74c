package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func backend(addr, node, condition string) state.Backend {
	b := state.Backend{Addr: netip.MustParseAddr(addr), Node: node}
	switch condition {
	case "ready":
		b.Ready, b.Serving = true, true
	case "idle": // weight 0
		b.Serving = true
	case "draining":
		b.Serving, b.Terminating = true, true
	case "gone":
		b.Terminating = true
	case "failing": // alive, and not ready
	default:
		panic(condition)
	}
	return b
}

func addrList(list ...string) []netip.Addr {
	var all []netip.Addr
	for _, a := range list {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

func prefixList(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range list {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

func named(name string) state.ObjectName {
	namespace, name, _ := strings.Cut(name, "/")
	return state.ObjectName{Namespace: namespace, Name: name}
}

// endpointsOf is a slice of the service's only port, with the target port.
func endpointsOf(svc state.Service, target uint16, endpoints ...state.Backend) state.EndpointSlice {
	p := svc.Ports[0]
	return state.EndpointSlice{Name: svc.Name, Service: svc.Name, Endpoints: endpoints,
		Ports: []state.EndpointPort{{Name: p.Name, Protocol: p.Protocol, Port: target}}}
}

// listed are the addresses and ports of backends.
func listed(backends []state.Backend) string {
	var all []string
	for _, b := range backends {
		all = append(all, netip.AddrPortFrom(b.Addr, b.Port).String())
	}
	return strings.Join(all, " ")
}

func TestFrontendsBackends(t *testing.T) {
	all := []state.Backend{
		backend("172.20.2.1", "w2", "ready"), backend("172.20.1.1", "w1", "ready"), backend("172.20.1.2", "w1", "draining"),
		backend("172.20.0.1", "w0", "gone"), backend("172.20.0.2", "w0", "failing"), backend("172.20.0.3", "w0", "idle"),
		backend("172.20.0.4", "", "ready"), backend("fd00::1", "w0", "ready"),
	}
	moving := backend("172.20.2.1", "w2", "draining") // in another slice than all has it in
	for _, c := range []struct {
		name             string
		endpoints        []state.Backend
		external, intern bool // policy Local
		// The outside's backends | the pods' | those that drain, and for the
		// clusterIP the pods' | those that drain, where they are others; the
		// network 172.20. and the port left out.
		want string
	}{
		{"the ready ones, sorted", all, false, false, "0.4 1.1 2.1 | 0.4 1.1 2.1 | 0.3 1.2"},
		{"external Local: those of this node, and all for pods", all, true, false, "1.1 | 0.4 1.1 2.1 | 0.3 1.2"},
		{"internal Local: for the clusterIP's pods those of this node", all, false, true, "0.4 1.1 2.1 | 0.4 1.1 2.1 | 0.3 1.2; 1.1 | 0.3 1.2"},
		{"both Local", all, true, true, "1.1 | 0.4 1.1 2.1 | 0.3 1.2; 1.1 | 0.3 0.4 1.2 2.1"},
		{"none ready: those that drain", all[2:6], false, false, "1.2 | 1.2 | 0.3"},
		{"Local, none ready here: those that drain here", append([]state.Backend{all[0]}, all[2:6]...), true, false, "1.2 | 2.1 | 0.3"},
		{"Local, no node's is nobody's", all[6:], true, false, " | 0.4 | "},
		{"Local, none is on a node: all", all[6:7], true, false, "0.4 | 0.4 | "},
		{"none at all", all[3:5], false, false, " |  | "},
		{"idle ones get nothing new, though nobody else is there", all[5:6], false, false, " |  | 0.3"},
		{"twice the same", append(slices.Clone(all), all...), false, false, "0.4 1.1 2.1 | 0.4 1.1 2.1 | 0.3 1.2"},
		{"in two slices: the better counts", append(slices.Clone(all[:2]), moving), false, false, "1.1 2.1 | 1.1 2.1 | "},
	} {
		t.Run(c.name, func(t *testing.T) {
			svc := state.Service{Name: named("a/web"), Type: "LoadBalancer", Ingress: addrList("192.168.10.211"), ClusterIPs: addrList("10.96.0.7"),
				ExternalTrafficPolicyLocal: c.external, InternalTrafficPolicyLocal: c.intern,
				Ports: []state.ServicePort{{Name: "http", Protocol: state.TCP, Port: 80, NodePort: 30080}}}
			of := endpointsOf(svc, 8080, c.endpoints...)
			of.Ports = append(of.Ports, state.EndpointPort{Name: "http", Protocol: state.UDP, Port: 1}, state.EndpointPort{Name: "other", Protocol: state.TCP, Port: 2})
			stranger := of
			stranger.Service, stranger.Endpoints = named("a/stranger"), all
			rows, problems := Frontends(FrontendInput{Node: state.Node{Name: "w1"}, Services: []state.Service{svc}, Inside: true,
				Slices: []state.EndpointSlice{stranger, of}, NodePortAddrs: addrList("192.168.10.101")})
			if len(rows) != 3 || len(problems) > 0 {
				t.Fatalf("%d rows, problems %v", len(rows), problems)
			}
			short := strings.NewReplacer("172.20.", "", ":8080", "").Replace
			lists := map[state.FrontendKind]string{}
			for _, row := range rows {
				lists[row.Kind] = short(listed(row.Backends) + " | " + listed(row.Inside) + " | " + listed(row.Draining))
			}
			got := lists[state.KindLoadBalancer]
			if lists[state.KindNodePort] != got {
				t.Errorf("node port: %s, LoadBalancer address: %s", lists[state.KindNodePort], got)
			}
			if inside := lists[state.KindClusterIP]; inside != got {
				backends, rest, _ := strings.Cut(inside, " | ")
				if !strings.HasPrefix(got, backends+" | ") {
					t.Errorf("clusterIP: %s: other backends for the outside, which share a set", inside)
				}
				got += "; " + rest
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// Hints are as kube-proxy takes them.
func TestFrontendsTopology(t *testing.T) {
	hinted := func(addr, node, condition, zones, nodes string) state.Backend {
		b := backend(addr, node, condition)
		b.ForZones, b.ForNodes = zones, nodes
		return b
	}
	one, two, three := hinted("10.1.0.1", "n1", "ready", "a", ""), hinted("10.1.0.2", "n2", "ready", "b", ""), hinted("10.1.0.3", "n3", "ready", "a,b", "")
	onNode := func(b state.Backend, nodes string) state.Backend { b.ForNodes = nodes; return b }
	for _, c := range []struct {
		name, zone string
		local      bool
		endpoints  []state.Backend
		want       string // backends | draining
	}{
		{"its zone's", "a", false, []state.Backend{one, two, three}, "10.1.0.1:80 10.1.0.3:80 | 10.1.0.2:80"},
		{"another zone's", "b", false, []state.Backend{one, two, three}, "10.1.0.2:80 10.1.0.3:80 | 10.1.0.1:80"},
		{"a zone that no hint names", "c", false, []state.Backend{one, two, three}, "10.1.0.1:80 10.1.0.2:80 10.1.0.3:80 | "},
		{"no zone of a longer name", "", false, []state.Backend{one, two, three}, "10.1.0.1:80 10.1.0.2:80 10.1.0.3:80 | "},
		{"one has no hint", "a", false, []state.Backend{one, two, backend("10.1.0.4", "n1", "ready")}, "10.1.0.1:80 10.1.0.2:80 10.1.0.4:80 | "},
		{"one that is not ready has none", "a", false, []state.Backend{one, two, backend("10.1.0.4", "n1", "draining")}, "10.1.0.1:80 | 10.1.0.2:80 10.1.0.4:80"},
		{"none is ready", "a", false, []state.Backend{hinted("10.1.0.1", "n1", "draining", "b", ""), hinted("10.1.0.2", "n1", "draining", "a", "")}, "10.1.0.1:80 10.1.0.2:80 | "},
		{"the node's before the zone's", "a", false, []state.Backend{onNode(one, "n1"), onNode(two, "w,x"), onNode(three, "n3")}, "10.1.0.2:80 | 10.1.0.1:80 10.1.0.3:80"},
		{"none for the node: the zone's", "a", false, []state.Backend{onNode(one, "n1"), onNode(two, "n2"), onNode(three, "n3")}, "10.1.0.1:80 10.1.0.3:80 | 10.1.0.2:80"},
		{"policy Local knows no hints", "a", true, []state.Backend{hinted("10.1.0.1", "w", "ready", "b", ""), hinted("10.1.0.2", "n1", "ready", "a", "")}, "10.1.0.1:80 | "},
	} {
		t.Run(c.name, func(t *testing.T) {
			svc := state.Service{Name: named("a/web"), Type: "LoadBalancer", Ingress: addrList("192.168.10.211"), ExternalTrafficPolicyLocal: c.local,
				Ports: []state.ServicePort{{Protocol: state.TCP, Port: 80}}}
			rows, _ := Frontends(FrontendInput{Node: state.Node{Name: "w", Labels: map[string]string{corev1.LabelTopologyZone: c.zone}},
				Services: []state.Service{svc}, Slices: []state.EndpointSlice{endpointsOf(svc, 80, c.endpoints...)}})
			if len(rows) != 1 {
				t.Fatalf("%d rows", len(rows))
			}
			if got := listed(rows[0].Backends) + " | " + listed(rows[0].Draining); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			for _, b := range slices.Concat(rows[0].Backends, rows[0].Inside, rows[0].Draining) {
				if b.ForZones+b.ForNodes != "" {
					t.Errorf("%v has hints left: they would rewrite rows for nothing", b)
				}
			}
		})
	}
}

func TestFrontendsAddresses(t *testing.T) {
	port := []state.ServicePort{{Protocol: state.TCP, Port: 80, NodePort: 30080}}
	young, old := port, []state.ServicePort{{Protocol: state.TCP, Port: 80}}
	day := func(n int) time.Time { return time.Unix(int64(n)*86400, 0) }
	services := []state.Service{
		{Name: named("a/young"), Created: day(2), Type: "LoadBalancer", Ingress: addrList("10.0.0.1"), Ports: young, Families: []string{"IPv4"}},
		{Name: named("z/old"), Created: day(1), Type: "ClusterIP", ExternalIPs: addrList("10.0.0.1"), Ports: old},
		{Name: named("b/twin2"), Created: day(3), Type: "NodePort", ExternalIPs: addrList("10.0.0.2"), Ports: old},
		{Name: named("b/twin1"), Created: day(3), Type: "LoadBalancer", Ingress: addrList("10.0.0.2", "::ffff:10.0.0.9"), ExternalIPs: addrList("10.0.0.2"), Ports: old},
		{Name: named("c/name"), Type: "ExternalName", ExternalIPs: addrList("10.0.0.3"), Ports: port},
		{Name: named("c/headless"), Type: "ClusterIP", Headless: true, ExternalIPs: addrList("10.0.0.3"), Ports: port},
		{Name: named("c/other-proxys"), Type: "NodePort", Labels: map[string]string{"service.kubernetes.io/service-proxy-name": "mesh"},
			ClusterIPs: addrList("10.96.0.9"), ExternalIPs: addrList("10.0.0.6"), Ports: []state.ServicePort{{Protocol: state.TCP, Port: 80, NodePort: 30090}}},
		{Name: named("c/no-longer"), Type: "ClusterIP", Ingress: addrList("10.0.0.4"), Ports: port},
		{Name: named("c/portless"), Type: "LoadBalancer", Ingress: addrList("10.0.0.5", "10.0.0.1", "fd00::5")},
		{Name: named("d/dual"), Type: "NodePort", ClusterIPs: addrList("10.96.0.7", "fd00:96::7"), Ports: []state.ServicePort{{Protocol: state.UDP, Port: 53, NodePort: 30053}}},
		{Name: named("d/thief"), Created: day(4), Type: "NodePort", ClusterIPs: addrList("10.96.0.8"), Ports: []state.ServicePort{{Protocol: state.UDP, Port: 54, NodePort: 30053}}},
	}
	inside := []string{
		"10.0.0.1:80/TCP z/old ExternalIP",
		"10.0.0.2:80/TCP b/twin1 LoadBalancer",
		"10.0.0.5:0/? c/portless LoadBalancer",
		"10.0.0.6:80/TCP c/other-proxys ExternalIP",
		"10.0.0.9:80/TCP b/twin1 LoadBalancer",
		"10.96.0.7:53/UDP d/dual ClusterIP",
		"10.96.0.8:54/UDP d/thief ClusterIP",
		"192.168.10.101:30053/UDP d/dual NodePort",
		"192.168.10.101:30080/TCP a/young NodePort",
		"[fd00::5]:0/? c/portless LoadBalancer",
		"[fd00:10::101]:30053/UDP d/dual NodePort",
		"[fd00:96::7]:53/UDP d/dual ClusterIP",
	}
	outside := slices.DeleteFunc(slices.Clone(inside), func(row string) bool {
		return strings.HasSuffix(row, "ClusterIP") || strings.HasSuffix(row, "NodePort")
	})
	clash := []string{
		"service/a/young: spec.ports[0].port: 10.0.0.1:80/TCP is served for the older service/z/old; give one of the two another port or address",
		"service/b/twin2: spec.ports[0].port: 10.0.0.2:80/TCP is served for the older service/b/twin1; give one of the two another port or address",
	}
	for _, c := range []struct {
		inside         bool
		want, problems []string
	}{
		{true, inside, append(clash, "service/d/thief: spec.ports[0].nodePort: 192.168.10.101:30053/UDP is served for the older service/d/dual; give one of the two another port or address")},
		{false, outside, clash},
	} {
		for range len(services) {
			services = append(services[1:], services[0])
			var got, problems []string
			rows, found := Frontends(FrontendInput{Node: state.Node{Name: "w1"}, Services: services, Inside: c.inside,
				NodePortAddrs: addrList("192.168.10.101", "fd00:10::101")})
			for _, row := range rows {
				got = append(got, fmt.Sprintf("%s %s %s", row.RowKey(), row.Service, row.Kind))
			}
			for _, p := range found {
				problems = append(problems, p.String())
			}
			if !slices.Equal(got, c.want) {
				t.Fatalf("inside %v: rows\n%s\nwant\n%s", c.inside, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			if !slices.Equal(problems, c.problems) {
				t.Fatalf("inside %v: problems\n%s\nwant\n%s", c.inside, strings.Join(problems, "\n"), strings.Join(c.problems, "\n"))
			}
		}
	}
}

func TestFrontendsFamilies(t *testing.T) {
	svc := state.Service{Name: named("a/web"), Type: "LoadBalancer", Ingress: addrList("10.0.0.1", "fd00::1"), Ports: []state.ServicePort{{Protocol: state.SCTP, Port: 80}}}
	rows, problems := Frontends(FrontendInput{Node: state.Node{Name: "w1"}, Services: []state.Service{svc},
		Slices: []state.EndpointSlice{endpointsOf(svc, 80, backend("172.20.0.1", "w1", "ready"), backend("fd00:20::1", "w1", "ready"), backend("::ffff:172.20.0.2", "w1", "ready"))}})
	if len(rows) != 2 || listed(rows[0].Backends) != "172.20.0.1:80 172.20.0.2:80" || listed(rows[1].Backends) != "[fd00:20::1]:80" || len(problems) > 0 {
		t.Errorf("rows %+v, problems %v", rows, problems)
	}
}

// What a Service asks for, before the node's defaults, and what is made of it.
func TestFrontendsForwarding(t *testing.T) {
	const annotation = "metadata.annotations[seamark.dev/forwarding-mode]"
	here, there := backend("172.20.1.1", "w1", "ready"), backend("172.20.2.1", "w2", "ready")
	beyond, host := backend("192.168.77.1", "", "ready"), backend("192.168.10.102", "w2", "ready")
	for _, c := range []struct {
		name     string
		service  state.Service // its forwarding
		defaults Defaults
		protocol state.Protocol
		target   uint16 // the port is 80
		backends []state.Backend
		want     string // of the LoadBalancer address, then of the node port
		problem  string // after "service/a/web: "
	}{
		{"by default", state.Service{}, Defaults{}, state.TCP, 8080, []state.Backend{here, there}, "dsr/ipip snat/ipip", ""},
		{"as the node is told", state.Service{}, Defaults{Forwarding: state.ForwardSNAT, Dispatch: state.DispatchGeneve}, state.TCP, 8080, []state.Backend{there}, "snat/geneve snat/geneve", ""},
		{"as the Service says", state.Service{Forwarding: state.ForwardDSR, Dispatch: state.DispatchIPIP}, Defaults{Forwarding: state.ForwardSNAT, Dispatch: state.DispatchGeneve},
			state.TCP, 8080, []state.Backend{there}, "dsr/ipip snat/ipip", ""},
		{"hybrid, TCP", state.Service{Forwarding: state.ForwardHybrid}, Defaults{}, state.TCP, 80, []state.Backend{there}, "dsr/ipip snat/ipip", ""},
		{"hybrid, UDP", state.Service{}, Defaults{Forwarding: state.ForwardHybrid}, state.UDP, 80, []state.Backend{there}, "snat/ipip snat/ipip", ""},
		{"hybrid, SCTP", state.Service{Forwarding: state.ForwardHybrid}, Defaults{}, state.SCTP, 8080, []state.Backend{there}, "dsr/ipip snat/ipip", ""},
		{"a node port of policy Local stays here", state.Service{ExternalTrafficPolicyLocal: true}, Defaults{}, state.TCP, 8080, []state.Backend{here, there}, "dsr/ipip dsr/ipip", ""},
		{"a node port of policy Local, and backends that are on no node", state.Service{ExternalTrafficPolicyLocal: true}, Defaults{}, state.TCP, 8080,
			[]state.Backend{beyond}, "snat/ipip snat/ipip", ""},
		{"SCTP, by default", state.Service{}, Defaults{}, state.SCTP, 8080, []state.Backend{here, there}, "dsr/ipip snat/ipip", ""},
		{"SCTP, translated", state.Service{Forwarding: state.ForwardSNAT, ForwardingField: annotation}, Defaults{}, state.SCTP, 80, []state.Backend{there}, "snat/ipip snat/ipip", ""},
		{"SCTP, as the node is told", state.Service{}, Defaults{Forwarding: state.ForwardSNAT}, state.SCTP, 8080, []state.Backend{beyond}, "snat/ipip snat/ipip", ""},
		{"beyond the cluster, the same port", state.Service{Forwarding: state.ForwardDSR, ForwardingField: annotation}, Defaults{}, state.TCP, 80, []state.Backend{beyond, there}, "dsr/ipip snat/ipip", ""},
		{"beyond, another port", state.Service{}, Defaults{}, state.TCP, 8080, []state.Backend{beyond}, "snat/ipip snat/ipip", ""},
		{"beyond, another port, asked for", state.Service{Forwarding: state.ForwardDSR, ForwardingField: annotation}, Defaults{}, state.TCP, 8080, []state.Backend{there, beyond}, "snat/ipip snat/ipip",
			annotation + ": port 80 is forwarded by snat: backend 192.168.77.1:8080 is outside the cluster, where nobody translates port 80; make the target port 80, or write snat"},
		{"beyond, all of them, know no geneve", state.Service{}, Defaults{Dispatch: state.DispatchGeneve}, state.TCP, 80, []state.Backend{beyond}, "dsr/ipip snat/geneve", ""},
		{"beyond, some of them", state.Service{Forwarding: state.ForwardDSR, ForwardingField: annotation}, Defaults{Dispatch: state.DispatchGeneve}, state.TCP, 80, []state.Backend{beyond, there}, "snat/geneve snat/geneve",
			annotation + ": port 80 is forwarded by snat: backends are outside the cluster, where nobody reads geneve, and others are in it; write ipip for --dsr-dispatch"},
		{"beyond, some of them, of SCTP", state.Service{}, Defaults{Dispatch: state.DispatchGeneve}, state.SCTP, 80, []state.Backend{beyond, there}, "snat/geneve snat/geneve", ""},
		{"beyond, another port, of SCTP", state.Service{}, Defaults{}, state.SCTP, 8080, []state.Backend{beyond}, "snat/ipip snat/ipip", ""},
		{"in another node's own network", state.Service{Forwarding: state.ForwardDSR, ForwardingField: annotation}, Defaults{}, state.TCP, 80, []state.Backend{there, host}, "snat/ipip snat/ipip",
			annotation + ": port 80 is forwarded by snat: backend 192.168.10.102:80 is in the network of its node, to which no tunnel leads; write snat"},
		{"by kube-proxy", state.Service{Forwarding: state.ForwardKubeProxy, ForwardingField: annotation}, Defaults{KubeProxyReplacement: ReplaceFalse}, state.TCP, 8080, []state.Backend{here, there, host},
			"kube-proxy/ipip", ""},
		{"by a kube-proxy that is none", state.Service{}, Defaults{Forwarding: state.ForwardKubeProxy}, state.UDP, 8080, []state.Backend{there}, "kube-proxy/ipip snat/ipip",
			"--forwarding-mode: port 80 is left to kube-proxy, and none runs in the cluster; write dsr; where another program stands in for kube-proxy, --kube-proxy-replacement=false says so"},
		{"in this node's", state.Service{Forwarding: state.ForwardDSR}, Defaults{}, state.TCP, 80, []state.Backend{backend("192.168.10.101", "w1", "ready")}, "dsr/ipip snat/ipip", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			svc := c.service
			svc.Name, svc.Type, svc.Ingress, svc.ClusterIPs = named("a/web"), "LoadBalancer", addrList("10.0.0.1"), addrList("10.96.0.7")
			svc.Ports = []state.ServicePort{{Protocol: c.protocol, Port: 80, NodePort: 30080}}
			rows, problems := Frontends(FrontendInput{Node: state.Node{Name: "w1"}, Services: []state.Service{svc}, Inside: c.defaults.KubeProxyReplacement != ReplaceFalse, Defaults: c.defaults,
				NodeIPs: map[netip.Addr]bool{netip.MustParseAddr("192.168.10.101"): true, host.Addr: true}, NodePortAddrs: addrList("192.168.10.101"), Slices: []state.EndpointSlice{endpointsOf(svc, c.target, c.backends...)}})
			var got []string
			for _, row := range rows {
				if row.Kind == state.KindClusterIP {
					if row.Forwarding != state.ForwardDSR {
						t.Errorf("ClusterIP is forwarded by %s", row.Forwarding)
					}
					continue
				}
				got = append(got, fmt.Sprintf("%s/%s", row.Forwarding, row.Dispatch))
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			var texts []string
			for _, p := range problems {
				texts = append(texts, strings.TrimPrefix(p.String(), "service/a/web: "))
			}
			if text := strings.Join(texts, "\n"); text != c.problem {
				t.Errorf("problems %s\nwant %s", text, c.problem)
			}
		})
	}
}

// What is the node's default, and what the Service says instead.
func TestFrontendsSettings(t *testing.T) {
	svc := state.Service{Name: named("a/web"), Type: "LoadBalancer", Ingress: addrList("10.0.0.1", "fd00::1"), ExternalIPs: addrList("10.0.0.2"), ClusterIPs: addrList("10.96.0.7"),
		Ports: []state.ServicePort{{Protocol: state.TCP, Port: 80}}, Affinity: time.Hour, TableSize: 1021, Unserved: state.UnservedRefuse,
		SourceRanges: prefixList("10.0.0.0/8", "172.16.0.0/12"), SourceRangesField: "spec.loadBalancerSourceRanges"}
	rows, problems := Frontends(FrontendInput{Services: []state.Service{svc}, Inside: true})
	var got []string
	for _, row := range rows {
		got = append(got, fmt.Sprintf("%s %v %d %v %v %v", row.Addr, row.Affinity, row.TableSize, row.Refuse, row.Sources, row.Sources == nil))
	}
	for _, p := range problems {
		got = append(got, p.String())
	}
	want := []string{
		"10.0.0.1 1h0m0s 1021 true [10.0.0.0/8 172.16.0.0/12] false",
		"10.0.0.2 1h0m0s 1021 true [] true",
		"10.96.0.7 1h0m0s 1021 true [] true",
		"fd00::1 1h0m0s 1021 true [] false", // nobody
		"service/a/web: spec.loadBalancerSourceRanges: has no range of the family of fd00::1: nobody is let in there; add the ranges of its clients, or ::/0",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, c := range []struct {
		service, node state.Unserved
		want          bool
	}{{"", "", false}, {"", state.UnservedRefuse, true}, {state.UnservedDrop, state.UnservedRefuse, false}, {state.UnservedRefuse, state.UnservedDrop, true}} {
		svc.Unserved = c.service
		rows, _ := Frontends(FrontendInput{Services: []state.Service{svc}, Defaults: Defaults{Unserved: c.node}})
		if rows[0].Refuse != c.want {
			t.Errorf("Service %q, node %q: refuse %v", c.service, c.node, rows[0].Refuse)
		}
	}
}

// SCTP is served as TCP is, whatever the target port.
func TestFrontendsSCTP(t *testing.T) {
	svc := state.Service{Name: named("a/web"), Type: "LoadBalancer", Ingress: addrList("10.0.0.1"), ClusterIPs: addrList("10.96.0.7"),
		Ports: []state.ServicePort{{Protocol: state.SCTP, Port: 80, NodePort: 30080}}}
	rows, problems := Frontends(FrontendInput{Services: []state.Service{svc}, Inside: true, NodePortAddrs: addrList("192.168.10.101"), Slices: []state.EndpointSlice{
		endpointsOf(svc, 8080, backend("172.20.1.1", "w1", "ready"), backend("172.20.1.2", "w1", "draining")), endpointsOf(svc, 80, backend("172.20.1.3", "w1", "ready"))}})
	var got []string
	for _, row := range rows {
		if row.Port != 0 {
			got = append(got, row.RowKey()+" "+listed(row.Backends)+", draining "+listed(row.Draining))
		}
	}
	want := []string{
		"10.0.0.1:80/SCTP 172.20.1.1:8080 172.20.1.3:80, draining 172.20.1.2:8080",
		"10.96.0.7:80/SCTP 172.20.1.1:8080 172.20.1.3:80, draining 172.20.1.2:8080",
		"192.168.10.101:30080/SCTP 172.20.1.1:8080 172.20.1.3:80, draining 172.20.1.2:8080",
	}
	slices.Sort(got)
	if !slices.Equal(got, want) || len(problems) != 0 {
		t.Errorf("got\n%s\nwant\n%s\nproblems %v", strings.Join(got, "\n"), strings.Join(want, "\n"), problems)
	}
}

// What is not a Service's to claim is not served, and is once it may be.
func TestFrontendsOfRightfulAddresses(t *testing.T) {
	db, writer := state.New()
	addr := netip.MustParseAddr
	svc := state.Service{Name: state.ObjectName{Namespace: "a", Name: "web"}, Type: "LoadBalancer", ExternalIPs: []netip.Addr{addr("10.0.0.1"), addr("10.0.0.9")},
		Ports: []state.ServicePort{{Protocol: state.TCP, Port: 80}}}
	for _, step := range []struct {
		name   string
		change func(*state.Tx)
		want   string // served
		refuse string // "" for nothing
	}{
		{"nobody's", func(tx *state.Tx) { db.Services.Put(tx, svc) }, "10.0.0.1:80/TCP 10.0.0.9:80/TCP", ""},
		{"a gateway's", func(tx *state.Tx) {
			db.Devices.Put(tx, state.Device{Name: "eth0", Gateways: []netip.Addr{addr("10.0.0.1")}})
		},
			"10.0.0.9:80/TCP", "10.0.0.1 is a gateway of this node, through eth0"},
		{"no longer a gateway's, but of a pool", func(tx *state.Tx) {
			db.Devices.Put(tx, state.Device{Name: "eth0"})
			db.Pools.Put(tx, state.Pool{Name: "p", Ranges: []state.Range{{From: addr("10.0.0.1"), To: addr("10.0.0.4")}}})
		}, "10.0.0.9:80/TCP", "10.0.0.1 is in pool p"},
		{"given to it", func(tx *state.Tx) { svc.Ingress = []netip.Addr{addr("10.0.0.1")}; db.Services.Put(tx, svc) },
			"10.0.0.1:80/TCP 10.0.0.9:80/TCP", ""},
		{"no longer a load balancer's", func(tx *state.Tx) { svc.Type = "ClusterIP"; db.Services.Put(tx, svc) },
			"10.0.0.9:80/TCP", "10.0.0.1 is in pool p"},
		{"another node has an address of it in its management network", func(tx *state.Tx) {
			db.NodeLeases.Put(tx, state.NodeLease{Node: "m", Addrs: []netip.Addr{addr("10.0.0.9")}})
			db.Pools.Delete(tx, "p")
		}, "10.0.0.1:80/TCP", "10.0.0.9 is an address of node m"},
		{"the pool is gone, and the node", func(tx *state.Tx) { db.NodeLeases.Delete(tx, "m") }, "10.0.0.1:80/TCP 10.0.0.9:80/TCP", ""},
		{"the Service is gone", func(tx *state.Tx) { db.Services.Delete(tx, "a/web") }, "", ""},
	} {
		writer.Update(step.change)
		rows, problems := FrontendsOf(db, db.Snapshot(), "n", Defaults{})
		var served []string
		for _, row := range rows {
			served = append(served, row.RowKey())
		}
		if got := strings.Join(served, " "); got != step.want {
			t.Errorf("%s: served %s, want %s", step.name, got, step.want)
		}
		if step.refuse == "" && len(problems) > 0 || step.refuse != "" && (len(problems) != 1 || !strings.HasPrefix(problems[0].Message, step.refuse)) {
			t.Errorf("%s: problems %v, want %q", step.name, problems, step.refuse)
		}
	}
}

func TestHoldWhileAnnounced(t *testing.T) {
	db, writer := state.New()
	leaving := frontend("a/web", "192.168.10.211:80/TCP").WithStatus(state.Status{Phase: state.Deleting})
	wanted := frontend("a/web", "192.168.10.211:81/TCP")
	announcement := state.Announcement{Addr: leaving.Addr, Interface: "eth1", Status: state.Status{Phase: state.Deleting}}
	hold := HoldWhileAnnounced(db)
	check := func(what string, row state.Frontend, want state.Reason) {
		t.Helper()
		if got := hold(db.Snapshot(), row); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	writer.Update(func(tx *state.Tx) { db.Frontends.Put(tx, leaving) })
	check("not announced", leaving, "")
	writer.Update(func(tx *state.Tx) { db.Announcements.Put(tx, announcement) })
	check("announced, be it on its way out", leaving, state.ReasonStillAnnounced)
	check("wanted", wanted, "")
	writer.Update(func(tx *state.Tx) { db.Frontends.Put(tx, wanted) })
	check("the address keeps another port", leaving, "")
	writer.Update(func(tx *state.Tx) {
		db.Frontends.Delete(tx, wanted.RowKey())
		db.Announcements.Delete(tx, announcement.RowKey())
	})
	check("withdrawn", leaving, "")
	route := state.BGPRoute{Instance: "tor", Prefix: netip.MustParsePrefix("192.168.10.208/28"), Addrs: []netip.Addr{leaving.Addr}, Status: state.Status{Phase: state.Deleting}}
	writer.Update(func(tx *state.Tx) { db.BGPRoutes.Put(tx, route) })
	check("advertised to routers, be it on its way out", leaving, state.ReasonStillAnnounced)
	check("another address", frontend("a/web", "192.168.10.212:80/TCP").WithStatus(leaving.Status), "")
	writer.Update(func(tx *state.Tx) { db.BGPRoutes.Delete(tx, route.RowKey()) })
	check("withdrawn from routers", leaving, "")
}

// A ClusterIP that is advertised is served from outside, and forwarded as its
// Service says by the backends that it has; any other is for pods alone.
func TestFrontendsExposed(t *testing.T) {
	svc := state.Service{Name: named("a/web"), Type: "ClusterIP", ClusterIPs: addrList("10.96.0.7"), InternalTrafficPolicyLocal: true,
		Forwarding: state.ForwardSNAT, Ports: []state.ServicePort{{Protocol: state.TCP, Port: 80}}}
	slice := endpointsOf(svc, 8080, backend("172.20.1.1", "w1", "ready"), backend("172.20.2.1", "w2", "ready"))
	for _, c := range []struct {
		exposed func(*state.Service) bool
		want    string
	}{
		{nil, "false dsr 172.20.1.1:8080"},
		{func(*state.Service) bool { return false }, "false dsr 172.20.1.1:8080"},
		{func(s *state.Service) bool { return s.Name == svc.Name }, "true snat 172.20.1.1:8080"},
	} {
		rows, problems := Frontends(FrontendInput{Node: state.Node{Name: "w1"}, Services: []state.Service{svc}, Inside: true, Exposed: c.exposed,
			Slices: []state.EndpointSlice{slice}})
		if len(rows) != 1 || len(problems) > 0 {
			t.Fatalf("rows %+v, problems %v", rows, problems)
		}
		if got := fmt.Sprintf("%v %s %s", rows[0].Exposed, rows[0].Forwarding, listed(rows[0].Inside)); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}

// Which ClusterIPs are exposed is what advertisements select, if there is an
// instance that could say it to anybody; the decider hears of a change.
func TestExposedClusterIPs(t *testing.T) {
	db, writer := state.New()
	web, other := state.Service{Name: named("a/web"), Labels: map[string]string{"app": "web"}}, state.Service{Name: named("a/other")}
	exposed := func() string {
		is := state.ExposedClusterIPs(db, db.Snapshot())
		return fmt.Sprint(is(&web), is(&other))
	}
	decider := &FrontendDecider{DB: db, Node: "w1"}
	decider.Decide(db.Snapshot(), nil, true)
	for _, step := range []struct {
		do   func(*state.Tx)
		want string
	}{
		{func(*state.Tx) {}, "false false"},
		{func(tx *state.Tx) {
			db.BGPAdvertisements.Put(tx, state.BGPAdvertisement{Name: "ips", Addresses: []state.BGPAddresses{{Kind: state.KindLoadBalancer},
				{Kind: state.KindClusterIP, ServiceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}})
		}, "false false"},
		{func(tx *state.Tx) { db.BGPInstances.Put(tx, state.BGPInstance{Name: "lab"}) }, "true false"},
		{func(tx *state.Tx) {
			db.BGPAdvertisements.Put(tx, state.BGPAdvertisement{Name: "more", Addresses: []state.BGPAddresses{{Kind: state.KindClusterIP}}})
		}, "true true"},
		{func(tx *state.Tx) {
			db.BGPAdvertisements.Delete(tx, "ips")
			db.BGPAdvertisements.Delete(tx, "more")
		}, "false false"},
	} {
		before := exposed()
		writer.Update(step.do)
		if got := exposed(); got != step.want {
			t.Errorf("got %s, want %s", got, step.want)
		}
		if _, _, all := decider.Decide(db.Snapshot(), nil, false); !all && before != step.want {
			t.Error("the decider has not heard of it")
		}
	}
}
