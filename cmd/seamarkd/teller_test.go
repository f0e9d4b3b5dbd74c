package main

import (
	"context"
	"net/netip"
	"testing"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

// eventSink is as much of a source as the teller uses.
type eventSink struct {
	source.Source
	events chan source.Event
}

func (s eventSink) Event(e source.Event) { s.events <- e }

// A coordinator that follows one that died moves its addresses first of all;
// what it finds announced is no news.
func TestTellsOfTheFirstMove(t *testing.T) {
	db, w := state.New()
	sink := eventSink{events: make(chan source.Event, 64)}
	row := func(last byte, node string, generation int64) state.Assignment {
		return state.Assignment{Addr: netip.AddrFrom4([4]byte{192, 168, 10, last}), Node: node, Generation: generation,
			Interfaces: []string{"eth1"}, Service: state.ObjectName{Namespace: "default", Name: "web"}}
	}
	stays, was, is := row(211, "a", 1), row(212, "b", 1), row(212, "a", 2)
	is.Previous, is.Reason = "b", state.ReasonLeaseExpired

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		teller{db, sink}.cluster(ctx)
	}()
	defer func() { cancel(); <-done }()
	w.Update(func(tx *state.Tx) {
		db.Assigned.Put(tx, stays)
		db.Assigned.Put(tx, was)
		db.SourceProblems.Put(tx, state.Problem{Object: state.NodeRef("n"), Message: "bad"})
		db.Services.MarkSynced(tx)
		db.Assigned.MarkSynced(tx)
	})
	// Told of what is wrong at first, it has looked.
	if e := next(t, "what is wrong is told", sink.events); e.Message != "bad" {
		t.Errorf("told %+v", e)
	}
	w.Update(func(tx *state.Tx) {
		db.Assignments.Put(tx, stays)
		db.Assignments.Put(tx, is)
		db.Assigned.Put(tx, is)
	})
	const want = "192.168.10.212 is announced by node a on eth1, instead of node b: LeaseExpired"
	if e := next(t, "the move is told", sink.events); e.Message != want {
		t.Errorf("told %q, want %q", e.Message, want)
	}
	if len(sink.events) > 0 {
		t.Errorf("told besides: %+v", <-sink.events)
	}
}
