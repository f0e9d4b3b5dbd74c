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
