package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/announce"
	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

// countingSlices is a store of AnnouncementSlices that counts what it is asked for.
type countingSlices struct {
	mu            sync.Mutex
	held          map[string]v1alpha1.AnnouncementSlice
	lists, writes int
}

func (c *countingSlices) List(context.Context) ([]v1alpha1.AnnouncementSlice, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lists++
	var all []v1alpha1.AnnouncementSlice
	for _, s := range c.held {
		all = append(all, *s.DeepCopy())
	}
	return all, nil
}

func (c *countingSlices) Write(_ context.Context, s v1alpha1.AnnouncementSlice) (v1alpha1.AnnouncementSlice, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[s.Name].ResourceVersion != s.ResourceVersion {
		return s, source.ErrConflict
	}
	c.writes++
	s.ResourceVersion = strconv.Itoa(c.writes)
	c.held[s.Name] = *s.DeepCopy()
	return s, nil
}

func (c *countingSlices) Delete(_ context.Context, s v1alpha1.AnnouncementSlice) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes++
	delete(c.held, s.Name)
	return nil
}

// holders counts the addresses of each node.
func (c *countingSlices) holders() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := map[string]int{}
	for _, s := range c.held {
		for _, a := range s.Announcements {
			of[a.Node]++
		}
	}
	return of
}

// A dead node's 5,000 addresses move in five writes: one for each slice that
// they are in, whatever the number of addresses.
func TestFailoverOfManyAddressesIsFewWrites(t *testing.T) {
	const addresses = 5 * source.SliceSize
	in := announce.Inputs{
		Policies: []state.L2Policy{{Name: "all", LoadBalancerIPs: true}},
		Verdicts: map[string]announce.Verdict{"a": announce.Live},
	}
	for i := range addresses {
		in.Services = append(in.Services, state.Service{Name: state.ObjectName{Namespace: "default", Name: fmt.Sprint("s", i)}, Type: "LoadBalancer",
			Ingress: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})}})
	}
	for _, node := range []string{"a", "b", "c"} {
		in.Nodes = append(in.Nodes, state.Node{Name: node})
		in.Leases = append(in.Leases, state.NodeLease{Node: node, Interfaces: []state.LeaseInterface{{Name: "eth1", Up: true,
			Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}}})
	}
	db, w := state.New()
	store := &countingSlices{held: map[string]v1alpha1.AnnouncementSlice{}}
	reconciler := &state.Reconciler[state.Assignment]{DB: db, Writer: w, Table: db.Assignments, Target: source.NewAssignments(store), Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = reconciler.Run(ctx) }()
	defer func() { cancel(); <-done }()
	place := func() (took time.Duration) {
		began := time.Now()
		in.Decided = announce.Place(in, began)
		w.Update(func(tx *state.Tx) { state.Want(tx, db.Assignments, in.Decided, began) })
		for time.Since(began) < time.Minute {
			snap := db.Snapshot()
			if !slices.ContainsFunc(db.Assignments.Rows(snap), func(a state.Assignment) bool { return a.Status.Phase != state.Done }) {
				return time.Since(began)
			}
			_ = state.Wait(ctx, snap, time.Second, db.Assignments.Watch())
		}
		t.Fatalf("not all is written: held by %v", store.holders())
		return 0
	}

	place()
	if of := store.holders(); of["a"] != addresses {
		t.Fatalf("at first held by %v", of)
	}
	lists, writes := store.lists, store.writes
	in.Verdicts = map[string]announce.Verdict{"a": announce.Expired, "b": announce.Live, "c": announce.Live}
	took := place()
	if of := store.holders(); of["b"] != addresses/2 || of["c"] != addresses/2 {
		t.Errorf("after a's death held by %v", of)
	}
	if got := store.writes - writes; got != addresses/source.SliceSize || store.lists != lists {
		t.Errorf("%d writes and %d lists, want %d and none", got, store.lists-lists, addresses/source.SliceSize)
	}
	t.Logf("%d addresses decided and written in %v, %d writes", addresses, took, store.writes-writes)
}
