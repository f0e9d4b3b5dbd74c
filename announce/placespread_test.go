package announce

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/seamark-lb/seamark/state"
)

// Nodes with a foot in each of two segments announce an address on the one it is of.
func TestPlaceOnSeveralSegments(t *testing.T) {
	in := lab()
	in.Policies[0].Interfaces = nil
	other := func(x int, up bool) state.LeaseInterface {
		return state.LeaseInterface{Name: "eth2", MAC: fmt.Sprintf("02:00:00:00:01:%02x", x), Up: up,
			Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.20.0/24")}}
	}
	in.Leases[0].Interfaces = append(in.Leases[0].Interfaces, other(1, false))
	in.Leases[1].Interfaces = append(in.Leases[1].Interfaces, other(2, true))
	in.Services = append(in.Services, service("there", netip.MustParseAddr("192.168.20.211")), service("routed", netip.MustParseAddr("203.0.113.1")))
	in.Decided = []state.Assignment{{Addr: netip.MustParseAddr("203.0.113.1"), Node: "b", Generation: 1, Since: epoch, Reason: state.ReasonFirstAssignment}}
	var got []string
	for _, row := range Place(in, epoch) {
		got = append(got, fmt.Sprint(row.Addr, " ", row.Node, row.Interfaces))
	}
	if want := []string{"192.168.10.211 a[eth1]", "192.168.20.211 b[eth2]", "203.0.113.1 b[eth1 eth2]"}; !slices.Equal(got, want) {
		t.Errorf("placed %q, want %q", got, want)
	}
	bars := ""
	for _, stand := range Explain(in, netip.MustParseAddr("192.168.20.211")) {
		bars += stand.Node + ":" + string(stand.Bar) + " "
	}
	if want := "a:InterfaceDown b: c:OffLink "; bars != want {
		t.Errorf("explained as %s, want %s", bars, want)
	}
}

// The addresses of one Service are spread, whatever else the nodes have.
func TestPlaceSpreadsService(t *testing.T) {
	in := lab()
	in.Services = []state.Service{service("a", addr(1)), service("b", addr(2)), service("z", addr(11), addr(12), addr(13), addr(14))}
	in.Verdicts["c"] = Expired
	in.Decided = Place(in, epoch)
	in.Verdicts["c"] = Live
	in.Verdicts["b"] = Expired // its addresses go to c, which has none, but for that of z that a has room for
	of := map[string]int{}
	for _, row := range Place(in, epoch) {
		if row.Service.Name == "z" {
			of[row.Node]++
		}
	}
	if of["a"] != 2 || of["c"] != 2 {
		t.Errorf("the four addresses of z are on %v", of)
	}

	in = lab()
	in.Services = []state.Service{service("a", addr(1)), service("b", addr(2)), service("c", addr(3)), service("pair", addr(4), addr(5))}
	in.Decided = []state.Assignment{{Addr: addr(4), Node: "a", Generation: 1, Since: epoch}, {Addr: addr(1), Node: "b", Generation: 1, Since: epoch},
		{Addr: addr(2), Node: "b", Generation: 1, Since: epoch}, {Addr: addr(3), Node: "c", Generation: 1, Since: epoch}}
	in.Verdicts["c"] = Resting // takes nothing; a has fewer addresses than b, and one of pair's
	if got := holders(Place(in, epoch))["192.168.10.5"]; got != "b" {
		t.Errorf("the second address of pair is on %s, want b", got)
	}
}

// Whatever happens to the nodes: only candidates hold, nothing moves that need
// not, a move raises the generation by one, what moves is spread evenly, and
// the order of the inputs does not matter.
func TestPlaceProperties(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 7))
		in := Inputs{Policies: lab().Policies, Verdicts: map[string]Verdict{}}
		for i := range 1 + rng.IntN(6) {
			node := fmt.Sprintf("n%d", i)
			in.Nodes = append(in.Nodes, state.Node{Name: node})
			in.Leases = append(in.Leases, lease(node, i))
		}
		for i := range 1 + rng.IntN(40) {
			in.Services = append(in.Services, service(fmt.Sprintf("s%d", i), addr(i)))
		}
		for step := range 10 {
			for _, n := range in.Nodes {
				in.Verdicts[n.Name] = []Verdict{Live, Live, Live, Resting, Frozen, Expired, Released, NoLease}[rng.IntN(8)]
			}
			was := holders(in.Decided)
			generation := map[netip.Addr]int64{}
			for _, a := range in.Decided {
				generation[a.Addr] = a.Generation
			}
			rows := Place(in, epoch)

			shuffled := in
			shuffled.Services, shuffled.Nodes = slices.Clone(in.Services), slices.Clone(in.Nodes)
			shuffled.Leases, shuffled.Decided = slices.Clone(in.Leases), slices.Clone(in.Decided)
			rng.Shuffle(len(in.Services), reflect.Swapper(shuffled.Services))
			rng.Shuffle(len(in.Nodes), reflect.Swapper(shuffled.Nodes))
			rng.Shuffle(len(in.Leases), reflect.Swapper(shuffled.Leases))
			rng.Shuffle(len(in.Decided), reflect.Swapper(shuffled.Decided))
			if again := Place(shuffled, epoch); !reflect.DeepEqual(rows, again) {
				t.Fatalf("seed %d step %d: order of inputs matters:\n%v\n%v", seed, step, rows, again)
			}

			kept, total := map[string]int{}, map[string]int{}
			for _, row := range rows {
				before, verdict := was[row.Addr.String()], in.Verdicts[row.Node]
				mayKeep := slices.Contains([]Verdict{Live, Resting, Frozen}, in.Verdicts[before])
				switch {
				case mayKeep && row.Node != before:
					t.Fatalf("seed %d step %d: %s moved from %s, which may keep it", seed, step, row.Addr, before)
				case row.Node != "" && row.Node != before && verdict != Live:
					t.Fatalf("seed %d step %d: %s given to %s, which is %s", seed, step, row.Addr, row.Node, verdict)
				case row.Node != before && row.Generation != generation[row.Addr]+1, row.Node == before && row.Generation != generation[row.Addr]:
					t.Fatalf("seed %d step %d: %s from %q to %q, generation %d to %d", seed, step, row.Addr, before, row.Node, generation[row.Addr], row.Generation)
				}
				total[row.Node]++
				if row.Node == before {
					kept[row.Node]++
				}
			}
			// Of two live nodes, the fuller one got something new only while it was not the fuller.
			for _, n := range in.Nodes {
				for _, m := range in.Nodes {
					if in.Verdicts[n.Name] == Live && in.Verdicts[m.Name] == Live && step == 0 && total[n.Name] > total[m.Name]+1 {
						t.Fatalf("seed %d: first placement is uneven: %v", seed, total)
					}
				}
			}
			in.Decided = rows
		}
	}
}
