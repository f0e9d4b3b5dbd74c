package datapath

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/state"
)

func TestFrontendsHostPorts(t *testing.T) {
	pod := func(name, addr string, ports ...state.HostPort) state.Endpoint {
		return state.Endpoint{ContainerID: name, Interface: "eth0", Pod: named("p/" + name), Addr: netip.MustParseAddr(addr), HostPorts: ports}
	}
	leaving := pod("leaving", "172.20.1.9", state.HostPort{Port: 9000, Protocol: state.TCP, Target: 9000})
	leaving.Status.Phase = state.Deleting
	pods := []state.Endpoint{
		pod("each", "172.20.1.1", state.HostPort{Port: 8080, Protocol: state.TCP, Target: 80}),
		pod("one", "172.20.1.2", state.HostPort{Addr: netip.MustParseAddr("10.0.2.15"), Port: 8081, Protocol: state.UDP, Target: 80}),
		pod("six", "fd00:20::3", state.HostPort{Port: 8080, Protocol: state.TCP, Target: 80}),
		pod("loopback", "172.20.1.4", state.HostPort{Addr: netip.MustParseAddr("127.0.0.1"), Port: 8082, Protocol: state.TCP, Target: 80}),
		pod("clash", "172.20.1.5", state.HostPort{Port: 30080, Protocol: state.TCP, Target: 80}),
		pod("sctp", "172.20.1.6", state.HostPort{Port: 36412, Protocol: state.SCTP, Target: 36412}, state.HostPort{Port: 8083, Protocol: state.SCTP, Target: 80},
			state.HostPort{Port: 61001, Protocol: state.SCTP, Target: 80}),
		pod("high", "172.20.1.7", state.HostPort{Port: 61000, Protocol: state.TCP, Target: 80}, state.HostPort{Port: 60999, Protocol: state.TCP, Target: 80}),
		leaving,
	}
	svc := state.Service{Name: named("p/each"), Type: "NodePort", ClusterIPs: addrList("10.96.0.7"), Ports: []state.ServicePort{{Protocol: state.TCP, Port: 80, NodePort: 30080}}}
	want := []string{
		"10.0.2.15:8080/TCP p/each 172.20.1.1:80",
		"10.0.2.15:8081/UDP p/one 172.20.1.2:80",
		"10.0.2.15:8083/SCTP p/sctp 172.20.1.6:80",
		"10.0.2.15:30080/TCP p/clash 172.20.1.5:80", // node ports are not served there
		"10.0.2.15:36412/SCTP p/sctp 172.20.1.6:36412",
		"10.0.2.15:60999/TCP p/high 172.20.1.7:80",
		"192.168.10.101:8080/TCP p/each 172.20.1.1:80",
		"192.168.10.101:8083/SCTP p/sctp 172.20.1.6:80",
		"192.168.10.101:36412/SCTP p/sctp 172.20.1.6:36412",
		"192.168.10.101:60999/TCP p/high 172.20.1.7:80",
		"[fd00:10::101]:8080/TCP p/six [fd00:20::3]:80",
		"pod/p/clash: spec.containers[].ports[].hostPort: 192.168.10.101:30080/TCP is served for service/p/each; give one of the two another port",
		"pod/p/high: spec.containers[].ports[].hostPort: 61000/TCP is not served: ports from 61000 are for translated flows; use a lower port",
		"pod/p/loopback: spec.containers[].ports[].hostPort: host port 127.0.0.1:8082/TCP is not served: the address is none that other machines reach this node by; remove hostIP, or write one of the node's addresses",
		"pod/p/sctp: spec.containers[].ports[].hostPort: 61001/SCTP is not served: ports from 61000 are for translated flows; use a lower port",
	}
	for range len(pods) {
		pods = append(pods[1:], pods[0])
		rows, problems := Frontends(FrontendInput{Node: state.Node{Name: "w1"}, Services: []state.Service{svc}, Endpoints: pods, Inside: true,
			NodePortAddrs: addrList("192.168.10.101"), HostPortAddrs: addrList("10.0.2.15", "192.168.10.101", "fd00:10::101")})
		var got []string
		for _, row := range rows {
			if row.Kind != state.KindHostPort {
				continue
			}
			if row.PortName == "" || !slices.Equal(row.Backends, row.Inside) || len(row.Backends) != 1 || row.Backends[0].Node != "w1" {
				t.Errorf("row %+v", row)
			}
			got = append(got, row.RowKey()+" "+row.Service.String()+" "+listed(row.Backends))
		}
		for _, p := range problems {
			got = append(got, p.String())
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// Node ports are at the addresses that outside machines use, or at those chosen.
func TestNodeAddrs(t *testing.T) {
	db, w := state.New()
	w.Update(func(tx *state.Tx) {
		db.Devices.Put(tx, state.Device{Name: "lo", Type: "loopback", Prefixes: prefixList("127.0.0.1/8", "::1/128")})
		db.Devices.Put(tx, state.Device{Name: "eth0", Prefixes: prefixList("10.0.2.15/24")})
		db.Devices.Put(tx, state.Device{Name: "eth1", Prefixes: prefixList("192.168.10.101/24", "192.168.10.102/24", "192.168.10.211/32", "fe80::1/64", "fd00:10::101/64")})
		db.Devices.Put(tx, state.Device{Name: "eth2", Prefixes: prefixList("192.168.20.101/24")})
		db.Devices.Put(tx, state.Device{Name: "smabc", Prefixes: prefixList("169.254.1.1/32")})
		db.Attachments.Put(tx, state.Attachment{Device: "eth2"})
		db.Services.Put(tx, state.Service{Name: named("a/web"), Ingress: addrList("192.168.10.211")})
	})
	node := state.Node{Name: "w1", Addrs: addrList("192.168.10.101", "203.0.113.7", "fe80::7")}
	outside := addrList("192.168.10.101", "192.168.10.102", "192.168.20.101", "203.0.113.7", "fd00:10::101")
	for _, c := range []struct {
		chosen   []netip.Prefix
		nodePort []netip.Addr
	}{
		{nil, outside},
		{prefixList("10.0.0.0/8", "fd00::/8"), addrList("10.0.2.15", "fd00:10::101")},
		{prefixList("127.0.0.0/8", "192.168.10.211/32", "169.254.0.0/16"), nil},
	} {
		nodePort, hostPort := nodeAddrs(db, db.Snapshot(), node, c.chosen)
		if !slices.Equal(nodePort, c.nodePort) || !slices.Equal(hostPort, outside) {
			t.Errorf("%v: node ports on %v, want %v; host ports on %v, want %v", c.chosen, nodePort, c.nodePort, hostPort, outside)
		}
	}
}

// A node port of a range that a cluster chose for itself may be translated flows'.
func TestNodePortsForNAT(t *testing.T) {
	svc := state.Service{Name: named("a/web"), Type: "NodePort", ClusterIPs: addrList("10.96.0.7"),
		Ports: []state.ServicePort{{Protocol: state.TCP, Port: 80, NodePort: 65535}}}
	rows, problems := Frontends(FrontendInput{Node: state.Node{Name: "w1"}, Services: []state.Service{svc}, Inside: true, NodePortAddrs: addrList("192.168.10.101")})
	if want := "service/a/web: spec.ports[0].nodePort: 65535/TCP is not served: ports from 61000 are for translated flows; use a lower port"; len(rows) != 1 || len(problems) != 1 || problems[0].String() != want {
		t.Errorf("%d rows, problems %v; want %s", len(rows), problems, want)
	}
	source, err := os.ReadFile("../bpf/pair.h")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("nat_port_low = %d;", firstNATPort); !strings.Contains(string(source), want) {
		t.Errorf("bpf/pair.h does not say %s", want)
	}
}

// A node port that has no address to be served on is said of the node, once.
func TestFrontendsWithoutNodeAddrs(t *testing.T) {
	var services []state.Service
	for i := range 3 {
		services = append(services, state.Service{Name: named(fmt.Sprintf("a/%d", i)), Type: "NodePort", ClusterIPs: addrList("10.96.0.7"),
			Ports: []state.ServicePort{{Protocol: state.TCP, Port: 80, NodePort: 30080}}})
	}
	in := FrontendInput{Node: state.Node{Name: "w1"}, Services: services[:2], Inside: true, Defaults: Defaults{NodePortAddresses: prefixList("10.9.0.0/16")}}
	_, problems := Frontends(in)
	if want := "node/w1: has no address in --node-port-addresses: its node ports are not served; add a prefix of its addresses"; len(problems) != 2 || problems[0].String() != want {
		t.Errorf("problems %v, want %s", problems, want) // the other is the clusterIP that two have
	}
	in.Inside = false
	if _, problems := Frontends(in); len(problems) > 0 {
		t.Errorf("problems %v, though kube-proxy serves node ports", problems)
	}
}

// kube-proxy keeps ClusterIPs and node ports, unless it is to be replaced.
func TestKubeProxyReplacement(t *testing.T) {
	db, w := state.New()
	proxy := state.Agent{Object: state.ObjectRef{Group: "apps", Kind: "DaemonSet", Name: "kube-proxy"}, Product: "kube-proxy", Role: state.AgentProxy}
	for _, running := range []bool{false, true} {
		w.Update(func(tx *state.Tx) {
			db.Agents.Put(tx, state.Agent{Object: state.ObjectRef{Kind: "DaemonSet", Name: "flannel"}, Role: state.AgentCNI})
			if running {
				db.Agents.Put(tx, proxy)
			}
		})
		for k, want := range map[KubeProxyReplacement]bool{"": !running, ReplaceAuto: !running, ReplaceTrue: true, ReplaceFalse: false} {
			if got := k.in(db, db.Snapshot()); got != want {
				t.Errorf("%q, kube-proxy runs %v: %v", k, running, got)
			}
		}
	}
}
