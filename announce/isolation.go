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
// the others as heard, and the first to hear again is alone in it for a moment:
// either would be given what they have. So the one that is deaf must stay it for
// two rounds of asking, and who hears more must have heard for as long; and both
// must have renewed their leases twice since: then both speak of the same time.
// All times are of CLOCK_BOOTTIME.
type isolation struct {
	lasts  time.Duration
	leases map[string]*renewals
	since  map[nodeInterface]time.Duration // it was first seen to be deaf
	// hears and hearsGateway are since when it was seen to hear anyone, and its gateway.
	hears, hearsGateway map[nodeInterface]time.Duration
}

// renewals of a lease are the last two, as they were seen.
type renewals struct {
	renewal      string
	last, before time.Duration
}

func newIsolation(t Timing) *isolation {
	return &isolation{lasts: 2 * t.Renew, leases: map[string]*renewals{}, since: map[nodeInterface]time.Duration{},
		hears: map[nodeInterface]time.Duration{}, hearsGateway: map[nodeInterface]time.Duration{}}
}

// hearing notes since when who hears someone does.
func (s *isolation) hearing(now time.Duration, leases []state.NodeLease) {
	hears, hearsGateway := map[nodeInterface]time.Duration{}, map[nodeInterface]time.Duration{}
	since := func(was map[nodeInterface]time.Duration, at nodeInterface) time.Duration {
		if began, before := was[at]; before {
			return began
		}
		return now
	}
	for _, l := range leases {
		for _, i := range l.Interfaces {
			at := nodeInterface{l.Node, i.Name}
			if len(i.Heard) > 0 || i.Gateway == state.Heard {
				hears[at] = since(s.hears, at)
			}
			if i.Gateway == state.Heard {
				hearsGateway[at] = since(s.hearsGateway, at)
			}
		}
	}
	s.hears, s.hearsGateway = hears, hearsGateway
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
	s.hearing(now, leases)
	since, confirmed := map[nodeInterface]time.Duration{}, map[nodeInterface]bool{}
	segments := segmentsOf(leases, verdicts)
	for at, i := range segments.deafOnes(leases, verdicts) {
		began, before := s.since[at]
		if !before {
			began = now
		}
		since[at] = began
		renewedTwice := func(node string, since time.Duration) bool { return s.leases[node].before > since }
		hearsLong := func(w witness, hears map[nodeInterface]time.Duration) bool {
			heard := hears[nodeInterface{w.node, w.at.Name}]
			return renewedTwice(w.node, began) && now-heard >= s.lasts && renewedTwice(at.node, heard)
		}
		if now-began >= s.lasts && renewedTwice(at.node, began) && segments.deaf(at.node, i,
			func(w witness) bool { return hearsLong(w, s.hears) }, func(w witness) bool { return hearsLong(w, s.hearsGateway) }) {
			confirmed[at] = true
		}
	}
	s.since = since
	return confirmed
}

// anyone is for deaf: who hears more counts, whoever it is.
func anyone(witness) bool { return true }

// deafOnes are the interfaces of live nodes that are deaf by what is reported now.
func (s segments) deafOnes(leases []state.NodeLease, verdicts map[string]Verdict) map[nodeInterface]state.LeaseInterface {
	deaf := map[nodeInterface]state.LeaseInterface{}
	for _, l := range leases {
		for _, i := range l.Interfaces {
			if verdicts[l.Node] == Live && i.Up && s.deaf(l.Node, i, anyone, anyone) {
				deaf[nodeInterface{l.Node, i.Name}] = i
			}
		}
	}
	return deaf
}

// deaf is rules 1 and 2 of cutOff, by the word of those that count: as who hears
// someone, and as who hears the gateway.
func (s segments) deaf(node string, i state.LeaseInterface, hears, hearsGateway func(witness) bool) bool {
	switch {
	case len(i.Silent) == 0:
		return false
	case len(i.Heard) == 0 && i.Gateway != state.Heard:
		return s.hearing(node, i, func(w witness) bool { return w.hearsBesides(node) && hears(w) })
	case i.Gateway == state.Silent:
		return s.hearing(node, i, func(w witness) bool {
			return w.at.Gateway == state.Heard && hearsGateway(w) &&
				slices.ContainsFunc(i.Gateways, func(a netip.Addr) bool { return slices.Contains(w.at.Gateways, a) })
		})
	}
	return false
}
