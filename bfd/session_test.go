package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

const ms = time.Millisecond

// end is one of the two systems of a wire.
type end struct {
	*sessions
	row  state.BFDSession
	sent []sending
	deaf bool // what is sent to it is lost
}

type sending struct {
	at time.Duration
	packet
}

func (e *end) state() state.BFDState {
	if s, ok := e.byKey[e.row.RowKey()]; ok {
		return s.state()
	}
	return state.BFDState{}
}

// wire is two systems and time.
type wire struct {
	t        *testing.T
	rng      *rand.Rand
	now      time.Duration
	a, b     *end
	delay    time.Duration // at most, of a packet
	loss     float64
	inFlight []flight
}

type flight struct {
	at time.Duration
	to *end
	packet
}

func newWire(t *testing.T, seed uint64) *wire {
	w := &wire{t: t, rng: rand.New(rand.NewPCG(seed, 0)), now: time.Hour, delay: ms}
	row := func(local, remote string) state.BFDSession {
		return state.BFDSession{Local: netip.MustParseAddr(local), Remote: netip.MustParseAddr(remote), Interface: "eth1", Ifindex: 3,
			MinTx: 100 * ms, MinRx: 100 * ms, Multiplier: 3}
	}
	w.a = w.newEnd(row("192.168.10.100", "192.168.10.101"))
	w.b = w.newEnd(row("192.168.10.101", "192.168.10.100"))
	return w
}

func (w *wire) newEnd(row state.BFDSession) *end {
	return &end{sessions: newSessions(rand.New(rand.NewPCG(w.rng.Uint64(), 0))), row: row}
}

// begin sets both sessions as their rows are.
func (w *wire) begin() *wire {
	w.a.set(w.a.row, w.now)
	w.b.set(w.b.row, w.now)
	return w
}

func (w *wire) other(e *end) *end {
	if e == w.a {
		return w.b
	}
	return w.a
}

// next is when something happens.
func (w *wire) next() time.Duration {
	next := min(w.a.due(), w.b.due())
	for _, f := range w.inFlight {
		next = min(next, f.at)
	}
	return next
}

// run lets d go by.
func (w *wire) run(d time.Duration) *wire {
	return w.until(d, func() bool { return false })
}

// until lets time go by until is, and at most d.
func (w *wire) until(d time.Duration, is func() bool) *wire {
	end := w.now + d
	for !is() {
		next := w.next()
		if next > end {
			w.now = end
			break
		}
		w.now = max(w.now, next)
		w.step()
	}
	return w
}

func (w *wire) step() {
	var later []flight
	for _, f := range w.inFlight {
		if f.at > w.now {
			later = append(later, f)
			continue
		}
		if f.to.deaf {
			continue
		}
		from := arrival{path: pathOf(f.to.row), ttl: 255}
		if err := f.to.receive(from, f.append(nil), w.now); err != nil && !errors.Is(err, errUnknown) {
			w.t.Fatalf("at %v: %v refused: %v", w.now, f.packet, err)
		}
	}
	w.inFlight = later
	for _, e := range []*end{w.a, w.b} {
		e.tick(w.now, func(_ *session, p packet) {
			e.sent = append(e.sent, sending{w.now, p})
			if w.rng.Float64() >= w.loss {
				at := w.now + time.Duration(w.rng.Int64N(int64(w.delay)+1))
				w.inFlight = append(w.inFlight, flight{at, w.other(e), p})
			}
		})
	}
}

func (w *wire) bothUp() bool { return w.a.state().Up() && w.b.state().Up() }

// up lets both come up, and their intervals be settled.
func (w *wire) up() *wire {
	w.t.Helper()
	if !w.begin().until(3*time.Second, w.bothUp).bothUp() {
		w.t.Fatalf("not up: %+v, %+v", w.a.state(), w.b.state())
	}
	return w.run(time.Second)
}

// want checks an end's phase and diagnostic.
func (w *wire) want(e *end, phase state.BFDPhase, diag state.BFDDiag) {
	w.t.Helper()
	if got := e.state(); got.Phase != phase || got.Diag != diag {
		w.t.Errorf("at %v: %s is %v (%v), want %v (%v)", w.now, e.row.Local, got.Phase, got.Diag, phase, diag)
	}
}

