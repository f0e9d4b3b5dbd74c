package state_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

func route(i int) state.Route {
	return state.Route{Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 0}), 24), Node: "n"}
}

func TestSnapshotNeverChanges(t *testing.T) {
	db, w := state.New()
	w.Update(func(tx *state.Tx) { db.Nodes.Put(tx, state.Node{Name: "a"}) })
	snap := db.Snapshot()
	changed := db.Nodes.Changed(snap)
	w.Update(func(tx *state.Tx) {
		db.Nodes.Delete(tx, "a")
		db.Nodes.Put(tx, state.Node{Name: "b"})
		db.Nodes.MarkSynced(tx)
	})
	if _, ok := db.Nodes.Get(snap, "a"); !ok {
		t.Error("row a is gone from a snapshot taken before its delete")
	}
	if db.Nodes.Synced(snap) || !db.Nodes.Synced(db.Snapshot()) {
		t.Error("synced mark is not part of the snapshot")
	}
	select {
	case <-changed:
	case <-time.After(20 * time.Second):
		t.Error("Changed did not close")
	}
}

func TestKeysThatPrefixEachOther(t *testing.T) {
	db, w := state.New()
	w.Update(func(tx *state.Tx) {
		for _, name := range []string{"k8s-w1", "k8s-w10", "k8s-w"} {
			db.Nodes.Put(tx, state.Node{Name: name})
		}
		db.Nodes.Delete(tx, "k8s-w")
	})
	var names []string
	for n := range db.Nodes.All(db.Snapshot()) {
		names = append(names, n.Name)
	}
	if want := []string{"k8s-w1", "k8s-w10"}; !slices.Equal(names, want) {
		t.Errorf("rows after delete of k8s-w: %v, want %v", names, want)
	}
}

func TestReplaceWakesNobodyForNothing(t *testing.T) {
	db, w := state.New()
	same := func(a, b state.Device) bool { return a.Name == b.Name && a.Index == b.Index }
	rows := []state.Device{{Name: "eth0", Index: 1}, {Name: "eth1", Index: 2}}
	w.Update(func(tx *state.Tx) { db.Devices.Replace(tx, rows, same) })
	changed := db.Devices.Changed(db.Snapshot())
	w.Update(func(tx *state.Tx) { db.Devices.Replace(tx, rows, same) })
	select {
	case <-changed:
		t.Error("Replace with the same rows woke a watcher")
	default:
	}
	w.Update(func(tx *state.Tx) { db.Devices.Replace(tx, rows[1:], same) })
	if got := db.Devices.Rows(db.Snapshot()); len(got) != 1 || got[0].Name != "eth1" {
		t.Errorf("after Replace: %v", got)
	}
}

func TestIndexFollowsRows(t *testing.T) {
	db, w := state.New()
	f := state.Frontend{Addr: netip.MustParseAddr("192.168.10.211"), Port: 80, Protocol: state.TCP,
		Service: state.ObjectName{Namespace: "default", Name: "web"}}
	w.Update(func(tx *state.Tx) { db.Frontends.Put(tx, f) })
	count := func(index, value string) (n int) {
		for range db.Frontends.By(db.Snapshot(), index, value) {
			n++
		}
		return n
	}
	if count(state.IndexAddr, "192.168.10.211") != 1 || count(state.IndexService, "default/web") != 1 {
		t.Error("row is not found by its indexes")
	}
	if count(state.IndexAddr, "192.168.10.21") != 0 {
		t.Error("row is found by a prefix of its address")
	}
	f.Service.Name = "shop"
	w.Update(func(tx *state.Tx) { db.Frontends.Put(tx, f) })
	if count(state.IndexService, "default/web") != 0 || count(state.IndexService, "default/shop") != 1 {
		t.Error("index kept the old value of a replaced row")
	}
}

// flaky is a target that fails at random and remembers what it holds.
type flaky struct {
	rng  *rand.Rand
	rate float64
	held map[string]state.Route
}

var errFlaky = errors.New("no such luck")

func (f *flaky) fail() error {
	if f.rng.Float64() < f.rate {
		return errFlaky
	}
	return nil
}

func (f *flaky) Update(_ context.Context, r state.Route) error {
	if err := f.fail(); err != nil {
		return err
	}
	f.held[r.RowKey()] = r.WithStatus(state.Status{})
	return nil
}

func (f *flaky) Delete(_ context.Context, r state.Route) error {
	if err := f.fail(); err != nil {
		return err
	}
	delete(f.held, r.RowKey())
	return nil
}

func (f *flaky) Prune(_ context.Context, wanted []state.Route) error {
	if err := f.fail(); err != nil {
		return err
	}
	for key := range f.held {
		if !slices.ContainsFunc(wanted, func(r state.Route) bool { return r.RowKey() == key }) {
			delete(f.held, key)
		}
	}
	return nil
}

