package main

import (
	"context"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

// allocationStore is as much of a source as LB-IPAM uses. Its tables have
// caught up when the test says.
type allocationStore struct {
	source.Source
	caughtUp atomic.Bool
	updated  chan state.Allocation
	pruned   chan int // rows wanted
}

func newAllocationStore() *allocationStore {
	return &allocationStore{updated: make(chan state.Allocation, 64), pruned: make(chan int, 64)}
}

func (s *allocationStore) read() { s.caughtUp.Store(true) }

func (s *allocationStore) CatchUp(ctx context.Context) error {
	for !s.caughtUp.Load() && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	return ctx.Err()
}

func (s *allocationStore) Allocations() state.Target[state.Allocation] { return s }
func (s *allocationStore) PoolStatuses() state.Target[state.PoolStatus] {
	return nowhere[state.PoolStatus]{}
}
func (s *allocationStore) ObjectStatuses() state.Target[state.ObjectStatus] {
	return nowhere[state.ObjectStatus]{}
}
func (s *allocationStore) Delete(context.Context, state.Allocation) error { return nil }

func (s *allocationStore) Update(_ context.Context, row state.Allocation) error {
	s.updated <- row
	return nil
}

func (s *allocationStore) Prune(_ context.Context, wanted []state.Allocation) error {
	s.pruned <- len(wanted)
	return nil
}

type nowhere[T any] struct{}

func (nowhere[T]) Update(context.Context, T) error  { return nil }
func (nowhere[T]) Delete(context.Context, T) error  { return nil }
func (nowhere[T]) Prune(context.Context, []T) error { return nil }

// term runs one term of office and returns its end.
func term(t *testing.T, db *state.DB, w *state.Writer, store *allocationStore) (end func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ipam{db, w, store, slog.New(slog.DiscardHandler)}.run(ctx)
	}()
	end = func() { cancel(); <-done }
	t.Cleanup(end)
	return end
}

func next[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("in vain: %s", what)
		panic("unreachable")
	}
}

func address(last byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 10, last}) }

func poolAndService(db *state.DB) func(*state.Tx) {
	return func(tx *state.Tx) {
		db.Pools.Put(tx, state.Pool{Name: "p", AutoAssign: true, Ranges: []state.Range{{From: address(211), To: address(215)}}})
		db.Services.Put(tx, state.Service{Name: state.ObjectName{Namespace: "default", Name: "old"}, UID: "1", Type: "LoadBalancer", Created: time.Unix(1, 0)})
		db.Pools.MarkSynced(tx)
		db.Services.MarkSynced(tx)
		db.Namespaces.MarkSynced(tx)
		db.Nodes.MarkSynced(tx)
		db.Agents.MarkSynced(tx)
	}
}

// The coordinator before this one may have given an address that the tables
// do not show yet.
func TestAllocatesOnlyWhenCaughtUp(t *testing.T) {
	db, w := state.New()
	store := newAllocationStore()
	w.Update(poolAndService(db))
	term(t, db, w, store)
	select {
	case row := <-store.updated:
		t.Errorf("gave %v by tables that had not caught up", row.Addrs)
	case <-time.After(200 * time.Millisecond):
	}
	w.Update(func(tx *state.Tx) {
		db.Services.Put(tx, state.Service{Name: state.ObjectName{Namespace: "default", Name: "new"}, UID: "2", Type: "LoadBalancer",
			Created: time.Unix(2, 0), Ingress: []netip.Addr{address(211)}})
	})
	store.read()
	given := map[string]netip.Addr{}
	for len(given) < 2 {
		row := next(t, "both are given an address", store.updated)
		given[row.Service.Name] = row.Addrs[0]
	}
	if given["new"] != address(211) || given["old"] != address(212) {
		t.Errorf("given %v", given)
	}
}

// What was given is pruned by the decisions of the term, at its beginning.
func TestEveryTermPrunes(t *testing.T) {
	db, w := state.New()
	store := newAllocationStore()
	w.Update(poolAndService(db))
	end := term(t, db, w, store)
	store.read()
	if n := next(t, "the first term prunes", store.pruned); n != 1 {
		t.Errorf("pruned with %d rows wanted, want 1", n)
	}
	end()
	w.Update(func(tx *state.Tx) { db.Services.Delete(tx, "default/old") })
	term(t, db, w, store)
	if n := next(t, "the second term prunes", store.pruned); n != 0 {
		t.Errorf("pruned with %d rows wanted, want none", n)
	}
}
