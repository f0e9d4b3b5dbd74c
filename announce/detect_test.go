package announce

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/seamark-lb/seamark/state"
)

var stranger = net.HardwareAddr{2, 0, 0, 0, 0, 0x99}

// asked lets the detector work until it has nothing to do, and returns what it sent when.
func asked(r *rig) string {
	start := r.clock.Boottime()
	var sent []string
	for range 1000 {
		before := len(r.wire.probes)
		wait := r.target.detector.step(r.clock.Boottime())
		for _, p := range r.wire.probes[before:] {
			sent = append(sent, fmt.Sprintf("%s+%v", p, r.clock.Boottime()-start))
		}
		if wait > sec {
			break
		}
		r.clock.Advance(wait)
	}
	return strings.Join(sent, " ")
}

func TestProbing(t *testing.T) {
	k := entryKey{addr(1), 2}
	const sent = "192.168.10.1@2+0s 192.168.10.1@2+200ms 192.168.10.1@2+400ms"
	for _, tc := range []struct {
		name  string
		heard func(*rig) // before it is asked
		sent  string
		want  verdict
	}{
		{"nobody has it", func(*rig) {}, sent, free},
		{"a stranger has it", func(r *rig) {
			r.responder.change(k, func(h *Held) { h.ClaimedAt, h.ClaimMAC = r.clock.Boottime(), stranger })
		}, sent, taken},
		{"a stranger had it before", func(r *rig) {
			r.responder.change(k, func(h *Held) { h.ClaimedAt, h.ClaimMAC = r.clock.Boottime()-1, stranger })
		}, sent, free},
		{"a cluster node has it still", func(r *rig) {
			r.responder.change(k, func(h *Held) { h.ClaimedAt, h.ClaimMAC, h.Muted = r.clock.Boottime(), stranger, true })
		}, sent, claimed},
		{"another interface of this node has it", func(r *rig) {
			r.device(state.Device{Name: "eth2", Index: 3, MAC: stranger.String(), Up: true})
			r.responder.change(k, func(h *Held) { h.ClaimedAt, h.ClaimMAC = r.clock.Boottime(), stranger })
		}, sent, free},
		{"forgotten", func(r *rig) { r.target.detector.forget(k) }, "", free},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig()
			p := r.target.detector
			if got, _, err := p.ask(k, mac1, 1); got != asking || err != nil {
				t.Fatalf("at first: %v, %v", got, err)
			}
			if held := r.responder.text(); held != "192.168.10.1@2#1 probing\n" {
				t.Errorf("while it is asked the kernel holds %q", held)
			}
			tc.heard(r)
			if got := asked(r); got != tc.sent {
				t.Errorf("sent %q, want %q", got, tc.sent)
			}
			if got, other := p.known(k); got != tc.want || got == taken && other.String() != stranger.String() {
				t.Errorf("verdict %v, of %s; want %v", got, other, tc.want)
			}
		})
	}
}

// Without the kernel's word there is no verdict.
func TestProbingAsksOn(t *testing.T) {
	r := newRig()
	k := entryKey{addr(1), 2}
	if _, _, err := r.target.detector.ask(k, mac1, 1); err != nil {
		t.Fatal(err)
	}
	r.responder.fail = errors.New("no rights")
	for range 100 {
		r.clock.Advance(r.target.detector.step(r.clock.Boottime()))
	}
	if got, _ := r.target.detector.known(k); got != asking {
		t.Errorf("verdict %v", got)
	}
	r.responder.fail = nil
	asked(r)
	if got, _ := r.target.detector.known(k); got != free {
		t.Errorf("verdict %v once the kernel says", got)
	}
}

// Five thousand first assignments are asked for at the pace of announcements, and
// judged in few looks at the kernel.
func TestProbingKeepsThePace(t *testing.T) {
	const addrs = 5000
	r := newRig()
	for i := range addrs {
		if _, _, err := r.target.detector.ask(entryKey{addr6(i), 2}, mac1, 1); err != nil {
			t.Fatal(err)
		}
	}
	start := r.clock.Boottime()
	for last := 0; ; {
		wait := r.target.detector.step(r.clock.Boottime())
		if n := len(r.wire.probes) - last; n > DefaultGratuitous.PerSecond/100 {
			t.Fatalf("%d probes at once", n)
		}
		last = len(r.wire.probes)
		if wait > sec {
			break
		}
		r.clock.Advance(wait)
	}
	took := r.clock.Boottime() - start
	if len(r.wire.probes) != 3*addrs || took > 5*sec {
		t.Errorf("%d probes, in %v", len(r.wire.probes), took)
	}
	// Each list has them all: one for each batch would be quadratic.
	if most := int(took/judgeInterval) + 1; r.responder.lists > most {
		t.Errorf("the kernel's entries are listed %d times, want %d at most", r.responder.lists, most)
	}
	for i := range addrs {
		if got, _ := r.target.detector.known(entryKey{addr6(i), 2}); got != free {
			t.Fatalf("%s: verdict %v", addr6(i), got)
		}
	}
	t.Logf("%d addresses are asked for in %v, the kernel's entries listed %d times", addrs, took, r.responder.lists)
}

