package bfd

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/seamark-lb/seamark/state"
)

const (
	// slow is how often a session that is not up sends at most (RFC 5880 §6.8.3).
	slow = time.Second
	// extraGap is between packets that are sent besides the periodic ones: who
	// polls us without end gets a hundred answers a second.
	extraGap = 10 * time.Millisecond
	// farewells is how often AdminDown is said, farewellGap how far apart at most.
	farewells   = 3
	farewellGap = 100 * time.Millisecond

	never = time.Duration(math.MaxInt64)
)

// session is the state of one session (RFC 5880 §6.8.1). It is pure: the time is
// an argument, and what it has to say comes out of tick. Times are of one clock
// that never steps.
type session struct {
	row  state.BFDSession
	rng  *rand.Rand
	mine uint32 // its discriminator

	phase state.BFDPhase
	diag  state.BFDDiag

	// What the remote system last said. yours is its discriminator, 0 when nothing
	// was heard for the detection time.
	yours       uint32
	remotePhase state.BFDPhase
	remoteDiag  state.BFDDiag
	remoteTx    time.Duration // its Desired Min TX Interval
	remoteRx    time.Duration // its Required Min RX Interval; 0: it wants no periodic packets
	remoteMult  uint8
	demand      bool

	// tx and rx are the intervals in force. When they are to change while the session
	// is up, the change that would let the other side miss packets waits
	// for the end of a poll sequence (§6.8.3); pollTx and pollRx are what is polled about.
	tx, rx         time.Duration
	polling        bool
	pollTx, pollRx time.Duration

	periodicAt, extraAt time.Duration // when to send
	sentAt              time.Duration // -never before the first
	final               bool          // the next extra packet answers a poll
	detectAt            time.Duration // when the detection time is over
	farewells           int           // left to say; with phase AdminDown

	wasUp   bool
	changed time.Duration
	flaps   int
	// news: something that state() tells has changed.
	news bool
}

func newSession(row state.BFDSession, mine uint32, rng *rand.Rand, now time.Duration) *session {
	s := &session{row: row, rng: rng, mine: mine, phase: state.BFDDown, remotePhase: state.BFDDown, remoteRx: time.Microsecond,
		rx: row.MinRx, periodicAt: never, extraAt: never, sentAt: -never, detectAt: never, changed: now, news: true}
	s.tx = s.wantedTx()
	s.pace(now)
	if s.speaks() { // many sessions that come together do not send together
		s.periodicAt = now + time.Duration(rng.Int64N(int64(s.tx/4)))
	}
	return s
}

// wantedTx is Desired Min TX Interval as it is to be now, Required Min RX being the row's.
func (s *session) wantedTx() time.Duration {
	if s.phase == state.BFDUp {
		return s.row.MinTx
	}
	return max(s.row.MinTx, slow)
}

// renegotiate brings the intervals into force that are wanted, or begins to ask for them.
func (s *session) renegotiate(now time.Duration) {
	tx, rx := s.wantedTx(), s.row.MinRx
	if s.phase != state.BFDUp {
		s.tx, s.rx, s.polling = tx, rx, false
	} else {
		s.tx, s.rx = min(s.tx, tx), max(s.rx, rx)
		if !s.polling {
			s.polling, s.pollTx, s.pollRx = true, tx, rx
		}
	}
	s.pace(now)
}

// polled takes in the answer to a poll.
func (s *session) polled(now time.Duration) {
	if !s.polling {
		return
	}
	s.polling, s.tx, s.rx = false, s.pollTx, s.pollRx
	if tx, rx := s.wantedTx(), s.row.MinRx; tx != s.tx || rx != s.rx { // changed meanwhile
		s.renegotiate(now)
	}
}

// change goes on with another row of the same key.
func (s *session) change(row state.BFDSession, now time.Duration) {
	was := s.row
	s.row, s.news = row, true
	if was.MinTx != row.MinTx || was.MinRx != row.MinRx {
		s.renegotiate(now)
	}
	if s.speaks() {
		s.hurry(now)
	}
}

// interval between periodic packets, before jitter.
func (s *session) interval() time.Duration {
	if s.phase == state.BFDAdminDown {
		return min(max(s.row.MinTx, s.remoteRx), farewellGap)
	}
	return max(s.tx, s.remoteRx)
}

// jittered is the interval less 0 to 25 %, or 10 to 25 % where a single packet
// that is late would bring the session down (RFC 5880 §6.8.7).
func (s *session) jittered() time.Duration {
	i := int64(s.interval())
	least, most := i/4*3, i
	if s.row.Multiplier == 1 {
		most = i / 10 * 9
	}
	return time.Duration(least + s.rng.Int64N(most-least+1))
}

// speaks says whether periodic packets are to be sent (RFC 5880 §6.8.7).
func (s *session) speaks() bool {
	switch {
	case s.phase == state.BFDAdminDown:
		return s.farewells > 0
	case s.row.Passive && s.yours == 0, s.remoteRx == 0:
		return false
	case s.demand && s.phase == state.BFDUp && s.remotePhase == state.BFDUp && !s.polling:
		return false
	}
	return true
}

// pace moves the next periodic packet to where the interval, which may have
// changed, has it.
func (s *session) pace(now time.Duration) {
	switch {
	case !s.speaks():
		s.periodicAt = never
	case s.sentAt == -never:
		s.periodicAt = min(s.periodicAt, now)
	case s.periodicAt-s.sentAt > s.interval():
		s.periodicAt = max(now, s.sentAt+s.jittered())
	}
}

