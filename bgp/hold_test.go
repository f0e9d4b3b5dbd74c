package bgp

import (
	"net/netip"
	"testing"

	"github.com/seamark-lb/seamark/state"
)

// An aggregate goes out once what nobody has of it is dropped here, all of its
// addresses have been tried, and one is served.
func TestAggregateWaits(t *testing.T) {
	db, writer := state.New()
	target := &Target{DB: db, Writer: writer}
	row := state.BGPRoute{Instance: "tor", Prefix: prefixOf("192.168.10.208/28"), Addrs: []netip.Addr{vip, vip.Next()}}
	served := func(a netip.Addr, phase state.Phase, tries int) {
		writer.Update(func(tx *state.Tx) {
			db.Frontends.Put(tx, state.Frontend{Addr: a, Port: 80, Protocol: state.TCP, Status: state.Status{Phase: phase, Tries: tries}})
		})
	}
	hole := func(phase state.Phase) {
		writer.Update(func(tx *state.Tx) { db.KernelRoutes.Put(tx, Blackhole(row).WithStatus(state.Status{Phase: phase})) })
	}
	steps := []struct {
		name string
		do   func()
		out  bool
	}{
		{"at first", func() {}, false},
		{"one is served, the other not tried, no blackhole", func() { served(vip, state.Done, 0); served(vip.Next(), state.Pending, 0) }, false},
		{"the blackhole is there", func() { hole(state.Done) }, false},
		{"the other was tried", func() { served(vip.Next(), state.Failed, 1) }, true},
		{"none is served", func() { served(vip, state.Failed, 1) }, false},
		{"both are served", func() { served(vip, state.Done, 0); served(vip.Next(), state.Done, 0) }, true},
		{"the blackhole failed", func() { hole(state.Failed) }, false},
	}
	for _, step := range steps {
		step.do()
		if got := target.holdRoute(db.Snapshot(), row); (got == "") != step.out {
			t.Errorf("%s: held for %q, want out: %v", step.name, got, step.out)
		}
	}
	row.Status.Phase = state.Deleting
	if got := target.holdRoute(db.Snapshot(), row); got != "" {
		t.Errorf("its withdrawal is held for %q", got)
	}
}

// A single address goes out once each of its ports is served; its withdrawal waits
// for nothing.
func TestRouteWaits(t *testing.T) {
	db, writer := state.New()
	target := &Target{DB: db, Writer: writer}
	row := state.BGPRoute{Instance: "tor", Prefix: netip.PrefixFrom(vip, 32), Addrs: []netip.Addr{vip}}
	serve := func(a netip.Addr, port uint16, phase state.Phase) {
		writer.Update(func(tx *state.Tx) {
			db.Frontends.Put(tx, state.Frontend{Addr: a, Port: port, Protocol: state.TCP, Status: state.Status{Phase: phase}})
		})
	}
	for _, step := range []struct {
		name string
		do   func()
		want state.Reason
	}{
		{"not served yet", func() { serve(vip, 80, state.Pending) }, state.ReasonWaitingForDatapath},
		{"another address is", func() { serve(vip.Next(), 80, state.Done) }, state.ReasonWaitingForDatapath},
		{"served", func() { serve(vip, 80, state.Done) }, ""},
		{"one port of two is", func() { serve(vip, 81, state.Failed) }, state.ReasonWaitingForDatapath},
		{"the other port is on its way out", func() { serve(vip, 81, state.Deleting) }, ""},
		{"it failed", func() { serve(vip, 80, state.Failed) }, state.ReasonWaitingForDatapath},
		{"it is out already", func() { row.Status.Phase = state.Done }, ""},
		{"it is to be withdrawn", func() { row.Status.Phase = state.Deleting }, ""},
	} {
		step.do()
		if got := target.holdRoute(db.Snapshot(), row); got != step.want {
			t.Errorf("%s: held for %q, want %q", step.name, got, step.want)
		}
	}
}

// A session begins when what it says first is there: the datapath has been looked
// through, and each route of its instance that can go out has.
func TestSessionWaits(t *testing.T) {
	db, writer := state.New()
	hold := (&Target{DB: db, Writer: writer}).sessions().Hold
	row := state.BGPSession{Instance: "tor", Peer: "router"}
	put := func(instance string, status state.Status) {
		writer.Update(func(tx *state.Tx) {
			db.BGPRoutes.Put(tx, state.BGPRoute{Instance: instance, Prefix: netip.PrefixFrom(vip, 32), Addrs: []netip.Addr{vip}, Status: status})
		})
	}
	served := func(status state.Status) {
		writer.Update(func(tx *state.Tx) {
			db.Frontends.Put(tx, state.Frontend{Addr: vip, Port: 80, Protocol: state.TCP, Status: status})
		})
	}
	waiting := state.Status{Phase: state.Pending, Reason: state.ReasonWaitingForDatapath}
	for _, step := range []struct {
		name string
		do   func()
		want state.Reason
	}{
		{"the datapath was not looked through", func() {}, state.ReasonWaitingForDatapath},
		{"there are no routes", func() { writer.Update(func(tx *state.Tx) { tx.Mark(state.PrunedMark(db.Frontends.Name())) }) }, ""},
		{"a route was not tried", func() { put("tor", state.Status{Phase: state.Pending}) }, state.ReasonWaitingForRoutes},
		{"it waits for the datapath, which was not tried", func() { put("tor", waiting); served(state.Status{Phase: state.Pending}) }, state.ReasonWaitingForRoutes},
		{"which cannot serve it", func() { served(state.Status{Phase: state.Failed, Tries: 1}) }, ""},
		{"another instance's was not tried", func() { put("spine", state.Status{Phase: state.Pending}) }, ""},
		{"the route failed", func() { put("tor", state.Status{Phase: state.Pending, Tries: 1}) }, ""},
		{"the route is out", func() { put("tor", state.Status{Phase: state.Done}) }, ""},
		{"the session has begun, and there is a new route", func() { row.Status.Phase = state.Done; put("tor", state.Status{Phase: state.Pending}) }, ""},
		{"the session is to end", func() { row.Status.Phase = state.Deleting }, ""},
	} {
		step.do()
		if got := hold(db.Snapshot(), row); got != step.want {
			t.Errorf("%s: held for %q, want %q", step.name, got, step.want)
		}
	}
}
