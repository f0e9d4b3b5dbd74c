package announce

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/seamark-lb/seamark/state"
)

// sharedLock is the record that several fakeLocks are over.
type sharedLock struct {
	mu     sync.Mutex
	record []byte
}

type fakeLock struct {
	*sharedLock
	identity string
	cut      func() bool
	seen     []byte // as of the last Get or write: Update is compare-and-swap
}

var errChanged = fmt.Errorf("changed since it was read")

func (l *fakeLock) Get(context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut() {
		return nil, nil, errCut
	}
	if l.record == nil {
		return nil, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "leases"}, "coordinator")
	}
	l.seen = l.record
	var record resourcelock.LeaderElectionRecord
	err := json.Unmarshal(l.record, &record)
	return &record, l.record, err
}

func (l *fakeLock) write(record resourcelock.LeaderElectionRecord) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut() {
		return errCut
	}
	if string(l.record) != string(l.seen) {
		return errChanged
	}
	l.record, _ = json.Marshal(record)
	l.seen = l.record
	return nil
}

func (l *fakeLock) Create(_ context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.write(r)
}
func (l *fakeLock) Update(_ context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.write(r)
}
func (l *fakeLock) RecordEvent(string) {}
func (l *fakeLock) Identity() string   { return l.identity }
func (l *fakeLock) Describe() string   { return "coordinator" }

var quick = Timing{Duration: sec, Renew: 250 * time.Millisecond, Grace: 3 * sec}

// One leads at a time, also while a leader takes its time to stop; when one
// stops the next leads without waiting for the lock to run out.
func TestElect(t *testing.T) {
	shared := &sharedLock{}
	var leading, terms atomic.Int32
	leads := make(chan string, 16)
	start := func(name string, cut *atomic.Bool) (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			err := elect(ctx, &fakeLock{sharedLock: shared, identity: name, cut: cut.Load}, quick, quiet, func(ctx context.Context) {
				if leading.Add(1) > 1 {
					t.Errorf("%s leads, and so does another", name)
				}
				terms.Add(1)
				leads <- name
				<-ctx.Done()
				<-time.After(100 * time.Millisecond)
				leading.Add(-1)
			}, func(string) {})
			if err != nil {
				t.Error(err)
			}
		}()
		return func() { cancel(); <-done }
	}
	next := func(within time.Duration) string {
		t.Helper()
		select {
		case name := <-leads:
			return name
		case <-time.After(within):
			t.Fatalf("nobody leads within %v", within)
			return ""
		}
	}
	var cutA, cutB, cutC atomic.Bool
	stopA := start("a", &cutA)
	if got := next(2 * sec); got != "a" {
		t.Errorf("%s leads, want a", got)
	}
	stopB := start("b", &cutB)
	stopA()
	if got := next(900 * time.Millisecond); got != "b" {
		t.Errorf("%s leads, want b", got)
	}
	stopC := start("c", &cutC)
	cutB.Store(true)
	if got := next(5 * sec); got != "c" {
		t.Errorf("%s leads, want c", got)
	}
	cutB.Store(false)
	stopB()
	stopC()
	if leading.Load() != 0 {
		t.Error("elect returned before lead did")
	}
	if err := elect(t.Context(), &fakeLock{sharedLock: shared, identity: "d", cut: cutA.Load}, Timing{Duration: sec, Renew: sec}, quiet, nil, nil); err == nil {
		t.Error("no error for a renew interval as long as the lease")
	}
}

// hangingLock is a lock in a store that at times does not answer.
type hangingLock struct {
	fakeLock
	hangs atomic.Bool
	wrote atomic.Int64 // when the last write was begun, Unix nanoseconds
}

func (l *hangingLock) answer(ctx context.Context) error {
	if l.hangs.Load() {
		select {
		case <-ctx.Done():
		case <-time.After(5 * sec): // as a source's request does
		}
		return errCut
	}
	return nil
}

func (l *hangingLock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	if err := l.answer(ctx); err != nil {
		return nil, nil, err
	}
	return l.fakeLock.Get(ctx)
}

