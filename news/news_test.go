package news

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/state"
)

func addr(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}) }

func name(s string) state.ObjectName { return state.ObjectName{Namespace: "d", Name: s} }

func service(s string, ingress ...netip.Addr) state.Service {
	return state.Service{Name: name(s), UID: "uid-" + s, Type: "LoadBalancer", Ingress: ingress}
}

func given(s string, addrs ...netip.Addr) state.Allocation {
	row := state.Allocation{Service: name(s), UID: "uid-" + s, Addrs: addrs, Reason: state.ReasonSatisfied}
	for range addrs {
		row.Pools = append(row.Pools, "p")
	}
	return row
}

func refused(s string, reason state.Reason, message string) state.Allocation {
	return state.Allocation{Service: name(s), UID: "uid-" + s, Reason: reason, Message: message}
}

func assigned(n int, node string, generation int64, previous string, reason state.Reason) state.Assignment {
	row := state.Assignment{Addr: addr(n), Service: name("web"), Node: node, Generation: generation, Previous: previous, Reason: reason}
	if node != "" {
		row.Interfaces = []string{"eth1"}
	}
	return row
}

var leaving = state.Status{Phase: state.Deleting}

func pool(name string) state.Pool {
	return state.Pool{Name: name, UID: "uid-" + name, Origin: state.ObjectRef{Group: "seamark.dev", Kind: "IPPool", Name: name},
		Ranges: []state.Range{{From: addr(1), To: addr(4)}}}
}

func policy(name string) state.L2Policy {
	return state.L2Policy{Name: name, UID: "uid-" + name, Origin: state.ObjectRef{Group: "seamark.dev", Kind: "L2Policy", Name: name}}
}

// text is one line per Event.
func text(events []Event) string {
	var b strings.Builder
	for _, e := range events {
		kind := "Normal"
		if e.Warning {
			kind = "Warning"
		}
		fmt.Fprintf(&b, "%s %s %s %s %s: %s\n", kind, e.Object, e.UID, e.Reason, e.Action, e.Message)
	}
	return b.String()
}

