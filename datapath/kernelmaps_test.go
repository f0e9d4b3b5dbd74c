package datapath

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/seamark-lb/seamark/state"
)

// compiled is the maps as bpf/ declares them.
func compiled(t testing.TB) map[string]*ebpf.MapSpec {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpec("kernel/bpf_bpfel.o")
	if err != nil {
		t.Fatal(err)
	}
	return spec.Maps
}

// realMaps creates the maps that userspace writes in the kernel.
func realMaps(t testing.TB) Maps {
	t.Helper()
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("needs root and no -short: creates BPF maps")
	}
	specs := compiled(t)
	loaded := map[string]*ebpf.Map{}
	for name, spec := range specs {
		if strings.HasPrefix(name, ".") {
			continue // constants of the programs
		}
		m, err := ebpf.NewMap(spec)
		if err != nil {
			t.Fatalf("create map %s: %v", name, err)
		}
		t.Cleanup(func() { m.Close() })
		loaded[name] = m
	}
	maps, err := NewKernelMaps(loaded)
	if err != nil {
		t.Fatal(err)
	}
	return maps
}

func TestGoTypesMatchTheKernels(t *testing.T) {
	if err := CheckLayout(compiled(t)); err != nil {
		t.Error(err)
	}
}

func TestCheckLayoutSeesEveryDifference(t *testing.T) {
	specs := compiled(t)
	// Two members change places and keep their offsets.
	value := btf.Copy(specs["next_hops"].Value).(*btf.Struct)
	value.Members[2], value.Members[3] = value.Members[3], value.Members[2]
	value.Members[2].Offset, value.Members[3].Offset = value.Members[3].Offset, value.Members[2].Offset
	specs["next_hops"] = specs["next_hops"].Copy()
	specs["next_hops"].Value = value
	delete(specs, "endpoints")
	err := CheckLayout(specs)
	for _, name := range []string{"next_hops", "endpoints"} {
		if !strings.Contains(fmt.Sprint(err), name) {
			t.Errorf("map %s differs, and the error is: %v", name, err)
		}
	}
}

func TestNewKernelMapsRefusesOtherShapes(t *testing.T) {
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("needs root and no -short: creates BPF maps")
	}
	specs := compiled(t)
	loaded := map[string]*ebpf.Map{}
	for name, spec := range specs {
		if strings.HasPrefix(name, ".") || name == "endpoints6" {
			continue
		}
		spec = spec.Copy()
		spec.MaxEntries = min(spec.MaxEntries, 4096)
		if name == "backends" {
			spec.ValueSize, spec.Value = 16, nil
		}
		m, err := ebpf.NewMap(spec)
		if err != nil {
			t.Fatalf("create map %s: %v", name, err)
		}
		defer m.Close()
		loaded[name] = m
	}
	_, err := NewKernelMaps(loaded)
	for _, want := range []string{"open map backends: key and value are 4 and 16 bytes, want 4 and 12", "open map endpoints6: not loaded"} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

// The fake does what the kernel does.
func TestFakeMapsAreLikeTheKernels(t *testing.T) {
	real, fake := realMaps(t), NewFakeMaps().Maps
	rng := rand.New(rand.NewPCG(1, 1))
	for step := range 400 {
		u := rng.Uint32N(20)
		key := FrontendKey{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(u)}), Port: 80, Proto: state.TCP}
		if u%2 == 0 {
			key.Addr = netip.AddrFrom16([16]byte{0xfd, 15: byte(u)})
		}
		var results [2]string
		for i, m := range []Maps{real, fake} {
			rng := rand.New(rand.NewPCG(2, uint64(step)))
			switch n := rng.Uint32N(12); n {
			case 0, 1, 2:
				results[i] = fmt.Sprint(m.Frontends.Update(key, FrontendEntry{Set: n}), m.Sets.Update(u, BackendSet{Affinity: n}))
			case 3, 4:
				results[i] = fmt.Sprint(m.Frontends.Delete(key), m.Sets.Delete(u))
			case 5, 6:
				v, ok, err := m.Frontends.Lookup(key)
				s, okSet, errSet := m.Sets.Lookup(u)
				results[i] = fmt.Sprint(v, ok, err, s, okSet, errSet)
			case 7, 8:
				slots := make([]uint32, 5+rng.Uint32N(4)) // never of 3 slots: one word stands for none
				slots[0] = rng.Uint32N(9)
				results[i] = fmt.Sprint(m.Tables.Write(map[uint32][]uint32{u: slots, u + 1: slots[1:]}))
			case 9:
				results[i] = fmt.Sprint(m.Tables.Delete([]uint32{u, u + 2}))
			case 10:
				slots, err := m.Tables.Read(u, 4)
				results[i] = fmt.Sprint(slots, errors.Is(err, errNoTable))
			case 11:
				_, _, err := m.Backends.Lookup(5)
				results[i] = fmt.Sprint(m.Sets.Update(1<<20, BackendSet{}) == nil, m.Tables.Write(map[uint32][]uint32{1 << 20: {1}}) == nil, err)
			}
		}
		if results[0] != results[1] {
			t.Fatalf("step %d: the kernel says %s, the fake %s", step, results[0], results[1])
		}
	}
	var dumps [2]string
	for i, m := range []Maps{real, fake} {
		f, errFrontends := m.Frontends.All()
		s, errSets := m.Sets.All()
		sizes, errSizes := m.Tables.Indexes()
		if err := errors.Join(errFrontends, errSets, errSizes); err != nil {
			t.Fatal(err)
		}
		dumps[i] = fmt.Sprint(f, s, sizes)
	}
	if dumps[0] != dumps[1] || len(dumps[0]) < 100 {
		t.Errorf("at the end the kernel has\n%s\nthe fake\n%s", dumps[0], dumps[1])
	}
}

