package announce

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// drained says whether the node was asked to give its addresses up and has:
// nothing is left in its responder, nor advertised to routers but its pods.
func drained(db *state.DB, snap state.Snapshot, node string) bool {
	lease, _ := db.NodeLeases.Get(snap, node)
	return lease.Drained && state.Marked(snap, state.PrunedMark(db.Announcements.Name())) && len(db.Announcements.Rows(snap)) == 0 &&
		!slices.ContainsFunc(db.BGPRoutes.Rows(snap), func(r state.BGPRoute) bool { return !r.OfPods() })
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
// which nobody answers: it goes on until it hears the other claim the address on
// the wire, which mutes the entry at once (bpf/arp.h), and for a lease's duration
// at most: what keeps machines apart, or loses a claim, keeps it from hearing.
// All times are of CLOCK_BOOTTIME.
type handover struct {
	lasts time.Duration

	mu    sync.Mutex
	began map[string]time.Duration // by RowKey
	muted map[entryKey]bool        // entries that another node's claim has muted
	over  chan struct{}            // closes when one may be over; nil: none that stays was asked for
}

func newHandover(t Timing) *handover {
	return &handover{lasts: t.Duration, began: map[string]time.Duration{}, muted: map[entryKey]bool{}}
}

// stays says whether the entry of row is to stay for a moment, although it is no
// longer wanted. another says that another node takes the address, and that this
// one may answer for it meanwhile.
func (h *handover) stays(row state.Announcement, another bool, now time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := row.RowKey()
	began, ok := h.began[key]
	entry := entryKey{row.Addr, row.Index}
	if row.Status.Phase != state.Deleting {
		delete(h.muted, entry) // it may be written anew
	}
	if row.Status.Phase != state.Deleting || !another || h.muted[entry] || ok && now-began >= h.lasts {
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
		time.AfterFunc(began+h.lasts-now, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			end(over)
		})
	}
	return true
}

// mute records that an entry is mute, or no longer.
func (h *handover) mute(k entryKey, muted bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !muted {
		delete(h.muted, k)
		return
	}
	h.muted[k] = true
	end(h.over)
}

// look is for a look at the entries that are there.
func (h *handover) look(there map[entryKey]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	maps.DeleteFunc(h.muted, func(k entryKey, _ bool) bool { return !there[k] })
}

// begin is before stays is asked anew, and changed the channel that closes when it
// is to be asked again.
func (h *handover) begin() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = nil
}

func (h *handover) changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.over
}

// end closes over, if there is one, and it is not closed.
func end(over chan struct{}) {
	if over == nil {
		return
	}
	select {
	case <-over:
	default:
		close(over)
	}
}
