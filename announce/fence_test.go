package announce

import (
	"slices"
	"testing"
	"time"
)

const sec = time.Second

func TestFence(t *testing.T) {
	for _, tc := range []struct {
		name                   string
		until                  time.Duration // the kernel has
		lapsedAt               time.Duration // when it was looked at before, 0: never
		now, renewed, lastRead time.Duration
		valid                  bool
		want                   time.Duration // 0: nothing to push
		resumed                bool
	}{
		{"goes on", 103 * sec, 0, 102 * sec, 0, 0, true, 105 * sec, false},
		{"goes on without a store", 103 * sec, 0, 102 * sec, 50 * sec, 50 * sec, false, 105 * sec, false},
		{"ran out", 103 * sec, 0, 103 * sec, 102 * sec, 102 * sec, false, 0, false},
		{"never ran", 0, 0, 10 * sec, 0, 0, false, 0, false},
		{"ran out, renewed only", 103 * sec, 110 * sec, 111 * sec, 110 * sec, 109 * sec, false, 0, false},
		{"ran out, read only", 103 * sec, 110 * sec, 111 * sec, 109 * sec, 110 * sec, true, 0, false},
		{"ran out, renewed and read", 103 * sec, 110 * sec, 111 * sec, 110 * sec, 110 * sec, true, 114 * sec, true},
		{"ran out, renewed and read, and paused since", 103 * sec, 110 * sec, 130 * sec, 111 * sec, 111 * sec, false, 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := fence{duration: 3 * sec, until: tc.until}
			if tc.lapsedAt != 0 {
				if _, _, ok := f.next(tc.lapsedAt, 0, 0, false); ok {
					t.Fatal("pushed what had lapsed")
				}
			}
			until, resumed, ok := f.next(tc.now, tc.renewed, tc.lastRead, tc.valid)
			if ok != (tc.want != 0) || until != tc.want || resumed != tc.resumed {
				t.Errorf("next is %v, resumed %v, ok %v; want %v, resumed %v", until, resumed, ok, tc.want, tc.resumed)
			}
			if ok {
				f.pushed(until)
				if _, resumed, ok := f.next(tc.now+sec, 0, 0, false); !ok || resumed {
					t.Error("does not go on after a push")
				}
			}
		})
	}
}

func TestTerm(t *testing.T) {
	var tm term
	check := func(what string, now, lastRead time.Duration, want bool) {
		t.Helper()
		if got := tm.valid(now, lastRead); got != want {
			t.Errorf("%s: valid %v, want %v", what, got, want)
		}
	}
	check("before the first renewal", 100*sec, 100*sec, false)
	tm.renew(100*sec, 101*sec, 3*sec)
	check("not read since", 101*sec, 100*sec, false)
	check("read since", 101*sec, 101*sec, true)
	check("counted from the start of the call, for ¾", 102250*time.Millisecond, 102*sec, false)
	check("just before", 102249*time.Millisecond, 102*sec, true)
	tm.renew(102*sec, 102200*time.Millisecond, 3*sec)
	check("renewed in time, no read needed", 104*sec, 101*sec, true)
	tm.renew(104*sec, 105*sec, 3*sec)
	check("renewed after a gap, not read since", 105*sec, 104900*time.Millisecond, false)
	check("renewed after a gap, read since", 105*sec, 105*sec, true)
}

func TestContests(t *testing.T) {
	a, b := entryKey{addr(1), 2}, entryKey{addr(2), 2}
	c := newContests()
	if !c.claimed(a, 100*sec) || c.claimed(a, 101*sec) || !c.claimed(b, 90*sec) {
		t.Error("a contest is opened by its first claim only")
	}
	for _, tc := range []struct {
		name     string
		lastRead time.Duration
		valid    bool
		want     int
	}{
		{"read before the claims", 80 * sec, true, 0},
		{"read after one of them", 101 * sec, true, 1},
		{"read after both", 102 * sec, true, 2},
		{"stale lease: yield", 102 * sec, false, 0},
	} {
		if got := c.ripe(tc.lastRead, tc.valid); len(got) != tc.want || tc.want == 1 && !slices.Equal(got, []entryKey{b}) {
			t.Errorf("%s: ripe %v, want %d", tc.name, got, tc.want)
		}
	}
	c.claimed(a, 103*sec)
	c.closed(a, 102*sec)
	if len(c.ripe(104*sec, true)) != 2 {
		t.Error("a claim that came after the judgement is forgotten")
	}
	c.closed(a, 104*sec)
	if got := c.ripe(104*sec, true); !slices.Equal(got, []entryKey{b}) {
		t.Errorf("after one is closed: ripe %v", got)
	}

	if c.defend(a, 100*sec, false) {
		t.Error("defended with a stale lease")
	}
	if !c.defend(a, 100*sec, true) || c.defend(a, 109*sec, true) || !c.defend(b, 109*sec, true) || !c.defend(a, 110*sec, true) {
		t.Error("defended not once per address and 10 s")
	}
}
