package scenario

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// learnedRoutes are the IPv4 routes of a node's kernel that came over BGP.
func (l lab) learnedRoutes(node string) ([]string, error) {
	out, err := l.try(node, "ip", "-4", "route", "show", "proto", "85", "type", "unicast")
	if err != nil {
		return nil, err
	}
	var routes []string
	for line := range strings.Lines(out) {
		routes = append(routes, strings.Join(strings.Fields(line)[:3], " "))
	}
	slices.Sort(routes)
	return routes, nil
}

// learns waits until these are a node's routes that came over BGP.
func (l lab) learns(node string, want ...string) {
	l.t.Helper()
	l.eventually(fmt.Sprintf("%s learns %v", node, want), func() error {
		got, err := l.learnedRoutes(node)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("%v", got)
		}
		return err
	})
}

// ping is one question of a host to an address, and what is said of it.
func (l lab) ping(from, to string) string {
	out, _ := l.try(from, "ping", "-c", "1", "-W", "1", to) // no answer is an error
	return out
}

// TestBGPImport: nodes take each other's pod CIDRs from the router, so that pods of
// all nodes talk across it, and no packet goes round where nobody is.
func TestBGPImport(t *testing.T) {
	t.Parallel()
	l := upBGP(t, "bgp", "bgp")
	manifest, err := os.ReadFile("../../deploy/demo/bgp/peer.yaml")
	l.must(err)
	peer := string(manifest)

	// Without the routes, what is for other pods ends here: it would take the default route.
	for _, node := range nodes {
		l.run(node, "ip", "route", "add", "blackhole", "172.20.0.0/16")
	}
	if page, err := l.fetch(podCtr, "http://172.20.2.1/", ""); err == nil {
		t.Fatalf("there is a way already: %s", page)
	}
	l.apply(peer + "  importPrefixes: [{cidr: 172.20.0.0/16, ge: 24, le: 24}]\n")
	l.learns(ctr, "172.20.2.0/24 via 192.168.10.200") // k8s-w1 is on its segment
	l.learns(w1, "172.20.2.0/24 via 192.168.10.200")
	l.learns(w0, "172.20.0.0/24 via 192.168.20.200", "172.20.1.0/24 via 192.168.20.200")
	for _, way := range []struct{ from, to string }{{podCtr, "172.20.2.1"}, {podW1, "172.20.2.1"}, {podW0, "172.20.0.1"}, {podW0, "172.20.1.1"}, {podCtr, "172.20.1.1"}} {
		l.eventually(fmt.Sprintf("%s reaches %s", way.from, way.to), func() error {
			_, err := l.fetch(way.from, "http://"+way.to+"/", "")
			return err
		})
	}
	l.meetsAll(router)
	out := l.seamark(ctr, "bgp", "routes", "received")
	for prefix, want := range map[string]string{"172.20.2.0/24": "yes", "172.20.1.0/24": "no: the pods of k8s-w1, which is on a segment of this node",
		bgpVIP + "/32": "no: not in importPrefixes of the peer"} {
		if !slices.ContainsFunc(slices.Collect(strings.Lines(out)), func(line string) bool { return strings.Contains(line, prefix) && strings.Contains(line, want) }) {
			t.Errorf("nothing says of %s %q:\n%s", prefix, want, out)
		}
	}

	// A restart leaves them where they are.
	l.daemon(w0, "stop")
	if got, err := l.learnedRoutes(w0); err != nil || len(got) != 2 {
		t.Errorf("a daemon that stops leaves %v, %v", got, err)
	}
	l.daemon(w0, "start")
	l.speaks(w0)
	l.learns(w0, "172.20.0.0/24 via 192.168.20.200", "172.20.1.0/24 via 192.168.20.200")

	// An address that no pod has is unreachable, and the packet does not go round.
	l.eventually("nobody is at 172.20.2.99", func() error {
		if out := l.ping(router, "172.20.2.99"); !strings.Contains(out, "From 192.168.20.100") || !strings.Contains(out, "Unreachable") {
			return errors.New(out)
		}
		return nil
	})

	l.apply(peer)
	for _, node := range nodes {
		l.learns(node)
	}
}

// TestBGPAggregate: the addresses of a pool go out as one prefix from all nodes. What
// nobody has of it is dropped by the node, and does not go round with the router.
func TestBGPAggregate(t *testing.T) {
	t.Parallel()
	l := upBGP(t, "bgp", "bgp")
	manifest, err := os.ReadFile("../../deploy/demo/bgp/advertisement.yaml")
	l.must(err)
	l.apply(strings.Replace(string(manifest), "type: LoadBalancer\n", "type: LoadBalancer\n    aggregationLengthIPv4: 28\n", 1))
	l.routedBy(router, "10.10.50.0/28", bgpNodes...)
	l.routedBy(router, bgpVIP)
	l.meetsAll(router)
	for last := 9; last <= 14; last++ { // which the router spreads over the nodes; its own packets would not come back to it
		host := fmt.Sprintf("10.10.50.%d", last)
		if out := l.ping(w0, host); strings.Contains(out, "Time to live") || !strings.Contains(out, "100% packet loss") {
			t.Errorf("%s: %s", host, out)
		}
	}
	if out := l.seamark(ctr, "explain", "advertisement", bgpVIP); !strings.Contains(out, "yes") || !strings.Contains(out, "10.10.50.0/28") {
		t.Errorf("explained: %s", out)
	}
	// The node's own processes go by the router, as before.
	if _, _, err := l.page(w1, "http://"+bgpVIP+"/"); err != nil {
		t.Errorf("a node does not reach the address: %v", err)
	}

	l.seamark(ctr, "delete", "service", "webpod")
	l.routedBy(router, "10.10.50.0/28")
	for _, node := range nodes {
		l.eventually(node+" has no blackhole", func() error {
			if out := l.run(node, "ip", "route", "show", "table", "all", "type", "blackhole"); out != "" {
				return errors.New(out)
			}
			return nil
		})
	}
}
