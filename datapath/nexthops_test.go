package datapath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// fakeResolver is a node with eth1 (ifindex 2) and eth2 (ifindex 3).
type fakeResolver struct {
	routes  map[string]string // address → gateway@ifindex
	macs    MACs
	probed  []Hop
	failing error
}

func newFakeResolver() *fakeResolver {
	return &fakeResolver{routes: map[string]string{}, macs: MACs{
		Devices: map[int]Link{2: {MAC: MAC{2, 0, 0, 0, 0, 2}, MTU: 1500, Ifindex: 2},
			3: {MAC: MAC{2, 0, 0, 0, 0, 3}, MTU: 1500, Ifindex: 3}},
		Neighbours: map[NeighbourKey]Neighbour{},
	}}
}

func (r *fakeResolver) Route(addr netip.Addr) (Hop, error) {
	if r.failing != nil {
		return Hop{}, r.failing
	}
	route, ok := r.routes[addr.String()]
	if !ok {
		return Hop{}, nil
	}
	var gw string
	var ifindex int
	if _, err := fmt.Sscanf(route, "%s %d", &gw, &ifindex); err != nil {
		return Hop{}, err
	}
	source := netip.MustParseAddr("192.168.10.101")
	if addr.Is6() {
		source = netip.MustParseAddr("fd00::101")
	}
	return Hop{Gateway: netip.MustParseAddr(gw), Ifindex: ifindex, Source: source}, nil
}

func (r *fakeResolver) neighbour(addr string, ifindex int, mac byte) {
	r.macs.Neighbours[NeighbourKey{netip.MustParseAddr(addr), ifindex}] = Neighbour{MAC: MAC{2, 0, 0, 0, 1, mac}, Fresh: true}
}

func (r *fakeResolver) MACs() (MACs, error) {
	return MACs{maps.Clone(r.macs.Devices), maps.Clone(r.macs.Neighbours)}, nil
}
func (r *fakeResolver) Probe(hop Hop) error { r.probed = append(r.probed, hop); return nil }

func (r *fakeResolver) Watch(ctx context.Context, _ func(bool)) error {
	<-ctx.Done()
	return ctx.Err()
}

func hopEntry(t *testing.T, m Maps, index uint32) NextHopEntry {
	t.Helper()
	entry, _, err := m.NextHops.Lookup(index)
	if err != nil {
		t.Fatal(err)
	}
	return entry
}

