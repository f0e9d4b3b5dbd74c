package pod_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/datapath/pod"
	"github.com/seamark-lb/seamark/state"
)

func learned(dst string, hops ...string) state.KernelRoute {
	row := state.KernelRoute{Dst: netip.MustParsePrefix(dst), Kind: state.RouteLearned}
	for _, via := range hops {
		row.NextHops = append(row.NextHops, state.NextHop{Via: addr(via), Device: "eth1"})
	}
	return row
}

func kernelRow(dst string, kind state.KernelRouteKind) state.KernelRoute {
	return state.KernelRoute{Dst: netip.MustParsePrefix(dst), Kind: kind}
}

// squeezed is a command's output with one space between words.
func squeezed(out string) string { return strings.Join(strings.Fields(out), " ") }

func TestKernelRouteTable(t *testing.T) {
	newNode(t, "172.20.1.0/24")
	run(t, "", "ip addr add fd00:10::101/64 dev eth1 nodad")
	ctx, table := context.Background(), pod.KernelRouteTable{}
	must := func(errs ...error) {
		t.Helper()
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	shows := func(what, command, want string) {
		t.Helper()
		if got := squeezed(run(t, "", command)); got != want {
			t.Errorf("%s: %s\ngot  %s\nwant %s", what, command, got, want)
		}
	}
	one, two := learned("172.20.2.0/24", "192.168.10.200"), learned("172.20.3.0/24", "192.168.10.200", "192.168.10.201")
	six, six2 := learned("fd00:20:2::/64", "fd00:10::200"), learned("fd00:20:3::/64", "fd00:10::200", "fd00:10::201")
	over6 := learned("172.20.4.0/24", "fe80::200")
	pods, pods6 := kernelRow("172.20.1.0/24", state.RouteUnreachable), kernelRow("fd00:20:1::/64", state.RouteUnreachable)
	all := []state.KernelRoute{one, two, six, six2, over6, pods, pods6}
	for range 2 {
		must(table.UpdateAll(ctx, all)...)
		must(table.Prune(ctx, all))
		shows("IPv4", "ip -4 route show proto 85", "unreachable 172.20.1.0/24 metric 1048576 "+
			"172.20.2.0/24 via 192.168.10.200 dev eth1 metric 2000 "+
			"172.20.3.0/24 metric 2000 nexthop via 192.168.10.200 dev eth1 weight 1 nexthop via 192.168.10.201 dev eth1 weight 1 "+
			"172.20.4.0/24 via inet6 fe80::200 dev eth1 metric 2000")
		shows("IPv6", "ip -6 route show proto 85", "unreachable fd00:20:1::/64 dev lo metric 1048576 pref medium "+
			"fd00:20:2::/64 via fd00:10::200 dev eth1 metric 2000 pref medium "+
			"fd00:20:3::/64 metric 2000 pref medium nexthop via fd00:10::200 dev eth1 weight 1 nexthop via fd00:10::201 dev eth1 weight 1")
	}

	for _, change := range []state.KernelRoute{learned("172.20.3.0/24", "192.168.10.201"), two, learned("fd00:20:3::/64", "fd00:10::201"), six2} {
		must(table.Update(ctx, change))
		family := "-4"
		if change.Dst.Addr().Is6() {
			family = "-6"
		}
		if got := run(t, "", "ip "+family+" route show "+change.Dst.String()); strings.Count(got, "via") != len(change.NextHops) {
			t.Errorf("%v became %s", change.NextHops, got)
		}
	}

	// A direct route to a node's pods goes before, and neither is in the other's way.
	direct := pod.RouteTable{}
	must(direct.Update(ctx, route("172.20.2.0/24", "192.168.10.102")), table.Update(ctx, one))
	if got := run(t, "", "ip route get 172.20.2.9"); !strings.Contains(got, "via 192.168.10.102") {
		t.Errorf("the direct route does not go before: %s", got)
	}
	must(direct.Delete(ctx, route("172.20.2.0/24", "192.168.10.102")))
	if got := run(t, "", "ip route get 172.20.2.9"); !strings.Contains(got, "via 192.168.10.200") {
		t.Errorf("what was learned is gone with the direct route: %s", got)
	}

	run(t, "", "ip route add 172.20.9.0/24 via 192.168.10.99 metric 2000 proto bird") // another's
	if err := table.Update(ctx, learned("172.20.9.0/24", "192.168.10.200")); err == nil ||
		!strings.Contains(err.Error(), "remove it with 'ip route del 172.20.9.0/24 proto 12'") {
		t.Errorf("another's route: %v", err)
	}
	if err := table.Update(ctx, learned("172.20.7.0/24", "192.168.99.1")); err == nil || !strings.Contains(err.Error(), "add route 172.20.7.0/24: network is unreachable") {
		t.Errorf("next hop on no network: %v", err)
	}
	gone := state.KernelRoute{Dst: one.Dst, Kind: state.RouteLearned, NextHops: []state.NextHop{{Via: addr("192.168.10.200"), Device: "eth7"}}}
	if err := table.Update(ctx, gone); err == nil || !strings.Contains(err.Error(), "find device eth7") {
		t.Errorf("no such device: %v", err)
	}

	run(t, "", "ip route add 172.20.8.0/24 via 192.168.10.108 proto 85") // ours, from an earlier life
	must(table.Prune(ctx, []state.KernelRoute{one, six2}))
	shows("after prune", "ip -4 route show proto 85", "172.20.2.0/24 via 192.168.10.200 dev eth1 metric 2000")
	for range 2 {
		must(table.DeleteAll(ctx, all)...)
	}
	shows("after delete", "ip -4 route show proto 85", "")
	shows("after delete", "ip -6 route show proto 85", "")
	if got := run(t, "", "ip route show 172.20.9.0/24"); !strings.Contains(got, "via 192.168.10.99") {
		t.Error("another's route was touched")
	}
}

// What others send here to a blackhole is dropped, what has a longer route is
// not, and the node itself goes by the router as before.
func TestBlackholes(t *testing.T) {
	newNode(t, "172.20.1.0/24")
	run(t, "", "ip addr add fd00:10::101/64 dev eth1 nodad")
	run(t, "", "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	run(t, "", "ip route add default via 192.168.10.200")
	run(t, "", "ip -6 route add default via fd00:10::200")
	run(t, "", "ip route add 10.10.50.128/25 via 192.168.10.201")
	ctx, table := context.Background(), pod.KernelRouteTable{}
	rows := []state.KernelRoute{kernelRow("10.10.50.0/24", state.RouteBlackhole), kernelRow("10.10.60.0/28", state.RouteBlackhole),
		kernelRow("192.168.10.0/24", state.RouteBlackhole), kernelRow("fd00:50::/64", state.RouteBlackhole)}
	for range 2 {
		for _, err := range append(table.UpdateAll(ctx, rows), table.Prune(ctx, rows)) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	forwarded, forwarded6 := " from 192.168.10.55 iif eth1", " from fd00:10::55 iif eth1"
	for _, test := range []struct{ to, want string }{
		{"10.10.50.7" + forwarded, "Invalid argument"}, // EINVAL: a blackhole
		{"10.10.60.7" + forwarded, "Invalid argument"},
		{"10.10.60.17" + forwarded, "via 192.168.10.200"},
		{"10.10.50.130" + forwarded, "via 192.168.10.201"},
		{"192.168.10.9" + forwarded, "dev eth1"}, // on link: a longer route, or as long
		{"8.8.8.8" + forwarded, "via 192.168.10.200"},
		{"192.168.10.101" + forwarded, "local"},
		{"10.10.50.7", "via 192.168.10.200"},
		{"fd00:50::7" + forwarded6, "Invalid argument"},
		{"fd00:51::7" + forwarded6, "via fd00:10::200"},
		{"fd00:50::7", "via fd00:10::200"},
	} {
		if got, _ := tryRun("", "ip route get "+test.to); !strings.Contains(got, test.want) {
			t.Errorf("%s: got %s, want %s", test.to, got, test.want)
		}
	}

	if err := table.Prune(ctx, nil); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"ip rule", "ip -6 rule"} {
		if got := run(t, "", command); strings.Contains(got, "32400") || strings.Contains(got, "suppress") {
			t.Errorf("%s is left with:\n%s", command, got)
		}
	}
	if got, _ := tryRun("", "ip route get 10.10.50.7"+forwarded); !strings.Contains(got, "via 192.168.10.200") {
		t.Errorf("after prune: %s", got)
	}
}
