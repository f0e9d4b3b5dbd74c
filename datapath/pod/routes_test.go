package pod_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/datapath/pod"
	"github.com/seamark-lb/seamark/state"
)

func route(dst, via string) state.Route {
	return state.Route{Dst: netip.MustParsePrefix(dst), Via: addr(via), Node: "w2"}
}

func ourRoutes(t *testing.T) string {
	t.Helper()
	return strings.ReplaceAll(run(t, "", "ip -4 route show proto 83")+run(t, "", "ip -6 route show proto 83"), " \n", "\n")
}

func TestRouteTable(t *testing.T) {
	newNode(t, "172.20.1.0/24")
	run(t, "", "ip addr add fd00:10::101/64 dev eth1 nodad")
	ctx, table := context.Background(), pod.RouteTable{}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w2, w3, six := route("172.20.2.0/24", "192.168.10.102"), route("172.20.3.0/24", "192.168.10.103"), route("fd00:20:2::/64", "fd00:10::102")
	for range 2 {
		for _, err := range table.UpdateAll(ctx, []state.Route{w2, w3, six}) {
			must(err)
		}
		want := "172.20.2.0/24 via 192.168.10.102 dev eth1\n172.20.3.0/24 via 192.168.10.103 dev eth1\nfd00:20:2::/64 via fd00:10::102 dev eth1 metric 1024 pref medium\n"
		if got := ourRoutes(t); got != want {
			t.Fatalf("got:\n%swant:\n%s", got, want)
		}
	}

	w2.Via = addr("192.168.10.112")
	must(table.Update(ctx, w2))
	if got := run(t, "", "ip route show 172.20.2.0/24"); !strings.HasPrefix(got, "172.20.2.0/24 via 192.168.10.112 ") || strings.Count(got, "\n") != 1 {
		t.Errorf("after the node's address changed: %s", got)
	}
	if err := table.Update(ctx, route("172.20.4.0/24", "192.168.99.1")); err == nil ||
		!strings.Contains(err.Error(), "add route 172.20.4.0/24 via 192.168.99.1: network is unreachable") {
		t.Errorf("gateway on no segment: %v", err)
	}

	run(t, "", "ip route add 172.20.9.0/24 via 192.168.10.109")                   // a person's
	run(t, "", "ip route add 172.20.8.0/24 via 192.168.10.108 proto 83")          // ours, from an earlier life
	run(t, "", "ip route add 172.20.1.7/32 dev eth1 scope link proto 84")         // to a pod
	run(t, "", "ip route add 172.20.9.0/24 via 192.168.10.110 proto 83 metric 9") // ours beside a person's
	must(table.Prune(ctx, []state.Route{w2}))
	if got := ourRoutes(t); got != "172.20.2.0/24 via 192.168.10.112 dev eth1\n" {
		t.Errorf("after prune:\n%s", got)
	}
	rest := run(t, "", "ip route")
	for _, kept := range []string{"172.20.9.0/24 via 192.168.10.109", "172.20.1.7 dev eth1 proto 84", "192.168.10.0/24 dev eth1"} {
		if !strings.Contains(rest, kept) {
			t.Errorf("prune took %s away:\n%s", kept, rest)
		}
	}
	for range 2 {
		must(table.Delete(ctx, w2))
	}
	for _, err := range table.DeleteAll(ctx, []state.Route{w3, route("172.20.9.0/24", "192.168.10.109")}) {
		must(err)
	}
	if got := ourRoutes(t); got != "" {
		t.Errorf("after delete:\n%s", got)
	}
	if got := run(t, "", "ip route show 172.20.9.0/24"); !strings.Contains(got, "via 192.168.10.109") {
		t.Errorf("delete took a route of another's")
	}
}

func TestForeignRouteIsTheRowsError(t *testing.T) {
	n := newNode(t, "172.20.1.0/24")
	run(t, "", "ip route add 172.20.2.0/24 via 192.168.10.99 proto bird")
	row, free := route("172.20.2.0/24", "192.168.10.102"), route("172.20.3.0/24", "192.168.10.103")
	n.writer.Update(func(tx *state.Tx) { state.Want(tx, n.db.Routes, []state.Route{row, free}, time.Now()) })
	n.background(&state.Reconciler[state.Route]{DB: n.db, Writer: n.writer, Table: n.db.Routes, Target: pod.RouteTable{}, Log: n.log,
		MaxBackoff: 20 * time.Millisecond})
	status := func(r state.Route) state.Status {
		held, _ := n.db.Routes.Get(n.db.Snapshot(), r.RowKey())
		return held.Status
	}
	eventually(t, "one row is done and one failed", func() bool {
		return status(free).Phase == state.Done && status(row).Phase == state.Failed
	})
	want := "add route 172.20.2.0/24 via 192.168.10.102: one via 192.168.10.99 of protocol bird is there, which is not Seamark's: " +
		"leave node w2's pods to it, or remove it with 'ip route del 172.20.2.0/24 proto 12'"
	if got := status(row).Err; got != want {
		t.Errorf("error %q\nwant  %q", got, want)
	}
	if got := run(t, "", "ip route show 172.20.2.0/24"); !strings.HasPrefix(got, "172.20.2.0/24 via 192.168.10.99 dev eth1 proto bird") || strings.Count(got, "\n") != 1 {
		t.Errorf("the foreign route was touched: %s", got)
	}
	run(t, "", "ip route del 172.20.2.0/24 proto 12") // the cure
	eventually(t, "the row is done", func() bool { return status(row).Phase == state.Done })
}

func TestCleanup(t *testing.T) {
	n := newNode(t, "172.20.1.0/24")
	stop := n.serve()
	n.add("a", newNetns(t))
	n.add("b", newNetns(t))
	stop()
	run(t, "", "ip link set "+n.podDevices()[0]+" alias renamed") // known from its record
	run(t, "", "ip link add sm0123456789ab type veth peer name other")
	t.Cleanup(func() { run(t, "", "ip link del other") })
	run(t, "", "ip route add 172.20.8.0/24 via 192.168.10.108 proto 83")
	run(t, "", "ip route add 172.20.1.77/32 dev eth1 proto 84")
	run(t, "", "ip route add 172.20.7.0/24 via 192.168.10.107")
	for range 2 {
		if err := pod.Cleanup(n.stateDir); err != nil {
			t.Fatal(err)
		}
		if got := n.podDevices(); len(got) != 1 || got[0] != "sm0123456789ab" {
			t.Errorf("devices left: %v, want the one that is none of ours", got)
		}
		if got := run(t, "", "ip route"); strings.Contains(got, "172.20.1.") || strings.Contains(got, "172.20.8.") || !strings.Contains(got, "172.20.7.0/24") {
			t.Errorf("routes left:\n%s", got)
		}
		if files := n.recordFiles(); len(files) > 0 {
			t.Errorf("records left: %v", files)
		}
	}
}
