package main

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/seamark-lb/seamark/state"
)

// ipamMetrics are what LB-IPAM has given and has left, for Prometheus. The
// coordinator tells them; on other nodes the tables are empty, and there are none.
type ipamMetrics struct{ db *state.DB }

var _ prometheus.Collector = ipamMetrics{}

const byCoordinator = "; told by the coordinator alone."

var (
	poolAddresses   = described("pool_addresses", "Addresses that a pool has to give, free or not"+byCoordinator, "pool")
	poolAvailable   = described("pool_available_addresses", "Addresses of a pool that are free"+byCoordinator, "pool")
	poolUsed        = described("pool_used_addresses", "Addresses of a pool that Services, nodes or others have"+byCoordinator, "pool")
	poolRefuses     = described("pool_refuses", "1 for a pool that gives no addresses, by why: conflict, invalid or disabled"+byCoordinator, "pool", "why")
	servicesServed  = described("services_satisfied", "Services that have the addresses they want"+byCoordinator)
	servicesWaiting = described("services_waiting", "Services that lack an address they want, by why"+byCoordinator, "reason")
)

// Describe and Collect make ipamMetrics a prometheus.Collector.
func (m ipamMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{poolAddresses, poolAvailable, poolUsed, poolRefuses, servicesServed, servicesWaiting} {
		to <- d
	}
}

// Collect counts the rows of the tables.
func (m ipamMetrics) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	snap := m.db.Snapshot()
	coordinates := false
	for row := range m.db.PoolStatuses.All(snap) {
		if !row.Status.Wanted() {
			continue
		}
		coordinates = true
		gauge(poolAddresses, number(row.Total), row.Pool)
		gauge(poolAvailable, number(row.Available), row.Pool)
		gauge(poolUsed, number(row.Used), row.Pool)
		pool, _ := m.db.Pools.Get(snap, row.Pool)
		for why, is := range map[string]bool{"conflict": row.Conflict != "", "invalid": row.Invalid != "", "disabled": pool.Disabled} {
			if is {
				gauge(poolRefuses, 1, row.Pool, why)
			}
		}
	}
	satisfied, waiting := 0, map[state.Reason]int{}
	for row := range m.db.Allocations.All(snap) {
		switch {
		case !row.Status.Wanted():
			continue
		case row.Reason == state.ReasonSatisfied:
			satisfied++
		default:
			waiting[row.Reason]++
		}
		coordinates = true
	}
	if !coordinates {
		return
	}
	gauge(servicesServed, float64(satisfied))
	for _, reason := range state.AllocationReasons() { // 0, too: an alert must be able to end
		gauge(servicesWaiting, float64(waiting[reason]), string(reason))
	}
}

// number reads a count of PoolStatus, which may be beyond what a float64 holds exactly.
func number(count string) float64 {
	n, err := strconv.ParseFloat(count, 64)
	if err != nil {
		return 0
	}
	return n
}
