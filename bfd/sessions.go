package bfd

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// away is from when on this system counts as having been away, when it comes
// too late to something: stopped, or kept from the CPU.
const away = state.MinBFDInterval / 2

// Why a packet is refused that parse took.
var (
	errTTL     = errors.New("time to live too low")
	errUnknown = errors.New("no such session")
)

// path is what tells sessions apart on the wire.
type path struct {
	local, remote netip.Addr
	ifindex       int // 0 for several hops
}

func pathOf(row state.BFDSession) path { return path{row.Local, row.Remote, row.Ifindex} }

// arrival is how a packet came in.
type arrival struct {
	path
	multihop bool // to the port of RFC 5883
	ttl      int  // or hop limit
}

// sessions are the sessions of this system, and pure as each of them is.
type sessions struct {
	rng    *rand.Rand
	byKey  map[string]*session // by the row's
	byPath map[path]*session
}

func newSessions(rng *rand.Rand) *sessions {
	return &sessions{rng: rng, byKey: map[string]*session{}, byPath: map[path]*session{}}
}

// set makes the table hold the row's session.
func (t *sessions) set(row state.BFDSession, now time.Duration) {
	key := row.RowKey()
	if s, ok := t.byKey[key]; ok {
		if pathOf(s.row) == pathOf(row) && s.phase != state.BFDAdminDown {
			s.change(row, now)
			return
		}
		t.forget(s) // its interface was made anew, or it had been ended
	}
	// A generator of its own: what one session does, no other's jitter depends on.
	rng := rand.New(rand.NewPCG(t.rng.Uint64(), t.rng.Uint64()))
	s := newSession(row, t.discriminator(), rng, now)
	t.byKey[key], t.byPath[pathOf(row)] = s, s
}

// discriminator returns one that no session has (RFC 5880 §6.8.1), nor others
// can guess.
func (t *sessions) discriminator() uint32 {
	for {
		d := t.rng.Uint32()
		taken := d == 0
		for _, s := range t.byKey {
			taken = taken || s.mine == d
		}
		if !taken {
			return d
		}
	}
}

func (t *sessions) forget(s *session) {
	if t.byKey[s.row.RowKey()] == s {
		delete(t.byKey, s.row.RowKey())
	}
	if t.byPath[pathOf(s.row)] == s { // not its successor's
		delete(t.byPath, pathOf(s.row))
	}
}

// leave ends the session with the key. It is in the table until all is said.
func (t *sessions) leave(key string, now time.Duration) {
	if s, ok := t.byKey[key]; ok {
		s.leave(now)
	}
}

// receive takes in a packet, or says why not (RFC 5880 §6.8.6, RFC 5881 §5).
func (t *sessions) receive(from arrival, payload []byte, now time.Duration) error {
	p, err := parse(payload)
	if err != nil {
		return err
	}
	s, ok := t.byPath[from.path]
	switch {
	case !from.multihop && from.ttl != 255:
		return errTTL
	case !ok || s.row.Multihop != from.multihop || p.yours != 0 && p.yours != s.mine:
		return errUnknown
	case from.ttl < int(s.row.MinTTL):
		return errTTL
	}
	s.receive(p, now)
	return nil
}

// due is when tick has something to do.
func (t *sessions) due() time.Duration {
	due := never
	for _, s := range t.byKey {
		due = min(due, s.due())
	}
	return due
}

// tick does what is due, hands what is to be sent to send, and returns the sessions that
// are over. The caller has taken in all packets that came before now.
func (t *sessions) tick(now time.Duration, send func(*session, packet)) (over []*session) {
	late := now - t.due()
	for _, s := range t.byKey {
		if late > away {
			s.excuse(late, now)
		}
		s.tick(now, func(p packet) { send(s, p) })
		if s.left() {
			over = append(over, s)
		}
	}
	for _, s := range over {
		t.forget(s)
	}
	return over
}

// news returns the states that are others than when it was last asked.
func (t *sessions) news() (states []state.BFDState) {
	for _, s := range t.byKey {
		if s.news {
			s.news = false
			states = append(states, s.state())
		}
	}
	return states
}
