package news

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/state"
)

// Event is news of an object, as package source tells it.
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

// Reasons of Events. That of a Service without the addresses it wants is its
// Allocation's.
const (
	ReasonAddressAssigned state.Reason = "AddressAssigned" // LB-IPAM gave the Service addresses
	ReasonAddressReleased state.Reason = "AddressReleased" // and took them back
	ReasonAnnounced       state.Reason = "Announced"       // a node announces an address, that did not before
	ReasonNotAnnounced    state.Reason = "NotAnnounced"    // no node does
	ReasonConflict        state.Reason = "Conflict"        // a pool overlaps an older one
	ReasonExhausted       state.Reason = "Exhausted"       // a pool has no address left
	ReasonInvalid         state.Reason = "Invalid"         // a spec does not parse
	ReasonNotHonoured     state.Reason = "NotHonoured"     // a Problem
	ReasonBackendDown     state.Reason = "BackendDown"     // a health check says so
	ReasonBackendUp       state.Reason = "BackendUp"       // and that it is back
	ReasonMore            state.Reason = "More"            // the Events of a change that are not told one by one
)

// maxEvents of one change; the last of them stands for those beyond.
const maxEvents = 64

// OfCluster returns what the coordinator tells when what was before is now:
// of Services, pools and policies, and of the Problems that concern no single
// node: also of those of Services, which every node finds but for those of its
// segment. before is nil at the coordinator's first look: then it tells of what
// is wrong. Both snapshots are of one term of office: after it, the
// coordinator's tables are empty, which is no news.
func OfCluster(db *state.DB, before *state.Snapshot, now state.Snapshot) []Event {
	t := teller{db: db, before: before, now: now}
	changes(&t, db.Allocations, t.allocation)
	changes(&t, db.Assignments, t.assignment)
	changes(&t, db.PoolStatuses, t.pool)
	changes(&t, db.PolicyStatuses, t.policy)
	changes(&t, db.BackendHealth, t.backend) // as the coordinator sees it: who tells is one
	changes(&t, db.ClusterProblems, t.problem)
	changes(&t, db.SourceProblems, t.problem)
	changes(&t, db.NodeProblems, func(was, is *state.Problem) {
		if is != nil && is.Object.Group == "" && is.Object.Kind == "Service" && is.Finder != state.FinderSegment {
			t.problem(was, is)
		}
	})
	return t.bounded()
}

// OfNode returns what every node tells: of the Problems that it has itself, and
// of those that it alone may find, on its segments. A thousand nodes would tell the same of anything else. before is nil at its
// first look.
func OfNode(db *state.DB, before *state.Snapshot, now state.Snapshot) []Event {
	t := teller{db: db, before: before, now: now}
	changes(&t, db.NodeProblems, func(was, is *state.Problem) {
		if is != nil && (is.Object.Group == "" && is.Object.Kind == "Node" || is.Finder == state.FinderSegment) {
			t.problem(was, is)
		}
	})
	return t.bounded()
}

// teller collects the Events of one change.
type teller struct {
	db     *state.DB
	before *state.Snapshot
	now    state.Snapshot
	events []Event
}

// changes calls tell with each row of the table as it was and as it is, nil
// where it was not or is no longer.
func changes[T state.Row](t *teller, table state.Table[T], tell func(was, is *T)) {
	for row := range table.All(t.now) {
		tell(earlier(t, table, row.RowKey()), wanted(row))
	}
	if t.before == nil {
		return
	}
	for row := range table.All(*t.before) {
		if _, ok := table.Get(t.now, row.RowKey()); !ok {
			tell(wanted(row), nil)
		}
	}
}

// source returns the row of a table of the source's as it was before. At the
// first look, that is as it is.
func source[T state.Row](t *teller, table state.Table[T], key string) *T {
	if t.before != nil {
		return earlier(t, table, key)
	}
	if row, ok := table.Get(t.now, key); ok {
		return &row
	}
	return nil
}

// earlier returns the row as it was before, nil when it was not.
func earlier[T state.Row](t *teller, table state.Table[T], key string) *T {
	if t.before == nil {
		return nil
	}
	if row, ok := table.Get(*t.before, key); ok {
		return wanted(row)
	}
	return nil
}

// wanted leaves out a row that is on its way out of its target.
func wanted[T state.Row](row T) *T {
	if r, ok := any(row).(interface{ RowStatus() state.Status }); ok && !r.RowStatus().Wanted() {
		return nil
	}
	return &row
}

func (t *teller) warn(object state.ObjectRef, uid string, reason state.Reason, action, message string) {
	t.events = append(t.events, Event{Object: object, UID: uid, Warning: true, Reason: reason, Action: action, Message: message})
}

func (t *teller) tell(object state.ObjectRef, uid string, reason state.Reason, action, message string) {
	t.events = append(t.events, Event{Object: object, UID: uid, Reason: reason, Action: action, Message: message})
}

// bounded returns the Events, each once, warnings first; instead of those
// beyond maxEvents, one that counts them.
func (t *teller) bounded() []Event {
	told := map[Event]bool{} // two may have found the same
	t.events = slices.DeleteFunc(t.events, func(e Event) bool { again := told[e]; told[e] = true; return again })
	slices.SortStableFunc(t.events, func(a, b Event) int { return cmp.Compare(rank(a), rank(b)) })
	if len(t.events) <= maxEvents {
		return t.events
	}
	first, beyond := t.events[:maxEvents-1], t.events[maxEvents-1:]
	counts := map[state.Reason]int{}
	for _, e := range beyond {
		counts[e.Reason]++
	}
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d × %s", counts[reason], reason))
	}
	more := beyond[0]
	more.Reason, more.Action = ReasonMore, "Summarize"
	more.Message = fmt.Sprintf("%d events of one change are not told one by one, this object's among them: %s; see 'seamark get' of services, announcements and ippools",
		len(beyond), strings.Join(parts, ", "))
	return append(slices.Clip(first), more)
}

func rank(e Event) int {
	if e.Warning {
		return 0
	}
	return 1
}
