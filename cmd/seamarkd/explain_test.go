package main

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/announce"
	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/state"
)

// addressed is a cluster of two nodes on a segment and one elsewhere, with a
// Service that a policy announces.
func addressed(t *testing.T) (*state.DB, announce.Inputs) {
	t.Helper()
	db, w := state.New()
	vip := netip.MustParseAddr("192.168.10.211")
	web := state.Service{Name: state.ObjectName{Namespace: "default", Name: "web"}, Type: "LoadBalancer", Ingress: []netip.Addr{vip}}
	in := announce.Inputs{
		Services: []state.Service{web},
		Policies: []state.L2Policy{{Name: "l2", LoadBalancerIPs: true}},
		Verdicts: map[string]announce.Verdict{"a": announce.Live, "b": announce.Live, "far": announce.Live},
		Decided:  []state.Assignment{{Addr: vip, Service: web.Name, Node: "a", Generation: 1}},
	}
	for node, subnet := range map[string]string{"a": "192.168.10.0/24", "b": "192.168.10.0/24", "far": "192.168.20.0/24"} {
		in.Nodes = append(in.Nodes, state.Node{Name: node})
		in.Leases = append(in.Leases, state.NodeLease{Node: node, Interfaces: []state.LeaseInterface{
			{Name: "eth1", MAC: "02:00:00:00:00:01", Up: true, Prefixes: []netip.Prefix{netip.MustParsePrefix(subnet)}}}})
	}
	w.Update(func(tx *state.Tx) {
		db.Services.Put(tx, web)
		db.Assigned.Put(tx, in.Decided[0])
		db.Pools.Put(tx, state.Pool{Name: "lab", Ranges: []state.Range{{From: vip, To: vip}}})
	})
	return db, in
}

func TestExplain(t *testing.T) {
	db, in := addressed(t)
	explain := func(addr string, change func(*announce.Inputs)) control.Explanation {
		t.Helper()
		changed := in
		changed.Verdicts = map[string]announce.Verdict{"a": announce.Live, "b": announce.Live, "far": announce.Live}
		change(&changed)
		e, err := explainer{db, func() (announce.Inputs, bool) { return changed, true }}.explain(netip.MustParseAddr(addr))
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	e := explain("192.168.10.211", func(in *announce.Inputs) { in.Verdicts["b"] = announce.Resting })
	if e.Node != "a" || e.Pool != "lab" || len(e.Services) != 1 || len(e.Policies) != 1 || e.Policies[0] != "l2" || len(e.Advice) != 0 {
		t.Errorf("explanation %+v", e)
	}
	if len(e.Nodes) != 3 || !e.Nodes[0].Candidate || !strings.Contains(e.Nodes[1].Why, "restart grace") ||
		e.Nodes[2].Bar != "OffLink" || !strings.Contains(e.Nodes[2].Why, "eth1 192.168.20.0/24") {
		t.Errorf("nodes %+v", e.Nodes)
	}
	for _, tc := range []struct {
		addr   string
		change func(*announce.Inputs)
		want   string
	}{
		{"192.168.10.9", func(*announce.Inputs) {}, "no Service has this address"},
		{"192.168.10.211", func(in *announce.Inputs) { in.Policies = nil }, "no L2Policy announces it: write one whose serviceSelector matches default/web"},
		{"192.168.10.211", func(in *announce.Inputs) {
			in.Verdicts = map[string]announce.Verdict{"a": announce.Expired, "b": announce.Frozen}
		}, "no node may take it"},
	} {
		if e := explain(tc.addr, tc.change); len(e.Advice) != 1 || !strings.Contains(e.Advice[0], tc.want) {
			t.Errorf("%s: advice %q, want %q", tc.addr, e.Advice, tc.want)
		}
	}
	_, err := explainer{db, func() (announce.Inputs, bool) { return in, false }}.explain(in.Decided[0].Addr)
	if !errors.Is(err, errNotKnown) {
		t.Errorf("before the cluster is known: %v", err)
	}
}

// Every bar says for people what it is about, and is not only named.
func TestWhy(t *testing.T) {
	for _, bar := range []announce.Bar{announce.BarUnknownNode, announce.BarNoLease, announce.BarLeaseExpired, announce.BarDrained, announce.BarReleased,
		announce.BarStopping, announce.BarCordoned, announce.BarExcluded, announce.BarNotSelected, announce.BarNoInterface, announce.BarOffLink,
		announce.BarInterfaceDown, announce.BarCutOff, announce.BarNoBackend, announce.BarNoLocalBackend} {
		if text := why(announce.Inputs{}, announce.Standing{Node: "a", Bar: bar}); text == string(bar) {
			t.Errorf("%s says no more than its name", bar)
		}
	}
}

func TestDrainRefusesToStrand(t *testing.T) {
	_, in := addressed(t)
	in.Verdicts["b"] = announce.Expired
	d := drainer{inputs: func() (announce.Inputs, bool) { return in, true }, log: slog.New(slog.DiscardHandler)}
	err := d.drain(t.Context(), "a", true, false)
	if !errors.Is(err, control.ErrStranded) || !strings.Contains(err.Error(), "192.168.10.211 (default/web)") {
		t.Errorf("drain of the only node that can announce an address: %v", err)
	}
}
