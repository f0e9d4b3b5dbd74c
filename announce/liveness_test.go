package announce

import (
	"fmt"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// watch steps a Liveness every 100 ms from 0 to until. renewed says until when
// each node renews, once a second; read whether the store can be read.
func watch(until time.Duration, renewed map[string]time.Duration, read func(now time.Duration) bool) *Liveness {
	l := NewLiveness(DefaultTiming)
	lastRead := time.Duration(0)
	const start = time.Hour // of boottime
	for at := time.Duration(0); at <= until; at += 100 * time.Millisecond {
		if read(at) {
			lastRead = start + at
		}
		var leases []state.NodeLease
		for node, last := range renewed {
			leases = append(leases, state.NodeLease{Node: node, Duration: 3 * time.Second,
				Renewal: fmt.Sprint(min(at, last, lastRead-start) / time.Second)})
		}
		l.Observe(start+at, lastRead, leases)
	}
	return l
}

func TestLiveness(t *testing.T) {
	const forever = time.Hour
	always := func(time.Duration) bool { return true }
	except := func(from, to time.Duration) func(time.Duration) bool {
		return func(at time.Duration) bool { return at < from || at >= to }
	}
	sec := time.Second
	for _, tc := range []struct {
		name    string
		until   time.Duration
		renewed map[string]time.Duration // until when
		read    func(time.Duration) bool
		want    map[string]Verdict
	}{
		{"all renew", 20 * sec, map[string]time.Duration{"a": forever, "b": forever}, always,
			map[string]Verdict{"a": Live, "b": Live}},
		{"one falls silent, just before", 12900 * time.Millisecond, map[string]time.Duration{"a": 10 * sec, "b": forever}, always,
			map[string]Verdict{"a": Live, "b": Live}},
		{"one falls silent", 13 * sec, map[string]time.Duration{"a": 10 * sec, "b": forever}, always,
			map[string]Verdict{"a": Expired, "b": Live}},
		{"seen once and never again", 3 * sec, map[string]time.Duration{"a": 0}, always,
			map[string]Verdict{"a": Expired}},
		{"never read", 20 * sec, map[string]time.Duration{"a": 0}, func(time.Duration) bool { return false },
			map[string]Verdict{"a": Live}},
		{"no reads since it fell silent", 40 * sec, map[string]time.Duration{"a": 10 * sec, "b": forever}, except(11*sec, forever),
			map[string]Verdict{"a": Live, "b": Live}},
		{"a full duration after an outage, just before", 32900 * time.Millisecond, map[string]time.Duration{"a": 10 * sec, "b": forever},
			except(11*sec, 30*sec), map[string]Verdict{"a": Live, "b": Live}},
		{"a full duration after an outage", 33 * sec, map[string]time.Duration{"a": 10 * sec, "b": forever},
			except(11*sec, 30*sec), map[string]Verdict{"a": Expired, "b": Live}},
		{"one slow read is no outage", 13 * sec, map[string]time.Duration{"a": 10 * sec, "b": forever},
			except(11*sec, 12*sec), map[string]Verdict{"a": Expired, "b": Live}},
		{"most fall silent", 13500 * time.Millisecond, map[string]time.Duration{"a": 10 * sec, "b": 11 * sec, "c": forever}, always,
			map[string]Verdict{"a": Frozen, "b": Live, "c": Live}},
		{"most fell silent", 15 * sec, map[string]time.Duration{"a": 10 * sec, "b": 11 * sec, "c": forever}, always,
			map[string]Verdict{"a": Frozen, "b": Frozen, "c": Live}},
		{"most fell silent long ago", 45 * sec, map[string]time.Duration{"a": 10 * sec, "b": 11 * sec, "c": forever}, always,
			map[string]Verdict{"a": Expired, "b": Expired, "c": Live}},
		{"one after the other", 24 * sec, map[string]time.Duration{"a": 10 * sec, "b": 20 * sec, "c": forever}, always,
			map[string]Verdict{"a": Expired, "b": Expired, "c": Live}},
		{"half is not most", 15 * sec, map[string]time.Duration{"a": 10 * sec, "b": 10 * sec, "c": forever, "d": forever}, always,
			map[string]Verdict{"a": Expired, "b": Expired, "c": Live, "d": Live}},
		{"one of two", 15 * sec, map[string]time.Duration{"a": 10 * sec, "b": forever}, always,
			map[string]Verdict{"a": Expired, "b": Live}},
		{"the only one", 15 * sec, map[string]time.Duration{"a": 10 * sec}, always, map[string]Verdict{"a": Expired}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := watch(tc.until, tc.renewed, tc.read).Verdicts()
			for node, want := range tc.want {
				if got[node] != want {
					t.Errorf("%s is %s, want %s", node, got[node], want)
				}
			}
		})
	}
}

