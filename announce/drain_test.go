package announce

import (
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
	row := state.Announcement{Addr: addr(211), Interface: "eth1", Status: state.Status{Phase: state.Deleting}}
	wanted := row.WithStatus(state.Status{Phase: state.Done})
	h := newHandover(Timing{Duration: 3 * time.Second})
	for i, step := range []struct {
		row     state.Announcement
		another bool
		now     time.Duration
		want    bool
	}{
		{wanted, true, 10 * sec, false},
		{row, false, 10 * sec, false},
		{row, true, 10 * sec, true},
		{row, true, 11*sec - 1, true},
		{row, true, 11 * sec, false},
		{row, true, 20 * sec, true},
		{row, false, 20*sec + 1, false}, // this node's lease is over, or the address is nobody's
		{row, true, 30 * sec, true},
		{wanted, true, 30*sec + 1, false}, // it has come back
		{row, true, 31 * sec, true},
	} {
		h.over = nil
		if got := h.stays(step.row, step.another, step.now); got != step.want {
			t.Errorf("step %d at %v: stays %v, want %v", i, step.now, got, step.want)
		}
		if (h.over != nil) != step.want {
			t.Errorf("step %d at %v: to be woken: %v", i, step.now, h.over != nil)
		}
	}
}
