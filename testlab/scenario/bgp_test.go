package scenario

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/testlab"
)

// What of testlab/topologies/bgp.yaml and bgp2.yaml and of deploy/demo/bgp the
// tests name.
const (
	router2 = "router2"
	client  = "client"
	machine = "machine"

	bgpVIP  = "10.10.50.1"
	bgpVIP6 = "fd00:50::1"
)

// bgpNodes are the nodes' addresses as routers know them, sorted.
var (
	bgpNodes  = []string{"192.168.10.100", "192.168.10.101", "192.168.20.100"}
	bgpNodes6 = []string{"fd00:10::100", "fd00:10::101", "fd00:20::100"}
)

// upBGP brings up the lab of that name with the manifests of these folders of
// deploy/demo, and waits until the router spreads the VIP over all nodes.
func upBGP(t *testing.T, topology string, manifests ...string) lab {
	t.Helper()
	if _, err := os.Stat("/usr/lib/frr/bgpd"); err != nil {
		t.Skipf("needs FRR: apt-get install frr: %v", err)
	}
	plan, err := testlab.ReadTopology(topology)
	if err != nil {
		t.Fatal(err)
	}
	l := upWith(t, testlab.Config{Topology: plan})
	for _, dir := range manifests {
		path, err := filepath.Abs("../../deploy/demo/" + dir)
		l.must(err)
		l.seamark(ctr, "apply", "-f", path)
	}
	l.routedBy(router, bgpVIP, bgpNodes...)
	return l
}

// vtysh asks a router's FRR for JSON.
func (l lab) vtysh(into any, host, command string) error {
	out, err := l.try(host, "vtysh", "-c", command)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), into)
}

// nextHops are those that a router's kernel has for the destination.
func (l lab) nextHops(host, to string) ([]string, error) {
	family := "-4"
	if strings.Contains(to, ":") {
		family = "-6"
	}
	out, err := l.try(host, "ip", family, "-j", "route", "show", to)
	if err != nil {
		return nil, err
	}
	var routes []struct {
		Gateway  string
		Nexthops []struct{ Gateway string }
	}
	if err := json.Unmarshal([]byte(out), &routes); err != nil {
		return nil, err
	}
	var hops []string
	for _, r := range routes {
		if r.Gateway != "" {
			hops = append(hops, r.Gateway)
		}
		for _, h := range r.Nexthops {
			hops = append(hops, h.Gateway)
		}
	}
	slices.Sort(hops)
	return hops, nil
}

// routedBy waits until a router's kernel sends what is for the destination to these.
func (l lab) routedBy(host, to string, want ...string) {
	l.t.Helper()
	l.eventually(fmt.Sprintf("%s sends %s to %v", host, to, want), func() error {
		hops, err := l.nextHops(host, to)
		if err == nil && !slices.Equal(hops, want) {
			err = fmt.Errorf("to %v", hops)
		}
		return err
	})
}

// speaks waits until the node says that it has all of its sessions.
func (l lab) speaks(node string) {
	l.t.Helper()
	l.eventually(node+" has its sessions", func() error {
		var sessions []struct{ Peer, State string }
		if err := l.tryJSON(&sessions, node, "bgp", "peers"); err != nil {
			return err
		}
		if len(sessions) == 0 {
			return errors.New("it has none")
		}
		for _, s := range sessions {
			if s.State != "Established" {
				return fmt.Errorf("%s is %s", s.Peer, s.State)
			}
		}
		return nil
	})
}

// meetsAll waits until requests from a host have met every pod.
func (l lab) meetsAll(from string) {
	l.t.Helper()
	met := map[string]bool{}
	l.eventually("the address leads to all pods", func() error {
		pod, _, err := l.page(from, "http://"+bgpVIP+"/")
		if met[pod] = true; err == nil && len(met) < len(nodes) {
			err = fmt.Errorf("met %v", met)
		}
		return err
	})
}

// balanced is how many packets to VIPs a node has sent on to backends.
func (l lab) balanced(node string) uint64 {
	l.t.Helper()
	return l.counted(node, "forward_local") + l.counted(node, "forward_remote") + l.counted(node, "forward_snat")
}

// meetsNodes waits until requests from a host to the address have come by every node.
func (l lab) meetsNodes(from, address string) {
	l.t.Helper()
	before := map[string]uint64{}
	for _, node := range nodes {
		before[node] = l.balanced(node)
	}
	l.eventually("all nodes have their share of "+address, func() error {
		for range 12 { // counting takes longer
			if _, _, err := l.page(from, "http://"+net.JoinHostPort(address, "80")+"/"); err != nil {
				return err
			}
		}
		for _, node := range nodes {
			if l.balanced(node) == before[node] {
				return fmt.Errorf("%s has none", node)
			}
		}
		return nil
	})
}

// routed6 is a Service of IPv6 whose backend is no pod.
const routed6 = `apiVersion: v1
kind: Service
metadata: {name: files, namespace: default, annotations: {seamark.dev/forwarding-mode: snat}}
spec: {type: LoadBalancer, loadBalancerClass: seamark.dev/bgp, ipFamilies: [IPv6], ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: files-1, namespace: default, labels: {kubernetes.io/service-name: files}}
addressType: IPv6
ports: [{port: 80}]
endpoints:
- addresses: ["fd00:20::31"]
`

