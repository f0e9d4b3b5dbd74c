package announce

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

var quiet = slog.New(slog.DiscardHandler)

// eventually waits until ok is true.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// fakeClock stands still until told.
type fakeClock struct {
	mu      sync.Mutex
	now     time.Duration
	waiting map[chan time.Time]time.Duration
}

func newFakeClock() *fakeClock {
	return &fakeClock{now: time.Hour, waiting: map[chan time.Time]time.Duration{}}
}

func (c *fakeClock) Boottime() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) Wall() time.Time { return epoch.Add(c.Boottime()) }

func (c *fakeClock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan time.Time, 1)
	c.waiting[ch] = c.now + d
	return ch
}

func (c *fakeClock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now += d
	for ch, at := range c.waiting {
		if at <= c.now {
			ch <- epoch.Add(c.now)
			delete(c.waiting, ch)
		}
	}
}

// waitedFor says whether somebody waits for d from now on.
func (c *fakeClock) waitedFor(d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, at := range c.waiting {
		if at == c.now+d {
			return true
		}
	}
	return false
}

// fakeResponder is a kernel that answers ARP, as the maps have it.
type fakeResponder struct {
	mu      sync.Mutex
	entries map[entryKey]Held
	until   time.Duration
	macs    []net.HardwareAddr
	fail    error
	lists   int // calls of Held
}

func newFakeResponder() *fakeResponder { return &fakeResponder{entries: map[entryKey]Held{}} }

func (r *fakeResponder) Set(addr netip.Addr, ifindex int, mac net.HardwareAddr, generation int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return r.fail
	}
	k := entryKey{addr, ifindex}
	e := r.entries[k]
	if e.Generation != generation {
		e = Held{}
	}
	e.Addr, e.Ifindex, e.MAC, e.Generation, e.Probing = addr, ifindex, mac, generation, false
	r.entries[k] = e
	return nil
}

func (r *fakeResponder) Probe(addr netip.Addr, ifindex int, mac net.HardwareAddr, generation int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return r.fail
	}
	r.entries[entryKey{addr, ifindex}] = Held{Addr: addr, Ifindex: ifindex, MAC: mac, Generation: generation, Probing: true}
	return nil
}

func (r *fakeResponder) Delete(addr netip.Addr, ifindex int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.entries, entryKey{addr, ifindex})
	return r.fail
}

func (r *fakeResponder) change(k entryKey, f func(*Held)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.entries[k]; ok {
		f(&e)
		r.entries[k] = e
	}
}

func (r *fakeResponder) Unmute(addr netip.Addr, ifindex int) error {
	r.change(entryKey{addr, ifindex}, func(e *Held) { e.Muted = false })
	return nil
}

func (r *fakeResponder) Held() ([]Held, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lists++
	return slices.Collect(maps.Values(r.entries)), r.fail
}

func (r *fakeResponder) Renew(until time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.until = until
	return nil
}

func (r *fakeResponder) ValidUntil() (time.Duration, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.until, nil
}

func (r *fakeResponder) SetClusterMACs(macs []net.HardwareAddr) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.macs = macs
	return nil
}

// text is the entries, sorted: address@ifindex#generation, muted or not.
func (r *fakeResponder) text() string {
	held, _ := r.Held()
	slices.SortFunc(held, func(a, b Held) int { return a.Addr.Compare(b.Addr) })
	s := ""
	for _, e := range held {
		s += fmt.Sprintf("%s@%d#%d", e.Addr, e.Ifindex, e.Generation)
		if e.Muted {
			s += " muted"
		}
		if e.Probing {
			s += " probing"
		}
		s += "\n"
	}
	return s
}

// answers says whether an ARP request for addr gets a reply.
func (r *fakeResponder) answers(addr netip.Addr, now time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.entries[entryKey{addr, 2}]
	return ok && !e.Muted && !e.Probing && now < r.until
}

// wireLog records what is sent.
type wireLog struct {
	mu     sync.Mutex
	sent   []string
	probes []string
	heard  func(ifindex int, mac net.HardwareAddr, addr netip.Addr)
	asked  func(addr netip.Addr)
}

func (w *wireLog) Send(ifindex int, mac net.HardwareAddr, addr netip.Addr) error {
	w.mu.Lock()
	w.sent = append(w.sent, fmt.Sprintf("%s@%d is at %s", addr, ifindex, mac))
	w.mu.Unlock()
	if w.heard != nil {
		w.heard(ifindex, mac, addr)
	}
	return nil
}

