package announce

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// defendInterval is the least time between two defences of an address
// (RFC 5227 §2.4: DEFEND_INTERVAL).
const defendInterval = 10 * time.Second

// contests remembers who else claims our addresses.
type contests struct {
	// open are the entries that a cluster node's claim muted, with when it
	// was heard last.
	open     map[entryKey]time.Duration
	defended map[entryKey]time.Duration
	// kept are those that were settled for us, with when.
	kept map[entryKey]time.Duration
	told telling
}

// telling bounds what is logged of claims: a flood of them has no more to say.
type telling struct {
	began     time.Duration
	told, not int
}

const mostTold = 10 // claims in defendInterval

// may says whether to tell of one more, and of how many it was not told before.
func (t *telling) may(now time.Duration) (ok bool, untold int) {
	if t.told == 0 || now-t.began >= defendInterval {
		untold = t.not
		*t = telling{began: now}
	}
	if t.told == mostTold {
		t.not++
		return false, 0
	}
	t.told++
	return true, untold
}

func newContests() *contests {
	return &contests{open: map[entryKey]time.Duration{}, defended: map[entryKey]time.Duration{}, kept: map[entryKey]time.Duration{}}
}

// claimed records a cluster node's claim and says whether it opened the contest.
func (c *contests) claimed(k entryKey, at time.Duration) bool {
	last, open := c.open[k]
	c.open[k] = max(last, at)
	return !open
}

// defend says whether a stranger's claim is to be answered: it is while our
// lease is valid, but not more often than RFC 5227 §2.4 (c) allows, lest two
// that are both sure of themselves fill the wire.
func (c *contests) defend(k entryKey, now time.Duration, leaseValid bool) bool {
	last, before := c.defended[k]
	if !leaseValid || before && now-last < defendInterval {
		return false
	}
	c.defended[k] = now
	return true
}

// ripe returns the contests that the store has an answer to: our lease is
// valid and the store was read after the claim. Who claims an address has read
// that it is his before, so this read says it too if it is true. Until then we
// stay mute; with a stale lease that means we yield.
func (c *contests) ripe(lastRead time.Duration, leaseValid bool) []entryKey {
	var keys []entryKey
	for k, at := range c.open {
		if leaseValid && lastRead > at {
			keys = append(keys, k)
		}
	}
	return keys
}

// closed forgets the contest, unless a claim came after it was judged at lastRead.
func (c *contests) closed(k entryKey, lastRead time.Duration) {
	if c.open[k] < lastRead {
		delete(c.open, k)
	}
}

func (c *contests) forget(k entryKey) {
	delete(c.open, k)
	delete(c.defended, k)
	delete(c.kept, k)
}

// keep records that a contest was settled for us. It says whether neighbours are to
// hear of it in a burst: those of contests that come one after another, as forged
// claims make them, would be a storm.
func (c *contests) keep(k entryKey, now time.Duration) bool {
	last, before := c.kept[k]
	if before && now-last < defendInterval {
		return false
	}
	c.kept[k] = now
	return true
}

// referee hears claims and settles contests.
type referee struct {
	node      string
	db        *state.DB
	writer    *state.Writer
	clock     Clock
	log       *slog.Logger
	lease     *leaseKeeper
	lastRead  func() time.Duration
	responder Responder
	herald    *herald
	detector  *detector
	handover  *handover
	counts    *Counts
	claims    chan Claim
	every     time.Duration

	contests *contests
}

// run settles contests until ctx ends. The responder is asked now and then
// too, for claims heard before this daemon started, or too fast to be told of.
func (r *referee) run(ctx context.Context) {
	r.contests = newContests()
	var looked time.Duration
	for {
		now := r.clock.Boottime()
		if looked == 0 || now-looked >= 10*r.every {
			looked = now
			r.look()
		}
		r.settle()
		select {
		case <-ctx.Done():
			return
		case claim := <-r.claims:
			r.hear(claim)
		case <-r.clock.After(r.every):
		}
	}
}

// look opens contests for the entries that are muted and closes those of
// entries that are gone.
func (r *referee) look() {
	held, err := r.responder.Held()
	if err != nil {
		r.log.Error("list responder entries", "err", err)
		return
	}
	there := map[entryKey]bool{}
	for _, h := range held {
		k := entryKey{h.Addr, h.Ifindex}
		there[k] = true
		if h.Muted {
			r.hear(Claim{h.Addr, h.Ifindex, h.ClaimMAC, h.ClaimedAt, true})
			// Its row may not have been done when the claim was heard.
			r.setReason(k, h.Generation, state.ReasonMuted)
		}
	}
	r.handover.look(there)
	for _, m := range []map[entryKey]time.Duration{r.contests.open, r.contests.defended, r.contests.kept} {
		for k := range m {
			if !there[k] {
				r.contests.forget(k)
				r.herald.Mute(k, false)
			}
		}
	}
}

