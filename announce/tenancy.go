package announce

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// tenancy says whether this daemon may keep the lease of its node's name, which
// two machines may have been given by mistake: both would answer for the same
// addresses. It is the younger one that may not. A daemon that was restarted is
// told from another machine's by the hardware addresses that the lease reports.
type tenancy struct {
	identity string // of this daemon
	duration time.Duration
	held     bool // by this daemon
	// The last renewal of another machine's daemon, and the read that brought it.
	renewal string
	since   time.Duration
}

// check returns an error when another machine has the lease: l, as it was last
// read, at lastRead of CLOCK_BOOTTIME. own are the interfaces of this machine.
func (t *tenancy) check(l state.NodeLease, lastRead time.Duration, own []state.LeaseInterface) error {
	switch {
	case l.Identity == "" || l.Identity == t.identity, sameMachine(l.Interfaces, own):
		return nil
	case l.Duration > t.duration:
		return nil // it has stopped
	case t.held && t.identity < l.Identity:
		return nil // both began at once: one of the two has to give in
	}
	t.held = false
	if l.Renewal != t.renewal {
		t.renewal, t.since = l.Renewal, lastRead
	}
	if lastRead-t.since >= l.Duration {
		return nil // it is gone
	}
	var macs []string
	for _, i := range l.Interfaces {
		macs = append(macs, i.MAC)
	}
	return fmt.Errorf("the machine with %s has the node name %s, too, and keeps its lease: this one announces nothing; give one of the two another --node-name",
		strings.Join(macs, ", "), l.Node)
}

// sameMachine says whether both report an interface with the same hardware
// address. Who reports none announces nothing, and is in nobody's way.
func sameMachine(a, b []state.LeaseInterface) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(i state.LeaseInterface) bool {
		return slices.ContainsFunc(b, func(j state.LeaseInterface) bool { return i.MAC == j.MAC })
	})
}