// clock is a time that only moves when told.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func reconciler(db *state.DB, w *state.Writer, target state.Target[state.Route], c *clock) *state.Reconciler[state.Route] {
	return &state.Reconciler[state.Route]{DB: db, Writer: w, Table: db.Routes, Target: target,
		Log: slog.New(slog.DiscardHandler), Now: c.Now}
}

// Whatever is wanted, in whatever order, with a third of all calls failing:
// once the wishes stop changing, the target holds just them and every row says Done.
func TestReconcilerConverges(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		db, w := state.New()
		c := &clock{time.Unix(1000, 0)}
		target := &flaky{rng: rng, rate: 0.33, held: map[string]state.Route{"10.9.9.0/24": route(9)}}
		r := reconciler(db, w, target, c)
		var wanted []state.Route
		for range 30 {
			wanted = nil
			for i := range 8 {
				if rng.IntN(2) == 0 {
					row := route(i)
					row.Via = netip.AddrFrom4([4]byte{192, 168, 0, byte(rng.IntN(3))})
					wanted = append(wanted, row)
				}
			}
			w.Update(func(tx *state.Tx) { state.Want(tx, db.Routes, wanted, c.now) })
			c.now = r.Step(t.Context(), db.Snapshot())
		}
		target.rate = 0.5
		for range 100 {
			c.now = r.Step(t.Context(), db.Snapshot())
		}
		if len(target.held) != len(wanted) {
			t.Fatalf("seed %d: target holds %v, wanted %v", seed, target.held, wanted)
		}
		for _, row := range wanted {
			if target.held[row.RowKey()] != row {
				t.Fatalf("seed %d: target holds %v, wanted %v", seed, target.held[row.RowKey()], row)
			}
			got, ok := db.Routes.Get(db.Snapshot(), row.RowKey())
			if !ok || got.Status.Err != "" && got.Status.Phase != state.Failed {
				t.Fatalf("seed %d: row %v", seed, got)
			}
		}
		if n := len(db.Routes.Rows(db.Snapshot())); n != len(wanted) {
			t.Fatalf("seed %d: %d rows left, wanted %d", seed, n, len(wanted))
		}
	}
}

func TestReconcilerSaysWhy(t *testing.T) {
	db, w := state.New()
	c := &clock{time.Unix(1000, 0)}
	target := &flaky{rng: rand.New(rand.NewPCG(1, 1)), rate: 1, held: map[string]state.Route{}}
	r := reconciler(db, w, target, c)
	w.Update(func(tx *state.Tx) { state.Want(tx, db.Routes, []state.Route{route(1)}, c.now) })
	var waits []time.Duration
	for range 12 {
		next := r.Step(t.Context(), db.Snapshot())
		waits = append(waits, next.Sub(c.now))
		c.now = next
	}
	row, _ := db.Routes.Get(db.Snapshot(), route(1).RowKey())
	if row.Status.Phase != state.Failed || row.Status.Err != errFlaky.Error() || row.Status.Tries == 0 {
		t.Errorf("status of a failing row: %+v", row.Status)
	}
	if waits[0] != 100*time.Millisecond || waits[1] != 200*time.Millisecond {
		t.Errorf("waits %v, want doubling from 100ms", waits)
	}
	for _, wait := range waits {
		if wait > 30*time.Second {
			t.Errorf("wait of %v exceeds the bound", wait)
		}
	}
	target.rate = 0
	c.now = c.now.Add(time.Minute)
	r.Step(t.Context(), db.Snapshot())
	row, _ = db.Routes.Get(db.Snapshot(), route(1).RowKey())
	if row.Status.Phase != state.Done || row.Status.Err != "" || row.Status.Tries != 0 {
		t.Errorf("status after success: %+v", row.Status)
	}
}

func TestGateKeepsWhatIsThere(t *testing.T) {
	db, w := state.New()
	c := &clock{time.Unix(1000, 0)}
	target := &flaky{rng: rand.New(rand.NewPCG(1, 1)), held: map[string]state.Route{route(7).RowKey(): route(7)}}
	r := reconciler(db, w, target, c)
	r.Gate = func(s state.Snapshot) bool { return db.Nodes.Synced(s) }
	w.Update(func(tx *state.Tx) { state.Want(tx, db.Routes, []state.Route{route(1)}, c.now) })
	w.Update(func(tx *state.Tx) { state.Want(tx, db.Routes, nil, c.now) })
	r.Step(t.Context(), db.Snapshot())
	if len(target.held) != 1 {
		t.Fatalf("before the gate opened the target was changed to %v", target.held)
	}
	w.Update(func(tx *state.Tx) { db.Nodes.MarkSynced(tx) })
	r.Step(t.Context(), db.Snapshot())
	if len(target.held) != 0 {
		t.Errorf("after the gate opened the target still holds %v", target.held)
	}
	if !state.Marked(db.Snapshot(), state.PrunedMark("routes")) {
		t.Error("no mark that the target was pruned")
	}
}

