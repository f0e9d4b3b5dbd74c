package announce

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// term is this node's lease as the node itself counts it. All times are of
// CLOCK_BOOTTIME.
type term struct {
	renewed time.Duration // when the last successful renewal was begun
	until   time.Duration // when the lease is over
	since   time.Duration // when the store had the first renewal after a gap
}

// renew records a renewal for duration, begun at started, that the store was
// known to have at returned.
func (t *term) renew(started, returned, duration time.Duration) {
	if returned >= t.until {
		t.since = returned
	}
	t.renewed, t.until = started, started+valid(duration)
}

// valid says whether the node may act on the lease: it is not over, and the
// store was read since it began. In the gap before, the addresses may have
// become another's, who does not lose them by our renewal.
func (t *term) valid(now, lastRead time.Duration) bool { return now < t.until && lastRead >= t.since }

// leaseKeeper keeps this node's lease. Renewals never overlap.
type leaseKeeper struct {
	node   string
	timing Timing
	clock  Clock
	db     *state.DB
	writer LeaseWriter
	// lastRead is Config's.
	lastRead func() time.Duration
	// report is what the lease says of the node; false before it is known.
	report func(state.Snapshot) (nodeReport, bool)
	// heard returns a channel that closes when something else is heard on the wire.
	heard func() <-chan struct{}
	log   *slog.Logger

	renewing sync.Mutex // held while a renewal is under way
	mu       sync.Mutex
	term     term
	valid    bool          // as last told
	armed    bool          // the kernel answers for what it is given
	mayTake  bool          // as last told
	tenant   bool          // this daemon has the lease, valid or not, and no other machine does
	told     bool          // tenant as last told
	changed  chan struct{} // closes when valid, mayTake or tenant changes
	released bool
	sent     *nodeReport // nil before the first renewal
	tenancy  tenancy     // guarded by renewing
	refused  bool        // another machine has the lease
	last     LeaseStatus // Left and Released are filled in when asked for
}

// nodeReport is what a node tells with its lease.
type nodeReport struct {
	interfaces []state.LeaseInterface
	addrs      []netip.Addr // state.OwnAddrs
	appliance  bool
	// released: it is drained, and answers for nothing.
	released bool
}

func (r nodeReport) same(s nodeReport) bool {
	return slices.EqualFunc(r.interfaces, s.interfaces, sameInterface) && slices.Equal(r.addrs, s.addrs) && r.appliance == s.appliance && r.released == s.released
}

// LeaseStatus is how this node's lease stands.
type LeaseStatus struct {
	// Left is how long it is valid without another renewal; 0 when it is not.
	Left time.Duration
	// Renewed is when it was last renewed; wall clock, for people.
	Renewed  time.Time
	Released bool
	// Err of the last try, nil when it went well.
	Err error
}

func (k *leaseKeeper) status() LeaseStatus {
	lastRead := k.lastRead()
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.last
	if now := k.clock.Boottime(); k.term.valid(now, lastRead) {
		s.Left = k.term.until - now
	}
	s.Released = k.released
	return s
}

func newLeaseKeeper(node string, t Timing, clock Clock, db *state.DB, w LeaseWriter,
	lastRead func() time.Duration, report func(state.Snapshot) (nodeReport, bool), log *slog.Logger) *leaseKeeper {
	return &leaseKeeper{node: node, timing: t, clock: clock, db: db, writer: w, lastRead: lastRead, report: report, log: log,
		tenancy: tenancy{identity: rand.Text(), duration: t.Duration},
		heard:   func() <-chan struct{} { return nil }, changed: make(chan struct{})}
}

// Valid says whether the lease is, by this node's own clock.
func (k *leaseKeeper) Valid() bool {
	lastRead := k.lastRead()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.term.valid(k.clock.Boottime(), lastRead)
}

// Renewed is when the last successful renewal was begun (CLOCK_BOOTTIME).
func (k *leaseKeeper) Renewed() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.term.renewed
}

// MayTake says whether this node may take an address: its lease is valid, and
// the kernel is ready to answer. Announced before, an address would be claimed
// on the wire and its first questions met with silence.
func (k *leaseKeeper) MayTake() bool {
	valid := k.Valid()
	k.mu.Lock()
	defer k.mu.Unlock()
	return valid && k.armed
}

// Armed says whether the kernel answers for what it is given, as it does without
// a valid lease, too, while the fence has not run out.
func (k *leaseKeeper) Armed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.armed
}

// arm records whether the responder's valid_until lies ahead.
func (k *leaseKeeper) arm(armed bool) {
	k.mu.Lock()
	k.armed = armed
	k.mu.Unlock()
	k.check()
}

// check notices that the lease became valid or stale, this daemon's or not, or the
// node able to take addresses or not, and returns the channel that closes when it does next.
func (k *leaseKeeper) check() <-chan struct{} {
	valid, mayTake := k.Valid(), k.MayTake()
	k.mu.Lock()
	defer k.mu.Unlock()
	if valid == k.valid && mayTake == k.mayTake && k.tenant == k.told {
		return k.changed
	}
	switch {
	case valid && !k.valid:
		k.log.Info("lease valid")
	case !valid && k.valid:
		k.log.Warn("lease stale: this node keeps what it announces until another claims it, and takes nothing new")
	}
	k.valid, k.mayTake, k.told = valid, mayTake, k.tenant
	close(k.changed)
	k.changed = make(chan struct{})
	return k.changed
}

