package lbipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/seamark-lb/seamark/state"
)

// steps is a cluster whose Services change, and what is decided of it in steps.
type steps struct {
	in        Inputs // as it is; Decided as it would be in the tables
	allocator *Allocator
	whole     int // how often it was decided anew for all
}

// change decides for the changes; the Services of in are as after them.
func (s *steps) change(changes []Change) {
	rows, gone, ok := s.allocator.Change(changes)
	if !ok {
		s.whole++
		s.allocator = New(s.in)
		s.in.Decided = s.allocator.Allocations()
		return
	}
	s.in.Decided = slices.DeleteFunc(slices.Clone(s.in.Decided), func(r state.Allocation) bool {
		return slices.Contains(gone, r.Service) || slices.ContainsFunc(rows, func(n state.Allocation) bool { return n.Service == r.Service })
	})
	s.in.Decided = append(s.in.Decided, rows...)
	slices.SortFunc(s.in.Decided, func(r, t state.Allocation) int { return r.Service.Compare(t.Service) })
}

// mutate changes some Services at random, and returns the changes.
func mutate(rng *rand.Rand, in *Inputs) []Change {
	fresh := world(rng) // to take Services from
	in.Services = slices.Clone(in.Services)
	var changes []Change
	for range 1 + rng.IntN(2) {
		var s state.Service
		if n := len(in.Services); n > 1 && rng.IntN(5) != 0 {
			s = in.Services[rng.IntN(n)]
		} else if len(fresh.Services) > 1 {
			s = fresh.Services[0]
			s.Name.Name = fmt.Sprintf("new%d", rng.IntN(6))
			s.Ingress = nil
		} else {
			continue
		}
		at := slices.IndexFunc(in.Services, func(t state.Service) bool { return t.Name == s.Name })
		decided := slices.IndexFunc(in.Decided, func(r state.Allocation) bool { return r.Service == s.Name })
		switch what := rng.IntN(12); {
		case what < 6 && decided >= 0: // its status is written
			s.Ingress = in.Decided[decided].Addrs
		case what == 6 && at >= 0: // it goes
			in.Services = slices.Delete(in.Services, at, at+1)
			changes = append(changes, Change{Name: s.Name})
			continue
		case what == 7:
			s.RequestedIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(24))})}
		case what == 8:
			s.RequestedIPs = nil
		case what == 9:
			s.Ports, s.SharingWith = nil, nil
			namespace := s.Name.Namespace
			sociable(rng, &s)
			s.Name.Namespace = namespace
		case what == 10:
			s.UID, s.Ingress = fmt.Sprint("uid", rng.IntN(1000)), nil
			s.Created = age(rng.IntN(6))
		case rng.IntN(4) == 0:
			s.Class = []string{"", "example.com/lb"}[rng.IntN(2)]
		case rng.IntN(4) == 0: // somebody else writes its status
			s.Ingress = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(24))})}
		default:
			s.Families = [][]string{{"IPv4"}, {"IPv6"}, {"IPv4", "IPv6"}}[rng.IntN(3)]
			s.FamilyPolicy = []string{"", "PreferDualStack"}[rng.IntN(2)]
		}
		if at < 0 {
			in.Services = append(in.Services, s)
		} else {
			in.Services[at] = s
		}
		changes = append(changes, Change{s.Name, &s})
	}
	return changes
}

// What is decided step by step is what would be decided of all at each step.
func TestStepsAreAsTheWhole(t *testing.T) {
	rng := rand.New(rand.NewPCG(31, 32))
	changed, whole, moved := 0, 0, 0
	for range worlds / 2 {
		s := steps{in: world(rng)}
		s.allocator = New(s.in)
		s.in.Decided = s.allocator.Allocations()
		for range 12 {
			before := s.in
			changes := mutate(rng, &s.in)
			want := New(s.in)
			s.change(changes)
			if !reflect.DeepEqual(s.in.Decided, want.Allocations()) || !reflect.DeepEqual(s.allocator.Allocations(), want.Allocations()) {
				t.Fatalf("changed %+v of %+v\nwith pools %+v\nand before\n%sgot\n%swant\n%s", changes, before.Services, s.in.Pools, text(before.Decided), text(s.in.Decided), text(want.Allocations()))
			}
			if got, want := s.allocator.PoolStatuses(), want.PoolStatuses(); !reflect.DeepEqual(got, want) {
				t.Fatalf("changed %+v of\n%s: pools\n%+v\nwant\n%+v", changes, text(before.Decided), got, want)
			}
			if !reflect.DeepEqual(before.Decided, s.in.Decided) {
				moved++
			}
			changed++
		}
		whole += s.whole
	}
	if whole > changed/4 || moved < changed/4 {
		t.Errorf("%d of %d steps were for all, and %d changed a row: the worlds show little", whole, changed, moved)
	}
}