func TestComesUp(t *testing.T) {
	w := newWire(t, 1).begin()
	start := w.now
	w.until(3*time.Second, w.bothUp)
	if took := w.now - start; took > slow+10*ms {
		t.Errorf("up after %v, want about as long as the first packet waits, and no more than %v", took, slow)
	}
	w.run(time.Second)
	for _, e := range []*end{w.a, w.b} {
		if got := e.state(); got.Tx != 100*ms || got.Detect != 300*ms || !got.WasUp || got.Flaps != 0 {
			t.Errorf("settled on %+v, want tx 100ms, detection time 300ms", got)
		}
		if e.sent[0].minTx != slow {
			t.Errorf("the first packet is %v, want one that promises no more than one a second", e.sent[0].packet)
		}
	}
	if a, b := w.a.state(), w.b.state(); a.RemoteDiscr != b.Discr || b.RemoteDiscr != a.Discr {
		t.Errorf("discriminators: %+v, %+v", a, b)
	}
}

// Who is alone speaks once a second, and one that is passive not at all.
func TestAlone(t *testing.T) {
	w := newWire(t, 1)
	w.a.deaf, w.b.deaf = true, true
	w.b.row.Passive = true
	w.begin().run(100 * time.Second)
	if n := len(w.a.sent); n < 100 || n > 134 {
		t.Errorf("%d packets in 100 s, want one in 750 to 1000 ms", n)
	}
	if len(w.b.sent) > 0 {
		t.Errorf("passive, and sent %v", w.b.sent)
	}
	w.a.deaf, w.b.deaf = false, false
	if w.until(2*time.Second, w.bothUp); !w.bothUp() {
		t.Error("not up once they hear each other")
	}
}

func TestJitter(t *testing.T) {
	for _, tc := range []struct {
		multiplier  uint8
		least, most time.Duration
	}{{3, 75 * ms, 100 * ms}, {1, 75 * ms, 90 * ms}} {
		w := newWire(t, 1)
		w.a.row.Multiplier = tc.multiplier
		w.up()
		w.a.sent = nil
		w.run(100 * time.Second)
		least, most := never, time.Duration(0)
		for i, p := range w.a.sent[1:] {
			gap := p.at - w.a.sent[i].at
			least, most = min(least, gap), max(most, gap)
		}
		if least < tc.least || most > tc.most || most-least < 10*ms {
			t.Errorf("multiplier %d: packets %v to %v apart, want all of %v to %v", tc.multiplier, least, most, tc.least, tc.most)
		}
	}
}

func TestSilence(t *testing.T) {
	for seed := range uint64(50) {
		w := newWire(t, seed).up().run(time.Duration(seed) * 7 * ms)
		w.a.deaf, w.b.deaf = true, true
		cut := w.now
		w.until(time.Second, func() bool { return !w.a.state().Up() })
		if took := w.now - cut; took < 200*ms-2*ms || took > 300*ms+2*ms {
			t.Errorf("seed %d: down after %v, want two to three intervals", seed, took)
		}
		w.run(time.Second)
		for _, e := range []*end{w.a, w.b} {
			w.want(e, state.BFDDown, state.BFDTimeExpired)
			if got := e.state(); !got.Lost() || got.RemoteDiscr != 0 || got.Flaps != 1 {
				t.Errorf("seed %d: %+v is not lost", seed, got)
			}
		}
		w.a.deaf, w.b.deaf = false, false
		if w.until(2*time.Second, w.bothUp); !w.bothUp() {
			t.Errorf("seed %d: not up again", seed)
		}
	}
}

// Where one side alone is not heard, it is told so: the other's packets say Down.
func TestOneWay(t *testing.T) {
	w := newWire(t, 1).up()
	w.a.deaf = true
	w.until(time.Second, func() bool { return !w.a.state().Up() && !w.b.state().Up() })
	w.want(w.a, state.BFDDown, state.BFDTimeExpired)
	w.want(w.b, state.BFDDown, state.BFDNeighborDown)
	w.run(5 * time.Second)
	if w.bothUp() || w.b.state().Lost() {
		t.Errorf("b is %+v, and hears a all the time", w.b.state())
	}
}

