package source_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func assigned(i int, generation int64) state.Assignment {
	return state.Assignment{
		Addr:       netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}),
		Service:    state.ObjectName{Namespace: "default", Name: fmt.Sprint("s", i)},
		Node:       fmt.Sprint("n", generation%3),
		Since:      time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Generation: generation,
		Reason:     state.ReasonFirstAssignment,
	}
}

// write does with a packing what a store would.
func write(slices []v1alpha1.AnnouncementSlice, p source.Packing) []v1alpha1.AnnouncementSlice {
	byName := map[string]v1alpha1.AnnouncementSlice{}
	for _, s := range slices {
		byName[s.Name] = s
	}
	for _, s := range p.Changed {
		if len(s.Announcements) == 0 {
			delete(byName, s.Name)
		} else {
			byName[s.Name] = s
		}
	}
	var after []v1alpha1.AnnouncementSlice
	for _, s := range byName {
		after = append(after, s)
	}
	return after
}

// However updates and deletes follow one another, the slices hold just what a
// map would, no slice is too big, and an address stays where it is.
func TestPackProperty(t *testing.T) {
	const seeds, steps, addresses = 10, 25, 3 * source.SliceSize
	for seed := range uint64(seeds) {
		r := rand.New(rand.NewPCG(seed, 0))
		var slices []v1alpha1.AnnouncementSlice
		want := map[netip.Addr]int64{}
		where := map[string]string{}
		for step := range steps {
			var updates, deletes []state.Assignment
			first := r.IntN(addresses)
			for i := first; i < first+r.IntN(1500) && i < addresses; i++ {
				row := assigned(i, int64(step+1))
				if r.IntN(3) > 0 {
					updates = append(updates, row)
					want[row.Addr] = row.Generation
				} else {
					deletes = append(deletes, row)
					delete(want, row.Addr)
				}
			}
			p := source.Pack(slices, updates, deletes)
			if len(p.Refused) > 0 {
				t.Fatalf("seed %d step %d: refused %v", seed, step, p.Refused)
			}
			slices = write(slices, p)
			if again := source.Pack(slices, updates, deletes); len(again.Changed) > 0 || len(again.SliceOf) > 0 {
				t.Fatalf("seed %d step %d: the same again is written again", seed, step)
			}
			got := map[netip.Addr]int64{}
			now := map[string]string{}
			for _, s := range slices {
				if len(s.Announcements) > source.SliceSize {
					t.Fatalf("seed %d step %d: %d addresses in slice %s", seed, step, len(s.Announcements), s.Name)
				}
				rows, problems := source.AssignmentRows(&s)
				if len(problems) > 0 {
					t.Fatal(problems)
				}
				for _, row := range rows {
					got[row.Addr] = row.Generation
					now[row.Addr.String()] = s.Name
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("seed %d step %d: %d addresses are held, want %d", seed, step, len(got), len(want))
			}
			for addr, slice := range now {
				if before, ok := where[addr]; ok && before != slice {
					t.Fatalf("seed %d step %d: %s moved from %s to %s", seed, step, addr, before, slice)
				}
			}
			where = now
		}
	}
}

// A slice that someone else made a mess of is put right, with the later
// decision kept.
func TestPackMess(t *testing.T) {
	entry := func(generation int64) v1alpha1.Announcement {
		return v1alpha1.Announcement{Address: "10.0.0.1", Service: "default/s1", Node: fmt.Sprint("n", generation), Generation: generation}
	}
	slice := func(name string, entries ...v1alpha1.Announcement) v1alpha1.AnnouncementSlice {
		return v1alpha1.AnnouncementSlice{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "7"}, Announcements: entries}
	}
	broken := v1alpha1.Announcement{Address: "x", Service: "default/s1"}
	for name, slices := range map[string][]v1alpha1.AnnouncementSlice{
		"later first":     {slice("a", entry(5)), slice("b", entry(4), broken)},
		"later last":      {slice("a", entry(4)), slice("b", entry(5))},
		"twice in one":    {slice("a", entry(4), entry(5))},
		"twice, reversed": {slice("a", entry(5), entry(4))},
		"three":           {slice("a", entry(3)), slice("b", entry(5)), slice("c", entry(4))},
	} {
		p := source.Pack(slices, nil, nil)
		var all []state.Assignment
		for _, s := range write(slices, p) {
			rows, problems := source.AssignmentRows(&s)
			if len(problems) > 0 {
				t.Errorf("%s: %v", name, problems)
			}
			if s.ResourceVersion != "7" {
				t.Errorf("%s: slice %s lost its version", name, s.Name)
			}
			all = append(all, rows...)
		}
		if len(all) != 1 || all[0].Generation != 5 {
			t.Errorf("%s: held %+v, want generation 5 alone", name, all)
		}
	}
}
