package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// entryOf returns a row's frontend in the maps.
func entryOf(t *testing.T, m Maps, row state.Frontend) FrontendEntry {
	t.Helper()
	key, err := keyOf(row)
	if err != nil {
		t.Fatal(err)
	}
	entry, ok, err := m.Frontends.Lookup(key)
	if err != nil || !ok {
		t.Fatalf("frontend %s: not there, %v", key, err)
	}
	return entry
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestFrontendFlags(t *testing.T) {
	plain := frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.1:80@w0")
	for _, c := range []struct {
		change func(*state.Frontend)
		want   FrontendFlags
		vip    string // flags of the address's row
	}{
		{func(*state.Frontend) {}, 0, "address"},
		{kind(state.KindExternalIP), 0, "address"},
		{kind(state.KindClusterIP), FrontendInside, "address,inside"},
		{func(r *state.Frontend) { r.Kind, r.Exposed = state.KindClusterIP, true }, 0, "address"},
		{kind(state.KindNodePort), 0, ""},
		{kind(state.KindHostPort), 0, ""},
		{func(r *state.Frontend) { r.Forwarding = state.ForwardSNAT; r.Dispatch = state.DispatchGeneve }, FrontendSNAT, "address"},
		{func(r *state.Frontend) { r.Forwarding = state.ForwardDSR; r.Dispatch = state.DispatchGeneve }, FrontendGeneve, "address"},
		{func(r *state.Frontend) { r.Forwarding = state.ForwardDSR; r.Dispatch = state.DispatchIPIP }, 0, "address"},
		{func(r *state.Frontend) { r.Forwarding = state.ForwardKubeProxy; r.Dispatch = state.DispatchGeneve }, FrontendInside, "address"},
		{affinity(time.Second), FrontendAffinity, "address"},
		{sources(), FrontendSources, "address"},
		{func(r *state.Frontend) { r.Refuse = true }, FrontendRefuse, "address,refuse"},
	} {
		fake := NewFakeMaps()
		row := with(plain, c.change)
		must(t, newTestTarget(fake.Maps).Update(context.Background(), row))
		if got := entryOf(t, fake.Maps, row).Flags; got != c.want {
			t.Errorf("%+v: flags %s, want %s", row, got, c.want)
		}
		vip, ok, _ := fake.Frontends.Lookup(vipKey(row.Addr))
		if got := vip.Flags.String(); got != c.vip || ok != (c.vip != "") {
			t.Errorf("%+v: the address has %q, want %q", row, got, c.vip)
		}
	}
}

// Prefixes are there before a frontend asks for them, and go after nobody
// does; each service port has its own, of its address's family.
func TestSources(t *testing.T) {
	fake := NewFakeMaps()
	target := newTestTarget(fake.Maps)
	row := with(frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.1:80@w0"), sources("10.0.0.0/8", "192.0.2.7/24", "2001:db8::/32"))
	twin := with(frontend("a/web", "192.168.10.212:80/TCP", "172.20.0.1:80@w0"), sources("10.0.0.0/8"))
	open := frontend("a/open", "192.168.10.213:80/TCP", "172.20.0.1:80@w0")
	fake.After = func(op Op) error {
		for key, entry := range unwatchedFrontends(fake) {
			if entry.Flags&FrontendSources == 0 {
				continue
			}
			n := 0
			for source := range unwatchedSources(fake) {
				if source.Service == entry.Service {
					n++
				}
			}
			if n == 0 {
				t.Errorf("after %s: %s lets nobody in", op, key)
			}
		}
		return nil
	}
	list := func() (all []string) {
		for source := range unwatchedSources(fake) {
			all = append(all, fmt.Sprint(source.Service, " ", source.Prefix))
		}
		slices.Sort(all)
		return all
	}
	must(t, target.converge(nil, []state.Frontend{row, twin, open}))
	if got := list(); !slices.Equal(got, []string{"1 10.0.0.0/8", "1 192.0.2.0/24"}) {
		t.Errorf("sources %v", got)
	}
	fewer := with(row, sources("172.16.0.0/12"))
	must(t, target.converge([]state.Frontend{row, twin, open}, []state.Frontend{fewer, twin, open}))
	if got := list(); !slices.Equal(got, []string{"1 10.0.0.0/8", "1 172.16.0.0/12"}) {
		t.Errorf("one row has others: sources %v", got)
	}
	// An earlier process's frontends keep theirs until their rows come.
	restarted := newTestTarget(fake.Maps)
	must(t, restarted.Update(context.Background(), open))
	if got := list(); len(got) != 2 {
		t.Errorf("after a restart: sources %v", got)
	}
	must(t, restarted.converge([]state.Frontend{fewer, twin, open}, []state.Frontend{open}))
	if got := list(); len(got) != 0 {
		t.Errorf("nobody asks for any: sources %v", got)
	}
}

func unwatchedFrontends(f *FakeMaps) map[FrontendKey]FrontendEntry {
	all, _ := f.Frontends.All()
	return all
}

func unwatchedSources(f *FakeMaps) map[SourceKey]uint32 {
	all, _ := f.Sources.All()
	return all
}

// A backend that leaves its service is forgotten by the clients that kept to
// it, although it serves another service and is no stranger.
func TestAffinityEndsWithTheBackend(t *testing.T) {
	fake := NewFakeMaps()
	target := newTestTarget(fake.Maps)
	web := with(frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.1:80@w0", "172.20.0.2:80@w0"), affinity(3*time.Hour))
	other := with(frontend("a/other", "192.168.10.212:80/TCP", "172.20.0.1:80@w0"), affinity(3*time.Hour))
	must(t, target.converge(nil, []state.Frontend{web, other}))
	id := backendID(t, fake.Maps, "172.20.0.1:80")
	stays := backendID(t, fake.Maps, "172.20.0.2:80")
	client := func(service, backend uint32) AffinityKey {
		key := AffinityKey{netip.AddrFrom4([4]byte{10, 0, byte(service), byte(backend)}), service}
		must(t, fake.Affinity.Update(key, AffinityEntry{Backend: backend}))
		return key
	}
	webService, otherService := entryOf(t, fake.Maps, web).Service, entryOf(t, fake.Maps, other).Service
	gone, kept, elsewhere := client(webService, id), client(webService, stays), client(otherService, id)
	less := with(web, func(r *state.Frontend) { r.Backends = r.Backends[1:]; r.Inside = r.Backends })
	must(t, target.Update(context.Background(), less))
	for key, want := range map[AffinityKey]bool{gone: false, kept: true, elsewhere: true} {
		if _, ok, _ := fake.Affinity.Lookup(key); ok != want {
			t.Errorf("client %s of service %d kept: %t, want %t", key.Client, key.Service, ok, want)
		}
	}
	if b, _, _ := fake.Backends.Lookup(id); b.Flags&BackendDraining != 0 {
		t.Error("a backend that another service has drains")
	}
	// Affinity ends: flows that were pinned to other backends than their slots say are still looked up.
	must(t, target.Update(context.Background(), with(less, affinity(0))))
	set, _, _ := fake.Sets.Lookup(entryOf(t, fake.Maps, less).Set)
	if set.Affinity != 0 || !set.Look.Moving() {
		t.Errorf("affinity ended: %+v", set)
	}
	slots, err := fake.MaglevSlots(FrontendKey{less.Addr, less.Port, less.Protocol})
	if err != nil || slices.ContainsFunc(slots, func(s MaglevSlot) bool { return !s.Moved }) {
		t.Errorf("affinity ended, and pins are not looked up in every slot: %v", err)
	}
}

// An id, a service number and a set number are given to others only when
// nothing mentions them: no table, no pin, no client.
func TestNumbersAreFreedLast(t *testing.T) {
	fake := NewFakeMaps()
	target := newTestTarget(fake.Maps)
	rows := []state.Frontend{frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.1:80@w0", "172.20.0.2:80@w0"),
		frontend("a/dns", "192.168.10.212:53/UDP", "172.20.0.9:53@w0")}
	must(t, target.converge(nil, rows))
	id, dns := backendID(t, fake.Maps, "172.20.0.1:80"), entryOf(t, fake.Maps, rows[1])
	client := netip.MustParseAddr("10.0.0.1")
	tuple := Tuple{netip.AddrPortFrom(client, 999), netip.MustParseAddrPort("192.168.10.211:80"), state.TCP}
	must(t, fake.Pins.Update(tuple, Pin{Backend: id, Set: 1}), fake.Affinity.Update(AffinityKey{client, dns.Service}, AffinityEntry{}),
		fake.ServiceCounts.(fakeCounters).Update(dns.Service, Count{5, 500}))

	fewer := []state.Frontend{frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.2:80@w0")}
	must(t, target.converge(rows, fewer))
	wait := func(d time.Duration) {
		for range 4 {
			target.now = target.now.Add(d)
			must(t, target.Prune(context.Background(), fewer))
		}
	}
	wait(target.Grace)
	if backendID(t, fake.Maps, "172.20.0.1:80") != 0 || !target.freeID.taken[id] {
		t.Error("the previous table has the id: it is to have no row, and be nobody else's")
	}
	if target.freeService.taken[dns.Service] || target.freeSet.taken[dns.Set] || len(target.services) != 1 {
		t.Error("the deleted service's numbers are still taken")
	}
	clients, _ := fake.Affinity.All()
	if count, _ := fake.ServiceCounts.Lookup(dns.Service); count != (Count{}) || len(clients) != 0 {
		t.Errorf("the next one with the number begins with %+v and %v", count, clients)
	}
	// The next change of the set makes another table the previous one.
	wait(target.Window)
	fewer = []state.Frontend{frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.2:80@w0", "172.20.0.3:80@w0")}
	must(t, fake.Pins.Update(tuple, Pin{Backend: id, Set: 7}), target.converge(fewer, fewer))
	wait(target.Grace)
	if pins, _ := fake.Pins.All(); target.freeID.taken[id] || len(pins) != 0 {
		t.Errorf("nothing has the id: taken %t, pins %v", target.freeID.taken[id], pins)
	}
}

// Pins of an earlier process keep ids from being given out after a restart.
func TestPinsKeepIDsOverARestart(t *testing.T) {
	fake := NewFakeMaps()
	tuple := Tuple{netip.MustParseAddrPort("10.0.0.1:999"), netip.MustParseAddrPort("192.168.10.211:80"), state.TCP}
	must(t, fake.Pins.Update(tuple, Pin{Backend: 1, Set: 1}))
	target := newTestTarget(fake.Maps)
	row := frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.1:80@w0")
	must(t, target.Update(context.Background(), row))
	if id := backendID(t, fake.Maps, "172.20.0.1:80"); id != 2 {
		t.Errorf("id %d, and a pin leads to backend 1", id)
	}
	target.now = target.now.Add(target.Grace)
	must(t, target.Prune(context.Background(), []state.Frontend{row}))
	if pins, _ := fake.Pins.All(); len(pins) != 0 || target.freeID.taken[1] {
		t.Errorf("after the grace: pins %v", pins)
	}
}

// Service ports keep their sets and numbers over a restart with other
// backends, in whichever order the rows come.
func TestRestartKnowsWhoseSetsThereAre(t *testing.T) {
	fake := NewFakeMaps()
	var rows []state.Frontend
	for i := range 5 {
		for _, addr := range []string{"192.168.10.%d:80/TCP", "192.168.20.%d:80/TCP", "[fd00::%d]:80/TCP"} {
			backend := fmt.Sprintf("172.20.0.%d:80@w0", i)
			if strings.HasPrefix(addr, "[") {
				backend = fmt.Sprintf("[fd00:20::%d]:80@w0", i+1)
			}
			rows = append(rows, frontend(fmt.Sprintf("a/s%d", i), fmt.Sprintf(addr, i+1), backend))
		}
	}
	must(t, newTestTarget(fake.Maps).converge(nil, rows))
	before := map[string]FrontendEntry{}
	for i, row := range rows {
		before[row.RowKey()] = entryOf(t, fake.Maps, row)
		backend := "172.20.9.9:80@w0"
		if row.Addr.Is6() {
			backend = "[fd00:20::99]:80@w0"
		}
		rows[i] = with(row, func(r *state.Frontend) {
			r.Backends = slices.Concat(r.Backends, frontend("a/x", "1.1.1.1:1/TCP", backend).Backends)
			r.Inside = r.Backends
		})
	}
	slices.Reverse(rows)
	fresh := frontend("a/s3", "10.9.9.9:80/TCP", "172.20.0.3:80@w0", "172.20.9.9:80@w0")
	rows = append([]state.Frontend{fresh}, rows...)
	must(t, newTestTarget(fake.Maps).converge(rows, rows))
	for _, row := range rows[1:] {
		if got := entryOf(t, fake.Maps, row); got != before[row.RowKey()] {
			t.Errorf("%s: %+v after the restart, %+v before", row.RowKey(), got, before[row.RowKey()])
		}
	}
	if got, want := entryOf(t, fake.Maps, fresh), before["192.168.10.4:80/TCP"]; got != want {
		t.Errorf("a new address of a service has %+v, the others %+v", got, want)
	}
}

// Roles of a service that part and come together again: neither side of it
// loses what it had, and in the end there is one set.
func TestRolesPartAndComeTogether(t *testing.T) {
	fake := NewFakeMaps()
	target := newTestTarget(fake.Maps)
	all := []string{"172.20.0.1:80@w0", "172.20.1.1:80@w1", "172.20.2.1:80@w2"}
	cluster := []state.Frontend{frontend("a/web", "192.168.10.211:80/TCP", all...),
		with(frontend("a/web", "10.96.0.7:80/TCP", all...), kind(state.KindClusterIP))}
	local := []state.Frontend{with(cluster[0], only("w1")), cluster[1]}
	must(t, target.converge(nil, cluster), target.converge(cluster, local))
	outside, inside := entryOf(t, fake.Maps, local[0]), entryOf(t, fake.Maps, local[1])
	if outside.Set == outside.Inside || outside.Inside != inside.Set || outside.Service != inside.Service {
		t.Errorf("parted: %+v and %+v", outside, inside)
	}
	for set, moving := range map[uint32]bool{outside.Set: true, outside.Inside: false} {
		if s, _, _ := fake.Sets.Lookup(set); s.Look.Moving() != moving {
			t.Errorf("parted: set %d: %+v, moving: want %t", set, s, moving)
		}
	}
	must(t, target.converge(local, cluster))
	if e := entryOf(t, fake.Maps, cluster[0]); e.Set == e.Inside {
		t.Error("the roles came together while flows from outside are looked up by another table")
	}
	target.now = target.now.Add(target.Window)
	must(t, target.Prune(context.Background(), cluster), target.converge(cluster, cluster))
	a, b := entryOf(t, fake.Maps, cluster[0]), entryOf(t, fake.Maps, cluster[1])
	if a.Set != a.Inside || a.Set != b.Set {
		t.Errorf("together again: %+v and %+v", a, b)
	}
}

// What traces a frontend is not lost with its next change.
func TestTrace(t *testing.T) {
	fake := NewFakeMaps()
	target := newTestTarget(fake.Maps)
	row := frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.1:80@w0")
	key, _ := keyOf(row)
	if err := target.Trace(key, true); err == nil {
		t.Error("a frontend that is not there is traced")
	}
	must(t, target.Update(context.Background(), row), target.Trace(key, true),
		target.Update(context.Background(), with(row, affinity(time.Hour))))
	if got := entryOf(t, fake.Maps, row).Flags; got != FrontendTraced|FrontendAffinity {
		t.Errorf("flags %s", got)
	}
	must(t, target.Trace(key, false))
	if got := entryOf(t, fake.Maps, row).Flags; got != FrontendAffinity {
		t.Errorf("flags %s", got)
	}
}
