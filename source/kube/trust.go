package kube

import (
	"sync"
	"time"
)

// trust bounds what the freshness of the leases says of the other tables. An
// API server tells on demand how new one kind's watch is: each renewal of this
// node's lease does so for leases (source.Freshness). The watch of
// AnnouncementSlices is another one. For as long as it is not broken it is
// taken to be as new; after a break, only what a comparison with the API
// server has shown counts.
type trust struct {
	// gap between two renewals from which on this process stood still, or its
	// connections may have.
	gap time.Duration
	// wake holds a token when there is something to verify.
	wake chan struct{}

	mu      sync.Mutex
	on      bool          // the watch is
	breaks  int           // so far
	trusted bool          // compared after the last break, and the watch is on
	proven  time.Duration // the table is no older than that (CLOCK_BOOTTIME)
	renewed time.Duration // when the last renewal that was answered was sent
}

func newTrust(gap time.Duration) *trust {
	return &trust{gap: gap, wake: make(chan struct{}, 1)}
}

// bound is leases' age, or that of the AnnouncementSlices when they are older.
func (t *trust) bound(leases time.Duration) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.trusted {
		return leases
	}
	return min(leases, t.proven)
}

// turned records that the watch began or ended; leases as of bound.
func (t *trust) turned(on bool, leases time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.on = on
	t.broke(leases)
}

// sending records that a renewal is about to be sent at now; leases as of bound.
func (t *trust) sending(now, leases time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.renewed != 0 && now-t.renewed > t.gap {
		t.broke(leases)
	}
}

// sent records that the renewal sent at that time was answered.
func (t *trust) sent(at time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.renewed = at
}

// lagged records that the table was found behind the API server.
func (t *trust) lagged(leases time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.broke(leases)
}

func (t *trust) broke(leases time.Duration) {
	if t.trusted {
		t.proven = max(t.proven, leases) // this much was told
	}
	t.trusted = false
	t.breaks++
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// begin is called before the API server is asked; proved takes what it returns.
func (t *trust) begin() (breaks int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.breaks
}

// proved records that the table holds what the API server did when it was
// asked at asked, and returns whether it may be trusted from here on.
func (t *trust) proved(breaks int, asked time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.proven = max(t.proven, asked)
	t.trusted = t.on && breaks == t.breaks
	return t.trusted
}
