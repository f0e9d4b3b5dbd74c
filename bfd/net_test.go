package bfd

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/seamark-lb/seamark/state"
)

// host is a network namespace without a name: it is gone when the test's process is.
type host struct {
	t  *testing.T
	do func(func() error) error // on a thread that is there
	ns netns.NsHandle
}

func newHost(t *testing.T) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	calls, results := make(chan func() error), make(chan error)
	h := &host{t: t, do: func(f func() error) error { calls <- f; return <-results }}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for f := range calls {
			results <- f()
		}
	}()
	t.Cleanup(func() { close(calls) })
	h.must(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		h.ns, err = netns.Get()
		return err
	})
	t.Cleanup(func() { h.ns.Close() })
	h.run("ip", "link", "set", "lo", "up")
	return h
}

func (h *host) must(f func() error) {
	h.t.Helper()
	if err := h.do(f); err != nil {
		h.t.Fatal(err)
	}
}

// run runs a command there and returns what it prints.
func (h *host) run(args ...string) string {
	h.t.Helper()
	var out []byte
	h.must(func() (err error) {
		out, err = exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			h.t.Logf("%s: %s", strings.Join(args, " "), out)
		}
		return err
	})
	return string(out)
}

// index of an interface there.
func (h *host) index(name string) (index int) {
	h.t.Helper()
	h.must(func() error {
		link, err := netlink.LinkByName(name)
		if err == nil {
			index = link.Attrs().Index
		}
		return err
	})
	return index
}

// pair is two hosts on one link, eth1 on each, with .1 and .2 of both families.
func pair(t *testing.T) (a, b *host) {
	a, b = newHost(t), newHost(t)
	a.must(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth1"}, PeerName: "eth1", PeerNamespace: netlink.NsFd(b.ns)})
	})
	for i, h := range []*host{a, b} {
		last := string(rune('1' + i))
		h.run("ip", "addr", "add", "192.0.2."+last+"/24", "dev", "eth1")
		h.run("ip", "addr", "add", "2001:db8::"+last+"/64", "dev", "eth1", "nodad")
		h.run("ip", "addr", "add", "fe80::"+last+"/64", "dev", "eth1", "nodad")
		h.run("ip", "link", "set", "eth1", "up")
	}
	return a, b
}

// system is a Speaker of a host.
type system struct {
	*host
	*Speaker
	stop context.CancelFunc
	done chan struct{}
}

func newSystem(t *testing.T, h *host) *system {
	db, writer := state.New()
	s := &system{host: h, Speaker: New(db, writer, slog.New(slog.NewTextHandler(t.Output(), nil))), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	go func() {
		defer close(s.done)
		if err := s.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-s.done })
	return s
}

// every is the interval of rows on real sockets: on a machine that is short of CPU,
// shorter ones would be missed.
const every = 200 * ms

// row between two addresses, over eth1.
func (s *system) row(local, remote string) state.BFDSession {
	return state.BFDSession{Local: netip.MustParseAddr(local), Remote: netip.MustParseAddr(remote), Interface: "eth1", Ifindex: s.index("eth1"),
		MinTx: every, MinRx: every, Multiplier: 3, Owner: "test"}
}

func (s *system) update(row state.BFDSession) {
	s.t.Helper()
	s.must(func() error { return s.Update(context.Background(), row) })
}

// wait waits until the row's state is as is says, and returns it.
func (s *system) wait(row state.BFDSession, what string, within time.Duration, is func(state.BFDState) bool) state.BFDState {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for {
		snap := s.db.Snapshot()
		got, _ := s.db.BFDStates.Get(snap, row.RowKey())
		if is(got) {
			return got
		}
		if state.Wait(ctx, snap, within, s.db.BFDStates.Watch()) != nil {
			s.t.Fatalf("not %s within %v: %+v", what, within, got)
		}
	}
}

func (s *system) waitUp(row state.BFDSession) state.BFDState {
	s.t.Helper()
	return s.wait(row, "up", 10*time.Second, state.BFDState.Up)
}

// patience is for what happens at once on a machine with nothing else to do.
const patience = 10 * time.Second

