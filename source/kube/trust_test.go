package kube

import (
	"testing"
	"time"
)

func TestTrust(t *testing.T) {
	const s = time.Second
	tr := newTrust(2 * s)
	check := func(what string, leases, want time.Duration) {
		t.Helper()
		if got := tr.bound(leases); got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	check("nothing was read", 5*s, 0)
	tr.turned(true, 5*s)
	n := tr.begin()
	check("the watch is on, and not compared", 5*s, 0)
	if !tr.proved(n, 4*s) {
		t.Error("not trusted after a comparison")
	}
	check("compared: as new as the leases", 6*s, 6*s)
	tr.turned(false, 7*s)
	check("the watch ended: what was told stays told", 9*s, 7*s)
	n = tr.begin()
	if tr.proved(n, 10*s) {
		t.Error("trusted without a watch")
	}
	check("compared without a watch", 12*s, 10*s)
	n = tr.begin()
	tr.turned(true, 12*s)
	if tr.proved(n, 11*s) {
		t.Error("a comparison from before the watch began is trusted")
	}
	check("compared before the watch began", 12*s, 11*s)
	tr.proved(tr.begin(), 13*s)
	renew := func(at, leases time.Duration) {
		tr.sending(at, leases)
		tr.sent(at)
	}
	renew(14*s, 13*s)
	renew(16*s, 14*s)
	check("renewals in time", 16*s, 16*s)
	tr.sending(17*s, 16*s) // and no answer
	tr.sending(18*s, 16*s)
	check("a renewal that failed", 18*s, 18*s)
	renew(19*s, 16*s)
	check("the process stood still", 19*s, 16*s)
	tr.proved(tr.begin(), 20*s)
	tr.lagged(21 * s)
	check("found behind", 25*s, 21*s)
	check("never newer than the leases", 3*s, 3*s)
	select {
	case <-tr.wake:
	default:
		t.Error("nobody was woken to compare")
	}
}
