package datapath

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/seamark-lb/seamark/state"
	"golang.org/x/sys/unix"
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

// realMaps creates the maps in the kernel.
func realMaps(t testing.TB) Maps {
	t.Helper()
	maps, err := NewKernelMaps(createMaps(t))
	if err != nil {
		t.Fatal(err)
	}
	return maps
}

func createMaps(t testing.TB) map[string]*ebpf.Map {
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
	return loaded
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
	sizes := []uint32{5, 6, 7, 8, 251, 252, 1021} // of tables
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
				slots := make([]uint32, sizes[rng.IntN(len(sizes))])
				slots[0] = rng.Uint32N(9)
				results[i] = fmt.Sprint(m.Tables.Write(map[uint32][]uint32{u: slots, u + 1: slots[1:]}))
			case 9:
				results[i] = fmt.Sprint(m.Tables.Delete([]uint32{u, u + 2}))
			case 10:
				slots, err := m.Tables.Read(u, sizes[rng.IntN(len(sizes))])
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
		sizes, errSizes := m.Tables.Sizes()
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

// 10,000 services of 10 backends each: made from nothing, one backend of one
// service changed, all read and compared, the daemon started anew.
func BenchmarkTenThousandServices(b *testing.B) {
	rows := make([]state.Frontend, 10000)
	for i := range rows {
		var backends []string
		for j := range 10 {
			backends = append(backends, fmt.Sprintf("172.%d.%d.%d:80@w%d", 16+j, i/256, i%256, j))
		}
		rows[i] = frontend(fmt.Sprintf("a/s%d", i), fmt.Sprintf("10.1.%d.%d:80/TCP", i/256, i%256), backends...)
	}
	changed := rows[5000]
	changed.Backends = changed.Backends[1:]
	changed.Inside = changed.Backends
	for b.Loop() {
		loaded := createMaps(b)
		maps, err := NewKernelMaps(loaded)
		if err != nil {
			b.Fatal(err)
		}
		empty := memory(b, loaded)
		target := newTestTarget(maps)
		phase := func(name string, do func() []error) {
			cpu, start := cpuTime(b), time.Now()
			if err := errors.Join(do()...); err != nil {
				b.Fatal(name, err)
			}
			b.ReportMetric(float64(time.Since(start).Microseconds())/1000, name+"-ms")
			b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/1000, name+"-cpu-ms")
		}
		prune := func() []error { return []error{target.Prune(context.Background(), rows)} }
		phase("create", func() []error { return target.UpdateAll(context.Background(), rows) })
		b.ReportMetric(float64(empty>>20), "empty-MiB")
		b.ReportMetric(float64(memory(b, loaded)>>20), "created-MiB")
		phase("first-resync", prune)
		b.ReportMetric(float64(memory(b, loaded)>>20), "resynced-MiB")
		phase("change", func() []error { return target.UpdateAll(context.Background(), []state.Frontend{changed}) })
		phase("change-back", func() []error { return target.UpdateAll(context.Background(), rows[5000:5001]) })
		phase("resync", prune)
		target = newTestTarget(maps)
		phase("restart", func() []error { return append(target.UpdateAll(context.Background(), rows), prune()...) })
		phase("delete", func() []error { return target.DeleteAll(context.Background(), rows) })
	}
}

// memory is what the maps and this process's heap take.
func memory(b *testing.B, loaded map[string]*ebpf.Map) (bytes uint64) {
	add := func(m *ebpf.Map) {
		info, err := m.Info()
		if err != nil {
			b.Fatal(err)
		}
		locked, _ := info.Memlock()
		bytes += locked
	}
	for _, m := range loaded {
		add(m)
	}
	for _, form := range tableForms() {
		ids, err := kernelMap[uint32, uint32]{loaded[form.mapName()]}.All()
		if err != nil {
			b.Fatal(err)
		}
		for _, id := range ids {
			inner, err := ebpf.NewMapFromID(ebpf.MapID(id))
			if err != nil {
				b.Fatal(err)
			}
			add(inner)
			inner.Close()
		}
	}
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return bytes + stats.HeapInuse
}

func cpuTime(b *testing.B) time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// Programs remember rows of frontends until the edition is another one.
func TestChangesOfFrontendsMakeAnEdition(t *testing.T) {
	loaded := createMaps(t)
	m, err := NewKernelMaps(loaded)
	if err != nil {
		t.Fatal(err)
	}
	edition := func() (n uint32) {
		t.Helper()
		if err := loaded["frontends_edition"].Lookup(uint32(0), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, addr := range []string{"192.168.10.211", "fd00::211"} {
		key := FrontendKey{Addr: netip.MustParseAddr(addr), Port: 80, Proto: state.TCP}
		for what, change := range map[string]func() error{
			"update": func() error { return m.Frontends.Update(key, FrontendEntry{Set: 1}) },
			"delete": func() error { return m.Frontends.Delete(key) },
		} {
			before := edition()
			if err := change(); err != nil || edition() == before {
				t.Errorf("%s of %s: %v, and the edition is still %d", what, key, err, before)
			}
		}
	}
}
