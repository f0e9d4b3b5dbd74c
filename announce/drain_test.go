package announce

import (
	"net/netip"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// A node that is drained hands its addresses over, stays without while it is
// drained, and gets none back when it is undrained.
func TestDrain(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	for _, n := range c.nodes {
		n.served()
	}
	eventually(t, 10*sec, "the address is answered for", func() bool { return len(c.answering()) == 1 })
	old := c.node(c.answering())
	lease := func() state.NodeLease {
		c.store.mu.Lock()
		defer c.store.mu.Unlock()
		return c.store.leases[old.name]
	}
	if err := old.client.drain(old.name, true); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*sec, "another answers", func() bool {
		switch s := c.answering(); s {
		case "":
			t.Fatal("nobody answers while the address is handed over")
		case old.name:
		default:
			return len(s) == 1
		}
		return false
	})
	now := c.answering()
	if a := c.assigned(); a.Node != now || a.Reason != state.ReasonReleased || a.Previous != old.name || a.Generation != 2 {
		t.Errorf("assigned %+v", a)
	}
	eventually(t, 5*sec, "the node says that it has given up all", func() bool { return lease().Released })
	if text := old.responder.text(); text != "" {
		t.Errorf("it has, and its kernel holds %s", text)
	}

	if err := old.stop(); err != nil {
		t.Fatal(err)
	}
	old.start()
	old.served()
	eventually(t, 5*sec, "the restarted daemon's lease is valid, and released", func() bool { return old.announcer.lease.Valid() && lease().Released })
	if err := c.node(now).client.drain(old.name, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*sec, "it takes part again", func() bool {
		return !lease().Released && c.nodes[0].announcer.observer.seen.Load().verdicts[old.name] == Live
	})
	if a := c.assigned(); a.Node != now || a.Generation != 2 {
		t.Errorf("assigned %+v: no failback", a)
	}
}

// A node has given all up when it answers for no address, and routers have no
// route from it, both of which have been seen to.
func TestDrained(t *testing.T) {
	db, writer := state.New()
	announcement := state.Announcement{Addr: addr(211), Interface: "eth1"}
	route := state.BGPRoute{Instance: "tor", Prefix: netip.PrefixFrom(addr(212), 32), Addrs: []netip.Addr{addr(212)}, Status: state.Status{Phase: state.Deleting}}
	for _, step := range []struct {
		name string
		do   func(*state.Tx)
		want bool
	}{
		{"nobody asks", func(tx *state.Tx) { tx.Mark(state.PrunedMark(db.Announcements.Name())) }, false},
		{"asked, it has nothing", func(tx *state.Tx) { db.NodeLeases.Put(tx, state.NodeLease{Node: "a", Drained: true}) }, true},
		{"its pods stay", func(tx *state.Tx) {
			db.BGPRoutes.Put(tx, state.BGPRoute{Instance: "tor", Prefix: netip.MustParsePrefix("172.20.1.0/24")})
		}, true},
		{"a route is not withdrawn yet", func(tx *state.Tx) { db.BGPRoutes.Put(tx, route) }, false},
		{"nor an announcement", func(tx *state.Tx) { db.Announcements.Put(tx, announcement) }, false},
		{"the route is", func(tx *state.Tx) { db.BGPRoutes.Delete(tx, route.RowKey()) }, false},
		{"both are", func(tx *state.Tx) { db.Announcements.Delete(tx, announcement.RowKey()) }, true},
	} {
		writer.Update(step.do)
		if got := drained(db, db.Snapshot(), "a"); got != step.want {
			t.Errorf("%s: %t", step.name, got)
		}
	}
	if drained(db, db.Snapshot(), "b") {
		t.Error("another node has, which nobody asked")
	}
}

func TestStranded(t *testing.T) {
	in := lab()
	in.Services = append(in.Services, service("local", addr(212)), service("other", addr(213)))
	in.Services[1].ExternalTrafficPolicyLocal = true
	in.Slices = []state.EndpointSlice{{Service: in.Services[1].Name, Endpoints: []state.Backend{{Node: "a", Ready: true}}}}
	in.Decided = []state.Assignment{
		{Addr: addr(211), Node: "a", Generation: 1}, {Addr: addr(212), Node: "a", Generation: 1}, {Addr: addr(213), Node: "b", Generation: 1}}
	if rows := Stranded(in, "a"); len(rows) != 1 || rows[0].Addr != addr(212) {
		t.Errorf("without a stranded: %+v, want what only it has a backend for", rows)
	}
	if rows := Stranded(in, "b"); len(rows) != 0 {
		t.Errorf("without b stranded: %+v", rows)
	}
	if in.Verdicts["a"] != Live {
		t.Error("asking has changed what is")
	}
}

func TestHandover(t *testing.T) {
	row := state.Announcement{Addr: addr(211), Interface: "eth1", Index: 2, Status: state.Status{Phase: state.Deleting}}
	k := entryKey{row.Addr, row.Index}
	wanted := row.WithStatus(state.Status{Phase: state.Pending})
	h := newHandover(Timing{Duration: 3 * time.Second})
	for i, step := range []struct {
		row     state.Announcement
		another bool
		now     time.Duration
		want    bool
		then    func()
	}{
		{wanted, true, 10 * sec, false, nil},
		{row, false, 10 * sec, false, nil},
		{row, true, 10 * sec, true, nil},
		{row, true, 13*sec - 1, true, nil},
		{row, true, 13 * sec, false, nil},
		{row, true, 20 * sec, true, nil},
		{row, false, 20*sec + 1, false, nil}, // this node's lease is over, or the address is nobody's
		{row, true, 30 * sec, true, nil},
		{wanted, true, 30*sec + 1, false, nil}, // it has come back
		{row, true, 32 * sec, true, nil},
		{row, true, 35*sec - 1, true, func() { h.mute(k, true) }}, // the other claims it
		{row, true, 35*sec - 1, false, nil},
		{row, true, 35*sec - 1, false, nil},
		{wanted, true, 40 * sec, false, nil}, // given back: what is written anew is not mute
		{row, true, 41 * sec, true, func() { h.mute(k, true); h.mute(k, false) }},
		{row, true, 42 * sec, true, func() { h.mute(k, true); h.look(map[entryKey]bool{k: true}) }},
		{row, true, 42 * sec, false, func() { h.look(nil) }}, // it was taken out of the kernel
		{row, true, 43 * sec, true, nil},
	} {
		h.begin()
		if got := h.stays(step.row, step.another, step.now); got != step.want {
			t.Errorf("step %d at %v: stays %v, want %v", i, step.now, got, step.want)
		}
		over := h.changed()
		if (over != nil) != step.want {
			t.Errorf("step %d at %v: to be woken: %v", i, step.now, over != nil)
		}
		if step.then == nil {
			continue
		}
		step.then()
		if over == nil {
			continue
		}
		select {
		case <-over:
		default:
			t.Errorf("step %d: the other's claim wakes nobody", i)
		}
	}
}
