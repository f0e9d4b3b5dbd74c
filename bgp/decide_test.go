package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
)

var (
	vip    = netip.MustParseAddr("192.168.10.211")
	vip6   = netip.MustParseAddr("fd00:10::211")
	router = netip.MustParseAddr("192.168.10.200")
)

func selecting(key, value string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
}

// world is a node with one instance, one peer, and a Service that it advertises.
func world() Inputs {
	webpod := state.ObjectName{Namespace: "default", Name: "webpod"}
	ready := []state.Backend{{Addr: netip.MustParseAddr("172.20.1.1"), Port: 80, Node: "k8s-w1", Ready: true}}
	frontend := func(a netip.Addr) state.Frontend {
		return state.Frontend{Addr: a, Port: 80, Protocol: state.TCP, Service: webpod, Kind: state.KindLoadBalancer, Backends: ready}
	}
	return Inputs{
		Node: state.Node{Name: "k8s-w1", Labels: map[string]string{"rack": "1"}, Addrs: []netip.Addr{netip.MustParseAddr("192.168.10.101")},
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix("172.20.1.0/24")}},
		Devices: []state.Device{{Name: "eth1",
			Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.10.101/24"), netip.MustParsePrefix("fd00:10::101/64")},
			Gateways: []netip.Addr{router}}},
		Instances: []state.BGPInstance{{Name: "tor", Origin: state.ObjectRef{Kind: "BGPInstance", Name: "tor"},
			BGPIdentity: state.BGPIdentity{ASN: 65001, ListenPort: 179}}},
		Peers: []state.BGPPeer{{Name: "router", Origin: state.ObjectRef{Kind: "BGPPeer", Name: "router"}, Remote: router, RemotePort: 179,
			ASN: state.BGPPeerASN{Number: 65000}}},
		Advertisements: []state.BGPAdvertisement{{Name: "all", Origin: state.ObjectRef{Kind: "BGPAdvertisement", Name: "all"},
			Addresses: []state.BGPAddresses{{Kind: state.KindLoadBalancer}}}},
		Services:  []state.Service{{Name: webpod, Type: "LoadBalancer", Labels: map[string]string{"app": "web"}, Ingress: []netip.Addr{vip, vip6}}},
		Frontends: []state.Frontend{frontend(vip), frontend(vip6)},
		Pools:     []state.Pool{{Name: "lab", Labels: map[string]string{"tier": "edge"}, Ranges: []state.Range{{From: vip, To: vip}}}},
	}
}

