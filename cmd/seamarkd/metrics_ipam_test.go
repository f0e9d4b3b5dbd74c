package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/seamark-lb/seamark/state"
)

func TestIPAMMetrics(t *testing.T) {
	db, w := state.New()
	m := newMetrics(t, counter.services)
	m.more = []prometheus.Collector{ipamMetrics{db}}
	of := func() (own []string) {
		for _, line := range scrape(t, m) {
			if strings.HasPrefix(line, "seamark_pool_") || strings.HasPrefix(line, "seamark_services_") {
				own = append(own, line)
			}
		}
		return own
	}
	if got := of(); len(got) > 0 {
		t.Errorf("on a node that does not coordinate: %q", got)
	}
	w.Update(func(tx *state.Tx) {
		db.Pools.Put(tx, state.Pool{Name: "off", Disabled: true})
		state.Want(tx, db.PoolStatuses, []state.PoolStatus{
			{Pool: "p", Total: "5", Available: "2", Used: "3"},
			{Pool: "six", Total: "18446744073709551616", Available: "18446744073709551616", Used: "0", Conflict: "older"},
			{Pool: "off", Total: "1", Available: "1", Used: "0", Invalid: "bad"},
		}, time.Time{})
		row := func(name string, reason state.Reason) state.Allocation {
			return state.Allocation{Service: state.ObjectName{Namespace: "default", Name: name}, Reason: reason}
		}
		state.Want(tx, db.Allocations, []state.Allocation{row("a", state.ReasonSatisfied), row("b", state.ReasonSatisfied),
			row("c", state.ReasonNoPool), row("gone", state.ReasonNoPool)}, time.Time{})
		state.Unwant(tx, db.Allocations, []string{"default/gone"}, time.Time{})
	})
	got := of()
	for _, want := range []string{
		`seamark_pool_addresses{pool="p"} 5`, `seamark_pool_available_addresses{pool="p"} 2`, `seamark_pool_used_addresses{pool="p"} 3`,
		`seamark_pool_addresses{pool="six"} 1.8446744073709552e+19`,
		`seamark_pool_refuses{pool="six",why="conflict"} 1`, `seamark_pool_refuses{pool="off",why="invalid"} 1`, `seamark_pool_refuses{pool="off",why="disabled"} 1`,
		`seamark_services_satisfied 2`, `seamark_services_waiting{reason="NoPool"} 1`, `seamark_services_waiting{reason="PoolExhausted"} 0`,
	} {
		if !slices.Contains(got, want) {
			t.Errorf("no line %s in\n%s", want, strings.Join(got, "\n"))
		}
	}
	for _, line := range got {
		if strings.Contains(line, `pool="p",why`) {
			t.Errorf("a pool that gives: %s", line)
		}
	}
}