// reconcile is what the daemon does with rows of Announcements.
func (r *rig) reconcile() *state.Reconciler[state.Announcement] {
	return &state.Reconciler[state.Announcement]{DB: r.db, Writer: r.writer, Table: r.db.Announcements, Target: r.target,
		Log: quiet, Now: r.clock.Wall, Hold: func(s state.Snapshot, row state.Announcement) state.Reason { return r.target.Hold(s, row) }}
}

// want makes the row of an address that was assigned for a reason.
func (r *rig) want(row state.Announcement, reason state.Reason) {
	r.writer.Update(func(tx *state.Tx) {
		r.db.Assigned.Put(tx, state.Assignment{Addr: row.Addr, Node: "a", Generation: row.Generation, Reason: reason})
		state.Want(tx, r.db.Announcements, []state.Announcement{row}, r.clock.Wall())
	})
}

func TestFirstAssignment(t *testing.T) {
	const ip = "192.168.10.1"
	burst := ip + "@0s " + ip + "@150ms " + ip + "@500ms"
	row := announcement(1, 1)
	begin := func() (*rig, func() state.Status) {
		r := newRig()
		reconciler := r.reconcile()
		return r, func() state.Status {
			reconciler.Step(t.Context(), r.db.Snapshot())
			got, _ := r.db.Announcements.Get(r.db.Snapshot(), row.RowKey())
			return got.Status
		}
	}
	claim := func(r *rig) {
		r.responder.change(entryKey{row.Addr, 2}, func(h *Held) { h.ClaimedAt, h.ClaimMAC = r.clock.Boottime(), stranger })
	}
	t.Run("free", func(t *testing.T) {
		r, step := begin()
		r.want(row, state.ReasonFirstAssignment)
		if st := step(); st.Phase != state.Pending || st.Reason != state.ReasonProbing || r.announced() != "" {
			t.Errorf("at first: %+v", st)
		}
		changed := r.target.detector.changed()
		asked(r)
		select {
		case <-changed:
		default:
			t.Error("nobody is told of the verdict")
		}
		if st := step(); st.Phase != state.Done {
			t.Errorf("asked: %+v", st)
		}
		if got := r.announced(); got != burst {
			t.Errorf("announced %q, want %q", got, burst)
		}
		if got := r.responder.text(); got != ip+"@2#1\n" {
			t.Errorf("held %q", got)
		}
	})
	t.Run("a stranger has it", func(t *testing.T) {
		r, step := begin()
		r.want(row, state.ReasonFirstAssignment)
		step()
		claim(r)
		asked(r)
		st := step()
		if st.Phase != state.Failed || !strings.Contains(st.Err, stranger.String()) || !strings.Contains(st.Err, "192.168.10.1 on eth1") {
			t.Errorf("status %+v, want one that names the address, the interface and %s", st, stranger)
		}
		if got := r.announced(); got != "" {
			t.Errorf("announced %q", got)
		}
		problems := func() []state.Problem { return r.target.conflicts(r.db.Snapshot()) }
		if p := problems(); len(p) != 1 || p[0].Object.Kind != "Service" || p[0].Message != st.Err {
			t.Errorf("problems %v", p)
		}
		// It is asked again after a minute, and has it still.
		r.clock.Advance(probeAgain)
		if st := step(); st.Reason != state.ReasonProbing || len(problems()) != 1 {
			t.Errorf("a minute later: %+v, problems %v", st, problems())
		}
		claim(r)
		asked(r)
		if st := step(); st.Phase != state.Failed {
			t.Errorf("asked again: %+v", st)
		}
		r.clock.Advance(probeAgain)
		step()
		asked(r) // it is gone
		r.clock.Advance(probeAgain / 2)
		if st := step(); st.Phase != state.Done || len(problems()) != 0 {
			t.Errorf("once it is gone: %+v, problems %v", st, problems())
		}
		if got := r.announced(); got != burst {
			t.Errorf("announced %q, want %q", got, burst)
		}
	})
	t.Run("withdrawn while it is asked", func(t *testing.T) {
		r, step := begin()
		r.want(row, state.ReasonFirstAssignment)
		step()
		r.writer.Update(func(tx *state.Tx) { state.Want(tx, r.db.Announcements, nil, r.clock.Wall()) })
		step()
		if got := r.responder.text() + asked(r); got != "" || r.target.detector.about(entryKey{row.Addr, 2}) {
			t.Errorf("left of it: %q", got)
		}
	})
	t.Run("taken over", func(t *testing.T) {
		r, step := begin()
		r.want(row, state.ReasonLeaseExpired)
		if st := step(); st.Phase != state.Done || r.announced() != burst || len(r.wire.probes) > 0 {
			t.Errorf("%+v, asked %v", st, r.wire.probes)
		}
	})
	t.Run("without detection", func(t *testing.T) {
		r, step := begin()
		r.target.detector = newDetector(Detection{Count: -1}, 5000, r.clock, r.wire, r.responder, ownMAC(r.db), quiet)
		r.want(row, state.ReasonFirstAssignment)
		if st := step(); st.Phase != state.Done || r.announced() != burst || len(r.wire.probes) > 0 {
			t.Errorf("%+v, asked %v", st, r.wire.probes)
		}
		// Who has no valid lease asks all the same.
		r.target.mayTake = func() bool { return false }
		r.delete(t, row)
		r.want(row, state.ReasonFirstAssignment)
		r.writer.Update(func(tx *state.Tx) { r.db.Announcements.Put(tx, row) })
		if st := step(); st.Reason != state.ReasonProbing || !r.target.mayReturn(row) || asked(r) == "" {
			t.Errorf("without a lease: %+v", st)
		}
	})
	t.Run("the daemon restarts", func(t *testing.T) {
		r, step := begin()
		r.set(t, row.Addr, 2, 1)
		r.want(row, state.ReasonFirstAssignment)
		if st := step(); st.Phase != state.Done || asked(r) != "" || r.announced() != "" {
			t.Errorf("%+v, asked %v", st, r.wire.probes)
		}
	})
	t.Run("the daemon restarts while it is asked", func(t *testing.T) {
		r, step := begin()
		if err := r.responder.Probe(row.Addr, 2, mac1, 1); err != nil {
			t.Fatal(err)
		}
		r.want(row, state.ReasonFirstAssignment)
		if st := step(); st.Reason != state.ReasonProbing || asked(r) == "" {
			t.Errorf("%+v", st)
		}
		if st := step(); st.Phase != state.Done || r.announced() != burst {
			t.Errorf("asked: %+v", st)
		}
	})
	t.Run("claims are not defended", func(t *testing.T) {
		r, step := begin()
		r.want(row, state.ReasonFirstAssignment)
		step()
		lease := &leaseKeeper{clock: r.clock, lastRead: r.clock.Boottime}
		lease.term = term{until: r.clock.Boottime() + time.Hour}
		referee := &referee{node: "a", db: r.db, writer: r.writer, clock: r.clock, log: quiet, lease: lease, lastRead: r.clock.Boottime,
			responder: r.responder, herald: r.herald, detector: r.target.detector, handover: newHandover(quick), counts: &Counts{}, contests: newContests()}
		referee.hear(Claim{Addr: row.Addr, Ifindex: 2, MAC: stranger, At: r.clock.Boottime()})
		if n := referee.counts.Defences.Load(); n != 0 {
			t.Errorf("%d defences", n)
		}
	})
}

