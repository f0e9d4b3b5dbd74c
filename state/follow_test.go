package state_test

import (
	"context"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// A decision that takes long is made less often while changes come one after
// another, and the last of them is decided about.
func TestFollowSparingly(t *testing.T) {
	db, w := state.New()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const (
		long    = 50 * time.Millisecond
		changes = 400
	)
	rank := func(s state.Snapshot) int32 {
		p, _ := db.Pools.Get(s, "p")
		return p.Priority
	}
	go func() {
		for i := range int32(changes) {
			w.Update(func(tx *state.Tx) { db.Pools.Put(tx, state.Pool{Name: "p", Priority: i + 1}) })
			time.Sleep(time.Millisecond) // one after another
		}
	}()
	var began time.Time
	var took time.Duration
	_ = db.FollowSparingly(ctx, time.Minute, func(snap state.Snapshot) {
		if apart := time.Since(began); apart < min(4*took, time.Second) {
			t.Errorf("a decision %v after the beginning of one that took %v", apart, took)
		}
		began = time.Now()
		time.Sleep(long)
		if rank(snap) == changes {
			cancel()
		}
		took = time.Since(began)
	}, db.Pools.Watch())
	if rank(db.Snapshot()) != changes || context.Cause(ctx) != context.Canceled {
		t.Fatal("the last change was not decided about")
	}
}
