package announce

import (
	"slices"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// Verdict is what to think of a node, by its lease.
type Verdict uint8

// The verdicts.
const (
	NoLease  Verdict = iota // never heard of
	Live                    // renewed within its duration
	Resting                 // stopped cleanly and may be back: keeps what it has, gets nothing new
	Frozen                  // unrenewed, together with most others: keeps what it has, gets nothing new
	Expired                 // unrenewed for a full duration
	Released                // gave its addresses up
)

func (v Verdict) String() string {
	return [...]string{"no lease", "live", "resting", "frozen", "expired", "released"}[v]
}

// Liveness watches the leases of all nodes. Every node keeps one, so that a
// new coordinator has the history at once.
//
// A lease ages only over time in which the store could be read. A break in
// the reads longer than Gap makes every lease new: who could not be heard may
// well have been alive.
type Liveness struct {
	// Duration of a lease whose holder runs; one that asks for longer has
	// stopped.
	Duration time.Duration
	// Gap between two successful reads from which on they count as broken off.
	Gap time.Duration
	// Longest is what a lease may ask for at most.
	Longest time.Duration
	// Freeze is how long a node that went silent together with most others is
	// taken for a victim of the store rather than for dead.
	Freeze time.Duration

	leases   map[string]*heardLease
	since    time.Duration // of the first read after the last break
	lastRead time.Duration
	began    bool
}

type heardLease struct {
	renewal  string
	duration time.Duration
	released bool
	renewed  bool          // since the last break, or since it was first seen
	seen     time.Duration // when the renewal was first seen
	age      time.Duration // counted, at the last Observe
}

// longestRest bounds the duration of a lease, unless daemons are told to rest for
// longer: one of years, as an edit by hand makes it, would keep a dead node's addresses.
const longestRest = time.Hour

// NewLiveness returns a Liveness for leases of that timing.
func NewLiveness(t Timing) *Liveness {
	t = t.withDefaults()
	return &Liveness{Duration: t.Duration, Gap: t.Duration / 2, Longest: max(t.Grace, longestRest), Freeze: t.Grace, leases: map[string]*heardLease{}}
}

// Observe takes in the leases as they are at now. They are no older than
// lastRead, when the store was last read with success (0: never); the caller
// asks for lastRead first and for the leases after. Both times are of
// CLOCK_BOOTTIME.
func (l *Liveness) Observe(now, lastRead time.Duration, leases []state.NodeLease) {
	if lastRead > 0 && (!l.began || lastRead-l.lastRead > l.Gap) {
		l.began, l.since = true, now
		for _, h := range l.leases {
			h.seen, h.renewed = now, false
		}
	}
	l.lastRead = max(l.lastRead, lastRead)
	there := make(map[string]bool, len(leases))
	for _, lease := range leases {
		there[lease.Node] = true
		h := l.leases[lease.Node]
		if h == nil {
			h = &heardLease{renewal: lease.Renewal, seen: now}
			l.leases[lease.Node] = h
		}
		if h.renewal != lease.Renewal {
			h.renewal, h.seen, h.renewed = lease.Renewal, now, true
		}
		h.duration, h.released = min(lease.Duration, l.Longest), lease.Released || lease.Drained
		if h.duration <= 0 { // it says nothing
			h.duration = l.Duration
		}
		h.age = max(l.lastRead-h.seen, 0)
	}
	for node := range l.leases {
		if !there[node] {
			delete(l.leases, node)
		}
	}
}

// Watched is for how long the leases have been observed without a break.
func (l *Liveness) Watched() time.Duration {
	if !l.began {
		return 0
	}
	return max(l.lastRead-l.since, 0)
}

// Unrenewed are the nodes whose leases were not seen to be renewed since the last
// break. A lease counts for a full duration from there on, but what it says of the
// segment may be of any time before.
func (l *Liveness) Unrenewed() map[string]bool {
	nodes := map[string]bool{}
	for node, h := range l.leases {
		if !h.renewed {
			nodes[node] = true
		}
	}
	return nodes
}

// Verdicts on all nodes that have a lease, as of the last Observe.
func (l *Liveness) Verdicts() map[string]Verdict {
	verdicts := make(map[string]Verdict, len(l.leases))
	var fresh int
	var silent []time.Duration // when those that missed a renewal were last heard
	for _, h := range l.leases {
		switch {
		case h.released:
		case h.age < h.duration/2:
			fresh++
		default:
			silent = append(silent, h.seen)
		}
	}
	slices.Sort(silent)
	for node, h := range l.leases {
		switch {
		case h.released && h.age < h.duration+l.Freeze: // its machine may be off by then
			verdicts[node] = Released
		case h.released:
			verdicts[node] = Expired
		case h.age < h.duration && h.duration > l.Duration:
			verdicts[node] = Resting
		case h.age < h.duration:
			verdicts[node] = Live
		case h.age < h.duration+l.Freeze && most(together(silent, h.seen, h.duration), fresh):
			verdicts[node] = Frozen
		default:
			verdicts[node] = Expired
		}
	}
	return verdicts
}

// together counts those that fell silent at about the same time as one last heard at seen.
func together(silent []time.Duration, seen, window time.Duration) int {
	from, _ := slices.BinarySearch(silent, seen-window)
	to, _ := slices.BinarySearch(silent, seen+window+1)
	return to - from
}

// most says whether n that fell silent at once are too many to be dead.
func most(n, fresh int) bool { return n >= 2 && n > fresh }
