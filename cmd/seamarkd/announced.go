package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

// announcedWrites is how many Services are told within a second, at most, who
// announces their addresses: when a node with thousands of addresses dies, the
// store has better things to do.
const announcedWrites = 20

// announced has the Services say who announces their addresses, while this node
// is the coordinator. Nothing waits for it.
type announced struct {
	db     *state.DB
	writer *state.Writer
	source source.Source
	log    *slog.Logger
}

// run returns when ctx ends.
func (a announced) run(ctx context.Context) {
	// On every node but the coordinator the table is empty.
	defer a.writer.Update(func(tx *state.Tx) {
		a.db.AnnouncedStatuses.Replace(tx, nil, state.AnnouncedStatus.SameSpec)
	})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _ = a.reconciler().Run(ctx) }) // ends with ctx
	_ = a.db.FollowSparingly(ctx, redecide, func(state.Snapshot) {
		snap, ok := settled(ctx, a.db) // its own writes wake it, too: once a second is enough
		if !ok || !a.db.Services.Synced(snap) || !a.db.Assigned.Synced(snap) {
			return
		}
		rows := source.AnnouncedStatuses(a.db, snap)
		a.writer.Update(func(tx *state.Tx) { state.Want(tx, a.db.AnnouncedStatuses, rows, time.Now()) })
	}, a.db.Services.Watch(), a.db.Assigned.Watch(), a.db.MarksChanged)
}

func (a announced) reconciler() *state.Reconciler[state.AnnouncedStatus] {
	turns := ration{perSecond: announcedWrites}
	return &state.Reconciler[state.AnnouncedStatus]{
		DB: a.db, Writer: a.writer, Table: a.db.AnnouncedStatuses, Target: a.source.AnnouncedStatuses(), Log: a.log,
		Gate: func(state.Snapshot) bool {
			turns.next = nil // before any Hold of this pass asks
			return true
		},
		Hold: func(snap state.Snapshot, row state.AnnouncedStatus) state.Reason {
			if _, write := source.AnnouncedStatusChange(a.db, snap, row); write && row.Status.Wanted() && !turns.take(time.Now()) {
				return state.ReasonQueued
			}
			return ""
		},
		Wake: []state.Watch{func(state.Snapshot) <-chan struct{} { return turns.next }},
	}
}

// ration gives out so many turns in a second.
type ration struct {
	perSecond int

	began time.Time // the second that is being given out
	left  int
	next  chan struct{} // closes when the next second begins; nil: nobody waits for it
}

func (r *ration) take(now time.Time) bool {
	if now.Sub(r.began) >= time.Second {
		r.began, r.left = now, r.perSecond
	}
	if r.left > 0 {
		r.left--
		return true
	}
	if r.next == nil {
		next := make(chan struct{})
		r.next = next
		time.AfterFunc(r.began.Add(time.Second).Sub(now), func() { close(next) })
	}
	return false
}
