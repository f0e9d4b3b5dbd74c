package announce

import (
	"time"

	"golang.org/x/sys/unix"
)

// Clock is the time. Tests have their own.
type Clock interface {
	// Boottime is CLOCK_BOOTTIME: since boot, sleep included.
	Boottime() time.Duration
	// Wall is for people; nothing is decided by it.
	Wall() time.Time
	// After returns a channel that gets a value once d has gone by.
	After(d time.Duration) <-chan time.Time
}

// SystemClock is the kernel's.
type SystemClock struct{}

// Boottime reads CLOCK_BOOTTIME.
func (SystemClock) Boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("read CLOCK_BOOTTIME: " + err.Error()) // the clock exists since Linux 2.6.39
	}
	return time.Duration(ts.Nano())
}

// Wall is time.Now.
func (SystemClock) Wall() time.Time { return time.Now() }

// After is time.After.
func (SystemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Timing is how long things take. Every node of a cluster has the same.
type Timing struct {
	// Duration of a lease, and the longest that a daemon that died goes on
	// answering.
	Duration time.Duration
	// Renew is the time between two renewals of a lease.
	Renew time.Duration
	// Grace is how long the addresses stay with a daemon that stopped cleanly.
	Grace time.Duration
}

// DefaultTiming moves an address within about four seconds of its node's death.
var DefaultTiming = Timing{Duration: 3 * time.Second, Renew: time.Second, Grace: 30 * time.Second}

func (t Timing) withDefaults() Timing {
	if t.Duration == 0 {
		t.Duration = DefaultTiming.Duration
	}
	if t.Renew == 0 {
		t.Renew = t.Duration / 3
	}
	if t.Grace == 0 {
		t.Grace = DefaultTiming.Grace
	}
	return t
}

// tick is how often the leases are looked at.
func (t Timing) tick() time.Duration { return t.Duration / 30 }

// valid is how much of a lease its holder counts on: clocks may differ in
// rate by a third before it and the coordinator overlap.
func valid(duration time.Duration) time.Duration { return duration / 4 * 3 }
