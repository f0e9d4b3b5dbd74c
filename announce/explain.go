package announce

import (
	"net/netip"

	"github.com/seamark-lb/seamark/state"
)

// Inputs is what this node knows of all that placement looks at; false before
// it has been told all of it. The verdicts on leases are its own: another node
// may have heard, or not heard, more.
func (a *Announcer) Inputs() (Inputs, bool) {
	snap := a.cfg.DB.Snapshot()
	in := readInputs(a.cfg.DB, snap, a.observer.seen.Load())
	in.DrainCordoned = a.cfg.DrainOnCordon
	return in, placeable(a.cfg.DB, snap)
}

// Expired says whether the node's lease went unrenewed, as far as this node has heard.
func (a *Announcer) Expired(node string) bool {
	return a.observer.seen.Load().verdicts[node] == Expired
}

// Announced returns the Services that carry the address for policies to
// announce, and the names of those policies; nothing when none does.
func Announced(in Inputs, addr netip.Addr) (services []state.ObjectName, policies []string) {
	site := survey(in)
	for _, w := range site.wanted() {
		if w.addr != addr {
			continue
		}
		for _, i := range w.policies {
			policies = append(policies, site.policies[i].name)
		}
		return w.services, policies
	}
	return nil, nil
}
