package announce

import (
	"fmt"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// Three nodes ask once a second, a third of a second apart, and report what they
// hear; the others look at the leases ten times a second.
func TestIsolation(t *testing.T) {
	const all = "abc"
	nodes := []string{"a", "b", "c"}
	for _, tc := range []struct {
		name string
		// hears says whether a node hears anything, asking at that time.
		hears func(node string, at time.Duration) bool
		// deaf is who is by one report, at some time; isolated, and from and until
		// when, is who is confirmed to be.
		deaf, isolated string
		from, until    time.Duration
		dead           bool // c's daemon is from 9.8 s on, and its last report stays
	}{
		{"all hear each other", func(string, time.Duration) bool { return true }, "", "", 0, 0, false},
		{"the switch is off for a moment, in which one has asked", func(_ string, at time.Duration) bool {
			return at < 9900*time.Millisecond || at > 10500*time.Millisecond
		}, "ab", "", 0, 0, false},
		{"… for longer", func(_ string, at time.Duration) bool {
			return at < 9900*time.Millisecond || at > 14500*time.Millisecond
		}, "ab", "", 0, 0, false},
		{"… again and again", func(_ string, at time.Duration) bool { return at%(4*time.Second) > 600*time.Millisecond }, "abc", "", 0, 0, false},
		{"… for good", func(_ string, at time.Duration) bool { return at < 9900*time.Millisecond }, "ab", "", 0, 0, false},
		{"… for a while, and a daemon dies before it has noticed", func(_ string, at time.Duration) bool {
			return at < 9900*time.Millisecond || at > 12900*time.Millisecond
		}, "ab", "", 0, 0, true},
		{"one is deaf, and then is not", func(node string, at time.Duration) bool {
			return node != "b" || at < 10*time.Second || at > 20*time.Second
		}, "b", "b", 13 * time.Second, 21 * time.Second, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			leases := []state.NodeLease{heard("a", "b c +"), heard("b", "a c +"), heard("c", "a b +")}
			verdicts := map[string]Verdict{"a": Live, "b": Live, "c": Live}
			confirms := newIsolation(DefaultTiming)
			deaf, isolated := map[string]bool{}, map[string]bool{}
			for at := time.Second; at < 40*time.Second; at += 100 * time.Millisecond {
				for n, node := range nodes {
					if tc.dead && node == "c" && at > 9800*time.Millisecond {
						continue
					}
					if (at-time.Duration(n)*300*time.Millisecond)%time.Second != 0 {
						continue
					}
					reports := ""
					for _, other := range nodes {
						if other != node && tc.hears(node, at) {
							reports += other + " "
						} else if other != node {
							reports += "-" + other + " "
						}
					}
					if tc.hears(node, at) {
						reports += "+"
					} else {
						reports += "-"
					}
					leases[n] = heard(node, reports)
					leases[n].Renewal = fmt.Sprint(at)
				}
				for one := range deafNow(leases, verdicts) {
					deaf[one.node] = true
				}
				for one := range confirms.observe(time.Hour+at, leases, verdicts) {
					isolated[one.node] = true
					if at > tc.until {
						t.Errorf("%s is isolated at %v", one.node, at)
					}
				}
				if at == tc.from && !isolated[tc.isolated] {
					t.Errorf("%s is not isolated by %v", tc.isolated, at)
				}
			}
			text := func(of map[string]bool) (s string) {
				for _, node := range all {
					if of[string(node)] {
						s += string(node)
					}
				}
				return s
			}
			if got := text(deaf); got != tc.deaf {
				t.Errorf("deaf by one report are %q, want %q", got, tc.deaf)
			}
			if got := text(isolated); got != tc.isolated {
				t.Errorf("isolated are %q, want %q", got, tc.isolated)
			}
		})
	}
}
