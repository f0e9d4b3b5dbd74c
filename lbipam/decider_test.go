package lbipam

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// deciding is a Decider that follows tables, and writes into them what it decides.
type deciding struct {
	t        *testing.T
	db       *state.DB
	w        *state.Writer
	services *state.Collector
	decider  *Decider
}

func newDeciding(t *testing.T) *deciding {
	db, w := state.New()
	d := &deciding{t, db, w, w.Collect(db.Services.Name()), &Decider{DB: db}}
	t.Cleanup(d.services.Close)
	return d
}

// decide returns the decision, after a look at whether it is that for all.
func (d *deciding) decide() Decision {
	d.t.Helper()
	snap, changed := d.services.Take()
	want, pools := ReadInputs(d.db, snap).Allocate()
	decision := d.decider.Decide(snap, changed, false)
	d.w.Update(func(tx *state.Tx) {
		if decision.All {
			state.Want(tx, d.db.Allocations, decision.Allocations, time.Time{})
			return
		}
		state.WantAlso(tx, d.db.Allocations, decision.Allocations, time.Time{})
		for _, name := range decision.Gone {
			d.db.Allocations.Delete(tx, name.String())
		}
	})
	var rows []state.Allocation
	for row := range d.db.Allocations.All(d.db.Snapshot()) {
		if row.Status.Wanted() {
			rows = append(rows, row)
		}
	}
	if got, want := text(rows), text(sortedByKey(want)); got != want || !reflect.DeepEqual(decision.Pools, pools) {
		d.t.Fatalf("got\n%s%+v\nwant\n%s%+v", got, decision.Pools, want, pools)
	}
	return decision
}

// sortedByKey orders rows as a table does.
func sortedByKey(rows []state.Allocation) []state.Allocation {
	db, w := state.New()
	w.Update(func(tx *state.Tx) {
		for _, r := range rows {
			db.Allocations.Put(tx, r)
		}
	})
	return db.Allocations.Rows(db.Snapshot())
}

// Whatever changes in the tables, what is decided is what would be decided of all.
func TestDeciderFollowsTheTables(t *testing.T) {
	rng := rand.New(rand.NewPCG(41, 42))
	steps, all := 0, 0
	for range worlds / 20 {
		d := newDeciding(t)
		put := func(in Inputs) {
			d.w.Update(func(tx *state.Tx) {
				d.db.Services.Replace(tx, in.Services, func(a, b state.Service) bool { return reflect.DeepEqual(a, b) })
				d.db.Pools.Replace(tx, in.Pools, func(a, b state.Pool) bool { return reflect.DeepEqual(a, b) })
				d.db.NodeLeases.Replace(tx, in.Leases, func(a, b state.NodeLease) bool { return false })
			})
		}
		in := world(rng)
		put(in)
		d.decide()
		for range 15 {
			in.Decided = d.db.Allocations.Rows(d.db.Snapshot())
			switch rng.IntN(12) {
			case 0:
				in.Pools = world(rng).Pools
			case 1:
				in.Leases = world(rng).Leases
			case 2: // nothing
			default:
				mutate(rng, &in)
			}
			put(in)
			if steps++; d.decide().All {
				all++
			}
		}
	}
	if all > steps/2 || all < steps/20 {
		t.Errorf("%d of %d decisions were for all", all, steps)
	}
}

// A decision is for all when something else than Services has changed, and not
// because nodes renew their leases.
func TestDeciderIsForAll(t *testing.T) {
	d := newDeciding(t)
	lease := state.NodeLease{Node: "n", Renewal: "1", Interfaces: []state.LeaseInterface{{Name: "eth1"}}}
	d.w.Update(func(tx *state.Tx) {
		d.db.Services.Put(tx, svc("a", 1))
		d.db.Pools.Put(tx, pl("p", 0, few))
		d.db.NodeLeases.Put(tx, lease)
	})
	for _, step := range []struct {
		name   string
		change func(tx *state.Tx)
		all    bool
	}{
		{"the first", func(*state.Tx) {}, true},
		{"nothing", func(*state.Tx) {}, false},
		{"a Service", func(tx *state.Tx) { d.db.Services.Put(tx, svc("b", 2)) }, false},
		{"a Service goes", func(tx *state.Tx) { d.db.Services.Delete(tx, "default/a") }, false},
		{"a renewal", func(tx *state.Tx) { lease.Renewal = "2"; d.db.NodeLeases.Put(tx, lease) }, false},
		{"a gateway", func(tx *state.Tx) {
			lease.Interfaces = []state.LeaseInterface{{Name: "eth1", Gateways: []netip.Addr{ip("10.0.0.3")}}}
			d.db.NodeLeases.Put(tx, lease)
		}, true},
		{"a node", func(tx *state.Tx) { d.db.Nodes.Put(tx, state.Node{Name: "n", Addrs: ips([]string{"10.0.0.1"})}) }, true},
		{"a namespace", func(tx *state.Tx) { d.db.Namespaces.Put(tx, state.Namespace{Name: "default"}) }, true},
		{"a pool", func(tx *state.Tx) { d.db.Pools.Put(tx, pl("q", 0, "10.0.1.1")) }, true},
		{"a Problem", func(tx *state.Tx) {
			d.db.SourceProblems.Put(tx, state.Problem{Object: state.NodeRef("n"), Message: "bad"})
		}, false},
		{"another's program", func(tx *state.Tx) {
			d.db.Agents.Put(tx, state.Agent{Product: state.ProductMetalLB, Role: state.AgentAllocates})
		}, true},
		{"a Problem, which may be of a pool of theirs", func(tx *state.Tx) {
			d.db.SourceProblems.Put(tx, state.Problem{Object: state.ObjectRef{Kind: "IPAddressPool"}, Message: "left"})
		}, true},
		{"a clusterIP in a pool", func(tx *state.Tx) {
			d.db.Services.Put(tx, svc("c", 3, class("example.com/lb"), func(s *state.Service) { s.ClusterIPs = ips([]string{"10.0.1.1"}) }))
		}, true},
	} {
		d.w.Update(step.change)
		if got := d.decide().All; got != step.all {
			t.Errorf("%s: for all %v, want %v", step.name, got, step.all)
		}
	}
}