func (r *referee) hear(c Claim) {
	k := entryKey{c.Addr, c.Ifindex}
	if c.Muted {
		r.handover.mute(k, true)
		if r.contests.claimed(k, c.At) {
			r.counts.ClusterClaims.Add(1)
			if ok, untold := r.contests.told.may(r.clock.Boottime()); ok {
				r.log.Warn("address claimed by another node of the cluster: silent until the store says whose it is",
					"addr", c.Addr, "claimant", r.nodeOf(c.MAC), "mac", c.MAC.String(), "untold", untold)
			}
			r.herald.Mute(k, true)
			r.setReason(k, anyGeneration, state.ReasonMuted)
		}
		return
	}
	if ownMAC(r.db)(c.MAC) || r.detector.about(k) {
		return // another interface of this node, on the same segment; or not our address yet
	}
	r.counts.StrangerClaims.Add(1)
	if r.contests.defend(k, r.clock.Boottime(), r.lease.Valid()) {
		r.counts.Defences.Add(1)
		if ok, untold := r.contests.told.may(r.clock.Boottime()); ok {
			r.log.Warn("address claimed by a machine that is no node of the cluster: find it by its hardware address and take the address from it",
				"addr", c.Addr, "mac", c.MAC.String(), "interface", r.interfaceName(c.Ifindex), "untold", untold)
		}
		r.herald.Once(k)
	}
}

func (r *referee) settle() {
	lastRead := r.lastRead() // before the snapshot, which is no older
	keys := r.contests.ripe(lastRead, r.lease.Valid())
	if len(keys) == 0 {
		return
	}
	snap := r.db.Snapshot()
	for _, k := range keys {
		assigned, _ := r.db.Assigned.Get(snap, k.addr.String())
		if assigned.Node != r.node {
			// Not ours any more. The row goes, and the entry with it; mute until then.
			r.counts.Yielded.Add(1)
			r.log.Info("address yielded", "addr", k.addr, "to", assigned.Node, "generation", assigned.Generation)
			r.contests.closed(k, lastRead)
			continue
		}
		if err := r.responder.Unmute(k.addr, k.ifindex); err != nil {
			r.log.Error("unmute responder entry", "addr", k.addr, "err", err)
			continue
		}
		r.handover.mute(k, false)
		r.counts.Kept.Add(1)
		r.contests.closed(k, lastRead)
		r.setReason(k, anyGeneration, "")
		r.herald.Mute(k, false)
		if r.contests.keep(k, r.clock.Boottime()) {
			r.log.Info("address kept", "addr", k.addr, "generation", assigned.Generation)
			r.herald.Again(k)
		} else {
			r.herald.Once(k)
		}
	}
}

const anyGeneration = -1

// setReason has the row of an entry of that generation say why it is silent.
func (r *referee) setReason(k entryKey, generation int64, reason state.Reason) {
	key := state.Announcement{Addr: k.addr, Interface: r.interfaceName(k.ifindex)}.RowKey()
	differs := func(t state.Reader) (state.Announcement, bool) {
		row, ok := r.db.Announcements.Get(t, key)
		return row, ok && row.Status.Phase == state.Done && row.Status.Reason != reason && (generation == anyGeneration || row.Generation == generation)
	}
	if _, ok := differs(r.db.Snapshot()); !ok {
		return // a write for nothing, once a second
	}
	r.writer.Update(func(tx *state.Tx) {
		if row, ok := differs(tx); ok {
			row.Status.Reason = reason
			r.db.Announcements.Put(tx, row)
		}
	})
}

func (r *referee) interfaceName(ifindex int) string {
	for d := range r.db.Devices.All(r.db.Snapshot()) {
		if d.Index == ifindex {
			return d.Name
		}
	}
	return ""
}

// ownMAC says whether a hardware address is of an interface of this node.
func ownMAC(db *state.DB) func(net.HardwareAddr) bool {
	return func(mac net.HardwareAddr) bool {
		for d := range db.Devices.All(db.Snapshot()) {
			if d.MAC == mac.String() {
				return true
			}
		}
		return false
	}
}

func (r *referee) nodeOf(mac net.HardwareAddr) string {
	for lease := range r.db.NodeLeases.All(r.db.Snapshot()) {
		for _, i := range lease.Interfaces {
			if i.MAC == mac.String() {
				return lease.Node
			}
		}
	}
	return ""
}
