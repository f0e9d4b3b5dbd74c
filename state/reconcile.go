package state

import (
	"context"
	"log/slog"
	"time"
)

// Reconcilable is a Row with a Status column.
type Reconcilable[T any] interface {
	Row
	RowStatus() Status
	WithStatus(Status) T
	// SameSpec compares all but the status.
	SameSpec(T) bool
}

// Target is something outside that rows are brought into: the kernel, the
// wire, the store. All three are idempotent.
type Target[T any] interface {
	// Update makes the target hold row.
	Update(ctx context.Context, row T) error
	// Delete makes the target not hold row. Deleting what is absent is no error.
	Delete(ctx context.Context, row T) error
	// Prune removes whatever the target really holds (not what we remember
	// of it) that is none of wanted.
	Prune(ctx context.Context, wanted []T) error
}

// Batcher is a Target that takes many rows at once for the price of a few. It
// returns one error per row, nil for those that went well.
type Batcher[T any] interface {
	UpdateAll(ctx context.Context, rows []T) []error
	DeleteAll(ctx context.Context, rows []T) []error
}

// Want makes rows the wanted content of a reconciled table: new and changed
// rows become Pending, rows that are gone become Deleting and stay until they
// are out of the target. It returns whether anything changed.
func Want[T Reconcilable[T]](tx *Tx, t Table[T], rows []T, now time.Time) bool {
	changed := WantAlso(tx, t, rows, now)
	keep := make(map[string]bool, len(rows))
	for _, row := range rows {
		keep[row.RowKey()] = true
	}
	for _, old := range t.Rows(tx) { // all of them first: the table changes
		if !old.RowStatus().Wanted() || keep[old.RowKey()] {
			continue
		}
		t.Put(tx, old.WithStatus(Status{Phase: Deleting, Changed: now}))
		changed = true
	}
	return changed
}

// WantAlso is Want of a part of the table: the other rows stay as they are.
func WantAlso[T Reconcilable[T]](tx *Tx, t Table[T], rows []T, now time.Time) bool {
	changed := false
	for _, row := range rows {
		if old, ok := t.Get(tx, row.RowKey()); ok && old.RowStatus().Wanted() && old.SameSpec(row) {
			continue
		}
		t.Put(tx, row.WithStatus(Status{Phase: Pending, Changed: now}))
		changed = true
	}
	return changed
}

// Unwant makes the rows of those keys Deleting, as Want does with rows that are gone.
func Unwant[T Reconcilable[T]](tx *Tx, t Table[T], keys []string, now time.Time) {
	for _, key := range keys {
		if old, ok := t.Get(tx, key); ok && old.RowStatus().Wanted() {
			t.Put(tx, old.WithStatus(Status{Phase: Deleting, Changed: now}))
		}
	}
}

// Reconciler brings the rows of one table into a Target and keeps them there.
type Reconciler[T Reconcilable[T]] struct {
	DB     *DB
	Writer *Writer
	Table  Table[T]
	Target Target[T]
	Log    *slog.Logger
	// Now is the clock; time.Now when nil.
	Now func() time.Time

	// Gate opens when the sources have said what exists. Before it does,
	// nothing is pruned or deleted. Nil: open.
	Gate func(Snapshot) bool
	// Hold returns a reason to leave the row for later, or "". Nil: never.
	Hold func(Snapshot, T) Reason
	// Wake are the tables besides the row's own that Gate and Hold look at.
	Wake []Watch

	// Resync is the time between full passes against what the target really
	// holds; 30 s when 0.
	Resync time.Duration
	// MinBackoff and MaxBackoff bound the wait before a failed row is tried
	// again, doubling each time; 100 ms and 30 s when 0.
	MinBackoff, MaxBackoff time.Duration

	retryAt    map[string]time.Time
	nextResync time.Time
	pruneTries int // since the last that went well
}

// PrunedMark is set once the table's target was first pruned.
func PrunedMark(table string) string { return "pruned/" + table }

// Run reconciles until ctx ends.
func (r *Reconciler[T]) Run(ctx context.Context) error {
	watches := append([]Watch{r.Table.Watch(), r.DB.MarksChanged}, r.Wake...)
	for {
		snap := r.DB.Snapshot()
		next := r.Step(ctx, snap)
		if Wait(ctx, snap, next.Sub(r.now()), watches...) != nil {
			return nil
		}
	}
}