func routesOf(d Decision) string {
	var lines []string
	for _, r := range d.Routes {
		line := r.RowKey()
		for _, o := range r.Offers {
			line += fmt.Sprintf(" %s→%s", o.Advertisement, strings.Join(o.Peers, ","))
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "; ")
}

// exposed makes ClusterIPs what is advertised, and returns their frontend.
func exposed(in *Inputs) *state.Frontend {
	in.Advertisements[0].Addresses[0].Kind = state.KindClusterIP
	in.Services[0].ClusterIPs = []netip.Addr{netip.MustParseAddr("10.96.0.7")}
	f := in.Frontends[0]
	f.Addr, f.Kind, f.Exposed, f.Inside, f.Backends = in.Services[0].ClusterIPs[0], state.KindClusterIP, true, f.Backends, nil
	in.Frontends = append(in.Frontends, f)
	return &in.Frontends[len(in.Frontends)-1]
}

// external makes external IPs what is advertised, and returns their frontend.
func external(in *Inputs) *state.Frontend {
	in.Advertisements[0].Addresses[0].Kind = state.KindExternalIP
	in.Services[0].ExternalIPs = []netip.Addr{netip.MustParseAddr("203.0.113.9")}
	f := in.Frontends[0]
	f.Addr, f.Kind = in.Services[0].ExternalIPs[0], state.KindExternalIP
	in.Frontends = append(in.Frontends, f)
	return &in.Frontends[len(in.Frontends)-1]
}

const both = "tor/192.168.10.211/32 all→router; tor/fd00:10::211/128 all→router"

func TestRoutes(t *testing.T) {
	ask := func(change func(*Inputs)) Inputs { in := world(); change(&in); return in }
	for _, test := range []struct {
		name string
		in   Inputs
		want string
	}{
		{"both families", world(), both},
		{"another node's instance", ask(func(in *Inputs) { in.Instances[0].NodeSelector = selecting("rack", "2") }), ""},
		{"this node's instance", ask(func(in *Inputs) { in.Instances[0].NodeSelector = selecting("rack", "1") }), both},
		{"another node's advertisement", ask(func(in *Inputs) {
			in.Advertisements[0].NodeSelectors = []metav1.LabelSelector{*selecting("rack", "2"), *selecting("rack", "3")}
		}), ""},
		{"a Service of L2", ask(func(in *Inputs) { in.Services[0].Class = v1alpha1.ClassL2 }), ""},
		{"a Service of BGP", ask(func(in *Inputs) { in.Services[0].Class = v1alpha1.ClassBGP }), both},
		{"not selected", ask(func(in *Inputs) { in.Advertisements[0].Addresses[0].ServiceSelector = selecting("app", "db") }), ""},
		{"selected by name", ask(func(in *Inputs) {
			in.Advertisements[0].Addresses[0].ServiceSelector = selecting(state.LabelServiceName, "webpod")
		}), both},
		{"of the pool", ask(func(in *Inputs) { in.Advertisements[0].Addresses[0].Pools = []string{"lab"} }), "tor/192.168.10.211/32 all→router"},
		{"of a pool with the label", ask(func(in *Inputs) { in.Advertisements[0].Addresses[0].PoolSelector = selecting("tier", "edge") }), "tor/192.168.10.211/32 all→router"},
		{"of no pool with the label", ask(func(in *Inputs) { in.Advertisements[0].Addresses[0].PoolSelector = selecting("tier", "core") }), ""},
		{"of a pool by name or label", ask(func(in *Inputs) {
			in.Advertisements[0].Addresses[0].Pools, in.Advertisements[0].Addresses[0].PoolSelector = []string{"six"}, selecting("tier", "edge")
			in.Pools = append(in.Pools, state.Pool{Name: "six", Ranges: []state.Range{{From: vip6, To: vip6}}})
		}), both},
		{"external IPs", ask(func(in *Inputs) { external(in) }), "tor/203.0.113.9/32 all→router"},
		{"external IPs of a Service of any type, in no pool", ask(func(in *Inputs) {
			external(in)
			in.Services[0].Type, in.Services[0].Ingress, in.Advertisements[0].Addresses[0].Pools = "ClusterIP", nil, []string{"lab"}
		}), "tor/203.0.113.9/32 all→router"},
		{"external IPs without a backend", ask(func(in *Inputs) { external(in).Backends = nil }), ""},
		{"external IPs are no addresses of pools", ask(func(in *Inputs) {
			external(in)
			in.Advertisements[0].Addresses[0].Kind = state.KindLoadBalancer
		}), both},
		{"no backend", ask(func(in *Inputs) { in.Frontends[0].Backends = nil }), "tor/fd00:10::211/128 all→router"},
		{"served no more", ask(func(in *Inputs) { in.Frontends[0].Status.Phase = state.Deleting }), "tor/fd00:10::211/128 all→router"},
		{"pods", ask(func(in *Inputs) { in.Advertisements[0].Addresses[0].Kind = "" }), "tor/172.20.1.0/24 all→router"},
		{"ClusterIPs", ask(func(in *Inputs) { exposed(in) }), "tor/10.96.0.7/32 all→router"},
		{"ClusterIPs that are not served from outside", ask(func(in *Inputs) { exposed(in).Exposed = false }), ""},
		{"ClusterIPs without a backend", ask(func(in *Inputs) { exposed(in).Inside = nil }), ""},
		{"aggregated ClusterIPs", ask(func(in *Inputs) {
			exposed(in)
			in.Advertisements[0].Addresses[0].Aggregate4, in.Services[0].ExternalTrafficPolicyLocal = 16, true
		}), "tor/10.96.0.0/16 all→router"},
		{"ClusterIPs that are Local", ask(func(in *Inputs) {
			exposed(in)
			in.Advertisements[0].Addresses[0].Aggregate4, in.Services[0].InternalTrafficPolicyLocal = 16, true
		}), "tor/10.96.0.7/32 all→router"},
		{"aggregates", ask(func(in *Inputs) {
			in.Advertisements[0].Addresses[0].Aggregate4, in.Advertisements[0].Addresses[0].Aggregate6 = 24, 64
		}), "tor/192.168.10.0/24 all→router; tor/fd00:10::/64 all→router"},
		{"an aggregate of one family", ask(func(in *Inputs) { in.Advertisements[0].Addresses[0].Aggregate6 = 48 }),
			"tor/192.168.10.211/32 all→router; tor/fd00:10::/48 all→router"},
		{"an aggregate of whole addresses", ask(func(in *Inputs) { in.Advertisements[0].Addresses[0].Aggregate4 = 32 }), both},
		{"no aggregate of what is Local", ask(func(in *Inputs) {
			in.Advertisements[0].Addresses[0].Aggregate4, in.Services[0].ExternalTrafficPolicyLocal = 24, true
		}), both},
		{"an aggregate without a backend", ask(func(in *Inputs) {
			in.Advertisements[0].Addresses[0].Aggregate4, in.Frontends[0].Backends = 24, nil
		}), "tor/fd00:10::211/128 all→router"},
		{"an aggregate beside an address", ask(func(in *Inputs) {
			in.Advertisements = append(in.Advertisements, state.BGPAdvertisement{Name: "aaa",
				Addresses: []state.BGPAddresses{{Kind: state.KindLoadBalancer, Pools: []string{"lab"}, Aggregate4: 28}}})
		}), "tor/192.168.10.208/28 aaa→router; tor/192.168.10.211/32 all→router; tor/fd00:10::211/128 all→router"},
		{"no next hop for IPv6", ask(func(in *Inputs) { in.Devices[0].Prefixes = in.Devices[0].Prefixes[:1] }), "tor/192.168.10.211/32 all→router"},
		{"to another peer", ask(func(in *Inputs) { in.Advertisements[0].Peers = []string{"none"} }), ""},
		{"to peers with the label", ask(func(in *Inputs) {
			in.Advertisements[0].PeerSelector, in.Peers[0].Labels = selecting("role", "tor"), map[string]string{"role": "tor"}
		}), both},
		{"to no peer with the label", ask(func(in *Inputs) {
			in.Advertisements[0].PeerSelector, in.Peers[0].Labels = selecting("role", "spine"), map[string]string{"role": "tor"}
		}), ""},
		{"to peers by name or label", ask(func(in *Inputs) {
			in.Peers = append(in.Peers, state.BGPPeer{Name: "second", Remote: router.Next(), Labels: map[string]string{"role": "tor"}},
				state.BGPPeer{Name: "third", Remote: router.Prev()})
			in.Advertisements[0].Peers, in.Advertisements[0].PeerSelector = []string{"router"}, selecting("role", "tor")
		}), "tor/192.168.10.211/32 all→router,second; tor/fd00:10::211/128 all→router,second"},
		{"of one family", ask(func(in *Inputs) { in.Peers[0].Families = []state.BGPPeerFamily{{IPv6: true}} }), "tor/fd00:10::211/128 all→router"},
		{"not for the peer's family", ask(func(in *Inputs) {
			in.Peers[0].Families = []state.BGPPeerFamily{{Advertisements: selecting("to", "edge")}}
		}), ""},
		{"the first by name", ask(func(in *Inputs) {
			in.Peers = append(in.Peers, state.BGPPeer{Name: "second", Remote: router.Next()})
			in.Advertisements = append(in.Advertisements, state.BGPAdvertisement{Name: "aaa", Peers: []string{"second"},
				Addresses: []state.BGPAddresses{{Kind: state.KindLoadBalancer, Pools: []string{"lab"}}}})
		}), "tor/192.168.10.211/32 aaa→second all→router; tor/fd00:10::211/128 all→router,second"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := routesOf(Decide(test.in)); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// An aggregate is there as long as one of its addresses has a backend here, is for
// all that have, and goes with a blackhole.
func TestAggregateContributors(t *testing.T) {
	in := world()
	other := in.Services[0]
	other.Name.Name, other.Ingress = "other", []netip.Addr{netip.MustParseAddr("192.168.10.212")}
	in.Services = append(in.Services, other)
	second := in.Frontends[0]
	second.Addr, second.Service = other.Ingress[0], other.Name
	in.Frontends = append(in.Frontends, second)
	in.Advertisements[0].Addresses[0].Aggregate4 = 28
	aggregated := func() string {
		routes := Decide(in).Routes
		text := ""
		for _, r := range routes {
			if r.Aggregate() {
				text += fmt.Sprintf("%s for %v", r.Prefix, r.Addrs)
			}
		}
		for _, hole := range Blackholes(append(routes, routes...)) {
			text += ", " + hole.RowKey()
		}
		return text
	}
	const hole = ", 192.168.10.208/28 blackhole"
	for _, want := range []string{"192.168.10.208/28 for [192.168.10.211 192.168.10.212]" + hole, "192.168.10.208/28 for [192.168.10.212]" + hole, ""} {
		if got := aggregated(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		for i := range in.Frontends { // the next one loses its backends
			if f := &in.Frontends[i]; f.Addr.Is4() && len(f.Backends) > 0 {
				f.Backends = nil
				break
			}
		}
	}
}

func TestSessions(t *testing.T) {
	ask := func(change func(*Inputs)) Inputs { in := world(); change(&in); return in }
	for _, test := range []struct {
		name    string
		in      Inputs
		want    string // remote from source
		problem string
	}{
		{"by address", world(), "192.168.10.200 from invalid IP", ""},
		{"by gateway", ask(func(in *Inputs) { in.Peers[0].Remote, in.Peers[0].GatewayOf = netip.Addr{}, "ipv4" }), "192.168.10.200 from invalid IP", ""},
		{"no gateway", ask(func(in *Inputs) { in.Peers[0].Remote, in.Peers[0].GatewayOf = netip.Addr{}, "ipv6" }), "", "no default route of ipv6"},
		{"source by interface", ask(func(in *Inputs) { in.Peers[0].SourceInterface = "eth1" }), "192.168.10.200 from 192.168.10.101", ""},
		{"no such interface", ask(func(in *Inputs) { in.Peers[0].SourceInterface = "lo9" }), "", "interface lo9 of node k8s-w1 has no address"},
		{"source by node", ask(func(in *Inputs) {
			in.Peers[0].Source = netip.MustParseAddr("10.0.0.1")
			in.Peers[0].Sources = map[string]netip.Addr{"k8s-w1": netip.MustParseAddr("10.0.0.2")}
		}), "192.168.10.200 from 10.0.0.2", ""},
		{"passive", ask(func(in *Inputs) { in.Peers[0].Passive = true }), "192.168.10.200 from invalid IP", ""},
		{"passive, and nobody listens", ask(func(in *Inputs) { in.Peers[0].Passive, in.Instances[0].ListenPort = true, 0 }), "", "listens on no port"},
		{"another instance's", ask(func(in *Inputs) { in.Peers[0].Instances = []string{"other"} }), "", ""},
		{"password not read", ask(func(in *Inputs) { in.Peers[0].PasswordFile = "/etc/seamark/tor" }), "", ""},
		{"password that is none", ask(func(in *Inputs) {
			in.Peers[0].PasswordFile, in.Unread = "/etc/seamark/tor", map[string]string{"router": "it holds none"}
		}), "", ""},
		{"two instances, one peer", ask(func(in *Inputs) {
			in.Instances = append(in.Instances, state.BGPInstance{Name: "z", BGPIdentity: state.BGPIdentity{ASN: 65002, ListenPort: 1179}})
		}), "192.168.10.200 from invalid IP", "instance tor of node k8s-w1 has a session with the same machine from the same address"},
		{"two instances, two ports of one machine", ask(func(in *Inputs) {
			in.Instances = append(in.Instances, state.BGPInstance{Name: "z", BGPIdentity: state.BGPIdentity{ASN: 65002, ListenPort: 1179}})
			in.Peers[0].Instances = []string{"tor"}
			in.Peers = append(in.Peers, state.BGPPeer{Name: "other", Remote: router, RemotePort: 1179, Instances: []string{"z"}})
		}), "192.168.10.200 from invalid IP; 192.168.10.200 from invalid IP", ""},
		{"two instances, two addresses", ask(func(in *Inputs) {
			in.Instances = append(in.Instances, state.BGPInstance{Name: "z", BGPIdentity: state.BGPIdentity{ASN: 65002, ListenPort: 1179}})
			in.Peers[0].Instances = []string{"tor"}
			in.Peers = append(in.Peers, state.BGPPeer{Name: "other", Remote: router, RemotePort: 179, Instances: []string{"z"}, Source: netip.MustParseAddr("10.0.0.2")})
		}), "192.168.10.200 from invalid IP; 192.168.10.200 from 10.0.0.2", ""},
		{"twice the same", ask(func(in *Inputs) { in.Peers = append(in.Peers, state.BGPPeer{Name: "z", Remote: router}) }),
			"192.168.10.200 from invalid IP", "peer router is the same machine"},
		{"port twice", ask(func(in *Inputs) {
			in.Instances = append(in.Instances, state.BGPInstance{Name: "z", BGPIdentity: state.BGPIdentity{ASN: 65002, ListenPort: 179}})
			in.Peers[0].Instances = []string{"tor"}
		}), "192.168.10.200 from invalid IP", "port 179 of node k8s-w1 is instance tor's"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := Decide(test.in)
			var got, problems []string
			for _, s := range d.Sessions {
				if s.Bar == "" {
					got = append(got, fmt.Sprintf("%s from %s", s.Remote, s.Source))
				} else if !strings.Contains(s.Bar, test.problem) {
					t.Errorf("session %s is barred by %q, want %q", s.RowKey(), s.Bar, test.problem)
				}
			}
			for _, p := range d.Problems {
				problems = append(problems, p.Message)
			}
			if len(d.Sessions) == 0 != (test.name == "another instance's") {
				t.Errorf("sessions %+v", d.Sessions)
			}
			if strings.Join(got, "; ") != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if joined := strings.Join(problems, "; "); (joined == "") != (test.problem == "") || !strings.Contains(joined, test.problem) {
				t.Errorf("problems %q, want %q", problems, test.problem)
			}
		})
	}
}

// A session that cannot be had says so, and nothing is advertised over it.
func TestBarred(t *testing.T) {
	in := world()
	in.Peers[0].PasswordFile, in.Unread = "/etc/seamark/tor", map[string]string{"router": "there is no such file: write it"}
	d := Decide(in)
	if len(d.Sessions) != 1 || d.Sessions[0].Bar != in.Unread["router"] || len(d.Routes) != 0 {
		t.Errorf("got %+v", d)
	}
	if got := Explain(in, nil, nil, vip); len(got) != 1 || got[0].Why != "there is no session: there is no such file: write it" {
		t.Errorf("explained by %+v", got)
	}

	speaker := speak(t, state.BGPIdentity{ASN: 65001, RouterID: netip.MustParseAddr("127.0.0.1")})
	there := func(row state.BGPSession) int {
		update(t, speaker.Sessions(), row)
		states, err := speaker.States(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(states)
	}
	row := passiveSession("router", hostileAddr)
	if n := there(row); n != 1 {
		t.Errorf("%d sessions, want one", n)
	}
	if row.Bar = "its password is none"; there(row) != 0 {
		t.Error("there is a session that cannot be had")
	}
}

func TestIdentity(t *testing.T) {
	in := world()
	in.Instances[0].Overrides = map[string]state.BGPIdentity{"k8s-w1": {ASN: 65101}, "k8s-ctr": {ListenPort: 1179}}
	want := state.BGPIdentity{ASN: 65101, RouterID: in.Node.Addrs[0], ListenPort: 179}
	if got := Decide(in).Speakers[0].BGPIdentity; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	in.Node.Addrs = nil // of IPv4
	first := Decide(in).Speakers[0].RouterID
	in.Node.Name = "k8s-w2"
	if second := Decide(in).Speakers[0].RouterID; !first.Is4() || first.IsUnspecified() || first == second {
		t.Errorf("router ids %s and %s", first, second)
	}
}

// In whatever order objects come, the decision is the same.
func TestOrderDoesNotMatter(t *testing.T) {
	in := world()
	in.Peers = append(in.Peers, state.BGPPeer{Name: "second", Remote: router.Next()}, state.BGPPeer{Name: "first", Remote: router.Prev()})
	in.Advertisements = append(in.Advertisements, state.BGPAdvertisement{Name: "aaa", Peers: []string{"second", "first"},
		Addresses: []state.BGPAddresses{{Kind: state.KindLoadBalancer}}})
	want := Decide(in)
	slices.Reverse(in.Peers)
	slices.Reverse(in.Advertisements)
	slices.Reverse(in.Frontends)
	got := Decide(in)
	if !slices.EqualFunc(got.Routes, want.Routes, state.BGPRoute.SameSpec) || !slices.EqualFunc(got.Sessions, want.Sessions, state.BGPSession.SameSpec) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
