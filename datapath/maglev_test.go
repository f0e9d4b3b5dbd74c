package datapath

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
)

func maglevBackends(n int) []MaglevBackend {
	backends := make([]MaglevBackend, n)
	for i := range backends {
		addr := netip.AddrFrom4([4]byte{172, 20, byte(i >> 8), byte(i)})
		backends[i] = MaglevBackend{Addr: netip.AddrPortFrom(addr, 80)}
	}
	return backends
}

func TestMaglevSize(t *testing.T) {
	for _, c := range []struct {
		backends int
		size     uint32
	}{
		{0, 0}, {1, 251}, {2, 1021}, {3, 1021}, {10, 1021}, {11, 4093}, {40, 4093}, {41, 10007}, {100, 10007}, {101, 16381}, {163, 16381}, {164, 65521},
		{655, 65521}, {656, 131071}, {1310, 131071}, {1311, 131071}, {60000, 131071},
	} {
		if got := MaglevSize(c.backends); got != c.size {
			t.Errorf("MaglevSize(%d) = %d, want %d", c.backends, got, c.size)
		}
	}
	for _, c := range []struct {
		asked    uint32
		backends int
		size     uint32
	}{
		{0, 0, 0}, {0, 5, 1021}, {251, 0, 0}, {251, 128, 251}, {251, 129, 16381}, {10007, 129, 16381}, {10007, 3, 10007}, {16381, 3, 16381}, {16381, 5000, 16381},
	} {
		if got := tableSize(c.asked, c.backends); got != c.size {
			t.Errorf("%d backends that ask for %d slots have %d, want %d", c.backends, c.asked, got, c.size)
		}
	}
	for backends := range 2000 {
		if size := MaglevSize(backends); isSmall(size) && backends > smallBackends {
			t.Errorf("%d backends have a table of %d slots, which has no room for them", backends, size)
		}
	}
	for _, size := range append(maglevSizes[:], soleSize) {
		for d := uint32(2); d*d <= size; d++ {
			if size%d == 0 {
				t.Errorf("size %d is not a prime: %d divides it", size, d)
			}
		}
	}
}

// Nodes of different versions share traffic: these tables may never change.
func TestMaglevGolden(t *testing.T) {
	for _, c := range []struct {
		backends int
		size     uint32
		weights  []uint16
		crc      uint32
	}{
		{3, 1021, nil, 0x66f318cb}, {100, 10007, nil, 0xed8bffcd}, {100, 16381, nil, 0xdc96b765}, {3, 1021, []uint16{1, 2, 5}, 0xa171cd32},
	} {
		backends := maglevBackends(c.backends)
		for i, w := range c.weights {
			backends[i].Weight = w
		}
		sum := crc32.NewIEEE()
		for _, b := range MaglevTable(backends, c.size) {
			sum.Write(binary.BigEndian.AppendUint32(nil, b))
		}
		if got := sum.Sum32(); got != c.crc {
			t.Errorf("%d backends, weights %v, %d slots: table %#x, want %#x", c.backends, c.weights, c.size, got, c.crc)
		}
	}
}

func TestMaglevIsBalanced(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 50, 100, 655} {
		size := MaglevSize(n)
		share := counts(MaglevTable(maglevBackends(n), size), n)
		lo, hi := slices.Min(share), slices.Max(share)
		// Backends of equal weight take turns, so their counts differ by at most one.
		if hi-lo > 1 {
			t.Errorf("%d backends: shares from %d to %d of %d slots", n, lo, hi, size)
		}
	}
}

func TestMaglevWeights(t *testing.T) {
	weights := []uint16{1, 2, 3, 0, 10}
	backends := maglevBackends(len(weights))
	total := 0.0
	for i, w := range weights {
		backends[i].Weight = w
		total += float64(max(w, 1))
	}
	const size = 4093
	for i, n := range counts(MaglevTable(backends, size), len(backends)) {
		want := size * float64(max(weights[i], 1)) / total
		if math.Abs(float64(n)-want) > 2 {
			t.Errorf("weight %d: %d slots, want about %.0f", weights[i], n, want)
		}
	}
}

