package main

import (
	"context"
	"time"

	"github.com/seamark-lb/seamark/news"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

// teller turns changes of the tables into Events.
type teller struct {
	db     *state.DB
	source source.Source
}

// settle is how long changes are gathered, so that those that belong together
// are told as one.
const settle = time.Second

// node tells this node's news until ctx ends.
func (t teller) node(ctx context.Context) error {
	var before *state.Snapshot
	return t.db.FollowSparingly(ctx, redecide, func(state.Snapshot) {
		if now, ok := settled(ctx, t.db); ok {
			t.tell(news.OfNode(t.db, before, now))
			before = &now
		}
	}, t.db.NodeProblems.Watch())
}

// cluster tells the cluster's, on the coordinator. Its first look is before
// anything settles: what it does first may be to move the addresses of the
// coordinator before it, which has died.
func (t teller) cluster(ctx context.Context) {
	var before *state.Snapshot
	_ = t.db.FollowSparingly(ctx, redecide, func(now state.Snapshot) {
		if !t.db.Services.Synced(now) || !t.db.Assigned.Synced(now) {
			return // what was given and announced is no news
		}
		if before != nil {
			var ok bool
			if now, ok = settled(ctx, t.db); !ok {
				return
			}
		}
		t.tell(news.OfCluster(t.db, before, now))
		before = &now
	}, t.db.Allocations.Watch(), t.db.Assignments.Watch(), t.db.PoolStatuses.Watch(), t.db.PolicyStatuses.Watch(),
		t.db.BackendHealth.Watch(), t.db.ClusterProblems.Watch(), t.db.SourceProblems.Watch(), t.db.NodeProblems.Watch(), t.db.MarksChanged) // ends with ctx
}

// settled waits for what belongs together. When ctx ends meanwhile it is not
// ok: what is not decided here any more is no news.
func settled(ctx context.Context, db *state.DB) (now state.Snapshot, ok bool) {
	select {
	case <-ctx.Done():
		return now, false
	case <-time.After(settle):
	}
	now = db.Snapshot()
	return now, ctx.Err() == nil
}

func (t teller) tell(events []news.Event) {
	for _, e := range events {
		t.source.Event(source.Event(e))
	}
}