func TestLivenessOfChangingLeases(t *testing.T) {
	l := NewLiveness(DefaultTiming)
	a := state.NodeLease{Node: "a", Duration: 3 * time.Second, Renewal: "1"}
	at := time.Minute
	observe := func(d time.Duration, leases ...state.NodeLease) Verdict {
		for end := at + d; at < end; {
			at += 100 * time.Millisecond
			l.Observe(at, at, leases)
		}
		return l.Verdicts()["a"]
	}
	if v := observe(time.Second, a); v != Live {
		t.Errorf("new lease is %s", v)
	}
	a.Released, a.Renewal = true, "2"
	if v := observe(100*time.Millisecond, a); v != Released {
		t.Errorf("released lease is %s", v)
	}
	// A machine that gave its addresses up may be switched off then.
	if v := observe(time.Minute, a); v != Expired {
		t.Errorf("lease released, and not renewed for long, is %s", v)
	}
	a.Released, a.Renewal = false, "3"
	if v := observe(100*time.Millisecond, a); v != Live {
		t.Errorf("lease taken up again is %s", v)
	}
	a.Renewal, a.Duration = "4", 30*time.Second
	if v := observe(29*time.Second, a); v != Resting {
		t.Errorf("stretched lease is %s within its grace", v)
	}
	if v := observe(2*time.Second, a); v != Expired {
		t.Errorf("stretched lease is %s after its grace", v)
	}
	if v := observe(100 * time.Millisecond); v != NoLease {
		t.Errorf("deleted lease is %s", v)
	}
}

// Leases whose durations cannot be: what is right of them counts.
func TestLivenessOfAbsurdLeases(t *testing.T) {
	for _, tc := range []struct {
		duration, age time.Duration
		want          Verdict
	}{
		{0, time.Second, Live},
		{0, 4 * time.Second, Expired},
		{-time.Hour, time.Second, Live},
		{-time.Hour, 4 * time.Second, Expired},
		{68 * 365 * 24 * time.Hour, 59 * time.Minute, Resting},
		{68 * 365 * 24 * time.Hour, 61 * time.Minute, Expired},
	} {
		l := NewLiveness(DefaultTiming)
		for age := time.Duration(0); age <= tc.age; age += time.Second {
			at := time.Minute + age
			l.Observe(at, at, []state.NodeLease{{Node: "a", Duration: tc.duration, Renewal: "1"},
				{Node: "b", Duration: 3 * time.Second, Renewal: fmt.Sprint(at)}})
		}
		if got := l.Verdicts()["a"]; got != tc.want {
			t.Errorf("a lease of %v, %v old, is %s, want %s", tc.duration, tc.age, got, tc.want)
		}
	}
}

// A process that slept does not hold the time it slept against the others.
func TestLivenessOverSleep(t *testing.T) {
	l := watch(10*time.Second, map[string]time.Duration{"a": time.Hour}, func(time.Duration) bool { return true })
	woke := time.Hour + 10*time.Second + 8*time.Hour
	l.Observe(woke, woke, []state.NodeLease{{Node: "a", Duration: 3 * time.Second, Renewal: "10"}})
	if v := l.Verdicts()["a"]; v != Live {
		t.Errorf("after sleep a is %s", v)
	}
	if w := l.Watched(); w != 0 {
		t.Errorf("after sleep watched for %v", w)
	}
}

// What an observer has not heard renewed may be of any time before it began, or
// before the store could be read again.
func TestUnrenewed(t *testing.T) {
	l := NewLiveness(Timing{})
	lease := state.NodeLease{Node: "a", Duration: 3 * time.Second, Renewal: "1"}
	for _, step := range []struct {
		at, read time.Duration
		renewal  string
		want     bool
	}{
		{1 * time.Second, 1 * time.Second, "1", true},
		{2 * time.Second, 2 * time.Second, "2", false},
		{2500 * time.Millisecond, 2500 * time.Millisecond, "2", false},
		{60 * time.Second, 60 * time.Second, "2", true}, // the store was gone
		{61 * time.Second, 61 * time.Second, "3", false},
	} {
		lease.Renewal = step.renewal
		l.Observe(step.at, step.read, []state.NodeLease{lease})
		if got := l.Unrenewed()["a"]; got != step.want {
			t.Errorf("%v: unrenewed %v", step.at, got)
		}
	}
	verdicts := map[string]Verdict{"a": Live, "b": Live, "c": Expired}
	heard := witnesses(verdicts, map[string]bool{"b": true, "c": true})
	if heard["a"] != Live || heard["b"] != Resting || heard["c"] != Expired || verdicts["b"] != Live {
		t.Errorf("witnesses %v of %v", heard, verdicts)
	}
}