// More entries than one batch, in a map of every kind.
func TestAllOfLargeMaps(t *testing.T) {
	m := realMaps(t)
	const n = 20000
	for i := range uint32(n) {
		vip, pod := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), netip.AddrFrom4([4]byte{172})
		if i%2 == 0 {
			vip, pod = netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)}), netip.AddrFrom16([16]byte{0xfc})
		}
		key := LocalKey{VIP: vip, Pod: pod, Port: uint16(i), Proto: state.TCP}
		if err := errors.Join(m.LocalTargets.Update(key, LocalTarget{9}),
			m.Backends.Update(i+1, BackendEntry{Addr: pod, NextHop: i + 1})); err != nil {
			t.Fatal(err)
		}
	}
	locals, err := m.LocalTargets.All()
	if err != nil || len(locals) != n {
		t.Errorf("hash: %d entries of %d, %v", len(locals), n, err)
	}
	backends, err := m.Backends.All()
	if err != nil || len(backends) != n || backends[n] != (BackendEntry{Addr: netip.AddrFrom4([4]byte{172}), NextHop: n}) {
		t.Errorf("array: %d entries of %d, %v", len(backends), n, err)
	}
}

// The same life leaves the same dumps in the kernel as in the fake.
func TestFrontendTargetOnTheKernel(t *testing.T) {
	want, err := live(NewFakeMaps(), true)
	if err != nil {
		t.Fatal(err)
	}
	maps := realMaps(t)
	turn := func(_, _ []state.Frontend) {}
	got, err := play(maps, true, turn, func(dump func() string) string { return dump() })
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("the kernel holds\n%s\nthe fake\n%s", strings.Join(got, "---\n"), strings.Join(want, "---\n"))
	}
}

// 1,000 services of 3 backends each: made, changed, left alone, deleted.
func BenchmarkThousandServices(b *testing.B) {
	maps := realMaps(b)
	rows := make([]state.Frontend, 1000)
	for i := range rows {
		rows[i] = frontend(fmt.Sprintf("a/s%d", i), fmt.Sprintf("10.1.%d.%d:80/TCP", i/256, i%256),
			fmt.Sprintf("172.20.%d.%d:80@a", i/256, i%256), fmt.Sprintf("172.21.%d.%d:80@b", i/256, i%256), fmt.Sprintf("172.22.%d.%d:80@c", i/256, i%256))
	}
	changed := slices.Clone(rows)
	for i := range changed {
		changed[i].Backends = changed[i].Backends[:2]
	}
	for b.Loop() {
		target := newTestTarget(maps)
		target.maps = maps
		for _, phase := range []struct {
			name string
			do   func() []error
		}{
			{"create", func() []error { return target.UpdateAll(context.Background(), rows) }},
			{"change", func() []error { return target.UpdateAll(context.Background(), changed) }},
			{"change-back", func() []error { return target.UpdateAll(context.Background(), rows) }},
			{"resync", func() []error {
				return append(target.UpdateAll(context.Background(), rows), target.Prune(context.Background(), rows))
			}},
			{"delete", func() []error { return target.DeleteAll(context.Background(), rows) }},
			{"drop", func() []error {
				target.now = target.now.Add(target.Grace)
				return []error{target.Prune(context.Background(), nil)}
			}},
		} {
			start := time.Now()
			if err := errors.Join(phase.do()...); err != nil {
				b.Fatal(phase.name, err)
			}
			b.ReportMetric(float64(time.Since(start).Milliseconds()), phase.name+"-ms")
		}
	}
}
