package announce

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

func TestTenancy(t *testing.T) {
	own := lease("n", 1).Interfaces
	by := func(identity string, mac int, renewal string) state.NodeLease {
		l := lease("n", mac)
		l.Identity, l.Renewal = identity, renewal
		return l
	}
	stopped := by("q", 2, "1")
	stopped.Duration = 30 * time.Second
	silent := by("q", 2, "1")
	silent.Interfaces = nil
	for _, tc := range []struct {
		name  string
		held  bool
		reads []state.NodeLease // one a second
		may   string            // y or n for each
	}{
		{"no lease yet", false, []state.NodeLease{{}}, "y"},
		{"its own", true, []state.NodeLease{by("m", 1, "1"), by("m", 1, "2")}, "yy"},
		{"of a daemon before identities", false, []state.NodeLease{by("", 2, "1")}, "y"},
		{"of its machine's last daemon", false, []state.NodeLease{by("q", 1, "1")}, "y"},
		{"of another machine that renews", false, []state.NodeLease{by("q", 2, "1"), by("q", 2, "2"), by("q", 2, "3"), by("q", 2, "4"), by("q", 2, "5")}, "nnnnn"},
		{"of another machine that no longer does", false, []state.NodeLease{by("q", 2, "1"), by("q", 2, "2"), by("q", 2, "2"), by("q", 2, "2"), by("q", 2, "2")}, "nnnny"},
		{"of another machine that has stopped", false, []state.NodeLease{stopped}, "y"},
		{"of another machine that reports nothing", false, []state.NodeLease{silent}, "y"},
		{"both began at once, and this one stays", true, []state.NodeLease{by("q", 2, "1"), by("q", 2, "2")}, "yy"},
		{"both began at once, and this one gives in", true, []state.NodeLease{by("b", 2, "1"), by("b", 2, "2"), by("b", 2, "2"), by("b", 2, "2"), by("b", 2, "2")}, "nnnny"},
	} {
		tenancy := tenancy{identity: "m", duration: 3 * time.Second, held: tc.held}
		got := ""
		for i, l := range tc.reads {
			err := tenancy.check(l, time.Hour+time.Duration(i)*time.Second, own)
			if err == nil {
				got += "y"
				continue
			}
			got += "n"
			if !strings.Contains(err.Error(), "02:00:00:00:00:02 has the node name n") || !strings.Contains(err.Error(), "--node-name") {
				t.Errorf("%s: %v", tc.name, err)
			}
		}
		if got != tc.may {
			t.Errorf("%s: may renew %s, want %s", tc.name, got, tc.may)
		}
	}
	if err := (&tenancy{identity: "m", duration: 3 * time.Second}).check(by("q", 2, "1"), 0, nil); err != nil {
		t.Errorf("who reports nothing: %v", err)
	}
}

// Two machines of one name: the one that came first keeps the address, and the
// other is silent, and says why; until the first is gone.
func TestTwoMachinesOfOneName(t *testing.T) {
	c := newCluster(t, "a")
	first := c.nodes[0]
	eventually(t, 10*sec, "the address is placed", func() bool { return c.assigned().Node == "a" })
	first.served()
	eventually(t, 5*sec, "the first answers", func() bool { return first.responder.answers(addr(211), SystemClock{}.Boottime()) })

	var leads atomic.Bool
	second := &clusterNode{cluster: c, name: "a", id: 2, responder: newFakeResponder(), wire: &wireLog{},
		lead: func(ctx context.Context) { leads.Store(true); <-ctx.Done() }}
	c.nodes = append(c.nodes, second)
	second.start()
	second.served()
	eventually(t, 5*sec, "the second says why it does not announce", func() bool {
		err := second.announcer.Lease().Err
		return err != nil && strings.Contains(err.Error(), "02:00:00:00:00:01 has the node name a, too")
	})
	for end := time.Now().Add(2 * quick.Duration); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
		if second.announcer.lease.Valid() || second.responder.text() != "" {
			t.Fatalf("the second has the lease %v, and answers for %q", second.announcer.lease.Valid(), second.responder.text())
		}
	}
	if !first.announcer.lease.Valid() {
		t.Error("the first has lost its lease")
	}
	if leads.Load() {
		t.Error("the second coordinates, in the first one's name")
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*sec, "the second coordinates", leads.Load)
	eventually(t, 10*sec, "the second takes over", func() bool { return second.responder.answers(addr(211), SystemClock{}.Boottime()) })
}
