package scenario

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/testlab"
)

// TestBGPDrain: a node leaves the routers' paths because somebody drains it, and comes
// back; its daemon stops, and starts. A client behind the routers notices none of it: not
// one datagram is lost, no connection breaks.
func TestBGPDrain(t *testing.T) {
	t.Parallel()
	l := upBGP(t, "bgp2", "bgp", "bgp2")
	const echoVIP = "10.10.50.2" // the pool's next
	l.apply(strings.Replace(l.udpService("echo"), "type: LoadBalancer\n", "type: LoadBalancer\n  loadBalancerClass: seamark.dev/bgp\n", 1))
	ways := func(want ...string) {
		t.Helper()
		for _, address := range []string{bgpVIP, echoVIP} {
			l.routedBy(router, address, want...)
			l.routedBy(router2, address, want...)
		}
	}
	ways(bgpNodes...)
	l.routedBy(client, bgpVIP, "10.10.3.200", "10.10.3.201")
	l.routedBy(client, echoVIP, "10.10.3.200", "10.10.3.201")
	l.meetsAll(client)
	echo := netip.AddrPortFrom(netip.MustParseAddr(echoVIP), 80)
	missing := map[string]bool{podCtr: true, podW1: true, podW0: true}
	l.eventually("each pod echoes datagrams", func() error {
		pod, err := l.echo(client, echo)
		if err != nil {
			return err
		}
		if delete(missing, pod); len(missing) > 0 {
			return fmt.Errorf("never %v", missing)
		}
		return nil
	})
	streams := l.streamsFrom(client, netip.AddrPortFrom(netip.MustParseAddr(bgpVIP), 80), 60)
	datagrams := l.datagrams(client, echo, 100)
	l.flowing(streams, podCtr, podW1, podW0)
	passed := l.balanced(w1)
	if passed == 0 {
		t.Errorf("no packet came by %s: its leaving shows nothing", w1)
	}

	l.seamark(w1, "drain", w1)
	ways(bgpNodes[0], bgpNodes[2])
	l.speaks(w1)
	passed = l.balanced(w1)
	l.flowing(streams, podCtr, podW1, podW0)
	if now := l.balanced(w1); now != passed {
		t.Errorf("%d packets came by %s after it had left", now-passed, w1)
	}

	l.seamark(w1, "undrain", w1)
	ways(bgpNodes...)
	l.eventually(w1+" has its share again", func() error {
		_, _, err := l.page(client, "http://"+bgpVIP+"/")
		if err == nil && l.balanced(w1) == passed {
			err = fmt.Errorf("no packet since it left")
		}
		return err
	})
	l.flowing(streams, podCtr, podW1, podW0)

	l.daemon(w1, testlab.Stop)
	l.flowing(streams, podCtr, podW1, podW0)
	for _, r := range []string{router, router2} {
		hops, err := l.nextHops(r, bgpVIP)
		l.must(err)
		if !slices.Equal(hops, bgpNodes) {
			t.Errorf("%s takes the routes of a daemon that restarts out: %v", r, hops)
		}
	}
	l.daemon(w1, testlab.Start)
	l.speaks(w1)
	ways(bgpNodes...)
	l.flowing(streams, podCtr, podW1, podW0)

	l.unbroken(streams, generously, podCtr, podW1, podW0)
	l.noneLost(datagrams())
}