func TestOfCluster(t *testing.T) {
	type put = func(*state.DB, *state.Tx)
	rows := func(puts ...put) put {
		return func(db *state.DB, tx *state.Tx) {
			for _, p := range puts {
				p(db, tx)
			}
		}
	}
	svc := func(s state.Service) put { return func(db *state.DB, tx *state.Tx) { db.Services.Put(tx, s) } }
	allocation := func(a state.Allocation) put {
		return func(db *state.DB, tx *state.Tx) { db.Allocations.Put(tx, a) }
	}
	assignment := func(a state.Assignment) put {
		return func(db *state.DB, tx *state.Tx) { db.Assignments.Put(tx, a) }
	}
	stored := func(a state.Assignment) put { return func(db *state.DB, tx *state.Tx) { db.Assigned.Put(tx, a) } }
	pools := func(ps ...state.Pool) put {
		return func(db *state.DB, tx *state.Tx) {
			for _, p := range ps {
				db.Pools.Put(tx, p)
			}
		}
	}
	poolStatus := func(s state.PoolStatus) put {
		return func(db *state.DB, tx *state.Tx) { db.PoolStatuses.Put(tx, s) }
	}
	nothing := put(func(*state.DB, *state.Tx) {})
	web := svc(service("web", addr(1)))
	const uid = "service/d/web uid-web"
	const released = "Warning " + uid + " AddressReleased Release: 10.0.0.1: no pool holds it any longer; add a block that does, to have it back\n"
	const same = "the same"
	for _, tc := range []struct {
		name        string
		before, now put
		want        string
		// first is what is told when there was no look before; "the same" as with one.
		first string
	}{
		{"given", rows(pools(pool("p")), svc(service("web"))), allocation(given("web", addr(1), addr(2))),
			"Normal " + uid + " AddressAssigned Allocate: 10.0.0.1 of pool p, 10.0.0.2 of pool p\n", same},
		{"given by the coordinator before", rows(pools(pool("p")), web), allocation(given("web", addr(1))), "", ""},
		{"given to another of the same name", rows(pools(pool("p")), web, allocation(given("web", addr(1)))), func(db *state.DB, tx *state.Tx) {
			again, row := service("web"), given("web", addr(1))
			again.UID, row.UID = "uid2", "uid2"
			db.Services.Put(tx, again)
			db.Allocations.Put(tx, row)
		}, "Normal service/d/web uid2 AddressAssigned Allocate: 10.0.0.1 of pool p\n", same},
		{"another asked for", rows(pools(pool("p")), web, allocation(given("web", addr(1)))), allocation(given("web", addr(2))),
			"Normal " + uid + " AddressAssigned Allocate: 10.0.0.2 of pool p\n" +
				"Normal " + uid + " AddressReleased Release: 10.0.0.1: the Service does not ask for it any longer, or may not share it\n", same},
		{"pool shrank", rows(pools(pool("p")), web, allocation(given("web", addr(9), addr(1)))), allocation(given("web", addr(1))),
			"Warning " + uid + " AddressReleased Release: 10.0.0.9: no pool holds it any longer; add a block that does, to have it back\n", ""},
		{"pool shrank between two coordinators", rows(pools(pool("p")), svc(service("web", addr(9)))), allocation(given("web", addr(1))),
			"Warning " + uid + " AddressReleased Release: 10.0.0.9: no pool holds it any longer; add a block that does, to have it back\n" +
				"Normal " + uid + " AddressAssigned Allocate: 10.0.0.1 of pool p\n", same},
		{"of another class now", rows(pools(pool("p")), web, allocation(given("web", addr(1)))), allocation(given("web", addr(1)).WithStatus(leaving)),
			"Normal " + uid + " AddressReleased Release: 10.0.0.1: the Service is no longer for Seamark to serve\n", ""},
		{"handed over with its pool", rows(web, allocation(given("web", addr(1)))), allocation(given("web", addr(1)).WithStatus(leaving)),
			"Normal " + uid + " AddressReleased Release: 10.0.0.1: the Service is no longer for Seamark to serve\n", ""},
		{"and then its row goes", rows(pools(pool("p")), web, allocation(given("web", addr(1)).WithStatus(leaving))),
			func(db *state.DB, tx *state.Tx) { db.Allocations.Delete(tx, "d/web") }, "", ""},
		{"Service deleted", rows(pools(pool("p")), web, allocation(given("web", addr(1)))), func(db *state.DB, tx *state.Tx) {
			db.Services.Delete(tx, "d/web")
			db.Allocations.Delete(tx, "d/web")
		}, "", ""},
		{"written to the status", rows(pools(pool("p")), web, allocation(given("web", addr(1)))),
			allocation(given("web", addr(1)).WithStatus(state.Status{Phase: state.Done})), "", ""},
		{"asked in vain", web, allocation(refused("web", state.ReasonNoPool, "create one")),
			"Warning " + uid + " AddressReleased Release: 10.0.0.1: no pool holds it any longer; add a block that does, to have it back\n" +
				"Warning " + uid + " NoPool Allocate: create one\n", same},
		{"still in vain", rows(web, allocation(refused("web", state.ReasonNoPool, "create one"))),
			allocation(refused("web", state.ReasonNoPool, "create one").WithStatus(state.Status{Phase: state.Done})), "",
			released + "Warning " + uid + " NoPool Allocate: create one\n"},
		{"in vain for another reason", rows(web, allocation(refused("web", state.ReasonNoPool, "create one"))), allocation(refused("web", state.ReasonPoolExhausted, "add a block")),
			"Warning " + uid + " PoolExhausted Allocate: add a block\n",
			released + "Warning " + uid + " PoolExhausted Allocate: add a block\n"},

		{"announced", web, assignment(assigned(1, "a", 1, "", state.ReasonFirstAssignment)),
			"Normal " + uid + " Announced Announce: 10.0.0.1 is announced by node a on eth1\n", same},
		{"announced, and the coordinator is new", rows(web, stored(assigned(1, "a", 1, "", state.ReasonFirstAssignment))),
			assignment(assigned(1, "a", 1, "", state.ReasonFirstAssignment)), "", ""},
		{"moved", rows(web, assignment(assigned(1, "a", 1, "", state.ReasonFirstAssignment))), assignment(assigned(1, "b", 2, "a", state.ReasonLeaseExpired)),
			"Normal " + uid + " Announced Announce: 10.0.0.1 is announced by node b on eth1, instead of node a: LeaseExpired\n", same},
		{"moved and back between two looks", rows(web, assignment(assigned(1, "a", 1, "", state.ReasonFirstAssignment))), assignment(assigned(1, "a", 3, "b", state.ReasonReleased)),
			"Normal " + uid + " Announced Announce: 10.0.0.1 is announced by node a on eth1, instead of node b: Released\n", same},
		{"no candidate", rows(web, assignment(assigned(1, "a", 1, "", state.ReasonFirstAssignment))), assignment(assigned(1, "", 2, "a", state.ReasonNoCandidate)),
			"Warning " + uid + " NotAnnounced Withdraw: no node may announce 10.0.0.1: see that one which an L2Policy selects has its interface up on the address's subnet, and, with externalTrafficPolicy Local, a ready pod\n",
			"Warning " + uid + " NotAnnounced Withdraw: no node may announce 10.0.0.1: see that one which an L2Policy selects has its interface up on the address's subnet, and, with externalTrafficPolicy Local, a ready pod\n"},
		{"back at the last holder", rows(web, assignment(assigned(1, "", 2, "a", state.ReasonNoCandidate))), assignment(assigned(1, "a", 3, "a", state.ReasonFirstAssignment)),
			"Normal " + uid + " Announced Announce: 10.0.0.1 is announced by node a on eth1\n", same},
		{"no policy any longer", rows(web, assignment(assigned(1, "a", 1, "", state.ReasonFirstAssignment))),
			func(db *state.DB, tx *state.Tx) { db.Assignments.Delete(tx, "10.0.0.1") },
			"Warning " + uid + " NotAnnounced Withdraw: 10.0.0.1 is withdrawn from node a: no L2Policy announces it any longer\n", ""},
		{"for BGP now", rows(web, assignment(assigned(1, "a", 1, "", state.ReasonFirstAssignment))), func(db *state.DB, tx *state.Tx) {
			s := service("web", addr(1))
			s.Class = "seamark.dev/bgp"
			db.Services.Put(tx, s)
			db.Assignments.Delete(tx, "10.0.0.1")
		}, "", ""},
		{"withdrawn with its address", rows(web, assignment(assigned(1, "a", 1, "", state.ReasonFirstAssignment))),
			rows(svc(service("web")), func(db *state.DB, tx *state.Tx) { db.Assignments.Delete(tx, "10.0.0.1") }), "", ""},

		{"pool in conflict", pools(pool("p")), poolStatus(state.PoolStatus{Pool: "p", Total: "4", Available: "4", Conflict: "pool old also holds"}),
			"Warning ippool/p uid-p Conflict StopAllocating: pool old also holds\n", "Warning ippool/p uid-p Conflict StopAllocating: pool old also holds\n"},
		{"pool exhausted", rows(pools(pool("p")), poolStatus(state.PoolStatus{Pool: "p", Total: "4", Available: "1", Used: "3"})),
			poolStatus(state.PoolStatus{Pool: "p", Total: "4", Available: "0", Used: "4"}),
			"Warning ippool/p uid-p Exhausted Allocate: 4 of 4 addresses are in use: add a block, or release an address\n",
			"Warning ippool/p uid-p Exhausted Allocate: 4 of 4 addresses are in use: add a block, or release an address\n"},
		{"pool exhausted still", rows(pools(pool("p")), poolStatus(state.PoolStatus{Pool: "p", Total: "4", Available: "0", Used: "4"})),
			poolStatus(state.PoolStatus{Pool: "p", Total: "4", Available: "0", Used: "4", Status: state.Status{Phase: state.Done}}), "",
			"Warning ippool/p uid-p Exhausted Allocate: 4 of 4 addresses are in use: add a block, or release an address\n"},
		{"pool without an address", pools(pool("p")), poolStatus(state.PoolStatus{Pool: "p", Total: "0", Available: "0", Invalid: "spec.blocks: add one"}),
			"Warning ippool/p uid-p Invalid KeepLastSpec: spec.blocks: add one\n", "Warning ippool/p uid-p Invalid KeepLastSpec: spec.blocks: add one\n"},
		{"pool mended", rows(pools(pool("p")), poolStatus(state.PoolStatus{Pool: "p", Invalid: "bad", Conflict: "bad"})),
			poolStatus(state.PoolStatus{Pool: "p", Total: "4", Available: "4"}), "", ""},

		{"policy does not parse", func(db *state.DB, tx *state.Tx) {
			p := policy("l2")
			p.Invalid = "spec.interfaces[0]: bad"
			db.L2Policies.Put(tx, p)
		}, func(db *state.DB, tx *state.Tx) {
			db.PolicyStatuses.Put(tx, state.PolicyStatus{Policy: "l2", Problem: "spec.interfaces[0]: bad"})
		}, "Warning l2policy/l2 uid-l2 Invalid KeepLastSpec: spec.interfaces[0]: bad\n", "Warning l2policy/l2 uid-l2 Invalid KeepLastSpec: spec.interfaces[0]: bad\n"},
		{"policy does not do what it says: once", func(db *state.DB, tx *state.Tx) { db.L2Policies.Put(tx, policy("l2")) }, func(db *state.DB, tx *state.Tx) {
			db.ClusterProblems.Put(tx, state.Problem{Object: policy("l2").Origin, Field: "spec.pools[0]", Message: "there is no pool x", Cure: "create it"})
			db.PolicyStatuses.Put(tx, state.PolicyStatus{Policy: "l2", Problem: "spec.pools[0]: there is no pool x; create it"})
		}, "Warning l2policy/l2 uid-l2 NotHonoured Ignore: spec.pools[0]: there is no pool x; create it\n",
			"Warning l2policy/l2 uid-l2 NotHonoured Ignore: spec.pools[0]: there is no pool x; create it\n"},
		{"problem of a Service in the source", web, func(db *state.DB, tx *state.Tx) {
			db.SourceProblems.Put(tx, state.Problem{Object: state.ServiceRef(name("web")), Message: "bad"})
		}, "Warning " + uid + " NotHonoured Ignore: bad\n", "Warning " + uid + " NotHonoured Ignore: bad\n"},
		{"problem that two found", web, func(db *state.DB, tx *state.Tx) {
			db.SourceProblems.Put(tx, state.Problem{Object: state.ServiceRef(name("web")), Message: "bad"})
			db.ClusterProblems.Put(tx, state.Problem{Object: state.ServiceRef(name("web")), Message: "bad"})
		}, "Warning " + uid + " NotHonoured Ignore: bad\n", "Warning " + uid + " NotHonoured Ignore: bad\n"},
		{"problem that was there", func(db *state.DB, tx *state.Tx) {
			db.SourceProblems.Put(tx, state.Problem{Object: state.NodeRef("n"), Message: "bad"})
		}, nothing, "", "Warning node/n  NotHonoured Ignore: bad\n"},
		{"problem that is gone", func(db *state.DB, tx *state.Tx) {
			db.SourceProblems.Put(tx, state.Problem{Object: state.NodeRef("n"), Message: "bad"})
		}, func(db *state.DB, tx *state.Tx) { db.SourceProblems.Replace(tx, nil, nil) }, "", ""},
		{"problem of a node is the node's to tell", nothing, func(db *state.DB, tx *state.Tx) {
			db.NodeProblems.Put(tx, state.Problem{Object: state.NodeRef("n"), Message: "bad"})
		}, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			db, w := state.New()
			w.Update(func(tx *state.Tx) { tc.before(db, tx) })
			before := db.Snapshot()
			w.Update(func(tx *state.Tx) { tc.now(db, tx) })
			now := db.Snapshot()
			if got := text(OfCluster(db, &before, now)); got != tc.want {
				t.Errorf("got\n%swant\n%s", got, tc.want)
			}
			first := tc.first
			if first == same {
				first = tc.want
			}
			if got := text(OfCluster(db, nil, now)); got != first {
				t.Errorf("at the first look, got\n%swant\n%s", got, first)
			}
			if got := text(OfCluster(db, &now, now)); got != "" {
				t.Errorf("told again, without a change:\n%s", got)
			}
		})
	}
}