func (l *hangingLock) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.Update(ctx, r)
}

func (l *hangingLock) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	begun := time.Now().UnixNano()
	if err := l.answer(ctx); err != nil {
		return err
	}
	l.wrote.Store(begun)
	return l.fakeLock.Update(ctx, r)
}

// A leader whose store hangs stops before another can be elected, and leads
// again when the store answers.
func TestElectStoreHangs(t *testing.T) {
	lock := &hangingLock{fakeLock: fakeLock{sharedLock: &sharedLock{}, identity: "a", cut: func() bool { return false }}}
	timing := Timing{Duration: 2 * sec, Renew: 500 * time.Millisecond}
	began, ended := make(chan struct{}, 8), make(chan time.Time, 8)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- elect(ctx, lock, timing, quiet, func(ctx context.Context) {
			began <- struct{}{}
			<-ctx.Done()
			ended <- time.Now()
		}, func(string) {})
	}()
	lead := func() {
		t.Helper()
		select {
		case <-began:
		case <-time.After(10 * sec):
			t.Fatal("does not lead")
		}
	}
	lead()
	lock.hangs.Store(true)
	if over := (<-ended).Sub(time.Unix(0, lock.wrote.Load())); over >= timing.Duration {
		t.Errorf("leads for %v after the last renewal, with a lease of %v", over, timing.Duration)
	}
	lock.hangs.Store(false)
	lead()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// cluster is Announcers over one store and one wire.
type cluster struct {
	t     *testing.T
	store *fakeStore
	lock  *sharedLock
	nodes []*clusterNode
	// gateway of the segment, if it has one.
	gateway netip.Addr
}

type clusterNode struct {
	cluster   *cluster
	name      string
	id        int
	client    *fakeClient
	responder *fakeResponder
	wire      *wireLog
	announcer *Announcer
	hears     atomic.Pointer[Announcer] // claims; of the daemon that runs
	unplugged atomic.Bool               // from the segment
	stop      func() error
	lead      func(context.Context)
}

func newCluster(t *testing.T, names ...string) *cluster {
	return newClusterBehind(t, netip.Addr{}, names...)
}

func newClusterBehind(t *testing.T, gateway netip.Addr, names ...string) *cluster {
	c := &cluster{t: t, store: newFakeStore(), lock: &sharedLock{}, gateway: gateway}
	for i, name := range names {
		n := &clusterNode{cluster: c, name: name, id: i + 1, responder: newFakeResponder(), wire: &wireLog{}}
		n.wire.heard = func(_ int, mac net.HardwareAddr, addr netip.Addr) { c.hear(n, mac, addr) }
		n.wire.asked = func(addr netip.Addr) { c.ask(n, addr) }
		c.nodes = append(c.nodes, n)
	}
	for _, n := range c.nodes {
		n.start()
	}
	return c
}