// Step makes one pass over the table as snap has it, and returns when the
// next one is due if nothing changes before.
func (r *Reconciler[T]) Step(ctx context.Context, snap Snapshot) time.Time {
	now := r.now()
	if r.retryAt == nil {
		r.retryAt = map[string]time.Time{}
	}
	open := r.Gate == nil || r.Gate(snap)
	full := open && !now.Before(r.nextResync)
	if full {
		r.nextResync = now.Add(r.prune(ctx, snap))
	}
	var updates, deletes, held []T
	next := now.Add(orDefault(r.Resync, 30*time.Second))
	if open {
		next = r.nextResync
	}
	for row := range r.Table.All(snap) {
		st := row.RowStatus()
		switch {
		case st.Phase == Deleting && !open, st.Phase == Done && !full:
			continue
		}
		if at := r.retryAt[row.RowKey()]; st.Tries > 0 && now.Before(at) {
			if at.Before(next) {
				next = at
			}
			continue
		}
		if r.Hold != nil {
			if reason := r.Hold(snap, row); reason != "" {
				if st.Reason != reason {
					st.Reason = reason
					held = append(held, row.WithStatus(st))
				}
				continue
			}
		}
		if st.Phase == Deleting {
			deletes = append(deletes, row)
		} else {
			updates = append(updates, row)
		}
	}
	r.finish(held, nil, nil, nil)
	// Deletes first: they make room, and an address that moves between rows is free before it is taken.
	r.finish(nil, deletes, each(ctx, deletes, r.Target.Delete, r.batch(Batcher[T].DeleteAll)), &next)
	r.finish(nil, updates, each(ctx, updates, r.Target.Update, r.batch(Batcher[T].UpdateAll)), &next)
	return next
}

// prune returns how long to wait before the next full pass.
func (r *Reconciler[T]) prune(ctx context.Context, snap Snapshot) time.Duration {
	resync := orDefault(r.Resync, 30*time.Second)
	var wanted []T
	for row := range r.Table.All(snap) {
		// A row on its way out is Delete's to remove, when its Hold lets it.
		wanted = append(wanted, row)
	}
	if err := r.Target.Prune(ctx, wanted); err != nil {
		r.pruneTries++
		wait := min(backoff(r.pruneTries, orDefault(r.MinBackoff, 100*time.Millisecond), orDefault(r.MaxBackoff, 30*time.Second)), resync)
		r.Log.Error("prune target", "table", r.Table.Name(), "tries", r.pruneTries, "retry", wait, "err", err)
		return wait
	}
	r.pruneTries = 0
	r.Writer.Update(func(tx *Tx) { tx.Mark(PrunedMark(r.Table.Name())) })
	return resync
}

func (r *Reconciler[T]) batch(pick func(Batcher[T], context.Context, []T) []error) func(context.Context, []T) []error {
	b, ok := r.Target.(Batcher[T])
	if !ok {
		return nil
	}
	return func(ctx context.Context, rows []T) []error { return pick(b, ctx, rows) }
}

func each[T any](ctx context.Context, rows []T, one func(context.Context, T) error, all func(context.Context, []T) []error) []error {
	if len(rows) == 0 {
		return nil
	}
	if all != nil {
		return all(ctx, rows)
	}
	errs := make([]error, len(rows))
	for i, row := range rows {
		errs[i] = one(ctx, row)
	}
	return errs
}

// finish writes what came of it into the rows, except into those that have
// changed since: they have another pass coming.
func (r *Reconciler[T]) finish(held, rows []T, errs []error, next *time.Time) {
	if len(held)+len(rows) == 0 {
		return
	}
	now := r.now()
	r.Writer.Update(func(tx *Tx) {
		for _, row := range held {
			if r.unchanged(tx, row) {
				r.Table.Put(tx, row)
			}
		}
		for i, row := range rows {
			key, st := row.RowKey(), row.RowStatus()
			if errs[i] != nil {
				st.Tries++
				wait := backoff(st.Tries, orDefault(r.MinBackoff, 100*time.Millisecond), orDefault(r.MaxBackoff, 30*time.Second))
				r.retryAt[key] = now.Add(wait)
				if r.retryAt[key].Before(*next) {
					*next = r.retryAt[key]
				}
				r.Log.Warn("reconcile row", "table", r.Table.Name(), "row", key, "tries", st.Tries, "retry", wait, "err", errs[i])
			} else {
				delete(r.retryAt, key)
			}
			if !r.unchanged(tx, row) {
				continue
			}
			switch {
			case errs[i] == nil && st.Phase == Deleting:
				r.Table.Delete(tx, key)
			case errs[i] == nil:
				if st.Phase == Done && st.Err == "" {
					continue // a resync that found all well
				}
				r.Table.Put(tx, row.WithStatus(Status{Phase: Done, Changed: now}))
			case st.Phase == Deleting:
				r.Table.Put(tx, row.WithStatus(Status{Phase: Deleting, Err: errs[i].Error(), Tries: st.Tries, Changed: st.Changed}))
			default:
				r.Table.Put(tx, row.WithStatus(Status{Phase: Failed, Err: errs[i].Error(), Tries: st.Tries, Changed: now}))
			}
		}
	})
}

// unchanged says whether the table still wants of the row what it did in the snapshot.
func (r *Reconciler[T]) unchanged(tx *Tx, row T) bool {
	cur, ok := r.Table.Get(tx, row.RowKey())
	return ok && cur.SameSpec(row) && cur.RowStatus().Wanted() == row.RowStatus().Wanted()
}

func backoff(tries int, lo, hi time.Duration) time.Duration {
	d := lo
	for i := 1; i < tries && d < hi; i++ {
		d *= 2
	}
	return min(d, hi)
}

func (r *Reconciler[T]) now() time.Time {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now()
}

func orDefault(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}