// A node tells of itself, and of what it alone has heard. What every node finds of
// a Service, the coordinator tells.
func TestOfNode(t *testing.T) {
	db, w := state.New()
	w.Update(func(tx *state.Tx) {
		db.Services.Put(tx, service("web"))
		db.NodeProblems.Put(tx, state.Problem{Object: state.NodeRef("n"), Message: "old"})
		db.ClusterProblems.Put(tx, state.Problem{Object: state.NodeRef("n"), Message: "the coordinator's"})
	})
	before := db.Snapshot()
	w.Update(func(tx *state.Tx) {
		db.NodeProblems.Put(tx, state.Problem{Object: state.NodeRef("n"), Message: "new"})
		db.NodeProblems.Put(tx, state.Problem{Object: policy("all").Origin, Message: "matches no interface of node n"})
		db.NodeProblems.Put(tx, state.Problem{Object: state.ServiceRef(name("web")), Field: "spec.externalIPs", Message: "is a node's", Cure: "use another"})
		db.NodeProblems.Put(tx, state.Problem{Object: state.ServiceRef(name("web")), Message: "another machine has it", Finder: state.FinderSegment})
	})
	now := db.Snapshot()
	for _, tc := range []struct {
		who, want string
		got       []Event
	}{
		{"the node", "Warning node/n  NotHonoured Ignore: new\nWarning service/d/web uid-web NotHonoured Ignore: another machine has it\n", OfNode(db, &before, now)},
		{"the node at its first look", "Warning node/n  NotHonoured Ignore: new\nWarning node/n  NotHonoured Ignore: old\nWarning service/d/web uid-web NotHonoured Ignore: another machine has it\n", OfNode(db, nil, now)},
		{"the coordinator", "Warning service/d/web uid-web NotHonoured Ignore: spec.externalIPs: is a node's; use another\n", OfCluster(db, &before, now)},
	} {
		if got := text(tc.got); got != tc.want {
			t.Errorf("%s: got\n%swant\n%s", tc.who, got, tc.want)
		}
	}
}