// start is a new daemon on the node: new tables, old kernel.
func (n *clusterNode) start() {
	db, writer := state.New()
	c := n.cluster
	mac := fmt.Sprintf("02:00:00:00:00:%02x", n.id)
	writer.Update(func(tx *state.Tx) {
		for _, m := range c.nodes {
			db.Nodes.Put(tx, state.Node{Name: m.name})
		}
		db.Services.Put(tx, service("web", addr(211)))
		db.L2Policies.Put(tx, lab().Policies[0])
		eth1 := state.Device{Name: "eth1", Index: 2, MAC: mac, Up: true, Prefixes: []netip.Prefix{netip.PrefixFrom(addr(n.id), 24)}}
		if c.gateway.IsValid() {
			eth1.Gateways = []netip.Addr{c.gateway}
		}
		db.Devices.Put(tx, eth1)
		db.Frontends.Put(tx, state.Frontend{Addr: addr(211), Port: 80, Protocol: state.TCP})
		db.Services.MarkSynced(tx)
		db.EndpointSlices.MarkSynced(tx)
		db.Nodes.MarkSynced(tx)
		db.L2Policies.MarkSynced(tx)
		db.Pools.MarkSynced(tx)
		db.Agents.MarkSynced(tx)
		db.Devices.MarkSynced(tx)
	})
	cut := n.client != nil && n.client.cut
	client := &fakeClient{store: c.store, db: db, writer: writer, clock: SystemClock{}, cut: cut}
	c.store.mu.Lock()
	n.client = client
	c.store.clients = nil
	for _, m := range c.nodes {
		if m.client != nil {
			c.store.clients = append(c.store.clients, m.client)
		}
	}
	c.store.mu.Unlock()
	n.announcer = New(Config{
		Node: n.name, DB: db, Writer: writer, Log: quiet, Timing: quick,
		Leases: client, LastRead: client.LastRead, Assignments: client, PolicyStatuses: noStatuses{},
		Lock: &fakeLock{sharedLock: c.lock, identity: n.name, cut: func() bool {
			c.store.mu.Lock()
			defer c.store.mu.Unlock()
			return client.cut
		}},
		Lead: func(ctx context.Context) {
			if n.lead != nil {
				n.lead(ctx)
			}
		},
		Responder: n.responder, Sender: n.wire, Asker: &fakeAsker{node: n, answers: make(chan Answer, 16)}, Outside: func(state.Node, state.Device) bool { return false },
	})
	n.hears.Store(n.announcer)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.announcer.Run(ctx) }()
	n.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	c.t.Cleanup(func() { _ = n.stop() })
}

// served says that the datapath has the frontend.
func (n *clusterNode) served() {
	n.client.writer.Update(func(tx *state.Tx) {
		f, _ := n.client.db.Frontends.Get(tx, "192.168.10.211:80/TCP")
		n.client.db.Frontends.Put(tx, f.WithStatus(state.Status{Phase: state.Done}))
	})
}

// hear is the kernels' part of a gratuitous ARP: cluster nodes' claims mute.
func (c *cluster) hear(from *clusterNode, mac net.HardwareAddr, addr netip.Addr) {
	for _, n := range c.nodes {
		if n != from && !n.unplugged.Load() && !from.unplugged.Load() {
			n.hear(mac, addr)
		}
	}
}

// ask is the kernels' part of a probe: who answers for the address claims it.
func (c *cluster) ask(from *clusterNode, addr netip.Addr) {
	for _, n := range c.nodes {
		if n != from && !n.unplugged.Load() && !from.unplugged.Load() && n.responder.answers(addr, SystemClock{}.Boottime()) {
			from.hear(net.HardwareAddr{2, 0, 0, 0, 0, byte(n.id)}, addr)
		}
	}
}

func (n *clusterNode) hear(mac net.HardwareAddr, addr netip.Addr) {
	at := SystemClock{}.Boottime()
	muted := false
	n.responder.mu.Lock()
	cluster := false
	for _, m := range n.responder.macs {
		cluster = cluster || m.String() == mac.String()
	}
	e, there := n.responder.entries[entryKey{addr, 2}]
	if there && cluster {
		e.Muted, e.ClaimedAt, e.ClaimMAC, muted = true, at, mac, true
		n.responder.entries[entryKey{addr, 2}] = e
	}
	n.responder.mu.Unlock()
	if announcer := n.hears.Load(); there && announcer != nil {
		announcer.Heard(Claim{addr, 2, mac, at, muted})
	}
}

// answering is the nodes that answer for the address.
func (c *cluster) answering() string {
	s := ""
	for _, n := range c.nodes {
		if n.responder.answers(addr(211), SystemClock{}.Boottime()) {
			s += n.name
		}
	}
	return s
}

func (c *cluster) assigned() state.Assignment {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	return c.store.assigned[addr(211)]
}

func (c *cluster) node(name string) *clusterNode {
	for _, n := range c.nodes {
		if n.name == name {
			return n
		}
	}
	c.t.Fatalf("no node %q", name)
	return nil
}

func (n *clusterNode) row() state.Announcement {
	row, _ := n.client.db.Announcements.Get(n.client.db.Snapshot(), "192.168.10.211@eth1")
	return row
}