// A Linux machine that has the address answers what Socket.Probe asks, and takes
// nothing in from it.
func TestSocketProbes(t *testing.T) {
	c := newCable(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	four, six := addr(211), addr6(211)
	for addr, bits := range map[netip.Addr]int{four: 24, six: 64} {
		must(c.far.AddrAdd(c.b0, &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, addr.BitLen())}, Flags: unix.IFA_F_NODAD}))
	}
	wire, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(networkOrder(unix.ETH_P_ALL)))
	must(err)
	defer unix.Close(wire)
	must(unix.SetsockoptTimeval(wire, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}))
	socket, err := OpenSocket()
	must(err)
	defer socket.Close()
	// answered wants an answer to one of many questions: the kernel has the addresses
	// before it listens for them.
	answered := func(addr netip.Addr, is func([]byte) bool) {
		t.Helper()
		buffer := make([]byte, 2048)
		for range 50 {
			must(socket.Probe(c.a0.Attrs().Index, mac1, addr))
			for {
				n, from, err := receive(wire, buffer)
				if errors.Is(err, unix.EAGAIN) {
					break
				}
				must(err)
				if from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING && is(buffer[:n]) {
					return
				}
			}
		}
		t.Errorf("%s: no answer", addr)
	}
	answered(four, func(b []byte) bool {
		var p arp.Packet
		return p.UnmarshalBinary(b) == nil && p.Operation == arp.OperationReply && p.SenderIP == four &&
			p.SenderHardwareAddr.String() == c.b0.Attrs().HardwareAddr.String()
	})
	answered(six, func(b []byte) bool { // an advertisement to all nodes, with its address as the target
		return len(b) >= 64 && b[6] == unix.IPPROTO_ICMPV6 && b[40] == 136 && [16]byte(b[24:40]) == allNodes.As16() && [16]byte(b[48:64]) == six.As16()
	})
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		neighs, err := c.far.NeighList(c.b0.Attrs().Index, family)
		must(err)
		for _, n := range neighs {
			if a, _ := netip.AddrFromSlice(n.IP); a.Unmap() == four || a == six || a.IsUnspecified() {
				t.Errorf("it has learnt %s at %s", n.IP, n.HardwareAddr)
			}
		}
	}
}
