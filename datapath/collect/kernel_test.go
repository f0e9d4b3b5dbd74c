package collect

import (
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/state"
)

const testEntries = 100000 // of each of two tables

// kernelMaps are real maps, of the tables that are walked and small ones of all others.
func kernelMaps(t *testing.T) (datapath.Maps, func(string) uint32) {
	t.Helper()
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("needs root and no -short: creates BPF maps")
	}
	spec, err := ebpf.LoadCollectionSpec("../kernel/bpf_bpfel.o")
	if err != nil {
		t.Fatal(err)
	}
	loaded := map[string]*ebpf.Map{}
	for name, m := range spec.Maps {
		if strings.HasPrefix(name, ".") || m.Type == ebpf.RingBuf {
			continue
		}
		switch name {
		case "flows":
			m.MaxEntries = 2 * testEntries // an LRU map evicts before it is quite full
		case "nat_out", "nat_in":
			m.MaxEntries = testEntries
		default:
			m.MaxEntries = min(m.MaxEntries, 4096)
		}
		loaded[name], err = ebpf.NewMap(m)
		if err != nil {
			t.Fatalf("create map %s: %v", name, err)
		}
		t.Cleanup(func() { loaded[name].Close() })
	}
	maps, err := datapath.NewKernelMaps(loaded)
	if err != nil {
		t.Fatal(err)
	}
	return maps, func(name string) uint32 { return loaded[name].MaxEntries() }
}

// place is the i-th address and port of a /12.
func place(base string, i int) netip.AddrPort {
	a := netip.MustParseAddr(base).As4()
	a[1] += byte(i >> 16)
	a[2], a[3] = byte(i>>8), byte(i)
	return netip.AddrPortFrom(netip.AddrFrom4(a), 1024)
}

// heap wraps a map, to see how much memory a walk over it needs.
type heap[K comparable, V any] struct {
	Map[K, V]
	peak *uint64
}

func (h heap[K, V]) Each(f func(K, V) bool) error {
	n := 0
	return h.Map.Each(func(k K, v V) bool {
		if n++; n%10000 == 0 {
			*h.peak = max(*h.peak, heapInUse())
		}
		return f(k, v)
	})
}

