package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

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

// run allocates until ctx ends, which is when another node may begin.
func (p ipam) run(ctx context.Context) {
	// On every node but the coordinator these tables are empty.
	defer p.writer.Update(func(tx *state.Tx) {
		p.db.Allocations.Replace(tx, nil, state.Allocation.SameSpec)
		p.db.PoolStatuses.Replace(tx, nil, state.PoolStatus.SameSpec)
	})
	// What coordinators before this one gave away must not be given again.
	if p.source.CatchUp(ctx) != nil {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	decided := false
	_ = p.db.Follow(ctx, time.Minute, func(snap state.Snapshot) {
		if !p.db.Services.Synced(snap) || !p.db.Pools.Synced(snap) {
			return
		}
		services := lbipam.Remember(p.db.Services.Rows(snap), p.db.Allocations.Rows(snap))
		allocations, pools := lbipam.Allocate(services, p.db.Pools.Rows(snap))
		p.writer.Update(func(tx *state.Tx) {
			state.Want(tx, p.db.Allocations, allocations, time.Now())
			state.Want(tx, p.db.PoolStatuses, pools, time.Now())
		})
		if !decided {
			// Not before the first decision: pruning by empty tables would take all back.
			decided = true
			p.reconcile(ctx, &wg)
		}
	}, p.db.Services.Watch(), p.db.Pools.Watch(), p.db.MarksChanged)
}

func (p ipam) reconcile(ctx context.Context, wg *sync.WaitGroup) {
	wg.Go(func() {
		r := state.Reconciler[state.Allocation]{DB: p.db, Writer: p.writer, Table: p.db.Allocations,
			Target: p.source.Allocations(), Log: p.log}
		_ = r.Run(ctx) // ends with ctx
	})
	wg.Go(func() {
		r := state.Reconciler[state.PoolStatus]{DB: p.db, Writer: p.writer, Table: p.db.PoolStatuses,
			Target: p.source.PoolStatuses(), Log: p.log}
		_ = r.Run(ctx)
	})
}
