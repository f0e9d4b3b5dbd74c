package main

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/seamark-lb/seamark/announce"
	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/state"
)

func TestAnnounceMetrics(t *testing.T) {
	db, w := state.New()
	row := func(last byte, device string, s state.Status) state.Announcement {
		return state.Announcement{Addr: address(last), Interface: device, Status: s}
	}
	w.Update(func(tx *state.Tx) {
		for _, a := range []state.Announcement{
			row(211, "eth1", state.Status{Phase: state.Done}), row(211, "eth2", state.Status{Phase: state.Pending}),
			row(212, "eth1", state.Status{Phase: state.Done, Reason: state.ReasonMuted}),
			row(213, "eth1", state.Status{Phase: state.Pending, Reason: state.ReasonWaitingForDatapath}),
			row(214, "eth1", state.Status{Phase: state.Deleting, Reason: state.ReasonHandingOver}),
		} {
			db.Announcements.Put(tx, a)
		}
		db.Assigned.Put(tx, state.Assignment{Addr: address(211), Node: "n", Generation: 1, Reason: state.ReasonFirstAssignment})
		db.Assigned.Put(tx, state.Assignment{Addr: address(215), Reason: state.ReasonNoCandidate, Generation: 3})
		db.Assigned.MarkSynced(tx)
		db.NodeLeases.Put(tx, state.NodeLease{Node: "n", Drained: true})
	})
	counts := &announce.Counts{}
	counts.Gratuitous.Add(7)
	counts.ClusterClaims.Add(2)
	counts.Yielded.Add(1)
	coordinator := "n"
	m := announceMetrics{db: db, node: "n", counts: counts, taken: &taken{db: db, node: "n"},
		lease:       func() announce.LeaseStatus { return announce.LeaseStatus{Left: 2 * time.Second, Renewed: time.Now()} },
		coordinator: func() string { return coordinator }}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.taken.run(ctx) }()
	defer func() { cancel(); <-done }()
	read := func() []string {
		return scrape(t, metrics{log: slog.New(slog.DiscardHandler), verdicts: newMetrics(t, counter.services).verdicts,
			counts: func() (control.Counts, error) { return control.Counts{}, nil },
			report: newMetrics(t, counter.services).report, more: []prometheus.Collector{m}})
	}
	// What it has is not counted, what it gets is: told apart by the next change.
	w.Update(func(tx *state.Tx) {
		db.Assigned.Put(tx, state.Assignment{Addr: address(216), Node: "other", Generation: 1, Reason: state.ReasonFirstAssignment})
	})
	deadline := time.Now().Add(10 * time.Second)
	for generation := int64(4); len(m.taken.counts()) == 0; generation++ {
		w.Update(func(tx *state.Tx) {
			db.Assigned.Put(tx, state.Assignment{Addr: address(212), Node: "n", Generation: generation, Reason: state.ReasonLeaseExpired, Previous: "dead"})
		})
		if time.Now().After(deadline) {
			t.Fatal("nothing was counted")
		}
		<-time.After(time.Millisecond)
	}
	lines := read()
	for _, want := range []string{
		"seamark_announced_addresses 1", "seamark_muted_addresses 1", "seamark_waiting_addresses 1", "seamark_unannounced_addresses 1",
		"seamark_gratuitous_total 7", `seamark_claims_total{by="cluster"} 2`, `seamark_claims_total{by="stranger"} 0`,
		`seamark_claims_settled_total{how="yielded"} 1`, "seamark_lease_left_seconds 2", "seamark_drained 1", "seamark_coordinator 1",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %s", want)
		}
	}
	if text := strings.Join(lines, "\n"); !strings.Contains(text, `seamark_taken_addresses_total{reason="LeaseExpired"} `) || strings.Contains(text, "FirstAssignment") ||
		!strings.Contains(text, "seamark_lease_age_seconds ") {
		t.Error(text)
	}
	coordinator = "other"
	if text := strings.Join(read(), "\n"); strings.Contains(text, "unannounced") || !strings.Contains(text, "seamark_coordinator 0") {
		t.Errorf("as told by another than the coordinator:\n%s", text)
	}
}
