package bgp

import (
	"slices"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// gracefulShutdown is the community GRACEFUL_SHUTDOWN (RFC 8326 §4): routers prefer
// all other paths, and withdraw nothing while they look for them.
const gracefulShutdown = 0xffff0000

// Leave is how far a node is with going away from its routers.
type Leave string

// In this order.
const (
	Stays   Leave = ""         // it advertises what it serves
	Leaving Leave = "leaving"  // its routes are the last resort
	HasLeft Leave = "has left" // it advertises its pods alone, and keeps its sessions
)

// Drain has a node leave by and by. It is pure: the time is an argument.
type Drain struct {
	known bool
	since time.Time // when the node was first asked to leave; zero: it is not
}

// Step takes in whether the node is asked to leave, and how long routers have to
// find other paths. It returns how far it is, and how long until it goes on, 0:
// not by time. A node that is asked before it has advertised anything has left: a
// daemon that starts on a drained node begins nothing.
func (d *Drain) Step(asked bool, delay time.Duration, now time.Time) (Leave, time.Duration) {
	switch first := !d.known; {
	case !asked:
		d.since = time.Time{}
	case first:
		d.since = now.Add(-delay)
	case d.since.IsZero():
		d.since = now
	}
	d.known = true
	if !asked {
		return Stays, 0
	}
	if left := d.since.Add(delay).Sub(now); left > 0 {
		return Leaving, left
	}
	return HasLeft, 0
}

// leave makes of routes what a node that leaves has of them. Those of its pods stay
// as they are: the other nodes send packets to them there.
func leave(how Leave, routes []state.BGPRoute) []state.BGPRoute {
	switch how {
	case Stays:
		return routes
	case HasLeft:
		return slices.DeleteFunc(routes, func(r state.BGPRoute) bool { return !r.OfPods() })
	}
	lowest := uint32(0)
	for i := range routes {
		if routes[i].OfPods() {
			continue
		}
		for j := range routes[i].Offers {
			o := &routes[i].Offers[j]
			communities := append(slices.Clone(o.Communities), gracefulShutdown)
			slices.Sort(communities)
			o.Communities, o.LocalPref = slices.Compact(communities), &lowest
		}
	}
	return routes
}
