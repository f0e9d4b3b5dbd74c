package announce

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/seamark-lb/seamark/state"
)

// elect runs lead whenever this node is elected, until ctx ends. lead's ctx
// ends with the office; the office is given to another only once lead returned.
// Like a node's lease, the office is over at ¾ of its duration: the elector
// alone would go on for as long as its calls to a store that hangs.
// elected is told of every coordinator there is.
func elect(ctx context.Context, lock resourcelock.Interface, t Timing, log *slog.Logger,
	lead func(context.Context), elected func(identity string)) error {
	ctx = logr.NewContextWithSlogLogger(ctx, log)
	var leading sync.Mutex // one term at a time, also when the next begins early
	defer func() {
		leading.Lock()
		defer leading.Unlock()
	}()
	// Whole seconds, as the lock's record has them.
	duration := max(t.Duration.Round(time.Second), time.Second)
	for ctx.Err() == nil {
		term, end := context.WithCancel(ctx)
		done := make(chan struct{})
		office := &office{Interface: lock, done: done, lasts: valid(duration), end: end}
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: office, Name: lock.Describe(),
			LeaseDuration: duration, RenewDeadline: t.Duration * 2 / 3, RetryPeriod: t.Renew,
			ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(ctx context.Context) {
					defer close(done)
					leading.Lock()
					defer leading.Unlock()
					if ctx.Err() == nil {
						lead(ctx)
					}
				},
				OnStoppedLeading: func() {},
				OnNewLeader:      elected,
			},
		})
		if err != nil {
			end()
			return fmt.Errorf("elect coordinator: %w", err)
		}
		elector.Run(term)
		end()
		office.stop()
	}
	return nil
}

// office is a lock that ends the leader's term when it was not renewed, and is
// released only when the leader is done.
type office struct {
	resourcelock.Interface
	done  <-chan struct{}
	lasts time.Duration // after a renewal was begun
	end   func()

	mu    sync.Mutex
	timer *time.Timer // calls end; nil before the first term
}

// Create is resourcelock.Interface's.
func (o *office) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return o.write(ctx, record, o.Interface.Create)
}

