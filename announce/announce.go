package announce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/seamark-lb/seamark/state"
)

// Config is what an Announcer works with.
type Config struct {
	Node   string
	DB     *state.DB
	Writer *state.Writer
	Log    *slog.Logger
	// Appliance: this machine need be no Node.
	Appliance bool
	// DrainOnCordon: nodes that are cordoned announce nothing. Every node of a
	// cluster has the same.
	DrainOnCordon bool
	Timing        Timing     // what is 0 is of DefaultTiming
	When          Gratuitous // what is 0 is of DefaultGratuitous
	Detection     Detection  // what is 0 is of DefaultDetection
	Clock         Clock      // SystemClock when nil

	// Leases, LastRead, Lock and Assignments are the source's. LastRead is
	// the CLOCK_BOOTTIME that the tables are no older than, 0 before the
	// first read: it advances at least once per Timing.Renew while the store
	// can be read, and stands still while it cannot.
	Leases      LeaseWriter
	LastRead    func() time.Duration
	Lock        resourcelock.Interface
	Assignments state.Target[state.Assignment]
	// PolicyStatuses is the source's, too.
	PolicyStatuses state.Target[state.PolicyStatus]
	// Lead is run besides, while this node is the coordinator, and returns
	// when its context ends. Nil: nothing.
	Lead func(context.Context)

	Responder Responder
	// Sender of announcements; a Socket when nil.
	Sender Sender
	// Asker asks for other machines on this node's segments; an AskSocket when nil.
	Asker Asker
	// Outside says which devices of this node, which is given as the store has
	// it, a policy without interfaces means.
	Outside func(state.Node, state.Device) bool
}

// Counts is how often things happened since the daemon started.
type Counts struct {
	Gratuitous     atomic.Uint64 // announcements sent, each an ARP request and a reply, or an advertisement
	ClusterClaims  atomic.Uint64 // addresses claimed by another cluster node
	Kept, Yielded  atomic.Uint64 // how those were settled
	StrangerClaims atomic.Uint64 // claims of others heard
	Defences       atomic.Uint64 // and answered
}

// Announcer is this node's part in announcing addresses.
type Announcer struct {
	Counts *Counts

	cfg      Config
	lease    *leaseKeeper
	observer *observer
	prober   *prober
	down     atomic.Pointer[map[string]bool] // interfaces that are cut off, as last decided
	claims   chan Claim
	macs     []net.HardwareAddr // last told to the responder

	coordinator atomic.Pointer[string]
}

// New returns an Announcer that does nothing yet.
func New(cfg Config) *Announcer {
	cfg.Timing = cfg.Timing.withDefaults()
	if cfg.Clock == nil {
		cfg.Clock = SystemClock{}
	}
	a := &Announcer{Counts: &Counts{}, cfg: cfg, claims: make(chan Claim, 1024)}
	a.prober = &prober{node: cfg.Node, db: cfg.DB, clock: cfg.Clock, timing: cfg.Timing, asker: cfg.Asker, log: cfg.Log,
		report: a.unheard, verdicts: func() map[string]Verdict { return a.observer.seen.Load().verdicts }, changed: make(chan struct{})}
	a.lease = newLeaseKeeper(cfg.Node, cfg.Timing, cfg.Clock, cfg.DB, cfg.Leases, cfg.LastRead, a.report, cfg.Log)
	a.lease.heard = a.prober.watch
	a.down.Store(&map[string]bool{})
	a.observer = newObserver(cfg.DB, cfg.Clock, cfg.Timing, cfg.LastRead, a.tellClusterMACs)
	return a
}

// Heard takes in a claim that the kernel reports. It does not block: what is
// dropped when claims flood in is found in the responder later.
func (a *Announcer) Heard(c Claim) {
	select {
	case a.claims <- c:
	default:
	}
}

// Release gives up this node's addresses, for a drain or a shutdown of the
// node. It returns once the store has it; a new daemon takes it back.
func (a *Announcer) Release(ctx context.Context) error { return a.lease.release(ctx) }

// Lease says how this node's lease stands.
func (a *Announcer) Lease() LeaseStatus { return a.lease.status() }

// Coordinator is the node that was last seen to be elected, "" before there was one.
func (a *Announcer) Coordinator() string {
	if identity := a.coordinator.Load(); identity != nil {
		return *identity
	}
	return ""
}

