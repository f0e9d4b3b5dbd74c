package state

import "time"

// Reason is why something is as it is: one CamelCase word, as in a Kubernetes
// condition. The free text beside it says what to do.
type Reason string

// Reasons of an Allocation.
const (
	ReasonSatisfied       Reason = "Satisfied"
	ReasonNoPool          Reason = "NoPool"          // no pool may serve this Service
	ReasonPoolExhausted   Reason = "PoolExhausted"   // the pools that may are full
	ReasonOutsidePools    Reason = "OutsidePools"    // an address asked for is in no pool
	ReasonAlreadyAssigned Reason = "AlreadyAssigned" // an address asked for is another Service's
	ReasonPoolNotAllowed  Reason = "PoolNotAllowed"  // it is in a pool that does not take this Service
	ReasonWrongFamily     Reason = "WrongFamily"     // it is of an IP family the Service does not have
	// ReasonDisputed: another controller writes the Service's addresses, too,
	// and Seamark has given in to it.
	ReasonDisputed Reason = "Disputed"
)

// AllocationReasons are why a Service lacks an address that it wants.
func AllocationReasons() []Reason {
	return []Reason{ReasonNoPool, ReasonPoolExhausted, ReasonOutsidePools, ReasonAlreadyAssigned, ReasonPoolNotAllowed, ReasonWrongFamily}
}

// Reasons of an Assignment.
const (
	ReasonFirstAssignment Reason = "FirstAssignment"
	ReasonLeaseExpired    Reason = "LeaseExpired" // the last holder's lease went unrenewed
	ReasonReleased        Reason = "Released"     // the last holder gave it up
	ReasonNotCandidate    Reason = "NotCandidate" // the last holder no longer matches a policy
	ReasonPreferred       Reason = "Preferred"    // the node is preferred to the last holder, and the policy fails back
	ReasonCutOff          Reason = "CutOff"       // the last holder is no longer on the segment: power, cable or port
	ReasonNoCandidate     Reason = "NoCandidate"  // no node may announce it
	// ReasonAnnounced is of an AnnouncedStatus: each address has its node.
	ReasonAnnounced Reason = "Announced"

	// These are of BGPPeerStatuses.
	ReasonEstablished  Reason = "Established"  // each session is
	ReasonSessionsDown Reason = "SessionsDown" // some are not
	ReasonNoSession    Reason = "NoSession"    // there should be none
)

// Reasons of a Status.
const (
	ReasonWaitingForDatapath Reason = "WaitingForDatapath" // announced only after the datapath row is done
	ReasonWaitingForRoutes   Reason = "WaitingForRoutes"   // the session begins after its first routes are there
	ReasonLeaseInvalid       Reason = "LeaseInvalid"       // this node's lease is not valid
	ReasonStillAnnounced     Reason = "StillAnnounced"     // the datapath row goes only after the announcement
	ReasonMuted              Reason = "Muted"              // another cluster node claims the address
	ReasonQueued             Reason = "Queued"             // its turn comes: writes of its kind are limited in rate
	ReasonHandingOver        Reason = "HandingOver"        // it is another node's now, which has a moment to claim it
	ReasonProbing            Reason = "Probing"            // whether another machine has the address is being asked
)

// Phase of a row on its way into a target.
type Phase uint8

// The phases.
const (
	Pending  Phase = iota // not in the target yet
	Done                  // in the target
	Failed                // the last try failed; Err says how; it is tried again
	Deleting              // no longer wanted, and still in the target
)

func (p Phase) String() string {
	return [...]string{"pending", "done", "failed", "deleting"}[p]
}

// Status is the column of a row that says whether it is in its target yet,
// and if not, why.
type Status struct {
	Phase  Phase
	Reason Reason
	// Err of the last try, "" when it went well.
	Err string
	// Tries since the last success.
	Tries int
	// Changed is when Phase last changed.
	Changed time.Time
}

// Wanted says whether the row is meant to be in the target.
func (s Status) Wanted() bool { return s.Phase != Deleting }