// Who has to know of the devices that packets leave by knows before they do.
func TestNextHopsTellOfDevices(t *testing.T) {
	fake, resolver := NewFakeMaps(), newFakeResolver()
	resolver.routes["172.20.1.1"], resolver.routes["172.20.2.1"] = "192.168.10.1 2", "192.168.10.2 3"
	resolver.neighbour("192.168.10.1", 2, 1)
	hops := NewNextHops(fake.Maps, resolver, discard)
	var told []int
	hops.LeavesBy = func(ifindex int) {
		told = append(told, ifindex)
		all, err := fake.NextHops.All()
		if err != nil {
			t.Error(err)
		}
		for index, entry := range all {
			if int(entry.Ifindex) == ifindex {
				t.Errorf("next hop %d leads by device %d already", index, ifindex)
			}
		}
	}
	for _, pod := range []string{"172.20.1.1", "172.20.2.1"} {
		hops.Index(netip.MustParseAddr(pod), NodeAddrs{}, 0)
	}
	if !slices.Equal(told, []int{2}) { // the other is not resolved
		t.Errorf("told of %v", told)
	}
	resolver.neighbour("192.168.10.2", 3, 2)
	for range 2 {
		if err := hops.Refresh(true, true, func() error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(told, []int{2, 3}) {
		t.Errorf("told of %v", told)
	}
}

func TestBackendsShareNextHops(t *testing.T) {
	fake, r := NewFakeMaps(), newFakeResolver()
	r.routes = map[string]string{"172.20.0.1": "192.168.10.100 2", "172.20.0.2": "192.168.10.100 2", "172.20.2.1": "192.168.10.200 2"}
	r.neighbour("192.168.10.100", 2, 100)
	n := NewNextHops(fake.Maps, r, discard)
	index := func(addr string) uint32 { return n.Index(netip.MustParseAddr(addr), NodeAddrs{}, 0) }

	a, b, c, none := index("172.20.0.1"), index("172.20.0.2"), index("172.20.2.1"), index("10.0.0.1")
	if a == 0 || a != b || c == 0 || c == a || none != 0 {
		t.Fatalf("indexes %d %d %d %d: want two alike, one of its own, and 0 without a route", a, b, c, none)
	}
	want := NextHopEntry{Ifindex: 2, MTU: 1500, Saddr: IPv4{192, 168, 10, 101}, Dmac: MAC{2, 0, 0, 0, 1, 100}, Smac: MAC{2, 0, 0, 0, 0, 2}}
	if got := hopEntry(t, fake.Maps, a); got != want {
		t.Errorf("resolved: %+v, want %+v", got, want)
	}
	if got := hopEntry(t, fake.Maps, c); got != (NextHopEntry{}) {
		t.Errorf("unresolved: %+v, want none, so that BPF asks the FIB", got)
	}
	if len(r.probed) != 1 || r.probed[0].Gateway.String() != "192.168.10.200" {
		t.Errorf("probed %v, want the unresolved router alone", r.probed)
	}

	// The router answers; the neighbour changes its MAC: no row of a backend moves.
	r.neighbour("192.168.10.200", 2, 200)
	r.neighbour("192.168.10.100", 2, 101)
	rewrite := func() error { t.Error("rows were rewritten for a MAC"); return nil }
	if err := n.Refresh(false, false, rewrite); err != nil {
		t.Fatal(err)
	}
	if a, c := hopEntry(t, fake.Maps, a), hopEntry(t, fake.Maps, c); a.Dmac[5] != 101 || c.Dmac[5] != 200 {
		t.Errorf("after the neighbours changed: %+v %+v", a, c)
	}
	// The kernel forgets the neighbour: its MAC stands, and it is asked at once.
	r.probed = nil
	forgotten := r.macs.Neighbours
	r.macs.Neighbours = map[NeighbourKey]Neighbour{}
	if err := n.Refresh(false, false, rewrite); err != nil {
		t.Fatal(err)
	}
	if got := hopEntry(t, fake.Maps, a); got.Dmac[5] != 101 || len(r.probed) != 2 {
		t.Errorf("forgotten: %+v, probed %v; want the MAC there was, and both probed", got, r.probed)
	}
	r.macs.Neighbours = forgotten
	// A device goes down: ask the FIB.
	delete(r.macs.Devices, 2)
	if err := n.Refresh(true, true, rewrite); err != nil {
		t.Fatal(err)
	}
	if got := hopEntry(t, fake.Maps, a); got != (NextHopEntry{}) {
		t.Errorf("device down: %+v, want none", got)
	}
}

// A route that moves: the new entry is there before any row leads to it, the
// old one goes after none does, and its index rests for a pass.
func TestRouteMoves(t *testing.T) {
	fake, r := NewFakeMaps(), newFakeResolver()
	r.routes["172.20.0.1"] = "192.168.10.100 2"
	r.neighbour("192.168.10.100", 2, 100)
	r.neighbour("192.168.20.100", 3, 120)
	n := NewNextHops(fake.Maps, r, discard)
	target := NewFrontendTarget(fake.Maps, n, "w1", discard)
	row := frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.1:80@w0")
	if err := target.Update(context.Background(), row); err != nil {
		t.Fatal(err)
	}
	id := backendID(t, fake.Maps, "172.20.0.1:80")
	before, _, _ := fake.Backends.Lookup(id)
	if before.NextHop == 0 {
		t.Fatal("backend has no next hop")
	}
	if err := target.Prune(context.Background(), []state.Frontend{row}); err != nil {
		t.Fatal(err)
	}
	r.routes["172.20.0.1"] = "192.168.20.100 3"
	leadsNowhere := func() error {
		b, _, _ := fake.Backends.Lookup(id)
		if h, ok, _ := fake.NextHops.Lookup(b.NextHop); !ok {
			return fmt.Errorf("backend leads to next hop %d: %+v", b.NextHop, h)
		}
		return nil
	}
	fake.After = func(op Op) error {
		if err := leadsNowhere(); err != nil {
			t.Errorf("after %s: %v", op, err)
		}
		return nil
	}
	// The first try to rewrite the rows fails, and nothing they lead to goes.
	if err := n.Refresh(true, false, func() error { return errors.New("no") }); err == nil {
		t.Error("a failed rewrite went unnoticed")
	}
	if err := n.Refresh(true, false, target.RewriteNextHops); err != nil {
		t.Fatal(err)
	}
	r.routes["172.20.9.8"] = "192.168.10.50 2"
	if got := n.Index(netip.MustParseAddr("172.20.9.8"), NodeAddrs{}, 0); got == before.NextHop || got == 0 {
		t.Errorf("index %d for another way at once: a packet may still hold %d", got, before.NextHop)
	}
	if err := n.Refresh(true, false, target.RewriteNextHops); err != nil {
		t.Fatal(err)
	}
	after, _, _ := fake.Backends.Lookup(id)
	if after.NextHop == before.NextHop || hopEntry(t, fake.Maps, after.NextHop).Ifindex != 3 {
		t.Errorf("after the move: next hop %d (was %d), %+v", after.NextHop, before.NextHop, hopEntry(t, fake.Maps, after.NextHop))
	}
	if got := hopEntry(t, fake.Maps, before.NextHop); got != (NextHopEntry{}) {
		t.Errorf("the old next hop is still there: %+v", got)
	}
	// The old index serves again in time.
	if got := n.Index(netip.MustParseAddr("172.20.9.9"), NodeAddrs{}, 0); got != 0 {
		t.Errorf("index %d without a route", got)
	}
	r.routes["172.20.9.9"] = "192.168.10.100 2"
	if err := n.Refresh(true, false, target.RewriteNextHops); err != nil {
		t.Fatal(err)
	}
	if got := n.Index(netip.MustParseAddr("172.20.9.9"), NodeAddrs{}, 0); got != before.NextHop {
		t.Errorf("index %d, want %d again", got, before.NextHop)
	}
	// An error is not "no route".
	r.failing = errors.New("netlink is busy")
	if err := n.Refresh(true, false, target.RewriteNextHops); err == nil {
		t.Error("the resolver's error is lost")
	}
	if now, _, _ := fake.Backends.Lookup(id); now != after {
		t.Errorf("an error moved the backend from %+v to %+v", after, now)
	}
}

// A restart keeps the indexes that backends have, and writes nothing.
func TestNextHopsAreAdopted(t *testing.T) {
	fake, r := NewFakeMaps(), newFakeResolver()
	for i := range 5 {
		r.routes[fmt.Sprintf("172.20.%d.1", i)] = fmt.Sprintf("192.168.10.%d 2", i)
		r.neighbour(fmt.Sprintf("192.168.10.%d", i), 2, byte(i))
	}
	row := frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.1:80@a", "172.20.1.1:80@b", "172.20.2.1:80@c", "172.20.3.1:80@d", "172.20.4.1:80@e")
	if err := NewFrontendTarget(fake.Maps, NewNextHops(fake.Maps, r, discard), "w1", discard).Update(context.Background(), row); err != nil {
		t.Fatal(err)
	}
	fake.Before = func(op Op) error {
		if slices.Contains([]string{"update", "delete", "write"}, op.Verb) && op.Map != "frontends" && op.Map != "sets" {
			t.Errorf("restart: %s", op)
		}
		return nil
	}
	// Only another row is back yet: what the first one's backends lead by stays.
	n := NewNextHops(fake.Maps, r, discard)
	target := NewFrontendTarget(fake.Maps, n, "w1", discard)
	other := frontend("a/other", "192.168.10.212:80/TCP")
	if err := errors.Join(target.Update(context.Background(), other), n.Refresh(true, true, target.RewriteNextHops)); err != nil {
		t.Fatal(err)
	}

	slices.Reverse(row.Backends)
	n = NewNextHops(fake.Maps, r, discard)
	target = NewFrontendTarget(fake.Maps, n, "w1", discard)
	err := errors.Join(target.Update(context.Background(), row), n.Refresh(true, true, target.RewriteNextHops))
	if err != nil {
		t.Fatal(err)
	}
	fake.Before = nil
	// Those that nobody uses go.
	row.Backends = row.Backends[:1]
	row.Inside = row.Backends
	now := time.Now()
	target.Now = func() time.Time { return now }
	err = target.Update(context.Background(), row)
	now = now.Add(target.Grace)
	err = errors.Join(err, target.Prune(context.Background(), []state.Frontend{row}), n.Refresh(true, true, target.RewriteNextHops))
	if err != nil {
		t.Fatal(err)
	}
	if all, err := fake.NextHops.All(); err != nil || len(all) != 1 {
		t.Errorf("%d next hops, %v; want the one in use", len(all), err)
	}
}

// A row of next_hops says all that a frame and an outer header need.
func TestNextHopRows(t *testing.T) {
	r := newFakeResolver()
	r.macs.Devices[7] = Link{MAC: MAC{2, 0, 0, 0, 0, 7}, MTU: 1496, Ifindex: 2, VLAN: 30}
	r.macs.Devices[8] = Link{MTU: 1500, Ifindex: 8} // without a MAC of its own
	for _, ifindex := range []int{2, 7, 8} {
		r.neighbour("192.168.10.100", ifindex, 100)
		r.neighbour("fe80::1", ifindex, 101)
	}
	four, six := netip.MustParseAddr("192.168.10.101"), netip.MustParseAddr("fd00::101")
	w0 := NodeAddrs{Four: netip.MustParseAddr("192.168.20.100"), Six: netip.MustParseAddr("fd00:2::100")}
	gw, gw6 := netip.MustParseAddr("192.168.10.100"), netip.MustParseAddr("fe80::1")
	plain := NextHopEntry{Ifindex: 2, MTU: 1500, Dmac: MAC{2, 0, 0, 0, 1, 100}, Smac: MAC{2, 0, 0, 0, 0, 2}, Saddr: four.As4()}
	for _, c := range []struct {
		what string
		hop  Hop
		want func(NextHopEntry) NextHopEntry
	}{
		{"plain", Hop{Gateway: gw, Ifindex: 2, Source: four}, func(e NextHopEntry) NextHopEntry { return e }},
		{"IPv6, with the node's addresses", Hop{Gateway: gw6, Ifindex: 2, Source: six, Node: w0}, func(e NextHopEntry) NextHopEntry {
			e.Dmac[5], e.Saddr, e.Saddr6, e.Node, e.Node6 = 101, IPv4{}, six.As16(), w0.Four.As4(), w0.Six.As16()
			return e
		}},
		{"a route with a smaller MTU", Hop{Gateway: gw, Ifindex: 2, Source: four, MTU: 1400}, func(e NextHopEntry) NextHopEntry {
			e.MTU = 1400
			return e
		}},
		{"a route with a larger MTU than its device", Hop{Gateway: gw, Ifindex: 2, Source: four, MTU: 9000}, func(e NextHopEntry) NextHopEntry { return e }},
		{"a VLAN", Hop{Gateway: gw, Ifindex: 7, Source: four}, func(e NextHopEntry) NextHopEntry {
			e.VLAN, e.MTU, e.Smac[5] = 30, 1496, 7
			return e
		}},
		{"a device without a MAC", Hop{Gateway: gw, Ifindex: 8, Source: four}, func(NextHopEntry) NextHopEntry { return NextHopEntry{} }},
		{"no neighbour", Hop{Gateway: four, Ifindex: 2, Source: four}, func(NextHopEntry) NextHopEntry { return NextHopEntry{} }},
		{"no source", Hop{Gateway: gw, Ifindex: 2}, func(NextHopEntry) NextHopEntry { return NextHopEntry{} }},
	} {
		if got, want := r.macs.entry(c.hop), c.want(plain); got != want {
			t.Errorf("%s: %+v, want %+v", c.what, got, want)
		}
	}
}

// Two nodes behind one router are two next hops. An index that an earlier
// process gave out knows its node before anyone else does.
func TestNextHopsOfNodes(t *testing.T) {
	fake, r := NewFakeMaps(), newFakeResolver()
	r.routes = map[string]string{"172.20.0.1": "192.168.10.200 2", "172.20.2.1": "192.168.10.200 2"}
	r.neighbour("192.168.10.200", 2, 200)
	a, b := netip.MustParseAddr("172.20.0.1"), netip.MustParseAddr("172.20.2.1")
	nodeA, nodeB := NodeAddrs{Four: netip.MustParseAddr("192.168.20.100")}, NodeAddrs{Four: netip.MustParseAddr("192.168.20.102")}
	n := NewNextHops(fake.Maps, r, discard)
	ia, ib := n.Index(a, nodeA, 0), n.Index(b, nodeB, 0)
	if ia == ib || hopEntry(t, fake.Maps, ia).Node != nodeA.Four.As4() || hopEntry(t, fake.Maps, ib).Node != nodeB.Four.As4() {
		t.Fatalf("next hops %d %+v and %d %+v", ia, hopEntry(t, fake.Maps, ia), ib, hopEntry(t, fake.Maps, ib))
	}
	fake.Before = func(op Op) error {
		if op.Verb == "update" || op.Verb == "delete" {
			t.Errorf("restart: %s", op)
		}
		return nil
	}
	n = NewNextHops(fake.Maps, r, discard)
	if got := n.Index(a, NodeAddrs{}, ia); got != ia {
		t.Errorf("after a restart, node not known: %d, want %d", got, ia)
	}
	if got := n.Index(b, nodeB, ib); got != ib {
		t.Errorf("after a restart, node known: %d, want %d", got, ib)
	}
	// The node's address changes: the route's next pass keeps the new one.
	fake.Before = nil
	moved := NodeAddrs{Four: netip.MustParseAddr("192.168.20.109")}
	if got := n.Index(b, moved, ib); got == ib || hopEntry(t, fake.Maps, got).Node != moved.Four.As4() {
		t.Errorf("the node moved: %d %+v", got, hopEntry(t, fake.Maps, got))
	}
	if err := n.Refresh(true, true, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if got := n.Index(b, NodeAddrs{}, 0); hopEntry(t, fake.Maps, got).Node != moved.Four.As4() {
		t.Errorf("after a pass: %d %+v", got, hopEntry(t, fake.Maps, got))
	}
}