func TestLeave(t *testing.T) {
	w := newWire(t, 1).up()
	w.a.sent = nil
	left := w.now
	w.a.leave(w.a.row.RowKey(), w.now)
	w.until(time.Second, func() bool { return len(w.a.byKey) == 0 })
	if took := w.now - left; took > farewells*farewellGap {
		t.Errorf("left after %v", took)
	}
	if len(w.a.sent) != farewells || w.a.sent[0].at != left {
		t.Errorf("sent %v, want %d packets, the first at once", w.a.sent, farewells)
	}
	for _, p := range w.a.sent {
		if p.phase != state.BFDAdminDown || p.diag != state.BFDByAdministrator {
			t.Errorf("sent %v, want AdminDown", p.packet)
		}
	}
	w.run(10 * time.Second)
	w.want(w.b, state.BFDDown, state.BFDNeighborDown)
	if got := w.b.state(); got.Lost() || got.RemotePhase != state.BFDAdminDown {
		t.Errorf("%+v: lost, and it said that it stops", got)
	}

	// One that nobody has heard has nobody to tell.
	w.a.set(w.a.row, w.now)
	w.a.leave(w.a.row.RowKey(), w.now)
	w.a.sent = nil
	w.run(time.Second)
	if len(w.a.sent) > 0 || len(w.a.byKey) > 0 {
		t.Errorf("sent %v", w.a.sent)
	}
}

// What went silent and then says that it stops has stopped.
func TestLeaveAfterSilence(t *testing.T) {
	w := newWire(t, 1).up()
	w.b.deaf = true
	w.until(time.Second, func() bool { return w.b.state().Lost() })
	w.b.deaf = false
	w.a.leave(w.a.row.RowKey(), w.now)
	w.run(10 * time.Second)
	w.want(w.b, state.BFDDown, state.BFDNeighborDown)
}

// A session that is wanted again while it says farewell is a new one.
func TestSetWhileLeaving(t *testing.T) {
	w := newWire(t, 1).up()
	w.a.leave(w.a.row.RowKey(), w.now)
	w.run(50 * ms)
	w.a.set(w.a.row, w.now)
	if w.until(3*time.Second, w.bothUp); !w.bothUp() || len(w.a.byKey) != 1 || len(w.a.byPath) != 1 {
		t.Errorf("%+v, %+v; %d sessions", w.a.state(), w.b.state(), len(w.a.byKey))
	}
}

// The remote system is another process, that knows of nothing.
func TestRestart(t *testing.T) {
	w := newWire(t, 1).up()
	w.a.sessions = newSessions(rand.New(rand.NewPCG(99, 0)))
	w.a.set(w.a.row, w.now)
	w.until(2*time.Second, func() bool { return !w.b.state().Up() })
	w.want(w.b, state.BFDDown, state.BFDNeighborDown)
	w.until(2*time.Second, w.bothUp)
	if a, b := w.a.state(), w.b.state(); !w.bothUp() || b.RemoteDiscr != a.Discr || b.Flaps != 1 {
		t.Errorf("%+v, %+v", a, b)
	}
}

func TestChangeOfIntervals(t *testing.T) {
	for _, tc := range []struct{ tx, rx time.Duration }{
		{50 * ms, 50 * ms}, {50 * ms, 400 * ms}, {400 * ms, 50 * ms}, {2 * time.Second, 2 * time.Second}, {100 * ms, 50 * ms},
	} {
		for seed := range uint64(20) {
			w := newWire(t, seed).up()
			w.a.row.MinTx, w.a.row.MinRx, w.a.row.Multiplier = tc.tx, tc.rx, 5
			w.a.sent, w.b.sent = nil, nil
			changed := w.now
			w.a.set(w.a.row, w.now)
			w.run(5 * time.Second)
			a, b := w.a.state(), w.b.state()
			if a.Flaps+b.Flaps > 0 || !w.bothUp() {
				t.Errorf("seed %d, %+v: %d and %d flaps", seed, tc, a.Flaps, b.Flaps)
			}
			if a.Tx != max(tc.tx, 100*ms) || b.Tx != max(100*ms, tc.rx) || b.Detect != 5*max(tc.tx, 100*ms) || a.Detect != 3*max(tc.rx, 100*ms) {
				t.Errorf("seed %d, %+v: settled on %+v, %+v", seed, tc, a, b)
			}
			if first := w.a.sent[0]; first.at-changed > extraGap || !first.poll {
				t.Errorf("seed %d, %+v: the first packet after it is %v, %v later: want a poll", seed, tc, first.packet, first.at-changed)
			}
			finals := 0
			for _, p := range w.b.sent {
				if p.final {
					finals++
				}
			}
			if finals == 0 {
				t.Errorf("seed %d, %+v: no answer", seed, tc)
			}
			if last := w.a.sent[len(w.a.sent)-1]; last.poll {
				t.Errorf("seed %d, %+v: polls for ever", seed, tc)
			}
		}
	}
}