// Update is resourcelock.Interface's. It waits before it writes a record
// without a holder.
func (o *office) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	if record.HolderIdentity == "" {
		select {
		case <-o.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return o.write(ctx, record, o.Interface.Update)
}

func (o *office) write(ctx context.Context, record resourcelock.LeaderElectionRecord,
	write func(context.Context, resourcelock.LeaderElectionRecord) error) error {
	begun := time.Now()
	if err := write(ctx, record); err != nil || record.HolderIdentity == "" {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	left := o.lasts - time.Since(begun)
	if o.timer == nil {
		o.timer = time.AfterFunc(left, o.end)
	} else {
		o.timer.Reset(left)
	}
	return nil
}

func (o *office) stop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.timer != nil {
		o.timer.Stop()
	}
}

// view is what the observer last saw of all nodes.
type view struct {
	verdicts map[string]Verdict
	isolated map[nodeInterface]bool
	// unrenewed as of Liveness.
	unrenewed map[string]bool
	// settled: watched for long enough that a node that lives has shown.
	settled bool
	changed chan struct{} // closes when there is another view
}

// observer watches the leases of all nodes, on every node.
type observer struct {
	db        *state.DB
	clock     Clock
	timing    Timing
	lastRead  func() time.Duration
	liveness  *Liveness
	isolation *isolation
	seen      atomic.Pointer[view]
	// told is called after each look.
	told func([]state.NodeLease)

	interfaces map[string][]state.LeaseInterface
}

func newObserver(db *state.DB, clock Clock, t Timing, lastRead func() time.Duration, told func([]state.NodeLease)) *observer {
	o := &observer{db: db, clock: clock, timing: t, lastRead: lastRead, told: told, liveness: NewLiveness(t), isolation: newIsolation(t)}
	o.seen.Store(&view{changed: make(chan struct{})})
	return o
}

func (o *observer) run(ctx context.Context) {
	for ctx.Err() == nil {
		o.look()
		select {
		case <-ctx.Done():
		case <-o.clock.After(o.timing.tick()):
		}
	}
}

func (o *observer) look() {
	lastRead := o.lastRead() // before the snapshot, which is no older
	snap := o.db.Snapshot()
	if !o.db.NodeLeases.Synced(snap) {
		return
	}
	leases := o.db.NodeLeases.Rows(snap)
	now := o.clock.Boottime()
	o.liveness.Observe(now, lastRead, leases)
	interfaces := make(map[string][]state.LeaseInterface, len(leases))
	for _, l := range leases {
		interfaces[l.Node] = l.Interfaces
	}
	was := o.seen.Load()
	next := &view{verdicts: o.liveness.Verdicts(), settled: o.liveness.Watched() >= o.timing.Duration, changed: make(chan struct{})}
	next.isolated, next.unrenewed = o.isolation.observe(now, leases, next.verdicts), o.liveness.Unrenewed()
	same := func(a, b []state.LeaseInterface) bool { return slices.EqualFunc(a, b, sameInterface) }
	if !maps.Equal(was.verdicts, next.verdicts) || !maps.Equal(was.isolated, next.isolated) || !maps.Equal(was.unrenewed, next.unrenewed) || was.settled != next.settled || !maps.EqualFunc(o.interfaces, interfaces, same) {
		o.interfaces = interfaces
		o.seen.Store(next)
		close(was.changed)
	}
	o.told(leases)
}

// finder of the Problems that placement finds.
const finder = "placement"

// placer is what the coordinator does: it decides who announces what, and has
// it written.
type placer struct {
	db       *state.DB
	writer   *state.Writer
	clock    Clock
	log      *slog.Logger
	observer *observer
	target   state.Target[state.Assignment]
	policies state.Target[state.PolicyStatus]
	// drainCordoned is Config.DrainOnCordon.
	drainCordoned bool
}

func (p *placer) run(ctx context.Context) {
	p.log.Info("coordinator: this node decides who announces which address")
	defer p.log.Info("coordinator: no longer this node")
	// On every node but the coordinator the tables are empty.
	defer p.writer.Report(p.db.ClusterProblems, finder, nil)
	defer p.writer.Update(func(tx *state.Tx) {
		p.db.Assignments.Replace(tx, nil, state.Assignment.SameSpec)
		p.db.PolicyStatuses.Replace(tx, nil, state.PolicyStatus.SameSpec)
	})

	reconciler := &state.Reconciler[state.Assignment]{
		DB: p.db, Writer: p.writer, Table: p.db.Assignments, Target: p.target, Log: p.log, Now: p.clock.Wall,
	}
	statuses := &state.Reconciler[state.PolicyStatus]{
		DB: p.db, Writer: p.writer, Table: p.db.PolicyStatuses, Target: p.policies, Log: p.log, Now: p.clock.Wall,
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _ = statuses.Run(ctx) })
	placed := false
	var seen *view
	verdicts := func(state.Snapshot) <-chan struct{} { return seen.changed }
	_ = p.db.Follow(ctx, time.Minute, func(snap state.Snapshot) {
		seen = p.observer.seen.Load()
		if !placeable(p.db, snap) || !seen.settled && !p.allLive(snap, seen) {
			return
		}
		in := readInputs(p.db, snap, seen)
		in.DrainCordoned = p.drainCordoned
		rows := Place(in, p.clock.Wall())
		problems := Problems(in)
		p.tell(problems)
		p.writer.Update(func(tx *state.Tx) {
			if !placed {
				p.adopt(tx)
			}
			state.Want(tx, p.db.Assignments, rows, p.clock.Wall())
			p.rewriteLost(tx)
			state.Want(tx, p.db.PolicyStatuses, policyStatuses(in.Policies, problems), p.clock.Wall())
		})
		if !placed {
			// Not before the first placement: the table was empty, and pruning would have emptied the store.
			placed = true
			wg.Go(func() { _ = reconciler.Run(ctx) })
		}
		_ = state.Wait(ctx, snap, restOf(len(rows)), verdicts, p.db.MarksChanged)
	}, p.db.Services.Watch(), p.db.EndpointSlices.Watch(), p.db.Nodes.Watch(), p.db.L2Policies.Watch(), p.db.Pools.Watch(), p.db.Agents.Watch(),
		p.db.Assigned.Watch(), p.db.MarksChanged, verdicts)
}

// restOf is how long the placement of so many addresses stays as it is, unless there
// is news of the nodes: for each address that comes, a slice with all those beside it
// is written, and read by every node.
func restOf(addresses int) time.Duration {
	return min(time.Duration(addresses)*time.Millisecond, time.Second)
}

// allLive says whether there is no node left to wait for.
func (p *placer) allLive(snap state.Snapshot, seen *view) bool {
	for _, n := range withAppliances(p.db.Nodes.Rows(snap), p.db.NodeLeases.All(snap)) {
		switch seen.verdicts[n.Name] {
		case Live, Resting, Released:
		default:
			return false
		}
	}
	return true
}

// adopt starts from what the store holds, so that only changes are written.
func (p *placer) adopt(tx *state.Tx) {
	for _, a := range p.db.Assigned.Rows(tx) {
		p.db.Assignments.Put(tx, a.WithStatus(state.Status{Phase: state.Done, Changed: p.clock.Wall()}))
	}
}

// rewriteLost has decisions written again that the store no longer holds, as
// when a slice was deleted by hand: every node has withdrawn their addresses.
// One that was just written and is not back from the store yet costs a look there.
func (p *placer) rewriteLost(tx *state.Tx) {
	for _, row := range p.db.Assignments.Rows(tx) {
		if _, held := p.db.Assigned.Get(tx, row.RowKey()); !held && row.Status.Phase == state.Done {
			p.db.Assignments.Put(tx, row.WithStatus(state.Status{Phase: state.Pending, Changed: p.clock.Wall()}))
		}
	}
}

// tell reports the problems, and logs those that were not there before.
func (p *placer) tell(problems []state.Problem) {
	for _, problem := range p.writer.Report(p.db.ClusterProblems, finder, problems) {
		p.log.Warn("policy does not do what it says", "object", problem.Object, "field", problem.Field,
			"problem", problem.Message, "cure", problem.Cure)
	}
}