func TestMaglevOrderDoesNotMatter(t *testing.T) {
	backends := maglevBackends(60)
	for i := range backends {
		backends[i].Weight = uint16(i % 4)
	}
	owners := func(bs []MaglevBackend) []MaglevBackend {
		var owners []MaglevBackend
		for _, b := range MaglevTable(bs, 8191) {
			owners = append(owners, bs[b])
		}
		return owners
	}
	want := owners(backends)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 10 {
		shuffled := slices.Clone(backends)
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if !slices.Equal(owners(shuffled), want) {
			t.Fatal("the same backends in another order give another table")
		}
	}
}

// Adding or removing a backend moves little more than its share, which is the
// least there can be: at 100 slots a backend under 3 % on top. Where the size of the table changes, far more moves: that is
// why sizes are far apart, and why what is asserted is for a fixed size.
func TestMaglevQuality(t *testing.T) {
	var table strings.Builder
	tab := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tab, "backends\tslots\tone fewer: moved\tleast\tone more: moved\tleast\tmost slots / fewest\t")
	for _, n := range []int{3, 10, 30, 100, 300, 1000} {
		size := MaglevSize(n)
		all := maglevBackends(n + 1)
		before := MaglevTable(all[:n], size)
		fewer := 0.0
		for _, gone := range []int{0, n / 2, n - 1} {
			less := slices.Delete(slices.Clone(all[:n]), gone, gone+1)
			fewer = max(fewer, movedShare(all, before, less, MaglevTable(less, size)))
		}
		more := movedShare(all, before, all, MaglevTable(all, size))
		share := counts(before, n)
		balance := float64(slices.Max(share)) / float64(slices.Min(share))
		least, leastMore := 1/float64(n), 1/float64(n+1)
		fmt.Fprintf(tab, "%d\t%d\t%.2f %%\t%.2f %%\t%.2f %%\t%.2f %%\t%.3f\t\n", n, size, 100*fewer, 100*least, 100*more, 100*leastMore, balance)
		if fewer > least+0.03 || more > leastMore+0.03 {
			t.Errorf("%d backends: %.2f %% of the slots move when one goes and %.2f %% when one comes, the least is %.2f %%", n, 100*fewer, 100*more, 100*least)
		}
		if most := 1 + float64(n)/float64(size-uint32(n)); balance > most+1e-9 {
			t.Errorf("%d backends: the most loaded has %.4f times the slots of the least loaded, want %.4f", n, balance, most)
		}
	}
	tab.Flush()
	t.Logf("a backend more or fewer, of as many:\n%s", table.String())
}

// movedShare is the part of the slots that lead to another backend afterwards.
func movedShare(all []MaglevBackend, before []uint32, now []MaglevBackend, after []uint32) float64 {
	moved := 0
	for slot, b := range after {
		if all[before[slot]] != now[b] {
			moved++
		}
	}
	return float64(moved) / float64(len(after))
}

func FuzzMaglev(f *testing.F) {
	f.Add(uint64(1), uint8(3))
	f.Fuzz(func(t *testing.T, seed uint64, n uint8) {
		rng := rand.New(rand.NewPCG(seed, 0))
		backends := maglevBackends(int(n))
		for i := range backends {
			backends[i].Weight = uint16(rng.Uint32())
		}
		size := MaglevSize(len(backends))
		table := MaglevTable(backends, size)
		if len(table) != int(size) {
			t.Fatalf("%d slots, want %d", len(table), size)
		}
		for slot, b := range table {
			if int(b) >= len(backends) {
				t.Fatalf("slot %d holds %d of %d backends", slot, b, len(backends))
			}
		}
	})
}

func counts(table []uint32, n int) []int {
	share := make([]int, n)
	for _, b := range table {
		share[b]++
	}
	return share
}

func BenchmarkMaglev(b *testing.B) {
	for _, c := range []struct {
		backends int
		size     uint32
	}{{3, 509}, {100, 10007}, {100, 16381}, {1000, 65521}, {1000, 131071}} {
		b.Run(fmt.Sprintf("backends=%d/slots=%d", c.backends, c.size), func(b *testing.B) {
			backends := maglevBackends(c.backends)
			for b.Loop() {
				MaglevTable(backends, c.size)
			}
		})
	}
}