// run renews the lease until ctx ends, from when there is something to report:
// a lease without interfaces would lose a restarted node its addresses.
func (k *leaseKeeper) run(ctx context.Context) {
	for {
		snap := k.db.Snapshot()
		if _, known := k.report(snap); known && k.db.NodeLeases.Synced(snap) {
			break
		}
		select {
		case <-ctx.Done():
			return
		case <-k.db.MarksChanged(snap):
		}
	}
	failed := ""
	for ctx.Err() == nil {
		started := k.clock.Boottime()
		next := started + k.timing.Renew
		err := k.renew(ctx, k.timing.Duration)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			failed = ""
		default:
			next = started + k.timing.Renew/2
			if err.Error() != failed { // once per cause, not once per try
				failed = err.Error()
				k.log.Warn("renew lease: tried again until it works", "err", err)
			}
		}
		k.pause(ctx, started, next)
	}
}

// pause returns at next, or earlier when there is something new to report.
func (k *leaseKeeper) pause(ctx context.Context, started, next time.Duration) {
	for ctx.Err() == nil {
		now := k.clock.Boottime()
		snap, heard := k.db.Snapshot(), k.heard()
		if k.news(snap) {
			next = min(next, started+k.timing.Renew/4) // a flapping link does not flood the store
		}
		if now >= next {
			return
		}
		select {
		case <-ctx.Done():
		case <-k.clock.After(next - now):
		case <-heard:
		case <-k.db.Devices.Changed(snap):
		case <-k.db.L2Policies.Changed(snap):
		case <-k.db.Nodes.Changed(snap):
		}
	}
}

func (k *leaseKeeper) news(snap state.Snapshot) bool {
	report, _ := k.report(snap)
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.sent != nil && !report.same(*k.sent)
}

// errNothingToReport: the daemon does not know its node yet.
var errNothingToReport = errors.New("the node's interfaces are not known yet")

// renew asks for the lease to be held for duration from now on. The lease
// counts as valid from when the call was begun, for ¾ of it.
func (k *leaseKeeper) renew(ctx context.Context, duration time.Duration) error {
	k.renewing.Lock()
	defer k.renewing.Unlock()
	// A call that hangs must leave time for another before the lease is over.
	ctx, cancel := context.WithTimeoutCause(ctx, k.timing.Duration/2, errors.New("no answer from the store in time"))
	defer cancel()
	report, known := k.report(k.db.Snapshot())
	if !known {
		return fmt.Errorf("renew lease of %s: %w", k.node, errNothingToReport)
	}
	k.mu.Lock()
	released := k.released
	k.mu.Unlock()
	if err := k.mayRenew(report); err != nil {
		return fmt.Errorf("renew lease of %s: %w", k.node, err)
	}
	started := k.clock.Boottime()
	err := k.writer.RenewLease(ctx, state.NodeLease{
		Node: k.node, Identity: k.tenancy.identity, Duration: duration, Renewal: k.clock.Wall().UTC().Format(time.RFC3339Nano),
		Released: released || report.released, Interfaces: report.interfaces, Addrs: report.addrs, Appliance: report.appliance,
	})
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		err = fmt.Errorf("renew lease of %s: %w", k.node, err)
		k.mu.Lock()
		k.last.Err = err
		k.mu.Unlock()
		return err
	}
	k.mu.Lock()
	k.last, k.tenancy.held, k.tenant = LeaseStatus{Renewed: k.clock.Wall()}, true, true
	k.term.renew(started, k.clock.Boottime(), duration)
	k.sent = &report
	k.mu.Unlock()
	k.check()
	return nil
}

// mayRenew returns an error when the lease is another machine's. What this one
// has of it is over then.
func (k *leaseKeeper) mayRenew(report nodeReport) error {
	lastRead := k.lastRead() // before the snapshot, which is no older
	lease, _ := k.db.NodeLeases.Get(k.db.Snapshot(), k.node)
	err := k.tenancy.check(lease, lastRead, report.interfaces)
	k.mu.Lock()
	k.refused = err != nil
	if err != nil {
		k.term, k.last.Err, k.tenant = term{}, err, false
	}
	k.mu.Unlock()
	k.check()
	return err
}

// Tenant says whether this daemon has had the lease, and no other machine has it.
func (k *leaseKeeper) Tenant() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.tenant
}

// Refused says whether another machine has the lease.
func (k *leaseKeeper) Refused() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.refused
}

// release gives up all addresses: the coordinator moves them at once. The
// lease goes on being renewed, released.
func (k *leaseKeeper) release(ctx context.Context) error {
	k.mu.Lock()
	k.released = true
	k.mu.Unlock()
	return k.renew(ctx, k.timing.Duration)
}

// Released says whether release was called.
func (k *leaseKeeper) Released() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.released
}
