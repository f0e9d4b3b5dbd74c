package announce

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/state"
)

// heard is a lease whose eth1 reports "b -c +": b was heard, c was not, and the
// gateway was (-: was not).
func heard(node, reports string) state.NodeLease {
	l := lease(node, int(node[0]-'a')+1)
	i := &l.Interfaces[0]
	i.Gateways = []netip.Addr{addr(200)}
	l.Addrs = []netip.Addr{addr(int(node[0]-'a') + 1)}
	for _, word := range strings.Fields(reports) {
		switch name, silent := strings.CutPrefix(word, "-"); {
		case word == "+":
			i.Gateway = state.Heard
		case word == "-":
			i.Gateway = state.Silent
		case silent:
			i.Silent = append(i.Silent, name)
		default:
			i.Heard = append(i.Heard, name)
		}
	}
	return l
}

// deafNow confirms at once what is reported.
func deafNow(leases []state.NodeLease, verdicts map[string]Verdict) map[nodeInterface]bool {
	deaf := map[nodeInterface]bool{}
	for at := range segmentsOf(leases, verdicts).deafOnes(leases, verdicts) {
		deaf[at] = true
	}
	return deaf
}

func TestCutOff(t *testing.T) {
	for _, tc := range []struct {
		name     string
		reports  string             // of a, b, c…, between |
		verdicts map[string]Verdict // that are not Live
		want     string
	}{
		{"all hear each other", "b c + | a c + | a b +", nil, ""},
		{"nobody has asked yet", " | | ", nil, ""},
		{"a lost power", "b c + | -a c + | -a b +", nil, "a"},
		{"a lost power, and has not been missed by all yet", "b c + | -a c + | a b +", nil, ""},
		{"a lost power after a clean stop", "b c + | -a c + | -a b +", map[string]Verdict{"a": Resting}, "a"},
		{"a lost power, and who heard it last has no lease any more", "b c + | -a -c + | a b +", map[string]Verdict{"c": Expired}, "a"},
		{"the cable of a is out, as it says itself", "-b -c - | a c + | a b +", nil, "a"},
		{"… and as all say", "-b -c - | -a c + | -a b +", nil, "a"},
		{"the switch is off", "-b -c - | -a -c - | -a -b -", nil, ""},
		{"… and one has not noticed yet", "-b -c - | -a -c - | a b +", nil, "a b"},
		{"the gateway is down", "b c - | a c - | a b -", nil, ""},
		{"the gateway is down, and one has not noticed yet", "b c - | a c - | a b +", nil, ""},
		{"torn in two: the part with the gateway counts", "b -c -d - | a -c -d - | d -a -b + | c -a -b +", nil, "a b"},
		{"torn in two: no gateway in either", "b -c -d - | a -c -d - | d -a -b - | c -a -b -", nil, ""},
		{"torn in two, and no gateway", "b -c -d | a -c -d | d -a -b | c -a -b", nil, ""},
		{"two nodes: who hears the gateway", "-b - | -a +", nil, "a"},
		{"two nodes: both hear the gateway, which is a bridge between them that filters", "-b + | -a +", nil, ""},
		{"three that the switch keeps apart", "-b -c + | -a -c + | -a -b +", nil, ""},
		{"two nodes that hear neither each other nor a gateway", "-b - | -a -", nil, ""},
		{"two nodes and no gateway", "-b | -a", nil, ""},
		{"one of two lost power", "b + | -a +", nil, "a"},
		{"alone in the world", "- ", nil, ""},
		{"what a node that is cut off says does not count", "-b -c -d - | a c + | a b + | a b +", nil, "a"},
		{"a cannot be heard and hears: a broken transmitter", "b c + | -a c + | -a b +", nil, "a"},
		{"the report of a frozen node is old", "b c + | -a c + | -a b +", map[string]Verdict{"b": Frozen, "c": Frozen}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var leases []state.NodeLease
			verdicts := map[string]Verdict{}
			for i, reports := range strings.Split(tc.reports, "|") {
				node := string(rune('a' + i))
				leases = append(leases, heard(node, reports))
				verdicts[node] = Live
			}
			for node, v := range tc.verdicts {
				verdicts[node] = v
			}
			var got []string
			for at := range cutOff(leases, verdicts, deafNow(leases, verdicts)) {
				got = append(got, at.node)
			}
			slices.Sort(got)
			if s := strings.Join(got, " "); s != tc.want {
				t.Errorf("cut off are %q, want %q", s, tc.want)
			}
		})
	}
}