func TestTwoSpeakers(t *testing.T) {
	hostA, hostB := pair(t)
	a, b := newSystem(t, hostA), newSystem(t, hostB)
	for _, tc := range []struct{ name, a, b string }{{"IPv4", "192.0.2.1", "192.0.2.2"}, {"IPv6", "2001:db8::1", "2001:db8::2"}, {"link-local", "fe80::1", "fe80::2"}} {
		t.Run(tc.name, func(t *testing.T) {
			rowA, rowB := a.row(tc.a, tc.b), b.row(tc.b, tc.a)
			a.update(rowA)
			b.update(rowB)
			a.waitUp(rowA)
			b.waitUp(rowB)
			settled := func(s state.BFDState) bool { return s.Up() && s.Tx == every && s.Detect == 3*every }
			a.wait(rowA, "settled", patience, settled)
			b.wait(rowB, "settled", patience, settled)

			a.run("ip", "link", "set", "eth1", "down")
			b.wait(rowB, "lost", patience, state.BFDState.Lost)
			a.wait(rowA, "lost", patience, state.BFDState.Lost)
			a.run("ip", "link", "set", "eth1", "up")
			for _, lost := range []string{"2001:db8::1/64", "fe80::1/64"} { // with the link
				a.run("ip", "addr", "replace", lost, "dev", "eth1", "nodad")
			}
			a.waitUp(rowA)
			b.waitUp(rowB)

			if err := a.Delete(t.Context(), rowA); err != nil {
				t.Fatal(err)
			}
			got := b.wait(rowB, "down", patience, func(s state.BFDState) bool { return !s.Up() })
			if got.Lost() || got.Diag != state.BFDNeighborDown || got.RemotePhase != state.BFDAdminDown {
				t.Errorf("the other side was ended on purpose, and this one is %+v", got)
			}
			a.wait(rowA, "gone", patience, func(s state.BFDState) bool { return s == state.BFDState{} })
			if err := b.Prune(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			b.wait(rowB, "gone", patience, func(s state.BFDState) bool { return s == state.BFDState{} })
		})
	}
	for _, s := range []*system{a, b} {
		s.mu.Lock()
		if len(s.listeners)+len(s.senders)+len(s.sessions.byKey) > 0 {
			t.Errorf("%d listeners, %d senders, %d sessions are left", len(s.listeners), len(s.senders), len(s.sessions.byKey))
		}
		s.mu.Unlock()
	}
}

// A Speaker that ends says so, at once and to everybody.
func TestStop(t *testing.T) {
	hostA, hostB := pair(t)
	a, b := newSystem(t, hostA), newSystem(t, hostB)
	rowA, rowB := a.row("192.0.2.1", "192.0.2.2"), b.row("192.0.2.2", "192.0.2.1")
	a.update(rowA)
	b.update(rowB)
	a.waitUp(rowA)
	b.waitUp(rowB)
	a.stop()
	<-a.done
	got := b.wait(rowB, "down", patience, func(s state.BFDState) bool { return !s.Up() })
	if got.Lost() || got.RemotePhase != state.BFDAdminDown {
		t.Errorf("%+v", got)
	}
	if err := a.Update(t.Context(), rowA); err == nil {
		t.Error("a row was taken after the end")
	}
	again := newSystem(t, hostA)
	again.update(rowA)
	again.waitUp(rowA)
}

// A daemon that ends without a word is missed, and the next one is heard.
func TestStopSilently(t *testing.T) {
	hostA, hostB := pair(t)
	a, b := newSystem(t, hostA), newSystem(t, hostB)
	rowA, rowB := a.row("192.0.2.1", "192.0.2.2"), b.row("192.0.2.2", "192.0.2.1")
	rowA.Silent = true
	a.update(rowA)
	b.update(rowB)
	a.waitUp(rowA)
	b.waitUp(rowB)
	a.stop()
	<-a.done
	b.wait(rowB, "lost", patience, state.BFDState.Lost)
	again := newSystem(t, hostA)
	again.update(rowA)
	again.waitUp(rowA)
}

// What comes over a router is dropped before a session hears of it, and a session of
// several hops takes no more of them than it is told to.
func TestTTL(t *testing.T) {
	hostA, hostB := pair(t)
	a, b := newSystem(t, hostA), newSystem(t, hostB)
	row := a.row("192.0.2.1", "192.0.2.2")
	a.update(row)
	far, near := row, b.row("192.0.2.2", "192.0.2.1")
	far.Interface, far.Ifindex, far.Multihop, far.MinTTL = "", 0, true, 255
	a.update(far)
	near.Interface, near.Ifindex, near.Multihop, near.MinTTL = "", 0, true, 1
	b.update(near)
	a.waitUp(far)
	for _, tc := range []struct {
		port, ttl int
		want      string // refused as
	}{{portSingleHop, 255, "no such session"}, {portSingleHop, 254, ""}, {portMultihop, 254, "time to live too low"}} {
		before := a.Counts()
		b.must(func() error {
			fd, err := open(place{})
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := setAll(fd, []option{{unix.IPPROTO_IP, unix.IP_TTL, tc.ttl}}); err != nil {
				return err
			}
			p := packet{phase: state.BFDUp, multiplier: 3, mine: 7, yours: 7, minTx: 100 * ms, minRx: 100 * ms}
			if tc.port == portMultihop {
				p.yours = a.waitUp(far).Discr
			}
			return unix.Sendto(fd, p.append(nil), 0, sockaddr(row.Local, tc.port, 0))
		})
		if tc.want == "" { // dropped by the kernel: a packet that is refused and comes after it tells
			continue
		}
		deadline := time.Now().Add(patience)
		for a.Counts().Refused[tc.want] == before.Refused[tc.want] {
			if time.Now().After(deadline) {
				t.Fatalf("port %d, TTL %d: refused %v, want one more %q", tc.port, tc.ttl, a.Counts().Refused, tc.want)
			}
			time.Sleep(ms)
		}
	}
	if n := a.Counts().Refused["no such session"]; n != 1 {
		t.Errorf("%d packets for no session, want the one with TTL 255", n)
	}
	if got := a.waitUp(far); got.Flaps != 0 {
		t.Errorf("%+v", got)
	}
}

func TestUpdateRefuses(t *testing.T) {
	s := newSystem(t, newHost(t))
	fine := state.BFDSession{Local: netip.MustParseAddr("192.0.2.1"), Remote: netip.MustParseAddr("192.0.2.2"), Interface: "eth1", Ifindex: 7777,
		MinTx: 100 * ms, MinRx: 100 * ms, Multiplier: 3}
	with := func(change func(*state.BFDSession)) state.BFDSession { r := fine; change(&r); return r }
	for _, tc := range []struct {
		row  state.BFDSession
		want string
	}{
		{fine, "cannot assign requested address"},
		{with(func(r *state.BFDSession) { r.Remote = netip.MustParseAddr("2001:db8::2") }), "one family"},
		{with(func(r *state.BFDSession) { r.Local = netip.Addr{} }), "one family"},
		{with(func(r *state.BFDSession) { r.Multihop = true }), "over several hops"},
		{with(func(r *state.BFDSession) { r.Ifindex = 0 }), "over several hops"},
		{with(func(r *state.BFDSession) { r.Interface, r.Ifindex, r.Multihop = "", 0, true }), "minimum TTL"},
		{with(func(r *state.BFDSession) { r.MinTx = 49 * ms }), "at least 50ms"},
		{with(func(r *state.BFDSession) { r.Multiplier = 0 }), "multiplier"},
		{with(func(r *state.BFDSession) { r.Interface, r.Ifindex, r.Multihop, r.MinTTL = "", 0, true, 1 }), "cannot assign requested address"},
	} {
		var err error
		s.must(func() error { err = s.Update(t.Context(), tc.row); return nil })
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "BFD session") {
			t.Errorf("%+v: %v, want %q", tc.row, err, tc.want)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.senders)+len(s.listeners) > 0 {
		t.Errorf("%d senders and %d listeners are left", len(s.senders), len(s.listeners))
	}
}

// The ports may be another daemon's.
func TestPortTaken(t *testing.T) {
	hostA, _ := pair(t)
	s := newSystem(t, hostA)
	var fd int
	hostA.must(func() (err error) {
		if fd, err = open(place{}); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrInet4{Port: portSingleHop})
	})
	row := s.row("192.0.2.1", "192.0.2.2")
	var err error
	s.must(func() error { err = s.Update(t.Context(), row); return nil })
	if err == nil || !strings.Contains(err.Error(), "stop the other BFD daemon") {
		t.Errorf("%v", err)
	}
	unix.Close(fd)
	s.update(row)
}
