package datapath

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// dns is a Service with a port of each protocol, whose backends are outside the
// cluster but for one.
func dns(probing state.Probing) (state.Service, state.EndpointSlice) {
	svc := state.Service{Name: named("a/dns"), Type: "LoadBalancer", Ingress: addrList("192.168.10.211"), Probing: probing,
		Ports: []state.ServicePort{{Name: "tcp", Protocol: state.TCP, Port: 53}, {Name: "udp", Protocol: state.UDP, Port: 53}}}
	return svc, state.EndpointSlice{Name: svc.Name, Service: svc.Name,
		Endpoints: []state.Backend{backend("203.0.113.2", "", "ready"), backend("203.0.113.1", "", "ready"), backend("203.0.113.3", "", "draining"),
			backend("203.0.113.4", "", "failing"), backend("172.20.1.1", "w1", "ready")},
		Ports: []state.EndpointPort{{Name: "tcp", Protocol: state.TCP, Port: 5353}, {Name: "udp", Protocol: state.UDP, Port: 5354}}}
}

func TestProbes(t *testing.T) {
	const unchecked = "service/a/dns: spec.ports[1].protocol: backends of port 53/UDP are not checked"
	tcp := state.Probing{By: state.ProbeTCP, Interval: time.Second, Timeout: time.Second, Rise: 1, Fall: 1}
	elsewhere := tcp
	elsewhere.Port = 8181
	for _, tc := range []struct {
		name    string
		probing state.Probing
		change  func(*state.Service, *state.EndpointSlice)
		want    string // what is checked, 203.0.113. left out
		problem string
	}{
		{"not asked for", state.Probing{}, nil, "", ""},
		{"by TCP", tcp, nil, "1:5353 2:5353 3:5353", unchecked},
		{"at a port of its own: once for both ports", elsewhere, nil, "1:8181 2:8181 3:8181", ""},
		{"none outside", tcp, func(_ *state.Service, s *state.EndpointSlice) { s.Endpoints = s.Endpoints[4:] }, "", ""},
		{"without an address yet", tcp, func(svc *state.Service, _ *state.EndpointSlice) { svc.Ingress = nil }, "", ""},
		{"by node ports alone", tcp, func(svc *state.Service, _ *state.EndpointSlice) {
			svc.Ingress, svc.Ports[0].NodePort = nil, 30053
		}, "1:5353 2:5353 3:5353", unchecked},
		{"another load balancer's", tcp, func(svc *state.Service, _ *state.EndpointSlice) { svc.Class = "example.com/lb" }, "", ""},
		{"headless", tcp, func(svc *state.Service, _ *state.EndpointSlice) { svc.Headless = true }, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			db, w := state.New()
			svc, slice := dns(tc.probing)
			if tc.change != nil {
				tc.change(&svc, &slice)
			}
			w.Update(func(tx *state.Tx) {
				db.Services.Put(tx, svc)
				db.EndpointSlices.Put(tx, slice)
				if tc.name == "by node ports alone" {
					db.Nodes.Put(tx, state.Node{Name: "n", Addrs: addrList("192.168.10.100")})
				}
			})
			rows, problems := Probes(db, db.Snapshot(), "n", Defaults{})
			var got []string
			for _, row := range rows {
				got = append(got, strings.TrimPrefix(row.RowKey(), "a/dns 203.0.113."))
				if row.Probing != tc.probing {
					t.Errorf("%s is checked by %+v", row.RowKey(), row.Probing)
				}
			}
			if got := strings.Join(got, " "); got != tc.want {
				t.Errorf("checked %q, want %q", got, tc.want)
			}
			if tc.problem == "" && len(problems) > 0 || tc.problem != "" && (len(problems) != 1 || !strings.HasPrefix(problems[0].String(), tc.problem)) {
				t.Errorf("problems %v, want %q", problems, tc.problem)
			}
		})
	}
}

// What is down serves nothing, and keeps no flow: it is dead. When all are, none serves.
func TestFrontendsWithoutDown(t *testing.T) {
	tcp := state.Probing{By: state.ProbeTCP}
	elsewhere := state.Probing{By: state.ProbeTCP, Port: 8181}
	for _, tc := range []struct {
		name    string
		probing state.Probing
		down    string
		want    string // backends | draining of TCP; of UDP
	}{
		{"none", tcp, "", "172.20.1.1 203.0.113.1 203.0.113.2 | ; 172.20.1.1 203.0.113.1 203.0.113.2 | "},
		{"one", tcp, "203.0.113.1:5353", "172.20.1.1 203.0.113.2 | ; 172.20.1.1 203.0.113.1 203.0.113.2 | "},
		{"what nobody asks any longer", state.Probing{}, "203.0.113.1:5353", "172.20.1.1 203.0.113.1 203.0.113.2 | ; 172.20.1.1 203.0.113.1 203.0.113.2 | "},
		{"for both ports", elsewhere, "203.0.113.1:8181", "172.20.1.1 203.0.113.2 | ; 172.20.1.1 203.0.113.2 | "},
		{"a pod, which is its kubelet's to check", elsewhere, "172.20.1.1:8181", "172.20.1.1 203.0.113.1 203.0.113.2 | ; 172.20.1.1 203.0.113.1 203.0.113.2 | "},
		{"all outside", elsewhere, "203.0.113.1:8181 203.0.113.2:8181 203.0.113.3:8181", "172.20.1.1 | ; 172.20.1.1 | "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			svc, slice := dns(tc.probing)
			slice.Endpoints = slices.DeleteFunc(slice.Endpoints, func(b state.Backend) bool { return b.Terminating })
			if got := servedBy(svc, slice, tc.down); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
	svc, slice := dns(elsewhere)
	slice.Endpoints = slice.Endpoints[:2]
	if got, want := servedBy(svc, slice, "203.0.113.1:8181 203.0.113.2:8181"), " | ;  | "; got != want {
		t.Errorf("all are down: %q, want %q", got, want)
	}
	slice.Endpoints = []state.Backend{backend("203.0.113.2", "", "ready"), backend("203.0.113.3", "", "idle")}
	if got, want := servedBy(svc, slice, "203.0.113.3:8181"), "203.0.113.2 | ; 203.0.113.2 | "; got != want {
		t.Errorf("one that drains is down: %q, want %q", got, want)
	}
}

func servedBy(svc state.Service, slice state.EndpointSlice, down string) string {
	in := FrontendInput{Node: state.Node{Name: "n"}, Services: []state.Service{svc}, Slices: []state.EndpointSlice{slice}, Down: map[Probed]bool{}}
	for _, text := range strings.Fields(down) {
		at := netip.MustParseAddrPort(text)
		in.Down[Probed{svc.Name, at.Addr(), at.Port()}] = true
	}
	rows, _ := Frontends(in)
	var all []string
	for _, row := range rows {
		all = append(all, strings.NewReplacer(":5353", "", ":5354", "").Replace(listed(row.Backends)+" | "+listed(row.Draining)))
	}
	return strings.Join(all, "; ")
}
