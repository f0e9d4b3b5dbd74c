// Package collect walks the datapath's tables of flows: it removes what is
// over, so that there is room, and counts what is not.
//
// What is over and how hard to work is decided by pure functions (this file);
// the walk (table.go, nat.go) is one bounded step after another, with pauses,
// and never keeps more of a table than one step.
package collect

import (
	"net/netip"
	"time"

	"github.com/seamark-lb/seamark/state"
	"golang.org/x/sys/unix"
)

// tick is the unit of the datapath's clock (bpf/clock.h).
const tick = 1 << 30 * time.Nanosecond

// Entry is what there is to know of an entry of any table.
type Entry struct {
	IPv6     bool
	Protocol state.Protocol
	Replied  bool   // both sides have spoken
	Closing  bool   // a FIN or RST was seen, or what stands for it
	Seen     uint32 // ticks of CLOCK_MONOTONIC, of the last packet
	// Keep is how long the entry stays after that; 0: by what it is.
	Keep time.Duration
	// Spare: when room is scarce it may go after Timeouts.Pin.
	Spare bool
	// Frontend and Backend of a flow; zero for what is no flow.
	Frontend, Backend netip.AddrPort
}

// Timeouts are how long an entry stays after its last packet.
type Timeouts struct {
	Established time.Duration // TCP and SCTP, when both sides have spoken
	HalfOpen    time.Duration // TCP and SCTP before that
	Closing     time.Duration // and after the first FIN or RST
	UDP         time.Duration // UDP that nobody has answered
	UDPReplied  time.Duration
	// Pin bounds all of them for entries that are Spare; 0: it does not.
	Pin time.Duration
}

// DefaultTimeouts are those of a table with room.
func DefaultTimeouts() Timeouts {
	return Timeouts{
		Established: 6 * time.Hour,
		HalfOpen:    time.Minute,
		Closing:     time.Minute, // half-closed connections may wait for an answer
		UDP:         time.Minute,
		UDPReplied:  3 * time.Minute,
	}
}

// scarce is the fill from which on room is scarce.
const scarce = 0.9

// At returns the timeouts of a table that is filled to that part. When room is
// scarce, what was never answered, what is closing and what is cheap to lose
// goes sooner. An open connection that both sides have spoken in is never given
// up for another.
func (t Timeouts) At(fill float64) Timeouts {
	if fill < scarce {
		return t
	}
	t.HalfOpen = min(t.HalfOpen, 10*time.Second)
	t.Closing = min(t.Closing, 10*time.Second)
	t.UDP = min(t.UDP, 10*time.Second)
	t.UDPReplied = min(t.UDPReplied, 30*time.Second)
	t.Pin = 5 * time.Minute
	return t
}

// Of is how long an entry stays.
func (t Timeouts) Of(e Entry) time.Duration {
	keep := t.byState(e)
	if e.Keep > 0 {
		keep = e.Keep
	}
	if e.Spare && t.Pin > 0 {
		keep = min(keep, t.Pin)
	}
	return keep
}

func (t Timeouts) byState(e Entry) time.Duration {
	switch {
	case e.Closing:
		return t.Closing
	case e.Protocol == state.UDP && e.Replied:
		return t.UDPReplied
	case e.Protocol == state.UDP:
		return t.UDP
	case e.Replied:
		return t.Established
	}
	return t.HalfOpen
}

// Over says whether an entry is over at that time, in ticks.
func (t Timeouts) Over(e Entry, now uint32) bool {
	return Idle(e.Seen, now) > t.Of(e)
}

// Idle is the time since seen, both in ticks. What was seen after now was
// looked at is not idle.
func Idle(seen, now uint32) time.Duration {
	return time.Duration(max(0, int32(now-seen))) * tick
}

// The pace of the walk between a table with room and one that is full.
const (
	slowest = 30 * time.Second // from the end of one pass to the next
	fastest = time.Second
	least   = 0.05 // of one CPU
	most    = 0.5
	// longest bounds a rest: a step that took long was kept waiting itself.
	longest = time.Second
)

// Pause is how long to wait after a pass before the next.
func Pause(fill float64) time.Duration {
	return slowest - time.Duration(pressure(fill)*float64(slowest-fastest))
}

// Rest is how long to pause after a step that took that long, so that the walk
// has its share of a CPU: the fuller the tables, the more.
func Rest(fill float64, took time.Duration) time.Duration {
	share := least + (most-least)*clamp(fill)
	return min(longest, time.Duration(float64(took)*(1/share-1)))
}

// pressure is 0 up to half full, and 1 from where room is scarce.
func pressure(fill float64) float64 {
	const half = 0.5
	return clamp((fill - half) / (scarce - half))
}

func clamp(x float64) float64 { return max(0, min(1, x)) }

// Now is the datapath's clock, in ticks (bpf/clock.h).
func Now() uint32 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0 // never: only an unknown clock fails
	}
	return uint32(now.Nano() / int64(tick))
}
