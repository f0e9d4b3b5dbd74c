// Package source is where objects come from and where statuses go back to.
// Behind one small interface there are engines: source/etcd, the standalone
// store, and (DESIGN §2) source/kube. What they share is here: how
// Kubernetes-shaped objects are read from manifests and validated, and how
// they become rows.
package source

import (
	"context"
	"time"

	"github.com/seamark-lb/seamark/state"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Source is one engine.
type Source interface {
	// Run keeps the source's tables (those that Tables writes, and Agents) as
	// the store has them, until ctx ends. It marks a table synced when its
	// first list is in. When the store cannot be reached the tables stay as
	// they were.
	Run(ctx context.Context) error

	// Check asks the store for an answer, and says what is wrong when none comes.
	Check(ctx context.Context) error

	// Err is why the store could last not be followed, nil when it is.
	Err() error

	// LastRead is the CLOCK_BOOTTIME that the tables of leases and of
	// assignments are no older than, 0 before the first list. It stands still
	// while the store cannot be read.
	LastRead() time.Duration

	// CatchUp returns once the tables that LB-IPAM decides by hold what was
	// written before it was called; an error means that ctx has ended.
	CatchUp(ctx context.Context) error

	// RenewLease writes this node's lease, with everything it reports. It
	// returns once the store has it; the caller counts validity from when it
	// called.
	RenewLease(ctx context.Context, lease state.NodeLease) error

	// SetDrained writes into a node's lease that the node is to have no
	// addresses, or may have them again. A node that never kept a lease is
	// ErrNotFound.
	SetDrained(ctx context.Context, node string, drained bool) error

	// ForgetLease deletes the lease of a node that is gone, unless it was renewed
	// since the row was made of it.
	ForgetLease(ctx context.Context, lease state.NodeLease) error

	// Lock is the lock that client-go's leaderelection elects the coordinator by.
	Lock(name, identity string) resourcelock.Interface

	// Allocations writes status.loadBalancer and the condition of Services.
	Allocations() state.Target[state.Allocation]
	// PoolStatuses writes the status of the objects that Pools are from.
	PoolStatuses() state.Target[state.PoolStatus]
	// PolicyStatuses writes the status of the objects that L2Policies are from.
	PolicyStatuses() state.Target[state.PolicyStatus]
	// ObjectStatuses says on other objects what of them cannot be honoured.
	ObjectStatuses() state.Target[state.ObjectStatus]
	// AnnouncedStatuses says on Services how their addresses are announced.
	AnnouncedStatuses() state.Target[state.AnnouncedStatus]
	// BGPPeerStatuses says on BGPPeers how their sessions stand.
	BGPPeerStatuses() state.Target[state.BGPPeerStatus]
	// Assignments writes the AnnouncementSlices; it is a Batcher.
	Assignments() state.Target[state.Assignment]

	// Event tells people what happened to an object: best effort, without
	// waiting, limited in rate, and forgotten while the store is away.
	Event(event Event)

	// Objects reads and writes the objects themselves, for the seamark CLI.
	Objects() Objects

	// Close ends the connection to the store.
	Close() error
}

// Event is news of an object, as Kubernetes' Events are.
type Event struct {
	Object state.ObjectRef
	UID    string // of the object; "" when not known
	// Warning: someone should look into it.
	Warning bool
	// Reason and Action are one CamelCase word each: why it happened, and what
	// Seamark did.
	Reason state.Reason
	Action string
	// Message is for people: what happened, and what to do.
	Message string
}
