package announce

import (
	"net/netip"
	"slices"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// drained says whether the node was asked to give its addresses up and has:
// nothing is left in its responder, nor advertised to routers.
func drained(db *state.DB, snap state.Snapshot, node string) bool {
	lease, _ := db.NodeLeases.Get(snap, node)
	return lease.Drained && state.Marked(snap, state.PrunedMark(db.Announcements.Name())) && len(db.Announcements.Rows(snap)) == 0 &&
		len(db.BGPRoutes.Rows(snap)) == 0
}

// Stranded returns the addresses that the node announces and that nobody would
// if it were drained, sorted.
func Stranded(in Inputs, node string) []state.Assignment {
	verdicts := map[string]Verdict{node: Released}
	for other, v := range in.Verdicts {
		if other != node {
			verdicts[other] = v
		}
	}
	in.Verdicts = verdicts
	held := map[netip.Addr]bool{}
	for _, row := range in.Decided {
		held[row.Addr] = row.Node == node
	}
	rows := Place(in, time.Time{})
	return slices.DeleteFunc(rows, func(row state.Assignment) bool { return row.Node != "" || !held[row.Addr] })
}

// handover is how a node gives an address to another one without a moment in
// which nobody answers: it goes on until the other has had the time to claim the
// address on the wire. The claim mutes the entry at once (bpf/arp.h); the entry
// itself goes when the time is over. All times are of CLOCK_BOOTTIME.
type handover struct {
	lasts time.Duration
	began map[string]time.Duration // by RowKey
	over  chan struct{}            // closes when the first one is over; nil: none that stays was asked for
}

func newHandover(t Timing) *handover {
	return &handover{lasts: t.Duration / 3, began: map[string]time.Duration{}}
}

// stays says whether the entry of row is to stay for a moment, although it is no
// longer wanted. another says that another node takes the address, and that this
// one may answer for it meanwhile.
func (h *handover) stays(row state.Announcement, another bool, now time.Duration) bool {
	key := row.RowKey()
	began, ok := h.began[key]
	if row.Status.Phase != state.Deleting || !another || ok && now-began >= h.lasts {
		delete(h.began, key)
		return false
	}
	if !ok {
		began = now
		h.began[key] = now
	}
	if h.over == nil {
		over := make(chan struct{})
		h.over = over
		time.AfterFunc(began+h.lasts-now, func() { close(over) })
	}
	return true
}
