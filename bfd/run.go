package bfd

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seamark-lb/seamark/state"
)

const (
	// maxAtOnce is how many packets are read from a socket before what is due is done.
	maxAtOnce = 256
	// pace is between two writes of states: a session that flaps does not flood the tables.
	pace = 50 * time.Millisecond
	// niceness of the thread that sends and receives.
	niceness = -15
)

// Run keeps the sessions until ctx ends. Then every remote system is told that its
// session ends on purpose, but for those that are to end silently, and Run returns.
func (s *Speaker) Run(ctx context.Context) error {
	waker, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("open eventfd: %w", err)
	}
	s.mu.Lock()
	s.waker = waker
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.waker = -1
		unix.Close(waker)
	}()
	stop := context.AfterFunc(ctx, s.stop)
	defer stop()

	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { s.publish(done) })
	wg.Go(func() {
		defer close(done)
		err = s.loop(waker)
	})
	wg.Wait()
	return err
}

func (s *Speaker) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	for key, of := range s.sessions.byKey {
		s.sessions.leave(key, s.clock())
		if of.row.Silent {
			of.hush()
		}
	}
	s.settle()
}

// loop is one thread, so that packets are taken in before it is asked who has been
// silent: a daemon that was stopped or kept from the CPU finds what came meanwhile.
func (s *Speaker) loop(waker int) error {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, niceness); err != nil {
		s.log.Debug("BFD runs at normal priority", "err", err)
	}
	r := &reader{buf: make([]byte, 128), control: make([]byte, 128)}
	for {
		fds, wait, over := s.turn(r)
		if over {
			return nil
		}
		fds = append(fds, unix.PollFd{Fd: int32(waker), Events: unix.POLLIN})
		var timeout *unix.Timespec
		if wait != never {
			ts := unix.NsecToTimespec(max(int64(wait), 0))
			timeout = &ts
		}
		if _, err := unix.Ppoll(fds, timeout, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for packets: %w", err)
		}
		var drained [8]byte
		_, _ = unix.Read(waker, drained[:]) // EAGAIN: nobody called
	}
}

// reader is what a datagram is read into.
type reader struct{ buf, control []byte }

// turn takes in what came and does what is due. It returns what to wait for, and
// how long; over, when the speaker has stopped and nothing is left to be said.
func (s *Speaker) turn(r *reader) (fds []unix.PollFd, wait time.Duration, over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.listeners {
		s.read(l, r)
	}
	if ended := s.sessions.tick(s.clock(), s.send); len(ended) > 0 {
		for _, of := range ended {
			s.ended(of)
		}
		s.closeUnused()
	}
	s.note()
	for _, l := range s.listeners {
		fds = append(fds, unix.PollFd{Fd: int32(l.fd), Events: unix.POLLIN})
	}
	wait = never
	if due := s.sessions.due(); due != never {
		wait = due - s.clock()
	}
	return fds, wait, s.stopping && len(s.sessions.byKey) == 0
}

func (s *Speaker) read(l *listener, r *reader) {
	for range maxAtOnce {
		from, n, err := l.receive(r.buf, r.control)
		if err != nil {
			return // EAGAIN: all is read. Others are of the socket's interface, and the row's to tell
		}
		s.counts.Received++
		if err := s.sessions.receive(from, r.buf[:n], s.clock()); err != nil {
			s.counts.Refused[err.Error()]++
		}
	}
}

// publish writes what is untold into the table, until done is closed.
func (s *Speaker) publish(done <-chan struct{}) {
	for {
		select {
		case <-done:
			s.write()
			return
		case <-s.tell:
			s.write()
		}
		select {
		case <-done:
		case <-time.After(pace):
		}
	}
}

func (s *Speaker) write() {
	s.mu.Lock()
	untold := s.untold
	s.untold = map[string]*state.BFDState{}
	s.mu.Unlock()
	var turns []state.BFDState // up, or down
	s.writer.Update(func(tx *state.Tx) {
		for key, row := range untold {
			old, known := s.db.BFDStates.Get(tx, key)
			if row == nil {
				s.db.BFDStates.Delete(tx, key)
				continue
			}
			row.Since = time.Now().Add(row.Changed - s.clock())
			if known && old.Changed == row.Changed {
				row.Since = old.Since
			}
			s.db.BFDStates.Put(tx, *row)
			if row.Up() != old.Up() {
				turns = append(turns, *row)
			}
		}
	})
	for _, row := range turns { // a log that is slow holds up no table
		attrs := []any{"remote", row.Remote, "interface", row.Interface, "owner", row.Owner}
		if row.Up() {
			s.log.Info("BFD session up", attrs...)
		} else {
			s.log.Warn("BFD session down", append(attrs, "why", row.Diag, "remote state", row.RemotePhase)...)
		}
	}
}
