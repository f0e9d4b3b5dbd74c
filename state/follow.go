package state

import (
	"context"
	"time"

	"github.com/hashicorp/go-memdb"
)

// Watch returns a channel that closes when something is no longer as the
// Snapshot has it. Table.Changed is one.
type Watch func(Snapshot) <-chan struct{}

// Watch is the table's content as a Watch.
func (t Table[T]) Watch() Watch { return func(s Snapshot) <-chan struct{} { return t.Changed(s) } }

// Wait returns when one of the watches fires, or after d, or when ctx ends;
// only the last is an error.
func Wait(ctx context.Context, snap Snapshot, d time.Duration, watches ...Watch) error {
	ws := memdb.NewWatchSet()
	for _, watch := range watches {
		ws.Add(watch(snap))
	}
	timed, cancel := context.WithTimeout(ctx, max(d, 0))
	defer cancel()
	_ = ws.WatchCtx(timed) // its error is timed's: told apart below
	return ctx.Err()
}

// pace is how far apart the calls of a Follow are at least: a thousand changes
// that come one after another are a few decisions about all rows, not a thousand.
const pace = 50 * time.Millisecond

// Follow calls decide with the present Snapshot, and again whenever one of the
// watches fires or every has gone by, until ctx ends. The first change after a
// quiet time is decided at once; changes that come while decide runs, or within
// pace of its beginning, are one call.
func (db *DB) Follow(ctx context.Context, every time.Duration, decide func(Snapshot), watches ...Watch) error {
	return db.follow(ctx, every, func(time.Duration) time.Duration { return pace }, decide, watches)
}

// Of the time in which changes come one after another, FollowSparingly spends
// one part in sparing in decide, but does not let more than sparingly go by.
const (
	sparing   = 4
	sparingly = time.Second
)

// FollowSparingly is Follow for decisions about many rows that no failover waits
// for: the longer one takes, with more rows or on a busy machine, the more
// changes the next is about.
func (db *DB) FollowSparingly(ctx context.Context, every time.Duration, decide func(Snapshot), watches ...Watch) error {
	return db.follow(ctx, every, func(took time.Duration) time.Duration { return max(pace, min(sparing*took, sparingly)) }, decide, watches)
}

// follow leaves apart of how long a call took between the beginnings of two.
func (db *DB) follow(ctx context.Context, every time.Duration, apart func(took time.Duration) time.Duration, decide func(Snapshot), watches []Watch) error {
	for {
		snap, began := db.Snapshot(), time.Now()
		decide(snap)
		next := began.Add(apart(time.Since(began)))
		if Wait(ctx, snap, every, watches...) != nil {
			return nil
		}
		if rest := time.Until(next); rest > 0 && Wait(ctx, snap, rest) != nil {
			return nil
		}
	}
}

// Report makes problems all that finder has in the table, and returns those
// that were not in it, for the caller to log.
func (w *Writer) Report(t Table[Problem], finder string, problems []Problem) (news []Problem) {
	w.Update(func(tx *Tx) {
		found := map[string]bool{}
		for _, p := range problems {
			p.Finder = finder
			found[p.RowKey()] = true
			if old, known := t.Get(tx, p.RowKey()); known && old == p {
				continue
			} else if !known {
				news = append(news, p)
			}
			t.Put(tx, p)
		}
		for _, old := range t.Rows(tx) {
			if old.Finder == finder && !found[old.RowKey()] {
				t.Delete(tx, old.RowKey())
			}
		}
	})
	return news
}
