package announce

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// leaseCalls hands every renewal to the test, which says how it ends.
type leaseCalls struct {
	calls chan leaseCall
	mu    sync.Mutex
	under int
	most  int
}

type leaseCall struct {
	lease state.NodeLease
	end   chan error
}

func (l *leaseCalls) RenewLease(ctx context.Context, lease state.NodeLease) error {
	l.mu.Lock()
	l.under++
	l.most = max(l.most, l.under)
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.under--
		l.mu.Unlock()
	}()
	call := leaseCall{lease, make(chan error)}
	select {
	case l.calls <- call:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-call.end:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *leaseCalls) next(t *testing.T) leaseCall {
	t.Helper()
	select {
	case c := <-l.calls:
		return c
	case <-time.After(10 * time.Second):
		t.Fatal("no renewal")
		panic("unreachable")
	}
}

func (l *leaseCalls) none(t *testing.T, what string) {
	t.Helper()
	select {
	case <-l.calls:
		t.Errorf("renewed %s", what)
	case <-time.After(50 * time.Millisecond):
	}
}

func TestLeaseKeeper(t *testing.T) {
	db, w := state.New()
	w.Update(func(tx *state.Tx) { db.Devices.Put(tx, eth1); db.NodeLeases.MarkSynced(tx) })
	clock, calls := newFakeClock(), &leaseCalls{calls: make(chan leaseCall)}
	report := func(s state.Snapshot) (nodeReport, bool) {
		devices := db.Devices.Rows(s)
		return nodeReport{interfaces: Report(devices, nil, state.Node{}, func(state.Device) bool { return true }),
			addrs: state.OwnAddrs(devices, func(netip.Addr) bool { return true })}, true
	}
	k := newLeaseKeeper("a", DefaultTiming, clock, db, calls, clock.Boottime, report, quiet)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); k.run(ctx) }()
	waitForTimer := func() {
		t.Helper()
		eventually(t, 5*sec, "the keeper waits", func() bool {
			clock.mu.Lock()
			defer clock.mu.Unlock()
			return len(clock.waiting) > 0
		})
	}

	first := calls.next(t)
	if l := first.lease; l.Node != "a" || l.Duration != 3*sec || l.Released || len(l.Interfaces) != 1 || l.Interfaces[0].Name != "eth1" {
		t.Errorf("lease is %+v", l)
	}
	if k.Valid() {
		t.Error("valid before the store has it")
	}
	clock.Advance(2 * sec) // the call takes that long
	first.end <- nil
	eventually(t, 5*sec, "valid", k.Valid)
	changed := k.check()
	clock.Advance(250 * time.Millisecond)
	if k.Valid() {
		t.Error("valid for ¾ of the duration since the store answered, not since the call was begun")
	}
	k.check()
	select {
	case <-changed:
	default:
		t.Error("nobody is told that the lease is stale")
	}

	// The next one was due while the first was under way.
	second := calls.next(t)
	if second.lease.Renewal == first.lease.Renewal {
		t.Error("renewal did not change")
	}
	second.end <- errors.New("store is down")
	waitForTimer()
	calls.none(t, "at once after a failure")
	clock.Advance(500 * time.Millisecond)
	calls.next(t).end <- nil
	waitForTimer()
	calls.none(t, "too early")

	// News does not wait for the interval.
	w.Update(func(tx *state.Tx) {
		dev := eth1
		dev.Up = false
		db.Devices.Put(tx, dev)
	})
	clock.Advance(250 * time.Millisecond)
	third := calls.next(t)
	if third.lease.Interfaces[0].Up {
		t.Error("lease does not have the news")
	}
	third.end <- nil
	waitForTimer()

	// An address on a device that nothing is announced on is news, too.
	w.Update(func(tx *state.Tx) {
		db.Devices.Put(tx, state.Device{Name: "mgmt0", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.2.15/24"), netip.MustParsePrefix("10.0.2.77/32")}})
	})
	clock.Advance(250 * time.Millisecond)
	moved := calls.next(t)
	if l := moved.lease; len(l.Interfaces) != 1 || len(l.Addrs) != 1 || l.Addrs[0].String() != "10.0.2.15" {
		t.Errorf("lease is %+v", l)
	}
	moved.end <- nil
	waitForTimer()

	released := make(chan error, 1)
	go func() { released <- k.release(ctx) }()
	fourth := calls.next(t)
	if !fourth.lease.Released {
		t.Error("not released")
	}
	calls.none(t, "twice at once")
	fourth.end <- nil
	if err := <-released; err != nil {
		t.Error(err)
	}
	clock.Advance(sec)
	fifth := calls.next(t)
	if !fifth.lease.Released {
		t.Error("a later renewal takes the release back")
	}
	cancel() // with a call under way
	<-done
	if calls.most != 1 {
		t.Errorf("%d renewals at once", calls.most)
	}
}

// A daemon that starts does not tell the coordinator that its node has no
// interfaces: that would move the addresses it holds.
func TestLeaseWaitsForInterfaces(t *testing.T) {
	db, w := state.New()
	clock, calls := newFakeClock(), &leaseCalls{calls: make(chan leaseCall)}
	a := New(Config{Node: "a", DB: db, Writer: w, Log: quiet, Clock: clock, Leases: calls, LastRead: clock.Boottime,
		Outside: func(state.Node, state.Device) bool { return true }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); a.lease.run(ctx) }()
	defer func() { cancel(); <-done }()

	calls.none(t, "without having looked")
	w.Update(func(tx *state.Tx) { db.Nodes.MarkSynced(tx); db.L2Policies.MarkSynced(tx) })
	calls.none(t, "before the devices were listed")
	if err := a.lease.renew(ctx, sec); !errors.Is(err, errNothingToReport) {
		t.Errorf("renew: %v", err)
	}
	w.Update(func(tx *state.Tx) { db.Devices.Put(tx, eth1); db.Devices.MarkSynced(tx) })
	calls.none(t, "before it is known who has the lease")
	w.Update(func(tx *state.Tx) { db.NodeLeases.MarkSynced(tx) })
	if l := calls.next(t).lease; len(l.Interfaces) != 1 {
		t.Errorf("first lease reports %v", l.Interfaces)
	}
}

// A call that hangs is given up when there is still time for another.
func TestLeaseCallHangs(t *testing.T) {
	db, _ := state.New()
	timing := Timing{Duration: 200 * time.Millisecond, Renew: 50 * time.Millisecond, Grace: sec}
	calls := &leaseCalls{calls: make(chan leaseCall)}
	clock := SystemClock{}
	k := newLeaseKeeper("a", timing, clock, db, calls, clock.Boottime, func(state.Snapshot) (nodeReport, bool) { return nodeReport{}, true }, quiet)
	started := time.Now()
	err := k.renew(t.Context(), timing.Duration)
	if err == nil || !strings.Contains(err.Error(), "renew lease of a: no answer from the store in time") {
		t.Errorf("renew: %v", err)
	}
	if took := time.Since(started); took < 90*time.Millisecond || took > 5*time.Second {
		t.Errorf("given up after %v, want half of the lease's duration", took)
	}
}

func TestSystemClock(t *testing.T) {
	var c SystemClock
	a := c.Boottime()
	<-c.After(time.Millisecond)
	if b := c.Boottime(); a <= 0 || b-a < time.Millisecond {
		t.Errorf("boot time went from %v to %v over a millisecond", a, b)
	}
}