func heapInUse() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// A pass over large tables of the kernel's takes a while and little memory, and
// leaves what it should. nat_out and nat_in are full before, and take new flows
// after it.
func TestPassOverKernelMaps(t *testing.T) {
	maps, room := kernelMaps(t)
	now := Now()
	vip := netip.MustParseAddrPort("192.168.10.211:80")
	pod := netip.MustParseAddrPort("172.20.0.5:8080")
	pair := func(i int) (out datapath.Tuple, in datapath.Tuple, onward, back datapath.NATEntry) {
		client, port := place("10.0.0.0", i), place("172.16.0.0", i)
		out, in = datapath.Tuple{Src: client, Dst: vip, Proto: state.TCP}, datapath.Tuple{Src: pod, Dst: port, Proto: state.TCP}
		return out, in, datapath.NATEntry{Src: port, Dst: pod, Seen: now - 100}, datapath.NATEntry{Src: vip, Dst: client, Seen: now - 100}
	}
	for i := range testEntries {
		k := datapath.FlowKey{Pod: pod.Addr(), PodPort: pod.Port(), Client: place("10.0.0.0", i).Addr(), ClientPort: 1024, Proto: state.TCP}
		v := datapath.FlowEntry{VIP: vip.Addr(), Port: vip.Port(), Seen: now - 100}
		out, in, onward, back := pair(i)
		if i%2 == 0 { // half of all is over
			v.Flags, onward.Flags = datapath.FlowClosing, datapath.NATClosing
		} else {
			onward.Flags, back.Flags = datapath.NATReplied, datapath.NATReplied
		}
		for _, err := range []error{maps.Flows.Update(k, v), maps.NATOut.Update(out, onward), maps.NATIn.Update(in, back)} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	out, in, onward, back := pair(testEntries)
	if maps.NATOut.Update(out, onward) == nil || maps.NATIn.Update(in, back) == nil {
		t.Fatal("full maps took one more flow")
	}

	var peak uint64
	tables := []Table{
		NewLRU("flows", Size{IPv4: room("flows")}, heap[datapath.FlowKey, datapath.FlowEntry]{maps.Flows, &peak}, flowEntry(true)),
	}
	watched := func(m datapath.Map[datapath.Tuple, datapath.NATEntry]) Map[datapath.Tuple, datapath.NATEntry] {
		return heap[datapath.Tuple, datapath.NATEntry]{m, &peak}
	}
	tables = append(tables, NewNAT("nat_out", "nat_in", Size{IPv4: room("nat_out")}, watched(maps.NATOut), watched(maps.NATIn), natEntry, answerEntry, otherTuple)...)
	c := &Collector{Tables: tables, Timeouts: DefaultTimeouts(), Now: Now, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	full := Size{IPv4: testEntries} // says the pass before: there is reason to hurry
	c.report = Report{Passes: 1, Tables: []TableReport{{}, {Entries: full, Size: full}, {Entries: full, Size: full}}}
	runtime.GC()
	before := heapInUse()
	c.Pass(t.Context(), false)
	r := c.Report()
	for _, table := range r.Tables {
		t.Logf("%s: %d entries, %d removed, in %v", table.Name, table.Entries.IPv4, table.Removed, table.Took.Round(time.Millisecond))
	}
	t.Logf("pass over %d entries in %v, with rests; %.1f MiB of heap more than before", 3*testEntries, r.Took.Round(time.Millisecond), float64(int64(peak)-int64(before))/(1<<20))

	for i, want := range map[int][2]uint64{0: {testEntries / 2, testEntries / 2}, 1: {testEntries / 2, testEntries / 2}, 2: {testEntries / 2, 0}} {
		table := r.Tables[i]
		if got := [2]uint64{uint64(table.Entries.IPv4), table.Removed}; got != want {
			t.Errorf("%s: %d left and %d removed, want %v", table.Name, got[0], got[1], want)
		}
	}
	if n := r.Flows.Backends[Place{pod, state.TCP}]; n != testEntries {
		t.Errorf("%d flows to the pod are counted, want %d", n, testEntries) // of flows and of nat_in, a half each
	}
	const enough = 24 << 20
	if peak > before+enough {
		t.Errorf("the pass needed %d MiB of heap", (peak-before)>>20)
	}
	if err := maps.NATOut.Update(out, onward); err != nil {
		t.Error(err)
	}
	if err := maps.NATIn.Update(in, back); err != nil {
		t.Error(err)
	}
}

// Tables names every map that it walks as bpf/maps.h does, and each has room.
func TestTables(t *testing.T) {
	maps, room := kernelMaps(t)
	c := &Collector{Tables: Tables(maps, room), Timeouts: DefaultTimeouts(), Now: Now, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	seen := Now() - uint32(25*time.Hour/tick)
	six := netip.MustParseAddrPort("[2001:db8::1]:80")
	for _, err := range []error{
		maps.Affinity.Update(datapath.AffinityKey{Client: six.Addr(), Service: 1}, datapath.AffinityEntry{Seen: seen}),
		maps.Affinity.Update(datapath.AffinityKey{Client: six.Addr(), Service: 2}, datapath.AffinityEntry{Seen: seen + uint32(2*time.Hour/tick)}),
		maps.Fragments.Update(datapath.FragmentKey{Src: six.Addr(), Dst: six.Addr()}, datapath.FragmentEntry{Seen: seen, Proto: state.UDP}),
		maps.HalfOpen.Update(datapath.FlowKey{Pod: six.Addr(), Client: six.Addr(), Proto: state.TCP}, datapath.FlowEntry{VIP: six.Addr(), Seen: seen}),
		maps.Pins.Update(datapath.Tuple{Src: six, Dst: six, Proto: state.TCP}, datapath.Pin{Seen: seen}),
		maps.NATIn.Update(datapath.Tuple{Src: six, Dst: six, Proto: state.TCP}, datapath.NATEntry{Src: six, Dst: six, Seen: seen}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c.Pass(t.Context(), false)
	left := map[string]uint32{"affinity": 1}
	for _, table := range c.Report().Tables {
		if table.Size.IPv4 == 0 || table.Size.IPv6 == 0 {
			t.Errorf("%s has room for %v", table.Name, table.Size)
		}
		if table.Entries.IPv6 != left[table.Name] || table.Entries.IPv4 != 0 {
			t.Errorf("%s: %v left", table.Name, table.Entries)
		}
		if want := map[bool]uint64{true: 0, false: 1}[table.Name == "flows" || table.Name == "nat_out"]; table.Removed != want {
			t.Errorf("%s: %d removed, want %d", table.Name, table.Removed, want)
		}
	}
}
