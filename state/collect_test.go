package state

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
)

func TestCollector(t *testing.T) {
	db, w := New()
	node := func(name string) Node { return Node{Name: name} }
	w.Update(func(tx *Tx) { db.Nodes.Put(tx, node("before")) })
	c := w.Collect(db.Nodes.Name())
	take := func(want ...string) {
		t.Helper()
		_, keys := c.Take()
		slices.Sort(keys)
		if !slices.Equal(keys, want) {
			t.Errorf("took %q, want %q", keys, want)
		}
	}
	take()
	w.Update(func(tx *Tx) {
		db.Nodes.Put(tx, node("new"))
		db.Nodes.Put(tx, Node{Name: "before", Unschedulable: true})
		db.Namespaces.Put(tx, Namespace{Name: "of another table"})
	})
	w.Update(func(tx *Tx) { db.Nodes.Delete(tx, "before"); db.Nodes.Delete(tx, "never was") })
	take("before", "new")
	take()
	c.Close()
	w.Update(func(tx *Tx) { db.Nodes.Put(tx, node("later")) })
	take()
}

// Who follows the changes alone knows what is in the table, whatever comes
// between.
func TestCollectorMissesNothing(t *testing.T) {
	db, w := New()
	const writers, each = 4, 500
	var writing sync.WaitGroup
	for i := range writers {
		writing.Go(func() {
			for j := range each {
				name := fmt.Sprint(i, "-", j%7)
				w.Update(func(tx *Tx) {
					if j%3 == 0 {
						db.Nodes.Delete(tx, name)
					} else {
						db.Nodes.Put(tx, Node{Name: name, Labels: map[string]string{"n": fmt.Sprint(j)}})
					}
				})
			}
		})
	}
	c := w.Collect(db.Nodes.Name())
	defer c.Close()
	known := map[string]string{}
	snap, _ := c.Take()
	for n := range db.Nodes.All(snap) {
		known[n.Name] = n.Labels["n"]
	}
	follow := func() Snapshot {
		snap, keys := c.Take()
		for _, key := range keys {
			if n, ok := db.Nodes.Get(snap, key); ok {
				known[key] = n.Labels["n"]
			} else {
				delete(known, key)
			}
		}
		return snap
	}
	done := make(chan struct{})
	go func() { writing.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		snap := follow()
		there := map[string]string{}
		for n := range db.Nodes.All(snap) {
			there[n.Name] = n.Labels["n"]
		}
		if !maps.Equal(known, there) {
			t.Fatalf("known %v, there are %v", known, there)
		}
	}
}

func TestUnwant(t *testing.T) {
	db, w := New()
	a, b := Route{Node: "a"}, Route{Node: "b"}
	a.Dst, b.Dst = netip.MustParsePrefix("10.0.1.0/24"), netip.MustParsePrefix("10.0.2.0/24")
	w.Update(func(tx *Tx) {
		Want(tx, db.Routes, []Route{a, b}, time.Now())
		Unwant(tx, db.Routes, []string{a.RowKey(), "10.9.9.0/24"}, time.Now())
	})
	snap := db.Snapshot()
	was, _ := db.Routes.Get(snap, a.RowKey())
	is, _ := db.Routes.Get(snap, b.RowKey())
	if was.Status.Wanted() || !is.Status.Wanted() || len(db.Routes.Rows(snap)) != 2 {
		t.Errorf("%+v", db.Routes.Rows(snap))
	}
}
