package datapath

import (
	"maps"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/seamark-lb/seamark/state"
)

// keeps writes entries into a map of the kernel, and reads them back in every way there is.
func keeps[K, V comparable](t *testing.T, name string, m Map[K, V], entries map[K]V) {
	t.Helper()
	for key, value := range entries {
		if err := m.Update(key, value); err != nil {
			t.Errorf("%s: update %v: %v", name, key, err)
		}
	}
	all, err := m.All()
	if err != nil || !maps.Equal(all, entries) {
		t.Errorf("%s: holds %v, %v; want %v", name, all, err, entries)
	}
	calls := 0
	if err := m.Each(func(K, V) bool { calls++; return false }); err != nil || calls != 1 {
		t.Errorf("%s: %d calls after the first said that it is enough, %v", name, calls, err)
	}
	for key, value := range entries {
		if got, ok, err := m.Lookup(key); err != nil || !ok || got != value {
			t.Errorf("%s: look up %v: %v, %t, %v; want %v", name, key, got, ok, err, value)
		}
	}
	// Deleting during the walk, twice.
	seen := map[K]V{}
	err = m.Each(func(key K, value V) bool {
		seen[key] = value
		if err := m.Delete(key); err != nil {
			t.Errorf("%s: delete %v: %v", name, key, err)
		}
		if err := m.Delete(key); err != nil {
			t.Errorf("%s: delete %v again: %v", name, key, err)
		}
		return true
	})
	if left, errAll := m.All(); err != nil || errAll != nil || len(left) != 0 || !maps.Equal(seen, entries) {
		t.Errorf("%s: walked %v, %v; left %v, %v", name, seen, err, left, errAll)
	}
}

// Every concept's map holds both families, each entry as it was given.
func TestMapsKeepBothFamilies(t *testing.T) {
	m := realMaps(t)
	a4, b4 := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("172.20.0.9")
	a6, b6 := netip.MustParseAddr("2001:db8::1:2"), netip.MustParseAddr("fd00:20::9")
	at := netip.AddrPortFrom
	t4, t6 := Tuple{at(a4, 1234), at(b4, 80), state.TCP}, Tuple{at(a6, 4321), at(b6, 443), state.UDP}

	keeps(t, "frontends", m.Frontends, map[FrontendKey]FrontendEntry{{a4, 80, state.TCP}: {1, FrontendRefuse, 2, 3}, {a6, 443, state.SCTP}: {4, 5, 6, 7}, {Addr: b6}: {Flags: FrontendVIP}})
	keeps(t, "sets", m.Sets, map[uint32]BackendSet{7: {Size: [3]uint32{1, 2, 3}, Owner: 4, Look: newLook(2, 1, true), Affinity: 9}})
	keeps(t, "backends", m.Backends, map[uint32]BackendEntry{1: {a4, 80, BackendLocal, 0}, 2: {a6, 81, BackendDraining, 9}})
	keeps(t, "next_hops", m.NextHops, map[uint32]NextHopEntry{3: {1, 2, 3, MAC{4}, MAC{5}, a4.As4(), b4.As4(), a6.As16(), b6.As16()}})
	keeps(t, "local_targets", m.LocalTargets, map[LocalKey]LocalTarget{{a4, b4, 80, state.TCP}: {8080}, {a6, b6, 80, state.TCP}: {8081}})
	flows := map[FlowKey]FlowEntry{{a4, b4, 1, 2, state.TCP}: {a4, 3, FlowReplied, 4}, {a6, b6, 5, 6, state.UDP}: {a6, 7, FlowClosing, 8}}
	keeps(t, "flows", m.Flows, flows)
	keeps(t, "half_open", m.HalfOpen, flows)
	keeps(t, "pins", m.Pins, map[Tuple]Pin{t4: {1, 2, 3, FlowClosing}, t6: {4, 5, 6, 0}})
	keeps(t, "affinity", m.Affinity, map[AffinityKey]AffinityEntry{{a4, 1}: {2, 3}, {a6, 4}: {5, 6}})
	keeps(t, "sources", m.Sources, map[SourceKey]uint32{{1, netip.MustParsePrefix("10.0.0.0/8")}: 1, {1, netip.MustParsePrefix("0.0.0.0/0")}: 1,
		{2, netip.MustParsePrefix("10.0.0.0/8")}: 1, {1, netip.MustParsePrefix("2001:db8::/32")}: 1, {1, netip.MustParsePrefix("::/0")}: 1})
	keeps(t, "fragments", m.Fragments, map[FragmentKey]FragmentEntry{{a4, b4, 0xfffe, state.UDP}: {1, 2, 3, state.UDP, 8}, {a6, b6, 0xfffefdfc, 0}: {4, 5, 6, state.TCP, 28}})
	nats := map[Tuple]NATEntry{t4: {at(b4, 9), at(a4, 8), NATInside, 7, 6}, t6: {at(b6, 5), at(a6, 4), NATClosing, 3, 2}}
	keeps(t, "nat_out", m.NATOut, nats)
	keeps(t, "nat_in", m.NATIn, nats)
	keeps(t, "endpoints", m.Endpoints, map[netip.Addr]EndpointEntry{a4: {1, MAC{2}, MAC{3}}, a6: {4, MAC{5}, MAC{6}}})
}

// An id that is given to a backend of the other family is in one map only.
func TestBackendChangesFamily(t *testing.T) {
	m := realMaps(t)
	four := BackendEntry{Addr: netip.MustParseAddr("10.1.2.3"), Port: 1}
	six := BackendEntry{Addr: netip.MustParseAddr("fd00::1"), Port: 2}
	for _, entry := range []BackendEntry{four, six, four} {
		must(t, m.Backends.Update(9, entry))
		if all, err := m.Backends.All(); err != nil || len(all) != 1 || all[9] != entry {
			t.Errorf("%v, %v; want %v alone", all, err, entry)
		}
	}
}

// Counts are of all CPUs together.
func TestCountersAreSummed(t *testing.T) {
	loaded := createMaps(t)
	m, err := NewKernelMaps(loaded)
	if err != nil {
		t.Fatal(err)
	}
	perCPU := make([]Count, ebpf.MustPossibleCPU())
	var want Count
	for cpu := range perCPU {
		perCPU[cpu] = Count{uint64(cpu) + 1, 100}
		want.Packets += uint64(cpu) + 1
		want.Bytes += 100
	}
	must(t, loaded["service_counts"].Put(uint32(60000), perCPU), loaded["service_counts"].Put(uint32(1), perCPU))
	one, err := m.ServiceCounts.Lookup(60000)
	all, errAll := m.ServiceCounts.All()
	if err != nil || errAll != nil || one != want || !maps.Equal(all, map[uint32]Count{1: want, 60000: want}) {
		t.Errorf("%v, %v; %v, %v; want %v twice", one, err, all, errAll, want)
	}
	must(t, m.ServiceCounts.Reset(60000))
	if one, err := m.ServiceCounts.Lookup(60000); err != nil || one != (Count{}) {
		t.Errorf("after the reset: %v, %v", one, err)
	}
}
