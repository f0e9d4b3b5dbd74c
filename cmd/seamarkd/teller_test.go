package main

import (
	"context"
	"net/netip"
	"slices"
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

// A coordinator that follows one that died moves its addresses first of all,
// before or after the first look; what it finds announced is no news.
func TestTellsOfTheFirstMove(t *testing.T) {
	row := func(last byte, node string, generation int64) state.Assignment {
		return state.Assignment{Addr: address(last), Node: node, Generation: generation,
			Interfaces: []string{"eth1"}, Service: state.ObjectName{Namespace: "default", Name: "web"}}
	}
	stays, was, is := row(211, "a", 1), row(212, "b", 1), row(212, "a", 2)
	is.Previous, is.Reason = "b", state.ReasonLeaseExpired
	const wrong, moved = "bad", "192.168.10.212 is announced by node a on eth1, instead of node b: LeaseExpired"

	for name, early := range map[string]bool{"before the first look": true, "after it": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, w := state.New()
			place := func(tx *state.Tx) {
				db.Assignments.Put(tx, stays)
				db.Assignments.Put(tx, is)
			}
			w.Update(func(tx *state.Tx) {
				db.Services.Put(tx, state.Service{Name: stays.Service, UID: "1", Type: "LoadBalancer", Ingress: []netip.Addr{stays.Addr, is.Addr}})
				db.Assigned.Put(tx, stays)
				db.Assigned.Put(tx, was)
				db.SourceProblems.Put(tx, state.Problem{Object: state.NodeRef("n"), Message: wrong})
				db.Services.MarkSynced(tx)
				db.Assigned.MarkSynced(tx)
				if early {
					place(tx)
				}
			})
			sink := eventSink{events: make(chan source.Event, 64)}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				teller{db, sink}.cluster(ctx)
			}()
			defer func() { cancel(); <-done }()
			told := []string{next(t, "the first look", sink.events).Message}
			if !early {
				w.Update(func(tx *state.Tx) {
					place(tx)
					db.Assigned.Put(tx, is)
				})
			}
			told = append(told, next(t, "the move", sink.events).Message)
			if !slices.Equal(told, []string{wrong, moved}) || len(sink.events) > 0 {
				t.Errorf("told %q and %d more", told, len(sink.events))
			}
		})
	}
}
