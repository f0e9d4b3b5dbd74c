package source

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Freshness works out how old the tables may be. An event that arrives says
// nothing of that: after a pause, or while a watch catches up, it is an old
// one. But the store's answer to a request names a revision that has in it all
// that was committed before the request was sent; once the watch has brought
// that revision, the tables are no older than the sending. The zero Freshness
// has read nothing.
type Freshness struct {
	mu       sync.Mutex
	held     int64 // revision that the tables hold; 0: none
	probes   []probe
	lastRead time.Duration
}

// probe: all that was committed before sent is at or below revision.
type probe struct {
	revision int64
	sent     time.Duration // CLOCK_BOOTTIME
}

// maxProbes bounds what is remembered while the watch hangs. The latest is
// kept, and enough of the first to go by when it moves again.
const maxProbes = 64

// Answered records an answer of the store; sent is from before the request.
// It returns whether the watch has still to bring that revision.
func (f *Freshness) Answered(revision int64, sent time.Duration) (pending bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.probes) == maxProbes {
		f.probes = f.probes[:maxProbes-1]
	}
	f.probes = append(f.probes, probe{revision, sent})
	f.settle()
	return f.held < revision
}

// Reached records that the tables hold all up to revision.
func (f *Freshness) Reached(revision int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held = max(f.held, revision)
	f.settle()
}

func (f *Freshness) settle() {
	if f.held == 0 {
		return
	}
	waiting := f.probes[:0]
	for _, p := range f.probes {
		if p.revision <= f.held {
			f.lastRead = max(f.lastRead, p.sent)
		} else {
			waiting = append(waiting, p)
		}
	}
	f.probes = waiting
}

// Replaced forgets the revisions: they are of another store.
func (f *Freshness) Replaced() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held, f.probes = 0, nil
}

// LastRead is the CLOCK_BOOTTIME that the tables are no older than, 0 when
// there is none.
func (f *Freshness) LastRead() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lastRead
}

// Boottime is CLOCK_BOOTTIME, which goes on while the machine sleeps.
func Boottime() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v", err)) // there since Linux 2.6.39
	}
	return time.Duration(now.Nano())
}