// A coordinator that takes long to give its office back keeps its addresses.
func TestSlowStopKeepsAddresses(t *testing.T) {
	c := newCluster(t, "a")
	a := c.nodes[0]
	a.served()
	eventually(t, 10*sec, "the address is answered for", func() bool { return c.answering() == "a" })
	a.stop()
	leads := make(chan struct{})
	a.lead = func(ctx context.Context) {
		close(leads)
		<-ctx.Done()
		<-time.After(quick.Duration * 3 / 2)
	}
	a.start()
	<-leads
	a.served()
	eventually(t, 10*sec, "the lease is valid again", a.announcer.lease.Valid)
	if err := a.stop(); err != nil {
		t.Error(err)
	}
	if got := c.answering(); got != "a" {
		t.Errorf("after the stop %q answers, want a", got)
	}
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	if got := c.store.leases["a"].Duration; got != quick.Grace {
		t.Errorf("lease left for %v, want the grace", got)
	}
}

func TestAnnouncers(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	eventually(t, 10*sec, "the address is placed", func() bool { return c.assigned().Node != "" })
	first := c.node(c.assigned().Node)
	eventually(t, 5*sec, "it waits for the datapath", func() bool { return first.row().Status.Reason == state.ReasonWaitingForDatapath })
	if got := c.answering(); got != "" {
		t.Errorf("%s answers before the datapath serves", got)
	}
	for _, n := range c.nodes {
		n.served()
	}
	eventually(t, 5*sec, "the holder answers", func() bool { return c.answering() == first.name })
	eventually(t, 5*sec, "and says so", func() bool { return first.wire.count() >= 3 })
	if a := c.assigned(); a.Generation != 1 || a.Reason != state.ReasonFirstAssignment {
		t.Errorf("first assignment is %+v", a)
	}

	t.Run("a decision deleted from the store is written again", func(t *testing.T) {
		if err := first.client.do(func() { clear(first.client.store.assigned) }); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*sec, "the decision is back", func() bool { return c.assigned().Node == first.name })
		eventually(t, 5*sec, "its holder answers", func() bool { return c.answering() == first.name })
	})

	t.Run("store gone for all moves nothing", func(t *testing.T) {
		for _, n := range c.nodes {
			n.client.Cut(true)
		}
		eventually(t, 5*sec, "all leases stale", func() bool {
			return !c.nodes[0].announcer.lease.Valid() && !c.nodes[1].announcer.lease.Valid() && !c.nodes[2].announcer.lease.Valid()
		})
		for end := time.Now().Add(2 * quick.Duration); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
			if got := c.answering(); got != first.name {
				t.Fatalf("without the store %q answers, want %s", got, first.name)
			}
		}
		for _, n := range c.nodes {
			n.client.Cut(false)
		}
		eventually(t, 5*sec, "all leases valid", func() bool {
			return c.nodes[0].announcer.lease.Valid() && c.nodes[1].announcer.lease.Valid() && c.nodes[2].announcer.lease.Valid()
		})
		if a := c.assigned(); a.Generation != 1 || c.answering() != first.name {
			t.Errorf("after the outage %s answers, assigned %+v", c.answering(), a)
		}
	})

	t.Run("restart moves nothing and says nothing", func(t *testing.T) {
		if err := first.stop(); err != nil {
			t.Fatal(err)
		}
		sent := first.wire.count()
		for end := time.Now().Add(2 * quick.Duration); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
			if got := c.answering(); got != first.name {
				t.Fatalf("while its daemon is stopped %q answers, want %s", got, first.name)
			}
		}
		first.start()
		first.served()
		eventually(t, 5*sec, "row is done", func() bool { return first.row().Status.Phase == state.Done && first.announcer.lease.Valid() })
		if a := c.assigned(); a.Generation != 1 || c.answering() != first.name || first.wire.count() != sent {
			t.Errorf("after the restart %s answers, assigned %+v, %d announcements sent", c.answering(), a, first.wire.count()-sent)
		}
	})

	var second *clusterNode
	t.Run("cut off from the store it yields to the claim", func(t *testing.T) {
		first.client.Cut(true)
		eventually(t, 10*sec, "another answers", func() bool { s := c.answering(); return len(s) == 1 && s != first.name })
		second = c.node(c.answering())
		if a := c.assigned(); a.Generation != 2 || a.Node != second.name || a.Reason != state.ReasonLeaseExpired || a.Previous != first.name {
			t.Errorf("assigned %+v", a)
		}
		eventually(t, 5*sec, "its row says that it is muted", func() bool { return first.row().Status.Reason == state.ReasonMuted })
		first.client.Cut(false)
		eventually(t, 5*sec, "its row and entry go", func() bool { return first.row().Interface == "" && first.responder.text() == "" })
		if a := c.assigned(); a.Generation != 2 || c.answering() != second.name {
			t.Errorf("after its return %s answers, assigned %+v: no failback", c.answering(), a)
		}
	})

	t.Run("a holder that is claimed wrongly stays", func(t *testing.T) {
		kept := second.announcer.Counts.Kept.Load()
		c.hear(first, net.HardwareAddr{2, 0, 0, 0, 0, byte(first.id)}, addr(211))
		eventually(t, 5*sec, "it was muted and answers again", func() bool {
			return second.announcer.Counts.Kept.Load() == kept+1 && c.answering() == second.name
		})
	})

	t.Run("drain", func(t *testing.T) {
		if err := second.announcer.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*sec, "another answers", func() bool { s := c.answering(); return len(s) == 1 && s != second.name })
		if a := c.assigned(); a.Generation != 3 || a.Reason != state.ReasonReleased {
			t.Errorf("assigned %+v", a)
		}
		if err := second.stop(); err != nil {
			t.Fatal(err)
		}
		if until, _ := second.responder.ValidUntil(); until > (SystemClock{}).Boottime() {
			t.Error("a drained node's kernel goes on answering")
		}
	})

	t.Run("address that no Service carries", func(t *testing.T) {
		for _, n := range c.nodes {
			n.client.writer.Update(func(tx *state.Tx) { n.client.db.Services.Delete(tx, "default/web") })
		}
		eventually(t, 10*sec, "nobody answers and the store has nothing", func() bool { return c.answering() == "" && c.assigned().Node == "" })
	})
}