// Slower may be promised at once, and done only when the other side has heard it.
func TestSlowerWaitsForAnswer(t *testing.T) {
	w := newWire(t, 1)
	w.b.row.Multiplier = 50 // a may be deaf for long
	w.up()
	w.a.row.MinTx = time.Second
	w.a.set(w.a.row, w.now)
	w.a.deaf = true // the answer is not heard
	w.a.sent = nil
	w.run(time.Second)
	if n := len(w.a.sent); n < 10 {
		t.Errorf("%d packets in 1 s: slower without an answer", n)
	}
	for _, p := range w.a.sent {
		if p.minTx != time.Second || !p.poll {
			t.Errorf("sent %v, want a poll that promises one a second", p.packet)
		}
	}
}

// A change during a poll is polled about by itself.
func TestChangeDuringPoll(t *testing.T) {
	w := newWire(t, 1).up()
	for _, tx := range []time.Duration{500 * ms, 200 * ms, 800 * ms} {
		w.a.row.MinTx = tx
		w.a.set(w.a.row, w.now)
		w.step()
	}
	w.run(5 * time.Second)
	if a, b := w.a.state(), w.b.state(); a.Tx != 800*ms || b.Detect != 2400*ms || a.Flaps+b.Flaps > 0 {
		t.Errorf("%+v, %+v", a, b)
	}
}

// The remote system asks for silence, or for less than there was.
func TestRemoteAsksForLess(t *testing.T) {
	w := newWire(t, 1).up()
	s := w.a.byKey[w.a.row.RowKey()]
	w.b.deaf, w.a.deaf = true, true
	p := packet{phase: state.BFDUp, multiplier: 100, mine: s.yours, yours: s.mine, minTx: 100 * ms, minRx: 100 * ms}
	count := func(p packet) int {
		s.receive(p, w.now)
		w.a.sent = nil
		w.run(2 * time.Second)
		return len(w.a.sent)
	}
	if n := count(p); n < 20 || n > 27 {
		t.Errorf("%d packets in 2 s, want one in 75 to 100 ms", n)
	}
	none, slower, demand := p, p, p
	none.minRx, slower.minRx, demand.demand = 0, time.Second, true
	if n := count(slower); n < 1 || n > 3 {
		t.Errorf("%d packets in 2 s, want one a second", n)
	}
	if n := count(none); n > 1 {
		t.Errorf("%d packets in 2 s, and none are wanted", n)
	}
	if n := count(p); n < 20 {
		t.Errorf("%d packets in 2 s, and they are wanted again", n)
	}
	if n := count(demand); n > 1 {
		t.Errorf("%d packets in 2 s in demand mode", n)
	}
}

// Who polls without end gets a hundred answers a second, and the periodic packets all the same.
func TestPolledWithoutEnd(t *testing.T) {
	w := newWire(t, 1).up()
	s := w.a.byKey[w.a.row.RowKey()]
	w.b.deaf, w.a.deaf = true, true
	w.a.sent = nil
	for range 1000 {
		s.receive(packet{phase: state.BFDUp, poll: true, multiplier: 3, mine: s.yours, yours: s.mine, minTx: 100 * ms, minRx: 100 * ms}, w.now)
		w.run(ms)
	}
	finals := 0
	for _, p := range w.a.sent {
		if p.final {
			finals++
		}
	}
	if others := len(w.a.sent) - finals; finals < 90 || finals > 101 || others < 10 {
		t.Errorf("%d answers and %d other packets in 1 s", finals, others)
	}
}