// TestBGP: every node advertises a Service's address to a router with FRR, whose
// kernel spreads it over the nodes; a node that serves no more is withdrawn, and a
// daemon that restarts is not noticed.
func TestBGP(t *testing.T) {
	t.Parallel()
	l := upBGP(t, "bgp", "bgp")
	l.meetsAll(router)
	for i, node := range nodes {
		l.speaks(node)
		if out := l.seamark(node, "bgp", "routes", "advertised", "router"); !strings.Contains(out, bgpVIP+"/32") {
			t.Errorf("%s: %s", node, out)
		}
		l.routedBy(router, fmt.Sprintf("172.20.%d.0/24", i), bgpNodes[i])
		l.routedBy(router, fmt.Sprintf("fd00:172:20:%d::/64", i), bgpNodes6[i])
	}
	// What one node says reaches the others, although they are of one AS.
	var received struct {
		AdvertisedRoutes map[string]any
	}
	l.eventually("the router tells k8s-ctr the pods of k8s-w0", func() error {
		err := l.vtysh(&received, router, "show bgp ipv4 unicast neighbors "+bgpNodes[0]+" advertised-routes json")
		if err == nil && received.AdvertisedRoutes["172.20.2.0/24"] == nil {
			err = fmt.Errorf("it tells %v", received.AdvertisedRoutes)
		}
		return err
	})

	// With the policy Local, only nodes with a pod that is ready.
	service, err := os.ReadFile("../../deploy/demo/bgp/service.yaml")
	l.must(err)
	l.must(l.SetReady(t.Context(), false, podW1))
	l.apply(strings.Replace(string(service), "type: LoadBalancer\n", "type: LoadBalancer\n  externalTrafficPolicy: Local\n", 1))
	l.routedBy(router, bgpVIP, bgpNodes[0], bgpNodes[2])
	l.must(l.SetReady(t.Context(), true, podW1))
	l.routedBy(router, bgpVIP, bgpNodes...)
	l.apply(string(service))

	l.daemon(w1, "stop")
	hops, err := l.nextHops(router, bgpVIP)
	l.must(err)
	if !slices.Equal(hops, bgpNodes) {
		t.Errorf("a daemon that stops for a restart takes its routes along: %v", hops)
	}
	l.daemon(w1, "start")
	l.speaks(w1)
	l.routedBy(router, bgpVIP, bgpNodes...)

	l.seamark(ctr, "delete", "service", "webpod")
	l.routedBy(router, bgpVIP)
}

// TestBGPRouters: two routers spread a client's connections over all nodes, and these
// over all pods, in IPv4 and IPv6. What nodes take of the two goes by both. A router that is
// no more takes nothing along.
func TestBGPRouters(t *testing.T) {
	t.Parallel()
	l := upBGP(t, "bgp2", "bgp", "bgp2")
	l.routedBy(router2, bgpVIP, bgpNodes...)
	l.routedBy(client, bgpVIP, "10.10.3.200", "10.10.3.201")
	l.meetsAll(client)
	l.meetsNodes(client, bgpVIP)

	l.serve(machine)
	l.apply(routed6)
	for _, r := range []string{router, router2} {
		l.routedBy(r, bgpVIP6, bgpNodes6...)
	}
	l.eventually("the client has both ways to "+bgpVIP6, func() error {
		hops, err := l.nextHops(client, bgpVIP6) // link-local ones
		if err == nil && len(hops) != 2 {
			err = fmt.Errorf("by %v", hops)
		}
		return err
	})
	l.meetsNodes(client, bgpVIP6)

	peers := ""
	for _, name := range []string{"bgp/peer", "bgp2/router2-front", "bgp2/router2-back"} {
		manifest, err := os.ReadFile("../../deploy/demo/" + name + ".yaml")
		l.must(err)
		peers += string(manifest) + "---\n"
	}
	l.apply(strings.ReplaceAll(peers, "spec:\n", "spec:\n  importPrefixes: [{cidr: 172.20.0.0/16, ge: 24, le: 24}, {cidr: \"fd00:172:20::/48\", ge: 64, le: 64}]\n"))
	l.routedBy(ctr, "172.20.2.0/24", "192.168.10.200", "192.168.10.201")
	l.routedBy(w0, "172.20.0.0/24", "192.168.20.200", "192.168.20.201")
	l.routedBy(ctr, "fd00:172:20:2::/64", "fd00:10::200", "fd00:10::201")
	l.routedBy(w0, "fd00:172:20:1::/64", "fd00:20::200", "fd00:20::201")
	l.meetsNodes(client, bgpVIP)
	l.apply(peers) // a router with graceful restart that has no power is waited for
	l.routedBy(ctr, "172.20.2.0/24")
	l.routedBy(w0, "172.20.0.0/24")

	l.must(l.PowerOff(router2)) // the nodes' answers go by the other anyway
	l.routedBy(client, bgpVIP, "10.10.3.200")
	l.meetsAll(client)
	l.must(l.PowerOn(t.Context(), router2))
	l.routedBy(router2, bgpVIP, bgpNodes...)
	l.routedBy(client, bgpVIP, "10.10.3.200", "10.10.3.201")
}