// A daemon that was away while its address moved, and nobody told its kernel,
// does not answer for it again.
func TestReturnAfterLapse(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	for _, n := range c.nodes {
		n.served()
	}
	eventually(t, 10*sec, "the address is answered for", func() bool { return len(c.answering()) == 1 })
	first := c.node(c.answering())
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*sec, "another answers", func() bool { s := c.answering(); return len(s) == 1 && s != first.name })
	// It heard no claim, and its grace is over.
	first.responder.change(entryKey{addr(211), 2}, func(e *Held) { e.Muted = false })
	eventually(t, 10*sec, "grace is over", func() bool {
		until, err := first.responder.ValidUntil()
		return err == nil && (SystemClock{}).Boottime() > until
	})
	before := c.answering()
	first.client.Cut(true)
	first.start()
	first.served()
	for end := time.Now().Add(quick.Duration); time.Now().Before(end); <-time.After(5 * time.Millisecond) {
		if got := c.answering(); got != before {
			t.Fatalf("%q answers, want %s: a daemon that knows nothing yet lets its kernel answer", got, before)
		}
	}
	first.client.Cut(false)
	for first.responder.text() != "" {
		if got := c.answering(); got != before {
			t.Fatalf("%q answers, want %s", got, before)
		}
		<-time.After(time.Millisecond)
	}
	eventually(t, 5*sec, "lease valid", first.announcer.lease.Valid)
	if got := c.answering(); got != before {
		t.Errorf("%q answers, want %s", got, before)
	}
}

// noStatuses is where the statuses of policies go in tests of something else.
type noStatuses struct{}

func (noStatuses) Update(context.Context, state.PolicyStatus) error  { return nil }
func (noStatuses) Delete(context.Context, state.PolicyStatus) error  { return nil }
func (noStatuses) Prune(context.Context, []state.PolicyStatus) error { return nil }
