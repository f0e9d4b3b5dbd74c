package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/seamark-lb/seamark/coexist"
	"github.com/seamark-lb/seamark/lbipam"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

// ipam runs LB-IPAM while this node is the coordinator: one allocator for the
// cluster, or two nodes would give one address away twice.
type ipam struct {
	db     *state.DB
	writer *state.Writer
	source source.Source
	log    *slog.Logger
}

// leader is what the coordinator does besides placing addresses.
type leader struct {
	ipam      ipam
	tell      teller
	announced announced
	nodes     nodesWatch
}

// run returns when ctx ends and all are done.
func (l leader) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { l.tell.cluster(ctx) })
	wg.Go(func() { l.announced.run(ctx) })
	wg.Go(func() { l.nodes.run(ctx) })
	l.ipam.run(ctx)
}

// run allocates until ctx ends, which is when another node may begin.
func (p ipam) run(ctx context.Context) {
	// On every node but the coordinator these tables are empty.
	defer p.writer.Report(p.db.ClusterProblems, "beside", nil)
	defer p.writer.Update(func(tx *state.Tx) {
		p.db.Allocations.Replace(tx, nil, state.Allocation.SameSpec)
		p.db.PoolStatuses.Replace(tx, nil, state.PoolStatus.SameSpec)
		p.db.ObjectStatuses.Replace(tx, nil, state.ObjectStatus.SameSpec)
	})
	// What coordinators before this one gave away must not be given again.
	if p.source.CatchUp(ctx) != nil {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	services := p.writer.Collect(p.db.Services.Name())
	defer services.Close()
	decider := &lbipam.Decider{DB: p.db}
	var decided time.Time // for all Services
	_ = p.db.Follow(ctx, redecide, func(state.Snapshot) {
		snap, changed := services.Take()
		if !lbipam.Ready(p.db, snap) {
			return // all that is there is looked at, when it is
		}
		p.tellOthers(snap)
		decision := decider.Decide(snap, changed, time.Since(decided) >= redecide)
		p.want(decision)
		if decided.IsZero() {
			// Not before the first decision: pruning by empty tables would take all back.
			p.reconcile(ctx, &wg)
		}
		if decision.All {
			decided = time.Now()
		}
	}, p.db.Services.Watch(), p.db.Pools.Watch(), p.db.Namespaces.Watch(), p.db.Nodes.Watch(),
		p.db.L2Policies.Watch(), p.db.BGPInstances.Watch(), p.db.BGPPeers.Watch(), p.db.BGPAdvertisements.Watch(), p.db.BFDProfiles.Watch(), p.db.ForeignObjects.Watch(),
		p.db.SourceProblems.Watch(), p.db.Agents.Watch(), p.db.MarksChanged)
}

// want makes what was decided the wanted content of the tables.
func (p ipam) want(d lbipam.Decision) {
	now := time.Now()
	p.writer.Update(func(tx *state.Tx) {
		if d.All {
			state.Want(tx, p.db.Allocations, d.Allocations, now)
		} else {
			state.WantAlso(tx, p.db.Allocations, d.Allocations, now)
			gone := make([]string, len(d.Gone))
			for i, name := range d.Gone {
				gone[i] = name.String()
			}
			state.Unwant(tx, p.db.Allocations, gone, now)
		}
		state.Want(tx, p.db.PoolStatuses, d.Pools, now)
		state.Want(tx, p.db.ObjectStatuses, source.ObjectStatuses(p.db, tx), now)
	})
}

// tellOthers reports the programs of other projects that do what Seamark does.
func (p ipam) tellOthers(snap state.Snapshot) {
	for _, problem := range p.writer.Report(p.db.ClusterProblems, "beside", coexist.ClusterProblems(p.db, snap)) {
		p.log.Warn("another program does what Seamark does", "object", problem.Object.String(), "problem", problem.Message, "cure", problem.Cure)
	}
}

func (p ipam) reconcile(ctx context.Context, wg *sync.WaitGroup) {
	reconcile(ctx, wg, p, p.db.Allocations, p.source.Allocations())
	reconcile(ctx, wg, p, p.db.PoolStatuses, p.source.PoolStatuses())
	reconcile(ctx, wg, p, p.db.ObjectStatuses, p.source.ObjectStatuses())
}

func reconcile[T state.Reconcilable[T]](ctx context.Context, wg *sync.WaitGroup, p ipam, table state.Table[T], target state.Target[T]) {
	wg.Go(func() {
		r := state.Reconciler[T]{DB: p.db, Writer: p.writer, Table: table, Target: target, Log: p.log}
		_ = r.Run(ctx) // ends with ctx
	})
}
