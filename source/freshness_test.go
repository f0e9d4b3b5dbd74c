package source

import (
	"testing"
	"time"
)

func TestFreshness(t *testing.T) {
	const s = time.Second
	f := &Freshness{}
	check := func(what string, want time.Duration) {
		t.Helper()
		if got := f.LastRead(); got != want {
			t.Errorf("%s: last read %v, want %v", what, got, want)
		}
	}
	f.Answered(10, 1*s)
	check("an answer before the first list", 0)
	f.Reached(10)
	check("the list", 1*s)
	if f.Answered(10, 2*s) {
		t.Error("waits for a revision that is there")
	}
	check("nothing new in the store", 2*s)
	if !f.Answered(15, 3*s) {
		t.Error("does not wait for the watch")
	}
	check("the watch is behind", 2*s)
	f.Reached(14)
	check("the watch comes nearer: an old event is no news", 2*s)
	f.Answered(20, 4*s)
	f.Reached(17)
	check("the watch is there for one of two", 3*s)
	f.Reached(20)
	check("the watch is there", 4*s)
	f.Reached(12)
	f.Answered(20, 5*s)
	check("a revision does not go back", 5*s)
	for i := range 10 * maxProbes {
		f.Answered(100+int64(i), time.Duration(10+i)*s)
	}
	if len(f.probes) > maxProbes {
		t.Errorf("%d probes are kept", len(f.probes))
	}
	f.Reached(100)
	check("the first of many", 10*s)
	f.Reached(100 + 10*maxProbes)
	check("the last of many", (10+10*maxProbes-1)*s)
	f.Answered(9999, 10000*s)
	f.Replaced()
	f.Reached(5)
	check("an answer of another store", (10+10*maxProbes-1)*s)
	f.Answered(5, 10001*s)
	check("an answer of this one", 10001*s)
}
