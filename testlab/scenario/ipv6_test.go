package scenario

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/testlab"
)

// The appliance of lbmode_test.go, its router and its machines with IPv6. The way to
// the control plane stays IPv4's.
const (
	vip6Text = "fd00:10::211"
	lbAddr6  = "fd00:10::100"

	topology6 = `
networks: [management, front, back]
hosts:
  - name: router
    role: router
    interfaces:
      - {name: eth0, network: management, addresses: [10.0.2.200/24]}
      - {name: eth1, network: front, addresses: [192.168.10.200/24, "fd00:10::200/64"]}
      - {name: eth2, network: back, addresses: ["fd00:20::200/64"]}
  - name: api
    role: control-plane
    interfaces:
      - {name: eth0, network: management, addresses: [10.0.2.10/24]}
  - name: lb1
    role: node
    podCIDRs: [172.20.0.0/24]
    interfaces:
      - {name: eth0, network: management, addresses: [10.0.2.100/24]}
      - {name: eth1, network: front, addresses: [192.168.10.100/24, "fd00:10::100/64"]}
    routes:
      - {to: "fd00:20::/64", via: "fd00:10::200"}
  - name: files1
    interfaces:
      - {name: eth1, network: back, addresses: ["fd00:20::31/64"]}
    routes:
      - {to: "::/0", via: "fd00:20::200"}
  - name: files2
    interfaces:
      - {name: eth1, network: back, addresses: ["fd00:20::32/64"]}
    routes:
      - {to: "::/0", via: "fd00:20::200"}
`
	manifests6 = `
apiVersion: seamark.dev/v1alpha1
kind: IPPool
metadata: {name: lab6}
spec: {blocks: [{start: "fd00:10::211", stop: "fd00:10::215"}]}
---
apiVersion: seamark.dev/v1alpha1
kind: L2Policy
metadata: {name: lab}
spec: {loadBalancerIPs: true}
---
apiVersion: v1
kind: Service
metadata:
  name: files
  namespace: default
  annotations: {seamark.dev/health-check: http, seamark.dev/health-check-interval: 1s}
spec: {type: LoadBalancer, ipFamilies: [IPv6], ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: files-1, namespace: default, labels: {kubernetes.io/service-name: files}}
addressType: IPv6
ports: [{port: 80}]
endpoints:
- addresses: ["fd00:20::31"]
- addresses: ["fd00:20::32"]
---
`
)

// TestIPv6 is the way of a connection over IPv6, on the wire: an address of a pool,
// neighbour discovery by the router's kernel, translation, machines behind the
// router, and back.
func TestIPv6(t *testing.T) {
	t.Parallel()
	topology, err := testlab.ParseTopology([]byte(topology6))
	if err != nil {
		t.Fatal(err)
	}
	l := upWith(t, testlab.Config{Topology: topology, DaemonArgs: []string{"--mode", "lb"}})
	l.serve("files1")
	l.serve("files2")
	l.apply(manifests6)

	t.Run("announced", func(t *testing.T) {
		l := l.in(t)
		l.eventually("the VIP is announced", func() error {
			node, err := l.tryHolder(lb, vip6Text)
			if err == nil && node != lb {
				err = fmt.Errorf("by %s", node)
			}
			return err
		})
	})
	t.Run("answered from both machines", func(t *testing.T) {
		l := l.in(t)
		missing := []string{"files1", "files2"}
		l.eventually("the VIP leads to both", func() error {
			host, from, err := l.page(router, "http://["+vip6Text+"]/")
			if err != nil {
				return err
			}
			if from != lbAddr6 {
				l.t.Fatalf("%s saw %s as its client, want %s", host, from, lbAddr6)
			}
			missing = slices.DeleteFunc(missing, func(m string) bool { return m == host })
			if len(missing) > 0 {
				return fmt.Errorf("never to %s", strings.Join(missing, ", "))
			}
			return nil
		})
	})
	t.Run("the router knows its MAC by asking", func(t *testing.T) {
		l := l.in(t)
		// What it knows by now may be from an unsolicited advertisement.
		l.run(router, "ip", "-6", "neigh", "flush", "to", vip6Text, "dev", "eth1")
		l.run(router, "ping", "-c", "1", "-W", "2", vip6Text)
		out := l.run(router, "ip", "-6", "neigh", "show", vip6Text, "dev", "eth1")
		if !strings.Contains(out, "lladdr "+l.mac(lb)) {
			t.Errorf("neighbour %q, want %s", out, l.mac(lb))
		}
		if l.counted(lb, "nd_reply") == 0 {
			t.Error("no neighbour solicitation was answered")
		}
	})
	t.Run("ping", func(t *testing.T) {
		l := l.in(t)
		out := l.run(router, "ping", "-6", "-c", "3", "-i", "0.2", "-W", "5", vip6Text)
		if !strings.Contains(out, " 0% packet loss") {
			t.Errorf("ping:\n%s", out)
		}
	})
	t.Run("gone with the Service", func(t *testing.T) {
		l := l.in(t)
		l.seamark(lb, "delete", "service", "files")
		l.eventually("nobody answers for the VIP", func() error {
			if node, err := l.tryHolder(lb, vip6Text); err == nil {
				return fmt.Errorf("%s does", node)
			}
			if _, _, err := l.page(router, "http://["+vip6Text+"]/"); err == nil {
				return errors.New("it is served")
			}
			return nil
		})
	})
}
