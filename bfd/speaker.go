package bfd

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seamark-lb/seamark/state"
)

// Speaker is a state.Target: it keeps the sessions of its rows, and writes into
// BFDStates how they stand.
type Speaker struct {
	db     *state.DB
	writer *state.Writer
	log    *slog.Logger
	clock  func() time.Duration

	mu        sync.Mutex
	rng       *rand.Rand
	sessions  *sessions
	listeners map[place]*listener
	senders   map[string]*sender // by row key
	waker     int                // an eventfd that ends a poll; -1 while nothing runs
	stopping  bool
	counts    Counts

	// untold are the states that are not in the table yet; one of a session that is
	// gone is nil.
	untold map[string]*state.BFDState
	tell   chan struct{} // has room for one
}

// Counts is what a Speaker has sent and received since it was made.
type Counts struct {
	Sent, Received uint64
	// NotSent are those that the kernel did not take.
	NotSent uint64
	// Refused are packets received that are for no session, by why.
	Refused map[string]uint64
}

// New returns a Speaker that says nothing yet.
func New(db *state.DB, writer *state.Writer, log *slog.Logger) *Speaker {
	var seed [32]byte
	crand.Read(seed[:]) // it never fails
	rng := rand.New(rand.NewChaCha8(seed))
	return &Speaker{db: db, writer: writer, log: log, clock: boottime, rng: rng, sessions: newSessions(rng), waker: -1,
		listeners: map[place]*listener{}, senders: map[string]*sender{}, counts: Counts{Refused: map[string]uint64{}},
		untold: map[string]*state.BFDState{}, tell: make(chan struct{}, 1)}
}

// boottime is CLOCK_BOOTTIME.
func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("read CLOCK_BOOTTIME: " + err.Error()) // the clock exists since Linux 2.6.39
	}
	return time.Duration(ts.Nano())
}

// check refuses rows that no session can be made of.
func check(row state.BFDSession) error {
	switch {
	case !row.Local.IsValid() || !row.Remote.IsValid() || row.Local.Is4() != row.Remote.Is4() || row.Local.Is4In6() || row.Remote.Is4In6():
		return errors.New("local and remote are two addresses of one family")
	case row.Local.Zone() != "" || row.Remote.Zone() != "":
		return errors.New("the interface is the addresses' zone: they have none of their own")
	case row.Multihop != (row.Interface == "") || row.Multihop != (row.Ifindex == 0):
		return errors.New("a session has an interface, or goes over several hops")
	case row.Multihop != (row.MinTTL > 0):
		return errors.New("a session over several hops, and no other, has a minimum TTL")
	case row.MinTx < state.MinBFDInterval || row.MinRx < state.MinBFDInterval:
		return fmt.Errorf("intervals are at least %v", state.MinBFDInterval)
	case row.Multiplier == 0:
		return errors.New("the multiplier is at least 1")
	}
	return nil
}

// Update is state.Target's.
func (s *Speaker) Update(_ context.Context, row state.BFDSession) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("keep BFD session %s: %w", row.RowKey(), err)
		}
	}()
	if err := check(row); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return errors.New("the daemon stops")
	}
	if err := s.open(row); err != nil {
		return err
	}
	s.sessions.set(row, s.clock())
	s.closeUnused() // of an interface that was made anew
	s.settle()
	return nil
}

// open opens the sockets that the row's session needs, and has not got.
func (s *Speaker) open(row state.BFDSession) error {
	at, key := placeOf(row), row.RowKey()
	if s.listeners[at] == nil {
		l, err := listen(at)
		if err != nil {
			return err
		}
		s.listeners[at] = l
	}
	was := s.senders[key]
	if was != nil && was.path == pathOf(row) {
		return nil
	}
	now, err := dial(row, s.rng)
	if err != nil {
		s.closeUnused()
		return err
	}
	if was != nil {
		was.close()
	}
	s.senders[key] = now
	return nil
}

// Delete is state.Target's: the remote system is told that the session ends.
func (s *Speaker) Delete(_ context.Context, row state.BFDSession) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions.leave(row.RowKey(), s.clock())
	s.settle()
	return nil
}

// Prune is state.Target's.
func (s *Speaker) Prune(_ context.Context, wanted []state.BFDSession) error {
	keep := make(map[string]bool, len(wanted))
	for _, row := range wanted {
		keep[row.RowKey()] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.sessions.byKey {
		if !keep[key] {
			s.sessions.leave(key, s.clock())
		}
	}
	s.settle()
	return nil
}

// Counts returns what was sent and received.
func (s *Speaker) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counts
	c.Refused = make(map[string]uint64, len(c.Refused))
	for why, n := range s.counts.Refused {
		c.Refused[why] = n
	}
	return c
}

// settle passes on what has changed in the sessions, and has the loop look at
// when something is due.
func (s *Speaker) settle() {
	s.note()
	if s.waker >= 0 {
		// It fails when the counter is full: then the loop is about to wake up.
		_, _ = unix.Write(s.waker, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// note puts news among what is untold.
func (s *Speaker) note() {
	for _, row := range s.sessions.news() {
		s.untold[row.RowKey()] = &row
	}
	if len(s.untold) > 0 {
		select {
		case s.tell <- struct{}{}:
		default:
		}
	}
}

func (s *Speaker) send(of *session, p packet) {
	to := s.senders[of.row.RowKey()]
	if to == nil || to.path != pathOf(of.row) {
		return // it says farewell where another has taken over
	}
	if err := to.send(p.append(nil)); err != nil {
		s.counts.NotSent++ // the interface is down, or nobody is there: the session says so
		return
	}
	s.counts.Sent++
}

// ended forgets a session that has said farewell.
func (s *Speaker) ended(of *session) {
	key := of.row.RowKey()
	if s.sessions.byKey[key] != nil {
		return // there is another
	}
	if to := s.senders[key]; to != nil {
		to.close()
		delete(s.senders, key)
	}
	s.untold[key] = nil
}

// closeUnused closes listeners that no session needs.
func (s *Speaker) closeUnused() {
	used := make(map[place]bool, len(s.listeners))
	for _, of := range s.sessions.byKey {
		used[placeOf(of.row)] = true
	}
	for at, l := range s.listeners {
		if !used[at] {
			l.close()
			delete(s.listeners, at)
		}
	}
}