// A prune that fails is tried again soon, not at the next resync.
func TestPruneIsTriedAgain(t *testing.T) {
	db, w := state.New()
	c := &clock{time.Unix(1000, 0)}
	target := &flaky{rng: rand.New(rand.NewPCG(1, 1)), rate: 1, held: map[string]state.Route{route(7).RowKey(): route(7)}}
	r := reconciler(db, w, target, c)
	if wait := r.Step(t.Context(), db.Snapshot()).Sub(c.now); wait != 100*time.Millisecond {
		t.Errorf("next pass after a failed prune in %v, want 100ms", wait)
	}
	target.rate = 0
	c.now = c.now.Add(100 * time.Millisecond)
	if wait := r.Step(t.Context(), db.Snapshot()).Sub(c.now); len(target.held) != 0 || wait != 30*time.Second {
		t.Errorf("target holds %v, next pass in %v", target.held, wait)
	}
}

func TestHoldWaitsAndSaysSo(t *testing.T) {
	db, w := state.New()
	c := &clock{time.Unix(1000, 0)}
	target := &flaky{rng: rand.New(rand.NewPCG(1, 1)), held: map[string]state.Route{}}
	r := reconciler(db, w, target, c)
	held := true
	r.Hold = func(state.Snapshot, state.Route) state.Reason {
		if held {
			return state.ReasonWaitingForDatapath
		}
		return ""
	}
	w.Update(func(tx *state.Tx) { state.Want(tx, db.Routes, []state.Route{route(1)}, c.now) })
	r.Step(t.Context(), db.Snapshot())
	row, _ := db.Routes.Get(db.Snapshot(), route(1).RowKey())
	if len(target.held) != 0 || row.Status.Reason != state.ReasonWaitingForDatapath {
		t.Fatalf("held row: target %v, status %+v", target.held, row.Status)
	}
	held = false
	r.Step(t.Context(), db.Snapshot())
	held = true
	w.Update(func(tx *state.Tx) { state.Want(tx, db.Routes, nil, c.now) })
	r.Step(t.Context(), db.Snapshot())
	if len(target.held) != 1 {
		t.Fatal("a held row was deleted")
	}
	held = false
	r.Step(t.Context(), db.Snapshot())
	if len(target.held) != 0 || len(db.Routes.Rows(db.Snapshot())) != 0 {
		t.Error("a row whose hold ended was not deleted")
	}
}

// A row that comes back while its delete is under way must not be lost.
func TestRowWantedAgainDuringDelete(t *testing.T) {
	db, w := state.New()
	c := &clock{time.Unix(1000, 0)}
	target := &flaky{rng: rand.New(rand.NewPCG(1, 1)), held: map[string]state.Route{}}
	r := reconciler(db, w, target, c)
	want := func(rows ...state.Route) {
		w.Update(func(tx *state.Tx) { state.Want(tx, db.Routes, rows, c.now) })
	}
	want(route(1))
	r.Step(t.Context(), db.Snapshot())
	want()
	stale := db.Snapshot()
	want(route(1))
	r.Step(t.Context(), stale) // deletes by an old view
	r.Step(t.Context(), db.Snapshot())
	row, ok := db.Routes.Get(db.Snapshot(), route(1).RowKey())
	if !ok || row.Status.Phase != state.Done || len(target.held) != 1 {
		t.Errorf("row %+v (found %v), target %v", row, ok, target.held)
	}
}

func TestRunFollowsChanges(t *testing.T) {
	db, w := state.New()
	c := &clock{time.Unix(1000, 0)}
	target := &flaky{rng: rand.New(rand.NewPCG(1, 1)), held: map[string]state.Route{}}
	r := reconciler(db, w, target, c)
	r.Now = nil // the real clock: Run sleeps by it
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	w.Update(func(tx *state.Tx) { state.Want(tx, db.Routes, []state.Route{route(1), route(2)}, time.Now()) })
	deadline := time.After(20 * time.Second)
	for {
		snap := db.Snapshot()
		n := 0
		for row := range db.Routes.All(snap) {
			if row.Status.Phase == state.Done {
				n++
			}
		}
		if n == 2 {
			break
		}
		select {
		case <-db.Routes.Changed(snap):
		case <-deadline:
			t.Fatalf("rows after 5 s: %v", db.Routes.Rows(snap))
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func BenchmarkWant(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			db, w := state.New()
			rows := make([]state.Route, n)
			for i := range rows {
				rows[i] = state.Route{Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)}
			}
			for b.Loop() {
				w.Update(func(tx *state.Tx) { state.Want(tx, db.Routes, rows, time.Time{}) })
			}
		})
	}
}