func (w *wireLog) Probe(ifindex int, mac net.HardwareAddr, addr netip.Addr) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.probes = append(w.probes, fmt.Sprintf("%s@%d", addr, ifindex))
	if w.asked != nil {
		w.asked(addr)
	}
	return nil
}

func (w *wireLog) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.sent)
}

// fakeStore is one store for several nodes. Each node has its tables.
type fakeStore struct {
	mu       sync.Mutex
	renewals int
	leases   map[string]state.NodeLease
	assigned map[netip.Addr]state.Assignment
	clients  []*fakeClient
}

func newFakeStore() *fakeStore {
	return &fakeStore{leases: map[string]state.NodeLease{}, assigned: map[netip.Addr]state.Assignment{}}
}

// fakeClient is a node's way to the store: LeaseWriter, Target of Assignments.
type fakeClient struct {
	store  *fakeStore
	db     *state.DB
	writer *state.Writer
	clock  Clock

	cut  bool // guarded by store.mu
	read time.Duration
}

var errCut = fmt.Errorf("connect: no route to host")

// sync is a read: the client's tables become the store's content. Under store.mu.
func (c *fakeClient) sync() {
	if c.cut {
		return
	}
	c.writer.Update(func(tx *state.Tx) {
		c.db.NodeLeases.Replace(tx, slices.Collect(maps.Values(c.store.leases)), func(a, b state.NodeLease) bool { return a.Renewal == b.Renewal && a.Drained == b.Drained })
		c.db.Assigned.Replace(tx, slices.Collect(maps.Values(c.store.assigned)), state.Assignment.SameSpec)
		c.db.NodeLeases.MarkSynced(tx)
		c.db.Assigned.MarkSynced(tx)
	})
	c.read = c.clock.Boottime()
}

// do changes the store and tells all who can hear.
func (c *fakeClient) do(f func()) error {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	if c.cut {
		return errCut
	}
	f()
	for _, other := range c.store.clients {
		other.sync()
	}
	return nil
}

func (c *fakeClient) LastRead() time.Duration {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	c.sync()
	return c.read
}

func (c *fakeClient) Cut(cut bool) {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	c.cut = cut
}

func (c *fakeClient) RenewLease(_ context.Context, l state.NodeLease) error {
	return c.do(func() {
		c.store.renewals++
		l.Renewal = fmt.Sprint(c.store.renewals)
		l.Drained = c.store.leases[l.Node].Drained // a renewal keeps what is another's
		c.store.leases[l.Node] = l
	})
}

// drain writes into the lease of a node that it is to have no addresses, or may again.
func (c *fakeClient) drain(node string, drained bool) error {
	return c.do(func() {
		l := c.store.leases[node]
		l.Drained = drained
		c.store.leases[node] = l
	})
}

func (c *fakeClient) Update(_ context.Context, a state.Assignment) error {
	return c.do(func() {
		if a.Generation >= c.store.assigned[a.Addr].Generation {
			c.store.assigned[a.Addr] = a.WithStatus(state.Status{})
		}
	})
}

func (c *fakeClient) Delete(_ context.Context, a state.Assignment) error {
	return c.do(func() { delete(c.store.assigned, a.Addr) })
}

func (c *fakeClient) Prune(_ context.Context, wanted []state.Assignment) error {
	return c.do(func() {
		maps.DeleteFunc(c.store.assigned, func(addr netip.Addr, _ state.Assignment) bool {
			return !slices.ContainsFunc(wanted, func(a state.Assignment) bool { return a.Addr == addr })
		})
	})
}

// fakeAsker asks a cluster's nodes, whose kernels answer whatever their daemons do.
type fakeAsker struct {
	node    *clusterNode
	answers chan Answer
}

func (f *fakeAsker) Ask(ifindex int, _ net.HardwareAddr, _, asked netip.Addr, _ net.HardwareAddr) error {
	if f.node.cluster.gateway.IsValid() && f.node.cluster.gateway == asked && !f.node.unplugged.Load() {
		f.answers <- Answer{ifindex, asked, net.HardwareAddr{2, 0, 0, 0, 0, 200}}
	}
	for _, n := range f.node.cluster.nodes {
		if addr(n.id) == asked && !n.unplugged.Load() && !f.node.unplugged.Load() {
			f.answers <- Answer{ifindex, asked, net.HardwareAddr{2, 0, 0, 0, 0, byte(n.id)}}
		}
	}
	return nil
}

func (f *fakeAsker) Answers() <-chan Answer { return f.answers }
