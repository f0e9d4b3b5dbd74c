package lbipam

import (
	"github.com/seamark-lb/seamark/state"
)

// Inputs is all that LB-IPAM looks at. The order of the rows does not matter.
type Inputs struct {
	// Services of every kind: what is not LB-IPAM's to serve may hold
	// addresses of the pools.
	Services []state.Service
	// Decided is what was decided before. It holds while it is on its way to
	// the Services' statuses.
	Decided    []state.Allocation
	Pools      []state.Pool
	Namespaces []state.Namespace
	Nodes      []state.Node
	Leases     []state.NodeLease
	// Left is what is other projects'.
	Left state.Leavings
}

// serves says whether LB-IPAM is to serve svc.
func (in Inputs) serves(svc state.Service) bool {
	return svc.ForSeamark() && in.Left.Service(svc) == ""
}

// Ready says whether the sources have told all that ReadInputs reads and that
// an allocation could be wrong without.
func Ready(db *state.DB, r state.Reader) bool {
	return db.Services.Synced(r) && db.Pools.Synced(r) && db.Namespaces.Synced(r) && db.Nodes.Synced(r) && db.Agents.Synced(r)
}

// ReadInputs takes the Inputs from the tables.
func ReadInputs(db *state.DB, r state.Reader) Inputs {
	return Inputs{
		Services:   db.Services.Rows(r),
		Decided:    db.Allocations.Rows(r),
		Pools:      db.Pools.Rows(r),
		Namespaces: db.Namespaces.Rows(r),
		Nodes:      db.Nodes.Rows(r),
		Leases:     db.NodeLeases.Rows(r),
		Left:       state.LeavingsOf(db, r),
	}
}

// Allocate returns what every Service that is Seamark's gets, in the order of
// their names, and what is left in every pool, in the order of theirs.
func (in Inputs) Allocate() ([]state.Allocation, []state.PoolStatus) {
	a := New(in)
	return a.Allocations(), a.PoolStatuses()
}
