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
	return t.follow(ctx, news.OfNode, t.db.NodeProblems.Watch())
}

// cluster tells the cluster's, on the coordinator.
func (t teller) cluster(ctx context.Context) {
	_ = t.follow(ctx, news.OfCluster, t.db.Allocations.Watch(), t.db.Assignments.Watch(), t.db.PoolStatuses.Watch(),
		t.db.PolicyStatuses.Watch(), t.db.ClusterProblems.Watch(), t.db.SourceProblems.Watch()) // ends with ctx
}

func (t teller) follow(ctx context.Context, of func(*state.DB, *state.Snapshot, state.Snapshot) []news.Event, watches ...state.Watch) error {
	var before *state.Snapshot
	return t.db.Follow(ctx, redecide, func(state.Snapshot) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(settle):
		}
		now := t.db.Snapshot()
		if ctx.Err() != nil {
			return // and what is not decided here any more is no news
		}
		for _, e := range of(t.db, before, now) {
			t.source.Event(source.Event(e))
		}
		before = &now
	}, watches...)
}