// Run announces until ctx ends. Then, unless Release was called, it leaves the
// lease and the responder as they are for Timing.Grace, so that a restarted
// daemon finds its addresses; the store must still be there for that.
func (a *Announcer) Run(ctx context.Context) error {
	sender := a.cfg.Sender
	if sender == nil {
		socket, err := OpenSocket()
		if err != nil {
			return err
		}
		defer socket.Close()
		sender = socket
	}
	if a.prober.asker == nil {
		socket, err := OpenAskSocket()
		if err != nil {
			return err
		}
		defer socket.Close()
		a.prober.asker = socket
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	herald := newHerald(a.cfg.When, a.cfg.Clock, sender, a.lease.Valid, a.cfg.Log, a.Counts)
	groups := newGroups()
	defer groups.Close()
	target := &responderTarget{node: a.cfg.Node, db: a.cfg.DB, responder: a.cfg.Responder, herald: herald, groups: groups,
		held: map[string]Held{}, left: map[string]Held{}, mayTake: a.lease.MayTake,
		detector: newDetector(a.cfg.Detection, herald.when.PerSecond, a.cfg.Clock, sender, a.cfg.Responder, ownMAC(a.cfg.DB), a.cfg.Log)}
	handover := newHandover(a.cfg.Timing)
	referee := &referee{node: a.cfg.Node, db: a.cfg.DB, writer: a.cfg.Writer, clock: a.cfg.Clock, log: a.cfg.Log,
		lease: a.lease, lastRead: a.cfg.LastRead, responder: a.cfg.Responder, herald: herald, detector: target.detector, handover: handover, counts: a.Counts,
		claims: a.claims, every: a.cfg.Timing.tick()}
	placer := &placer{db: a.cfg.DB, writer: a.cfg.Writer, clock: a.cfg.Clock, log: a.cfg.Log,
		observer: a.observer, target: a.cfg.Assignments, policies: a.cfg.PolicyStatuses, drainCordoned: a.cfg.DrainOnCordon}
	fence, err := a.newFence()
	if err != nil {
		return err
	}

	var wg sync.WaitGroup
	wg.Go(func() { a.lease.run(ctx) })
	var stretched error
	wg.Go(func() {
		a.keepFence(ctx, fence, target)
		// At once: to give the office back may take longer than the fence lasts.
		stretched = a.leaveFence(fence)
	})
	wg.Go(func() { a.observer.run(ctx) })
	wg.Go(func() { a.prober.run(ctx) })
	wg.Go(func() { a.decideLocal(ctx) })
	wg.Go(func() { _ = a.reconciler(target, handover).Run(ctx) })
	wg.Go(func() { referee.run(ctx) })
	wg.Go(func() { herald.run(ctx) })
	wg.Go(func() { target.detector.run(ctx) })
	wg.Go(func() { a.tellConflicts(ctx, target) })
	// Without the store, to give the office back takes long, and so does the last
	// renewal: neither waits for the other, or a restart would outlast the grace.
	elected := make(chan error, 1)
	go func() {
		defer cancel()
		elected <- a.electAsTenant(ctx, func(ctx context.Context) {
			var terms sync.WaitGroup
			defer terms.Wait()
			terms.Go(func() { placer.run(ctx) })
			if a.cfg.Lead != nil {
				terms.Go(func() { a.cfg.Lead(ctx) })
			}
		})
	}()
	wg.Wait()
	a.leaveLease(fence)
	return errors.Join(<-elected, stretched)
}

// electAsTenant is elect while this daemon has its node's lease. The lock knows
// nodes by their names alone: two machines of one name would both lead.
func (a *Announcer) electAsTenant(ctx context.Context, lead func(context.Context)) error {
	for ctx.Err() == nil {
		changed := a.lease.check()
		if !a.lease.Tenant() {
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		}
		term, end := context.WithCancel(ctx)
		go func() {
			defer end()
			for a.lease.Tenant() {
				select {
				case <-term.Done():
					return
				case <-changed:
					changed = a.lease.check()
				}
			}
		}()
		err := elect(term, a.cfg.Lock, a.cfg.Timing, a.cfg.Log, lead, func(identity string) { a.coordinator.Store(&identity) })
		end()
		if err != nil {
			return err
		}
	}
	return nil
}

// maxReportedAddrs bounds what a lease says of a node's addresses: it is written
// every second, and would be refused at 256 KiB.
const maxReportedAddrs = 256

// report is what the lease says of the node.
func (a *Announcer) report(snap state.Snapshot) (nodeReport, bool) {
	report, known := a.unheard(snap)
	a.prober.fill(report.interfaces)
	return report, known
}

// unheard is report, without what is heard on the wire.
func (a *Announcer) unheard(snap state.Snapshot) (nodeReport, bool) {
	db := a.cfg.DB
	if !db.Devices.Synced(snap) || !db.L2Policies.Synced(snap) || !db.Nodes.Synced(snap) {
		return nodeReport{}, false
	}
	node, _ := db.Nodes.Get(snap, a.cfg.Node)
	outside := func(d state.Device) bool { return a.cfg.Outside(node, d) }
	// Which of a device's addresses are VIPs is not known before the Services are:
	// until then each that could be one is taken for one.
	carried := func(netip.Addr) bool { return true }
	if db.Services.Synced(snap) {
		carried = state.CarriedBy(db.Services.All(snap))
	}
	devices := db.Devices.Rows(snap)
	addrs := state.OwnAddrs(devices, carried)
	return nodeReport{
		interfaces: Report(devices, db.L2Policies.Rows(snap), node, outside),
		addrs:      addrs[:min(len(addrs), maxReportedAddrs)],
		appliance:  a.cfg.Appliance,
		released:   drained(db, snap, a.cfg.Node),
	}, true
}

func (a *Announcer) tellClusterMACs(leases []state.NodeLease) {
	macs := ClusterMACs(leases, a.cfg.Node)
	if slices.EqualFunc(macs, a.macs, slices.Equal) && a.macs != nil {
		return
	}
	if err := a.cfg.Responder.SetClusterMACs(macs); err != nil {
		a.cfg.Log.Error("tell responder the cluster's hardware addresses", "err", err)
		return
	}
	a.macs = append([]net.HardwareAddr{}, macs...)
}

// localDecided is marked once this node knows what it announces.
const localDecided = "decided/announcements"

func (a *Announcer) decideLocal(ctx context.Context) {
	db := a.cfg.DB
	var heard, valid, seen <-chan struct{}
	_ = db.Follow(ctx, time.Minute, func(snap state.Snapshot) {
		heard, valid, seen = a.prober.watch(), a.lease.check(), a.observer.seen.Load().changed // before they are asked
		if !db.Assigned.Synced(snap) || !db.Devices.Synced(snap) {
			return
		}
		down := a.steppedDown(snap)
		a.tellSteppedDown(*a.down.Swap(&down), down)
		devices := db.Devices.Rows(snap)
		for i, d := range devices {
			devices[i].Up = d.Up && !down[d.Name]
		}
		rows := Local(db.Assigned.Rows(snap), devices, a.cfg.Node)
		if a.lease.Refused() {
			rows = nil // they are the other machine's of this name
		}
		a.cfg.Writer.Update(func(tx *state.Tx) {
			state.Want(tx, db.Announcements, rows, a.cfg.Clock.Wall())
			tx.Mark(localDecided)
		})
	}, db.Assigned.Watch(), db.Devices.Watch(), db.MarksChanged, func(state.Snapshot) <-chan struct{} { return heard },
		func(state.Snapshot) <-chan struct{} { return valid }, func(state.Snapshot) <-chan struct{} { return seen })
}

// steppedDown returns the interfaces that this node is not to announce on, for
// they are cut off from their segments.
func (a *Announcer) steppedDown(snap state.Snapshot) map[string]bool {
	report, known := a.report(snap)
	if !known {
		return nil
	}
	own := state.NodeLease{Node: a.cfg.Node, Interfaces: report.interfaces}
	seen := a.observer.seen.Load()
	return steppedDown(own, a.cfg.DB.NodeLeases.Rows(snap), witnesses(seen.verdicts, seen.unrenewed), seen.isolated, a.lease.Valid())
}

func (a *Announcer) tellSteppedDown(before, now map[string]bool) {
	for name := range now {
		if !before[name] {
			a.cfg.Log.Warn("interface cut off from its segment: this node announces nothing there until it hears the others again, and they it",
				"interface", name)
		}
	}
	for name := range before {
		if !now[name] {
			a.cfg.Log.Info("interface joined with its segment again", "interface", name)
		}
	}
}

func (a *Announcer) reconciler(target *responderTarget, handover *handover) *state.Reconciler[state.Announcement] {
	db := a.cfg.DB
	var leaseChanged, detected <-chan struct{}
	return &state.Reconciler[state.Announcement]{
		DB: db, Writer: a.cfg.Writer, Table: db.Announcements, Target: target, Log: a.cfg.Log, Now: a.cfg.Clock.Wall,
		Gate: func(snap state.Snapshot) bool {
			handover.begin()
			leaseChanged, detected = a.lease.check(), target.detector.changed() // before any Hold of this pass asks for them
			return state.Marked(snap, localDecided)
		},
		Hold: func(snap state.Snapshot, row state.Announcement) state.Reason {
			to, _ := db.Assigned.Get(snap, row.Addr.String())
			another := to.Node != "" && to.Node != a.cfg.Node
			if handover.stays(row, another && a.lease.Valid() && !(*a.down.Load())[row.Interface], a.cfg.Clock.Boottime()) {
				return state.ReasonHandingOver
			}
			if reason := hold(db, snap, row, a.lease.MayTake() || a.lease.Armed() && target.mayReturn(row)); reason != "" {
				return reason
			}
			return target.Hold(snap, row)
		},
		Wake: []state.Watch{db.Frontends.Watch(), func(state.Snapshot) <-chan struct{} { return leaseChanged },
			func(state.Snapshot) <-chan struct{} { return handover.changed() }, func(state.Snapshot) <-chan struct{} { return detected }},
	}
}

// hold says why an address is not to be announced yet: nothing serves it here,
// or this node has no right to take it.
func hold(db *state.DB, snap state.Snapshot, row state.Announcement, mayTake bool) state.Reason {
	if row.Status.Phase == state.Deleting || row.Status.Phase == state.Done {
		return ""
	}
	served := false
	for f := range db.Frontends.By(snap, state.IndexAddr, row.Addr.String()) {
		if !f.Status.Wanted() {
			continue
		}
		if f.Status.Phase != state.Done {
			return state.ReasonWaitingForDatapath
		}
		served = true
	}
	switch {
	case !served:
		return state.ReasonWaitingForDatapath
	case !mayTake:
		return state.ReasonLeaseInvalid
	}
	return ""
}

func (a *Announcer) newFence() (*fence, error) {
	until, err := a.cfg.Responder.ValidUntil()
	if err != nil {
		return nil, fmt.Errorf("read responder's valid_until: %w", err)
	}
	return &fence{duration: a.cfg.Timing.Duration, until: until}, nil
}

// keepFence pushes valid_until forward for as long as the daemon lives.
func (a *Announcer) keepFence(ctx context.Context, f *fence, target *responderTarget) {
	for ctx.Err() == nil {
		a.lease.check()
		if err := a.pushFence(f, target); err != nil {
			a.cfg.Log.Error("push responder's valid_until", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-a.cfg.Clock.After(a.cfg.Timing.Duration / 12):
		}
	}
}

func (a *Announcer) pushFence(f *fence, target *responderTarget) error {
	lastRead := a.cfg.LastRead() // before the snapshot, which is no older
	until, resumed, ok := f.next(a.cfg.Clock.Boottime(), a.lease.Renewed(), lastRead, a.lease.Valid())
	if !ok {
		a.lease.arm(false)
		return nil
	}
	if resumed {
		snap := a.cfg.DB.Snapshot()
		if !a.cfg.DB.Assigned.Synced(snap) {
			return nil
		}
		if err := target.disown(snap); err != nil {
			return err
		}
	}
	if err := a.cfg.Responder.Renew(until); err != nil {
		return err
	}
	f.pushed(until)
	a.lease.arm(true)
	return nil
}

// leaveFence leaves the responder as the next daemon is to find it.
func (a *Announcer) leaveFence(f *fence) error {
	now := a.cfg.Clock.Boottime()
	if a.lease.Released() {
		if err := a.cfg.Responder.Renew(now); err != nil {
			return fmt.Errorf("end responder's valid_until: %w", err)
		}
		return nil
	}
	if now >= f.until {
		return nil // lapsed: nothing is answered, so nothing is to be kept
	}
	until := now + a.cfg.Timing.Grace
	if err := a.cfg.Responder.Renew(until); err != nil {
		return fmt.Errorf("stretch responder's valid_until: %w", err)
	}
	f.pushed(until)
	return nil
}

// leaveLease is the last renewal, when all that depends on the lease has ended.
// Without the store it cannot be: then nobody can move the addresses either,
// and to stop is no failure.
func (a *Announcer) leaveLease(f *fence) {
	if a.lease.Released() || a.cfg.Clock.Boottime() >= f.until {
		return
	}
	// Nothing to report: the lease is as the last daemon left it.
	if err := a.lease.renew(context.Background(), a.cfg.Timing.Grace); err != nil && !errors.Is(err, errNothingToReport) {
		a.cfg.Log.Warn("leave lease for the restart: it stays as it was last renewed", "err", err)
	}
}