// hurry has a packet sent before the next periodic one.
func (s *session) hurry(now time.Duration) {
	s.extraAt = min(s.extraAt, max(now, s.sentAt+extraGap))
}

// receive takes in a packet that is for this session (RFC 5880 §6.8.6).
func (s *session) receive(p packet, now time.Duration) {
	if s.phase == state.BFDAdminDown {
		return
	}
	was := s.state()
	s.yours, s.remotePhase, s.remoteDiag, s.demand = p.mine, p.phase, p.diag, p.demand
	s.remoteTx, s.remoteRx, s.remoteMult = p.minTx, p.minRx, p.multiplier
	if p.final {
		s.polled(now)
	}
	switch {
	case p.phase == state.BFDAdminDown:
		// Also in Down: what went silent before has come back to say that it stops.
		s.turn(state.BFDDown, state.BFDNeighborDown, now)
	case s.phase == state.BFDDown && p.phase == state.BFDDown:
		s.turn(state.BFDInit, s.diag, now)
	case s.phase == state.BFDDown && p.phase == state.BFDInit,
		s.phase == state.BFDInit && p.phase != state.BFDDown:
		s.turn(state.BFDUp, s.diag, now)
	case s.phase == state.BFDUp && p.phase == state.BFDDown:
		s.turn(state.BFDDown, state.BFDNeighborDown, now)
	}
	s.detectAt = now + s.detect()
	if p.poll {
		s.final = true
		s.hurry(now)
	}
	s.pace(now)
	s.news = s.news || s.state() != was
}

// detect is the detection time (RFC 5880 §6.8.4).
func (s *session) detect() time.Duration {
	return max(time.Duration(s.remoteMult)*max(s.rx, s.remoteTx), time.Millisecond)
}

// turn is a change of the state machine.
func (s *session) turn(phase state.BFDPhase, diag state.BFDDiag, now time.Duration) {
	s.diag = diag
	if phase == s.phase {
		return
	}
	if (phase == state.BFDUp) != (s.phase == state.BFDUp) {
		s.changed = now
	}
	if s.phase == state.BFDUp {
		s.flaps++
	}
	s.phase, s.news = phase, true
	s.wasUp = s.wasUp || phase == state.BFDUp
	s.renegotiate(now)
	s.hurry(now)
}

// leave ends the session on purpose: the remote system, if there is one, is told.
func (s *session) leave(now time.Duration) {
	if s.phase == state.BFDAdminDown {
		return
	}
	if s.yours != 0 {
		s.farewells = farewells
	}
	s.detectAt = never
	s.turn(state.BFDAdminDown, state.BFDByAdministrator, now)
	s.final, s.extraAt, s.periodicAt = false, never, never
	if s.farewells > 0 {
		s.periodicAt = now
	}
}

// hush has a session that was left say no more.
func (s *session) hush() { s.farewells, s.periodicAt = 0, never }

// left says whether nothing is to be done any more.
func (s *session) left() bool { return s.phase == state.BFDAdminDown && s.farewells == 0 }

// due is when tick has something to do.
func (s *session) due() time.Duration { return min(s.periodicAt, s.extraAt, s.detectAt) }

// tick does what is due, and hands what is to be sent to send.
func (s *session) tick(now time.Duration, send func(packet)) {
	if now >= s.detectAt {
		s.expire(now)
	}
	if now >= s.extraAt {
		s.extraAt = never
		send(s.compose(s.final))
		s.final, s.sentAt = false, now
	}
	if now >= s.periodicAt {
		if s.farewells > 0 {
			s.farewells--
		}
		send(s.compose(false))
		s.sentAt, s.periodicAt = now, never
		if s.speaks() {
			s.periodicAt = now + s.jittered()
		}
	}
}

// expire is the end of a detection time in which nothing was heard.
func (s *session) expire(now time.Duration) {
	s.detectAt, s.yours, s.news = never, 0, true
	s.demand = false
	if s.phase != state.BFDDown {
		s.turn(state.BFDDown, state.BFDTimeExpired, now)
	}
	s.pace(now)
}

// excuse lets the detection time last longer by what this system was away for:
// who could not listen has heard no silence.
func (s *session) excuse(away, now time.Duration) {
	if s.detectAt != never {
		s.detectAt = max(s.detectAt, min(s.detectAt+away, now+s.detect()))
	}
}

func (s *session) compose(final bool) packet {
	p := packet{diag: s.diag, phase: s.phase, poll: s.polling && !final, final: final, multiplier: s.row.Multiplier,
		mine: s.mine, yours: s.yours, minTx: s.wantedTx(), minRx: s.row.MinRx}
	if s.phase == state.BFDUp {
		p.diag = state.BFDNoDiag // it tells of what is over
	}
	return p
}

// state is what is told of the session; Since is filled in by who knows the wall clock.
func (s *session) state() state.BFDState {
	b := state.BFDState{Local: s.row.Local, Remote: s.row.Remote, Interface: s.row.Interface, Multihop: s.row.Multihop,
		Phase: s.phase, Changed: s.changed, WasUp: s.wasUp, Diag: s.diag, RemotePhase: s.remotePhase, RemoteDiag: s.remoteDiag,
		Discr: s.mine, RemoteDiscr: s.yours, Tx: s.interval(), Flaps: s.flaps, Owner: s.row.Owner}
	if s.yours != 0 {
		b.Detect = s.detect()
	}
	return b
}
