package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/testlab"
	"github.com/seamark-lb/seamark/testlab/traffic"
)

// topologyOnly6 has three appliances on a segment of IPv6 alone, and what they serve behind the router.
func topologyOnly6() string {
	topology := `
networks: [management, front, back]
hosts:
  - name: router
    role: router
    interfaces:
      - {name: eth0, network: management, addresses: [10.0.2.200/24]}
      - {name: eth1, network: front, addresses: ["fd00:10::200/64"]}
      - {name: eth2, network: back, addresses: ["fd00:20::200/64"]}
  - name: api
    role: control-plane
    interfaces:
      - {name: eth0, network: management, addresses: [10.0.2.10/24]}
  - name: files1
    interfaces:
      - {name: eth1, network: back, addresses: ["fd00:20::31/64"]}
    routes:
      - {to: "::/0", via: "fd00:20::200"}
`
	for i := range 3 {
		topology += fmt.Sprintf(`  - name: lb%d
    role: node
    podCIDRs: [172.20.%d.0/24]
    interfaces:
      - {name: eth0, network: management, addresses: [10.0.2.10%d/24]}
      - {name: eth1, network: front, addresses: ["fd00:10::10%d/64"]}
    routes:
      - {to: "fd00:20::/64", via: "fd00:10::200"}
`, i, i, i, i)
	}
	return topology
}

// TestIPv6PowerCut: on a segment of IPv6 alone, a node without power loses its address
// because BFD and Neighbor Solicitations miss it there. Its lease, of a minute, would
// have kept the address for long after. How long nobody answers says little: leases of
// a minute are looked at every two seconds.
func TestIPv6PowerCut(t *testing.T) {
	t.Parallel()
	topology, err := testlab.ParseTopology([]byte(topologyOnly6()))
	if err != nil {
		t.Fatal(err)
	}
	l := upWith(t, testlab.Config{Topology: topology, DaemonArgs: []string{"--mode", "lb", "--lease-duration", "60s", "--restart-grace", "60s"}})
	l.serve("files1")
	// The office of a coordinator without power would last as long as its lease: it is
	// to be a node that announces nothing.
	const coordinator = "lb0"
	l.coordinate(coordinator)
	l.seamark(coordinator, "drain", coordinator)
	l.apply(strings.Replace(manifests6, "{loadBalancerIPs: true}", "{loadBalancerIPs: true, interfaces: [^eth1$]}", 1))
	served := func() error {
		_, _, err := l.page(router, "http://["+vip6Text+"]/")
		return err
	}
	l.eventually("the VIP is served", served)
	var was announcement
	l.eventually("a node that is not drained announces the VIP", func() error {
		was = l.announcement(coordinator, vip6Text)
		if was.Node == "" || was.Node == coordinator {
			return fmt.Errorf("%+v", was)
		}
		return nil
	})
	old := was.Node
	l.eventually("BFD of "+old+" is up", func() error {
		var sessions []struct {
			Remote netip.Addr
			State  string
		}
		l.must(l.tryJSON(&sessions, old, "get", "bfd"))
		for _, s := range sessions {
			if !s.Remote.Is6() {
				l.t.Fatalf("a session is over IPv4: %v", sessions)
			}
			if s.State != "Up" {
				return fmt.Errorf("%v", sessions)
			}
		}
		if len(sessions) != 2 {
			return fmt.Errorf("sessions %v", sessions)
		}
		return nil
	})
	oldMAC := l.mac(old)
	from := l.host(router)
	watched := background(l, func(ctx context.Context) (traffic.ARPResult, error) {
		return traffic.WatchND(ctx, from, "eth1", netip.MustParseAddr(vip6Text), arpInterval)
	})
	before := l.counted(old, "nd_reply")
	l.eventually("the router's questions are answered", func() error {
		if l.counted(old, "nd_reply") < before+2 { // one may be to the router's own kernel
			return errors.New("not one")
		}
		return nil
	})

	l.must(l.PowerOff(old))
	var now announcement
	l.eventually("another node announces the VIP", func() error {
		now = l.announcement(coordinator, vip6Text)
		if now.Node == old {
			return fmt.Errorf("%s does", old)
		}
		return nil
	})
	if now.Node == "" || now.Reason != "CutOff" || now.Previous != old || now.Generation != was.Generation+1 {
		t.Errorf("announcement after the power cut: %+v", now)
	}
	l.eventually("the VIP is served again", served)
	l.movedOnce(watched(), oldMAC, l.mac(now.Node))
}