// On its other segment a node that is cut off from one is as good as any.
func TestCutOffIsPerInterface(t *testing.T) {
	in := lab()
	in.Policies[0].Interfaces = nil
	in.Services = append(in.Services, service("there", netip.MustParseAddr("192.168.20.211")))
	for i, node := range []string{"a", "b", "c"} {
		in.Leases[i] = heard(node, map[string]string{"a": "b c +", "b": "-a c +", "c": "-a b +"}[node])
		second := state.LeaseInterface{Name: "eth2", Up: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.20.0/24")}, Silent: []string{}}
		for _, other := range []string{"a", "b", "c"} {
			if other != node {
				second.Heard = append(second.Heard, other)
			}
		}
		in.Leases[i].Interfaces = append(in.Leases[i].Interfaces, second)
	}
	in.Decided = []state.Assignment{{Addr: addr(211), Node: "a", Generation: 4, Since: epoch}}
	rows := Place(in, epoch)
	if got, want := fmt.Sprint(holders(rows)), "map[192.168.10.211:b 192.168.20.211:a]"; got != want {
		t.Errorf("placed %s, want %s", got, want)
	}
	if rows[0].Reason != state.ReasonCutOff || rows[0].Generation != 5 {
		t.Errorf("moved as %+v", rows[0])
	}
	if stand := Explain(in, addr(211))[0]; stand.Bar != BarCutOff {
		t.Errorf("a stands as %+v", stand)
	}
}

func TestSteppedDown(t *testing.T) {
	others := []state.NodeLease{heard("a", "b c +"), heard("b", "a c +"), heard("c", "a b +")}
	verdicts := map[string]Verdict{"a": Live, "b": Live, "c": Live}
	for _, tc := range []struct {
		name, own string
		valid     bool
		want      bool
	}{
		{"hears all", "b c +", true, false},
		{"hears no one, and others do", "-b -c -", true, true},
		{"hears the gateway", "-b -c +", true, false},
		{"knows of no gateway", "-b -c", true, true},
		{"stale lease, and hears no one", "-b -c -", false, true},
		{"stale lease, and hears the gateway", "-b -c +", false, false},
		{"stale lease, and hears one", "b -c -", false, false},
		{"stale lease, and there is no gateway to know by", "-b -c", false, false},
		{"stale lease, and nobody else to take it", "-", false, false},
	} {
		if got := steppedDown(heard("a", tc.own), others, verdicts, deafNow(append([]state.NodeLease{heard("a", tc.own)}, others[1:]...), verdicts), tc.valid)["eth1"]; got != tc.want {
			t.Errorf("%s: stepped down %v, want %v", tc.name, got, tc.want)
		}
	}
}

// Every node is asked by as many as it asks itself, in whatever cluster; asking is bounded.
func TestAsks(t *testing.T) {
	for n := range 40 {
		var leases []state.NodeLease
		verdicts := map[string]Verdict{}
		for i := range n {
			l := lease(fmt.Sprintf("n%02d", i), i+1)
			l.Addrs = []netip.Addr{addr(i + 1)}
			l.Interfaces[0].Gateways = []netip.Addr{addr(200)}
			leases = append(leases, l)
			verdicts[l.Node] = Live
		}
		rand.New(rand.NewPCG(1, uint64(n))).Shuffle(n, func(i, j int) { leases[i], leases[j] = leases[j], leases[i] })
		for doubt, most := range map[bool]int{false: min(n-1, asksUsually), true: min(n-1, asksInDoubt)} {
			asked := map[string]int{}
			for _, l := range leases {
				list := asks(l.Node, leases, verdicts, map[string]bool{"eth1": doubt})["eth1"]
				if len(list) != most+1 || list[len(list)-1] != (ask{addr: addr(200)}) {
					t.Fatalf("%d nodes: %s asks %v", n, l.Node, list)
				}
				for _, a := range list {
					asked[a.node]++
				}
			}
			for _, l := range leases {
				if asked[l.Node] != most {
					t.Errorf("%d nodes: %s is asked by %d, want %d", n, l.Node, asked[l.Node], most)
				}
			}
		}
	}
	leases := []state.NodeLease{heard("a", ""), heard("b", ""), heard("c", ""), heard("d", ""), heard("e", "")}
	leases[1].Interfaces[0].Prefixes = []netip.Prefix{netip.MustParsePrefix("192.168.20.0/24")} // another segment
	leases[2].Interfaces[0].Up = false
	got := asks("a", leases, map[string]Verdict{"a": Live, "b": Live, "c": Live, "d": Expired, "e": Released}, nil)["eth1"]
	if want := []ask{{"e", addr(5), "02:00:00:00:00:05"}, {addr: addr(200)}}; !slices.Equal(got, want) {
		t.Errorf("asks %v, want %v", got, want)
	}
	// Where there is IPv6 alone, so is it asked for; its gateway has a link-local address.
	for i, l := range []*state.NodeLease{&leases[0], &leases[4]} {
		l.Addrs = []netip.Addr{addr6(i + 1)}
		l.Interfaces[0].Prefixes = []netip.Prefix{netip.PrefixFrom(addr6(0), 64)}
		l.Interfaces[0].Gateways = []netip.Addr{netip.MustParseAddr("fe80::1")}
	}
	got = asks("a", leases, map[string]Verdict{"a": Live, "e": Live}, nil)["eth1"]
	if want := []ask{{"e", addr6(2), "02:00:00:00:00:05"}, {addr: netip.MustParseAddr("fe80::1")}}; !slices.Equal(got, want) {
		t.Errorf("with IPv6 alone asks %v, want %v", got, want)
	}
}
