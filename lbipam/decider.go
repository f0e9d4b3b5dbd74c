package lbipam

import (
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/state"
)

// Decider decides for what is in the tables. When nothing but Services has
// changed since its last decision, it decides for those that the change
// concerns alone.
type Decider struct {
	DB *state.DB

	allocator *Allocator
	// changed are closed when something else is no longer as it was; leases are
	// what was known of the nodes, which renew them all the time.
	changed []<-chan struct{}
	leases  []state.NodeLease
}

// Decision is what Decide returns.
type Decision struct {
	// All: Allocations are all there are to be. Otherwise they are those that
	// are new or have changed, and Gone those that are no longer to be.
	All         bool
	Allocations []state.Allocation
	Gone        []state.ObjectName
	Pools       []state.PoolStatus
}

// Decide decides for the snapshot. changed are the keys of the Services that may
// be others than at the last decision; with anew all are decided for.
func (d *Decider) Decide(snap state.Snapshot, changed []string, anew bool) Decision {
	if d.allocator != nil && !anew && !d.stale(snap) {
		if rows, gone, ok := d.allocator.Change(d.changes(snap, changed)); ok {
			return Decision{Allocations: rows, Gone: gone, Pools: d.allocator.PoolStatuses()}
		}
	}
	in := ReadInputs(d.DB, snap)
	d.allocator, d.leases, d.changed = New(in), in.Leases, nil
	reads := []state.Watch{d.DB.Pools.Watch(), d.DB.Namespaces.Watch(), d.DB.Nodes.Watch(), d.DB.Agents.Watch()}
	for range d.DB.Agents.All(snap) { // what is left to their products depends on these, too
		reads = append(reads, d.DB.SourceProblems.Watch())
		break
	}
	for _, watch := range reads {
		d.changed = append(d.changed, watch(snap))
	}
	return Decision{All: true, Allocations: d.allocator.Allocations(), Pools: d.allocator.PoolStatuses()}
}

// stale says whether something else than Services has changed.
func (d *Decider) stale(snap state.Snapshot) bool {
	return slices.ContainsFunc(d.changed, func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}) || !slices.EqualFunc(d.leases, d.DB.NodeLeases.Rows(snap), sameAddrs)
}

// sameAddrs says whether two leases name the same node, with the same addresses
// and gateways.
func sameAddrs(l, m state.NodeLease) bool {
	return l.Node == m.Node && slices.Equal(l.Addrs, m.Addrs) && slices.EqualFunc(l.Interfaces, m.Interfaces, func(i, j state.LeaseInterface) bool {
		return i.Name == j.Name && slices.Equal(i.Gateways, j.Gateways)
	})
}

func (d *Decider) changes(snap state.Snapshot, keys []string) []Change {
	changes := make([]Change, len(keys))
	for i, key := range keys {
		namespace, name, _ := strings.Cut(key, "/")
		changes[i].Name = state.ObjectName{Namespace: namespace, Name: name}
		if svc, ok := d.DB.Services.Get(snap, key); ok {
			changes[i].Service = &svc
		}
	}
	return changes
}
