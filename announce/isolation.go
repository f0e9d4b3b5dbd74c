package announce

import (
	"net/netip"
	"slices"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// isolation confirms that nodes are deaf (rules 1 and 2 of cutOff) before they
// lose addresses for it. One report says too little: when a whole segment falls
// silent, as while its switch restarts, the last node to notice still reports
// the others as heard, and would be given what they have. So the one that is
// deaf must stay it for two rounds of asking, and who hears more must have
// renewed its lease twice since: then both speak of the same time. All times
// are of CLOCK_BOOTTIME.
type isolation struct {
	lasts  time.Duration
	leases map[string]*renewals
	since  map[nodeInterface]time.Duration // it was first seen to be deaf
}

// renewals of a lease are the last two, as they were seen.
type renewals struct {
	renewal      string
	last, before time.Duration
}

func newIsolation(t Timing) *isolation {
	return &isolation{lasts: 2 * t.Renew, leases: map[string]*renewals{}, since: map[nodeInterface]time.Duration{}}
}

// observe takes in the leases as they are at now, and returns the interfaces of
// nodes that are confirmed to be deaf.
func (s *isolation) observe(now time.Duration, leases []state.NodeLease, verdicts map[string]Verdict) map[nodeInterface]bool {
	there := make(map[string]bool, len(leases))
	for _, l := range leases {
		there[l.Node] = true
		r := s.leases[l.Node]
		if r == nil {
			s.leases[l.Node] = &renewals{renewal: l.Renewal, last: now}
		} else if r.renewal != l.Renewal {
			*r = renewals{renewal: l.Renewal, last: now, before: r.last}
		}
	}
	for node := range s.leases {
		if !there[node] {
			delete(s.leases, node)
		}
	}
	since, confirmed := map[nodeInterface]time.Duration{}, map[nodeInterface]bool{}
	segments := segmentsOf(leases, verdicts)
	for at, i := range segments.deafOnes(leases, verdicts) {
		began, before := s.since[at]
		if !before {
			began = now
		}
		since[at] = began
		renewedTwice := func(node string) bool { return s.leases[node].before > began }
		if now-began >= s.lasts && renewedTwice(at.node) && segments.deaf(at.node, i, renewedTwice) {
			confirmed[at] = true
		}
	}
	s.since = since
	return confirmed
}

// anyone is for deaf: who hears more counts, whoever it is.
func anyone(string) bool { return true }

// deafOnes are the interfaces of live nodes that are deaf by what is reported now.
func (s segments) deafOnes(leases []state.NodeLease, verdicts map[string]Verdict) map[nodeInterface]state.LeaseInterface {
	deaf := map[nodeInterface]state.LeaseInterface{}
	for _, l := range leases {
		for _, i := range l.Interfaces {
			if verdicts[l.Node] == Live && i.Up && s.deaf(l.Node, i, anyone) {
				deaf[nodeInterface{l.Node, i.Name}] = i
			}
		}
	}
	return deaf
}

// deaf is rules 1 and 2 of cutOff, by the word of the nodes that count.
func (s segments) deaf(node string, i state.LeaseInterface, counts func(node string) bool) bool {
	switch {
	case len(i.Silent) == 0:
		return false
	case len(i.Heard) == 0 && i.Gateway != state.Heard:
		return s.hearing(node, i, func(w witness) bool { return w.hearsBesides(node) && counts(w.node) })
	case i.Gateway == state.Silent:
		return s.hearing(node, i, func(w witness) bool {
			return w.at.Gateway == state.Heard && counts(w.node) &&
				slices.ContainsFunc(i.Gateways, func(a netip.Addr) bool { return slices.Contains(w.at.Gateways, a) })
		})
	}
	return false
}
