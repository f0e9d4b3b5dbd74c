package bgp

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestExplain(t *testing.T) {
	up := []state.BGPSessionState{{Instance: "tor", Peer: "router", State: state.BGPEstablished, IPv4: true, IPv6: true}}
	done := func(in *Inputs, phase state.Phase, reason state.Reason) []state.BGPRoute {
		routes := Decide(*in).Routes
		for i := range routes {
			routes[i].Status = state.Status{Phase: phase, Reason: reason}
		}
		return routes
	}
	for _, test := range []struct {
		name     string
		change   func(*Inputs)
		addr     string
		phase    state.Phase
		sessions []state.BGPSessionState
		want     string // by prefix, or why not
	}{
		{"advertised", func(*Inputs) {}, "192.168.10.211", state.Done, up, "192.168.10.211/32"},
		{"by an aggregate", func(in *Inputs) { in.Advertisements[0].Addresses[0].Aggregate4 = 24 }, "192.168.10.211", state.Done, up, "192.168.10.0/24"},
		{"pods", func(in *Inputs) { in.Advertisements[0].Addresses[0].Kind = "" }, "172.20.1.7", state.Done, up, "172.20.1.0/24"},
		{"other pods", func(in *Inputs) { in.Advertisements[0].Addresses[0].Kind = "" }, "172.20.2.7", state.Done, up, "in no pod CIDR of this node"},
		{"nobody's", func(*Inputs) {}, "192.168.10.9", state.Done, up, "no LoadBalancer address of a Service"},
		{"another node's", func(in *Inputs) {
			in.Advertisements[0].NodeSelectors = []metav1.LabelSelector{*selecting("rack", "2")}
		}, "192.168.10.211", state.Done, up, "its nodeSelectors do not match this node"},
		{"another peer's", func(in *Inputs) { in.Advertisements[0].Peers = []string{"none"} }, "192.168.10.211", state.Done, up,
			"it is for other peers, or the peer's families leave it out"},
		{"of L2", func(in *Inputs) { in.Services[0].Class = v1alpha1.ClassL2 }, "192.168.10.211", state.Done, up,
			"Service default/webpod is of class seamark.dev/l2, which is not for BGP"},
		{"not selected", func(in *Inputs) { in.Advertisements[0].Addresses[0].ServiceSelector = selecting("app", "db") }, "192.168.10.211", state.Done, up,
			"serviceSelector does not match Service default/webpod"},
		{"of no pool", func(in *Inputs) { in.Advertisements[0].Addresses[0].Pools = []string{"none"} }, "192.168.10.211", state.Done, up, "of no pool that it names"},
		{"not served", func(in *Inputs) { in.Frontends = nil }, "192.168.10.211", state.Done, up, "this node does not serve it: see seamark status"},
		{"no backend", func(in *Inputs) { in.Frontends[0].Backends = nil }, "192.168.10.211", state.Done, up, "no backend of Service default/webpod is ready"},
		{"no backend here", func(in *Inputs) { in.Frontends[0].Backends, in.Services[0].ExternalTrafficPolicyLocal = nil, true }, "192.168.10.211", state.Done, up,
			"the traffic policy of Service default/webpod is Local, and no backend on this node is ready"},
		{"waiting", func(*Inputs) {}, "192.168.10.211", state.Pending, up, "waiting for the datapath to serve it: see seamark status"},
		{"no session yet", func(*Inputs) {}, "192.168.10.211", state.Done, nil, "the session has not begun: see seamark bgp peers"},
		{"no session", func(*Inputs) {}, "192.168.10.211", state.Done, []state.BGPSessionState{{Instance: "tor", Peer: "router", State: "Active", LastError: "cannot connect"}},
			"the session is Active: cannot connect"},
		{"a family that the peer has not", func(*Inputs) {}, "fd00:10::211", state.Done, []state.BGPSessionState{{Instance: "tor", Peer: "router", State: state.BGPEstablished, IPv4: true}},
			"the peer does not exchange ipv6: activate it for this neighbor there"},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := world()
			test.change(&in)
			got := Explain(in, done(&in, test.phase, state.ReasonWaitingForDatapath), test.sessions, netip.MustParseAddr(test.addr))
			if len(got) != 1 {
				t.Fatalf("got %+v", got)
			}
			text := got[0].Why
			if text == "" {
				text = got[0].Prefix.String()
			}
			if text != test.want {
				t.Errorf("got %s, want %s", text, test.want)
			}
		})
	}

	in := world()
	in.Advertisements = append(in.Advertisements, state.BGPAdvertisement{Name: "aaa", Addresses: []state.BGPAddresses{{Kind: state.KindLoadBalancer}}})
	got := Explain(in, done(&in, state.Done, ""), up, vip)
	if len(got) != 2 || got[0].Advertisement != "aaa" || got[0].Why != "" || !strings.Contains(got[1].Why, "by advertisement aaa") {
		t.Errorf("two advertisements: %+v", got)
	}
}