// Who was stopped has heard no silence.
func TestPaused(t *testing.T) {
	w := newWire(t, 1).up()
	w.a.deaf, w.b.deaf = true, true // what comes meanwhile is lost
	w.now += 10 * time.Second
	w.step()
	w.want(w.a, state.BFDUp, 0)
	w.a.deaf, w.b.deaf = false, false
	w.run(time.Second)
	if a, b := w.a.state(), w.b.state(); a.Flaps+b.Flaps > 0 {
		t.Errorf("%+v, %+v: down after a pause of one's own", a, b)
	}
	w.a.deaf, w.b.deaf = true, true
	w.now += 10 * time.Second
	w.until(400*ms, func() bool { return w.a.state().Lost() })
	if !w.a.state().Lost() {
		t.Errorf("%+v: excused for longer than a detection time", w.a.state())
	}
}

func TestReceiveRefuses(t *testing.T) {
	w := newWire(t, 1).up()
	hop := w.a.row
	hop.Remote, hop.Interface, hop.Ifindex, hop.Multihop, hop.MinTTL = netip.MustParseAddr("10.0.0.1"), "", 0, true, 250
	w.a.set(hop, w.now)
	s := w.a.byKey[w.a.row.RowKey()]
	far := w.a.byKey[hop.RowKey()]
	fine, farFine := arrival{path: pathOf(w.a.row), ttl: 255}, arrival{path: pathOf(hop), multihop: true, ttl: 250}
	with := func(a arrival, change func(*arrival)) arrival { change(&a); return a }
	for _, tc := range []struct {
		name  string
		from  arrival
		yours uint32
		want  error
	}{
		{"fine", fine, s.mine, nil},
		{"routed", with(fine, func(a *arrival) { a.ttl = 254 }), s.mine, errTTL},
		{"another's discriminator", fine, far.mine, errUnknown},
		{"no such discriminator", fine, ^s.mine, errUnknown},
		{"another interface", with(fine, func(a *arrival) { a.ifindex = 4 }), s.mine, errUnknown},
		{"another source", with(fine, func(a *arrival) { a.remote = netip.MustParseAddr("192.168.10.102") }), s.mine, errUnknown},
		{"another destination", with(fine, func(a *arrival) { a.local = netip.MustParseAddr("192.168.10.211") }), s.mine, errUnknown},
		{"to the port of several hops", with(fine, func(a *arrival) { a.multihop = true }), s.mine, errUnknown},
		{"several hops", farFine, far.mine, nil},
		{"too many hops", with(farFine, func(a *arrival) { a.ttl = 249 }), far.mine, errTTL},
		{"to the port of one hop", with(farFine, func(a *arrival) { a.multihop, a.ttl = false, 255 }), far.mine, errUnknown},
	} {
		p := packet{phase: state.BFDUp, multiplier: 3, mine: 77, yours: tc.yours, minTx: 100 * ms, minRx: 100 * ms}
		if err := w.a.receive(tc.from, p.append(nil), w.now); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

// An interface that is made anew has another index, and its session another beginning.
func TestInterfaceMadeAnew(t *testing.T) {
	w := newWire(t, 1).up()
	was := w.a.state().Discr
	w.a.row.Ifindex = 9
	w.a.set(w.a.row, w.now)
	if len(w.a.byKey) != 1 || len(w.a.byPath) != 1 || w.a.state().Discr == was || w.a.state().Up() {
		t.Errorf("%+v, %d sessions, %d paths", w.a.state(), len(w.a.byKey), len(w.a.byPath))
	}
}

// Whatever is lost, delayed, stopped and changed: who cannot hear is not up for longer
// than a detection time, and both are up soon once all is well.
func TestRandom(t *testing.T) {
	for seed := range uint64(300) {
		w := newWire(t, seed).begin()
		for range 40 {
			switch e := []*end{w.a, w.b}[w.rng.IntN(2)]; w.rng.IntN(7) {
			case 0:
				e.deaf = !e.deaf
			case 1:
				w.loss = w.rng.Float64() / 2
			case 2:
				w.delay = time.Duration(w.rng.Int64N(int64(200 * ms)))
			case 3:
				e.row.MinTx = state.MinBFDInterval + time.Duration(w.rng.Int64N(int64(time.Second)))
				e.row.MinRx = state.MinBFDInterval + time.Duration(w.rng.Int64N(int64(time.Second)))
				e.row.Multiplier = uint8(1 + w.rng.IntN(5))
				e.set(e.row, w.now)
			case 4:
				e.leave(e.row.RowKey(), w.now)
				w.run(time.Duration(w.rng.Int64N(int64(time.Second))))
				e.set(e.row, w.now)
			case 5:
				e.sessions = newSessions(rand.New(rand.NewPCG(w.rng.Uint64(), 1)))
				e.set(e.row, w.now)
			}
			w.run(time.Duration(w.rng.Int64N(int64(2 * time.Second))))
			for _, e := range []*end{w.a, w.b} {
				if s := e.state(); e.deaf && s.Up() {
					w.deafUntilDown(e)
				}
			}
		}
		w.loss, w.delay, w.a.deaf, w.b.deaf = 0, ms, false, false
		w.a.row.Multiplier, w.b.row.Multiplier = 3, 3
		w.begin()
		w.run(20 * time.Second) // the longest detection time, and a beginning
		if !w.bothUp() {
			t.Errorf("seed %d: %+v, %+v: not up, and all is well", seed, w.a.state(), w.b.state())
		}
		for _, e := range []*end{w.a, w.b} {
			checkRate(t, fmt.Sprintf("seed %d", seed), e.sent)
		}
	}
}

// deafUntilDown waits for a deaf end to notice.
func (w *wire) deafUntilDown(e *end) {
	limit := e.state().Detect + w.delay + ms
	if w.until(limit, func() bool { return !e.state().Up() }); e.state().Up() {
		w.t.Errorf("at %v: %s is up, and has heard nothing for %v", w.now, e.row.Local, limit)
	}
}

// checkRate: never more packets in any second than periodic ones at the shortest
// interval and extra ones at the shortest gap.
func checkRate(t *testing.T, name string, sent []sending) {
	t.Helper()
	most := int(time.Second/extraGap) + int(time.Second/(state.MinBFDInterval*3/4)) + 2
	for i := range sent {
		if j := i + most; j < len(sent) && sent[j].at-sent[i].at < time.Second {
			t.Errorf("%s: %d packets in %v", name, most, sent[j].at-sent[i].at)
			return
		}
	}
}

// FuzzSession: packets of a hostile remote system, at any time.
func FuzzSession(f *testing.F) {
	f.Add(unhex("0001" + up[:8] + "0000000a 00000000" + up[26:]))
	f.Fuzz(func(t *testing.T, script []byte) {
		w := newWire(t, 1)
		w.a.set(w.a.row, w.now)
		s := w.a.byKey[w.a.row.RowKey()]
		var sent []sending
		for len(script) >= 2+packetLen {
			pause, p := time.Duration(binary.BigEndian.Uint16(script))*100*time.Microsecond, script[2:2+packetLen]
			script = script[2+packetLen:]
			if p[8]%2 == 0 { // most would be for no session
				binary.BigEndian.PutUint32(p[8:], s.mine)
			}
			w.now += pause
			for w.a.due() <= w.now {
				due := w.a.due()
				w.a.tick(due, func(_ *session, p packet) { sent = append(sent, sending{due, p}) })
				if next := w.a.due(); next <= due {
					t.Fatalf("after %v it is due at %v again", due, next)
				}
			}
			_ = w.a.receive(arrival{path: pathOf(w.a.row), ttl: 255}, p, w.now) // refused or not
			st := w.a.state()
			if st.Lost() && st.RemoteDiscr != 0 || st.Up() && (st.RemoteDiscr == 0 || s.detectAt == never) {
				t.Fatalf("%+v, detection time over at %v", st, s.detectAt)
			}
		}
		for _, p := range sent {
			if _, err := parse(p.append(nil)); err != nil {
				t.Fatalf("sent %v: %v", p.packet, err)
			}
		}
		checkRate(t, "hostile", sent)
	})
}