// A node that dies with thousands of addresses is no thousand Events, and what
// is wrong is told before what is right.
// A backend that is down is news, and one that is up again; that one is up at
// all, or fails a check now and then, is none.
func TestBackends(t *testing.T) {
	up, down := state.BackendHealth{Up: true}, state.BackendHealth{Err: "connection refused"}
	failing := up
	failing.Err = "no answer within 2s"
	other := down
	other.Err = "no route to host"
	const isDown = "Warning service/d/web uid-web BackendDown LeaveOut: backend 10.0.0.9:80 fails its health check (connection refused) and gets no packets until it is up again\n"
	for _, tc := range []struct {
		name    string
		was, is *state.BackendHealth
		first   bool // look
		want    string
	}{
		{"new and up", nil, &up, false, ""},
		{"new and down", nil, &down, false, isDown},
		{"down at the first look", &down, &down, true, isDown},
		{"up at the first look", &up, &up, true, ""},
		{"goes down", &up, &down, false, isDown},
		{"fails once", &up, &failing, false, ""},
		{"stays down for another reason", &down, &other, false, ""},
		{"is back", &down, &up, false, "Normal service/d/web uid-web BackendUp Serve: backend 10.0.0.9:80 answers its health check again\n"},
		{"is checked no longer", &down, nil, false, ""},
	} {
		db, w := state.New()
		put := func(h *state.BackendHealth) {
			w.Update(func(tx *state.Tx) {
				row := state.BackendHealth{Service: name("web"), Addr: addr(9), Port: 80}
				db.Services.Put(tx, service("web"))
				db.BackendHealth.Delete(tx, row.RowKey())
				if h != nil {
					row.Up, row.Err = h.Up, h.Err
					db.BackendHealth.Put(tx, row)
				}
			})
		}
		put(tc.was)
		before := db.Snapshot()
		put(tc.is)
		from := &before
		if tc.first {
			from = nil
		}
		if got := text(OfCluster(db, from, db.Snapshot())); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestBounded(t *testing.T) {
	db, w := state.New()
	update := func(n int, node string, generation int64) state.Snapshot {
		w.Update(func(tx *state.Tx) {
			for i := range n {
				db.Assignments.Put(tx, assigned(i, node, generation, "", state.ReasonFirstAssignment))
			}
		})
		return db.Snapshot()
	}
	none := db.Snapshot()
	if events := OfCluster(db, &none, update(maxEvents, "a", 1)); len(events) != maxEvents || events[maxEvents-1].Reason != ReasonAnnounced {
		t.Errorf("%d events, the last %+v", len(events), events[len(events)-1])
	}
	before := update(5000, "a", 1)
	w.Update(func(tx *state.Tx) {
		db.SourceProblems.Put(tx, state.Problem{Object: state.NodeRef("n"), Message: "bad"})
	})
	events := OfCluster(db, &before, update(5000, "b", 2))
	if len(events) != maxEvents || !events[0].Warning || events[0].Object != state.NodeRef("n") {
		t.Fatalf("%d events, the first %+v", len(events), events[0])
	}
	last := events[maxEvents-1]
	if last.Reason != ReasonMore || last.Warning || !strings.Contains(last.Message, "4938 × Announced") {
		t.Errorf("the last: %+v", last)
	}
	if slices.ContainsFunc(events[:maxEvents-1], func(e Event) bool { return e.Reason == ReasonMore }) {
		t.Error("more than one stands for the others")
	}
}
