package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

func TestRation(t *testing.T) {
	r := ration{perSecond: 3}
	now := time.Now()
	take := func(n int) (took int) {
		r.next = nil
		for range n {
			if r.take(now) {
				took++
			}
		}
		return took
	}
	for i, want := range []int{3, 0} {
		if got := take(10); got != want || r.next == nil {
			t.Errorf("try %d: %d turns, want %d, and to be woken (%v)", i, got, want, r.next)
		}
	}
	next(t, "the next second", r.next)
	now = now.Add(time.Second)
	if got := take(2); got != 2 || r.next != nil {
		t.Errorf("%d turns in the next second, and to be woken for none: %v", got, r.next)
	}
}

// announcedStore is a source whose Services say what they were told.
type announcedStore struct {
	source.Source
	db     *state.DB
	writer *state.Writer
	told   chan string
}

func (s announcedStore) AnnouncedStatuses() state.Target[state.AnnouncedStatus] { return s }

func (s announcedStore) Update(_ context.Context, row state.AnnouncedStatus) error {
	change, write := source.AnnouncedStatusChange(s.db, s.db.Snapshot(), row)
	if !write {
		return nil
	}
	s.writer.Update(func(tx *state.Tx) {
		svc, _ := s.db.Services.Get(tx, row.Service.String())
		svc.Conditions = change.Conditions
		s.db.Services.Put(tx, svc)
	})
	s.told <- row.RowKey()
	return nil
}
func (announcedStore) Delete(context.Context, state.AnnouncedStatus) error  { return nil }
func (announcedStore) Prune(context.Context, []state.AnnouncedStatus) error { return nil }

// Many addresses that move at once are told of in turn, and all in the end; what
// is said already is not said again.
func TestAnnounced(t *testing.T) {
	db, w := state.New()
	const services = announcedWrites*3/2 + 1
	w.Update(func(tx *state.Tx) {
		for i := range services {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
			db.Services.Put(tx, state.Service{Name: state.ObjectName{Namespace: "default", Name: fmt.Sprint(i)}, Ingress: []netip.Addr{a}})
			db.Assigned.Put(tx, state.Assignment{Addr: a, Node: "n", Interfaces: []string{"eth1"}})
		}
		db.Services.MarkSynced(tx)
		db.Assigned.MarkSynced(tx)
	})
	store := announcedStore{db: db, writer: w, told: make(chan string, 2*services)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); announced{db, w, store, slog.New(slog.DiscardHandler)}.run(ctx) }()
	told := map[string]bool{}
	queued := false
	for len(told) < services {
		key := next(t, "a Service is told", store.told)
		if told[key] {
			t.Errorf("%s was told twice", key)
		}
		told[key] = true
		for row := range db.AnnouncedStatuses.All(db.Snapshot()) {
			queued = queued || row.Status.Reason == state.ReasonQueued
		}
	}
	if !queued {
		t.Error("nothing waited for its turn: this shows nothing")
	}
	cancel()
	<-done
	if n := len(db.AnnouncedStatuses.Rows(db.Snapshot())); n > 0 {
		t.Errorf("%d rows after the term of office", n)
	}
}
