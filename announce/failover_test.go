package announce

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// timedWire records when each address was announced, first and last.
type timedWire struct {
	mu          sync.Mutex
	first, last map[netip.Addr]time.Time
	sent        int
}

func (w *timedWire) Send(_ int, _ net.HardwareAddr, addr netip.Addr) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last[addr] = time.Now()
	if _, before := w.first[addr]; !before {
		w.first[addr] = w.last[addr]
	}
	w.sent++
	return nil
}

func (w *timedWire) Probe(int, net.HardwareAddr, netip.Addr) error { return nil }

func (w *timedWire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent
}

// patientStore takes every lease.
type patientStore struct{}

func (patientStore) RenewLease(context.Context, state.NodeLease) error { return nil }

// Five thousand addresses of a dead node become this one's, a thousand with each
// slice that is read. The test says how long it takes until each is announced, by
// the tables, the reconciler and the herald of a daemon.
func TestFailoverOfManyAddresses(t *testing.T) {
	const addrs, slice = 5000, 1000
	db, w := state.New()
	wire := &timedWire{first: map[netip.Addr]time.Time{}, last: map[netip.Addr]time.Time{}}
	a := New(Config{
		Node: "a", DB: db, Writer: w, Log: quiet,
		Leases: patientStore{}, LastRead: SystemClock{}.Boottime, PolicyStatuses: noStatuses{},
		Lock:      &fakeLock{sharedLock: &sharedLock{}, identity: "a", cut: func() bool { return true }}, // another coordinates
		Responder: newFakeResponder(), Sender: wire, Asker: askerChannels{make(chan netip.Addr, 1000), make(chan Answer)},
		Outside: func(state.Node, state.Device) bool { return true },
	})
	var assigned []state.Assignment
	w.Update(func(tx *state.Tx) {
		dev := eth1
		dev.Prefixes = []netip.Prefix{netip.MustParsePrefix("10.1.0.1/16")}
		db.Devices.Put(tx, dev)
		for i := range addrs {
			addr := netip.AddrFrom4([4]byte{10, 1, byte(1 + i>>8), byte(i)})
			svc := service(fmt.Sprint("s", i), addr)
			db.Services.Put(tx, svc)
			db.Frontends.Put(tx, state.Frontend{Addr: addr, Port: 80, Protocol: state.TCP, Service: svc.Name, Status: state.Status{Phase: state.Done}})
			assigned = append(assigned, state.Assignment{Addr: addr, Service: svc.Name, Node: "dead", Interfaces: []string{"eth1"}, Generation: 1})
		}
		db.Assigned.Replace(tx, assigned, state.Assignment.SameSpec)
		for _, mark := range []func(*state.Tx){db.Devices.MarkSynced, db.L2Policies.MarkSynced, db.Nodes.MarkSynced, db.Services.MarkSynced, db.NodeLeases.MarkSynced, db.Assigned.MarkSynced} {
			mark(tx)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	eventually(t, 20*sec, "it may take addresses", a.lease.MayTake)

	began := time.Now()
	for from := 0; from < addrs; from += slice {
		w.Update(func(tx *state.Tx) {
			for _, row := range assigned[from : from+slice] {
				row.Node, row.Previous, row.Generation, row.Reason = "a", "dead", 2, state.ReasonLeaseExpired
				db.Assigned.Put(tx, row)
			}
		})
	}
	eventually(t, 60*sec, "all are announced as often as a takeover has it", func() bool { return wire.count() >= addrs*len(DefaultGratuitous.Burst) })
	wire.mu.Lock()
	defer wire.mu.Unlock()
	var first, last time.Duration
	for addr, at := range wire.first {
		first, last = max(first, at.Sub(began)), max(last, wire.last[addr].Sub(began))
	}
	if len(wire.first) != addrs {
		t.Errorf("%d addresses are announced, want %d", len(wire.first), addrs)
	}
	t.Logf("%d addresses: each announced once after %v, and %d times after %v", addrs, first, len(DefaultGratuitous.Burst), last)
}
