package kernel

import (
	"testing"

	"github.com/cilium/ebpf"
)

func TestSizes(t *testing.T) {
	compiled, err := loadBpf()
	if err != nil {
		t.Fatal(err)
	}
	const MiB = 1 << 20
	for name, row := range map[string]struct {
		sizes  Sizes
		memory uint64
		want   map[string]float64 // times the compiled size
	}{
		"nothing said":       {Sizes{}, 0, map[string]float64{"flows": 1, "pins6": 1, "endpoints": 1}},
		"24 GiB at 0.0125":   {Sizes{}, 307 * MiB, map[string]float64{"flows": 1, "flows6": 1, "nat_in6": 1}},
		"hardly any memory":  {Sizes{}, 1, map[string]float64{"flows": 0.25, "half_open6": 0.25, "pins": 0.25, "backends": 1}},
		"8 GiB at 0.0125":    {Sizes{}, 102 * MiB, map[string]float64{"flows": 0.25, "nat_out": 0.25, "pins6": 0.25}},
		"256 GiB at 0.0125":  {Sizes{}, 3276 * MiB, map[string]float64{"flows": 8, "affinity": 8, "fragments6": 8, "endpoints": 1}},
		"more than there is": {Sizes{}, 1 << 60, map[string]float64{"flows": 64}},
		"one is said":        {Sizes{NAT: 2 * 262144}, 1, map[string]float64{"nat_in": 2, "nat_out": 2, "nat_in6": 2, "flows": 0.25}},
		"endpoints":          {Sizes{Endpoints: 1024}, 0, map[string]float64{"endpoints": 0.25, "endpoints6": 0.25}},
	} {
		specs := compiled.Copy().Maps
		resize(specs, row.sizes, row.memory)
		for table, times := range row.want {
			if got, want := specs[table].MaxEntries, uint32(float64(compiled.Maps[table].MaxEntries)*times); got != want {
				t.Errorf("%s: %s has room for %d, want %d", name, table, got, want)
			}
		}
	}
}

// What was said to be the most is the most, with all tables full: also those that take
// their memory only as they fill, of which a flood of SYNs may fill some.
func TestSizesKeepWithinMemory(t *testing.T) {
	compiled, err := loadBpf()
	if err != nil {
		t.Fatal(err)
	}
	for memory := uint64(60 << 20); memory < 8<<30; memory += 7 << 20 {
		specs := compiled.Copy().Maps
		resize(specs, Sizes{}, memory)
		var taken uint64
		for _, name := range []string{"flows", "half_open", "pins", "nat_out", "nat_in", "affinity", "fragments"} {
			for _, m := range []*ebpf.MapSpec{specs[name], specs[name+"6"]} {
				taken += uint64(m.MaxEntries) * uint64(m.KeySize+m.ValueSize+entryOverhead)
			}
		}
		if taken > memory || taken < memory/2 && specs["flows"].MaxEntries < scaleMax*compiled.Maps["flows"].MaxEntries {
			t.Fatalf("of %d bytes the tables take %d", memory, taken)
		}
	}
}
