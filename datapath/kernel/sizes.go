package kernel

import "github.com/cilium/ebpf"

// Sizes are how many entries the tables of flows have room for, at most. 0:
// as many as MapMemory allows.
type Sizes struct {
	Flows     uint32 // established flows to this node's pods
	HalfOpen  uint32 // those before that
	Pins      uint32 // flows that their slots do not lead to their backends
	NAT       uint32 // translated flows
	Affinity  uint32 // clients that keep their backend
	Fragments uint32 // packets that came in fragments
	// Endpoints are the pods of this node; 0: as in bpf/shapes.h.
	Endpoints uint32
}

// table is the maps that one size is for; those for IPv6, and all after the
// first, keep their proportion to the first one.
type table struct {
	entries uint32
	maps    []string
}

func (s Sizes) tables() []table {
	return []table{
		{s.Flows, []string{bpfMapFlows, bpfMapFlows6}},
		{s.HalfOpen, []string{bpfMapHalfOpen, bpfMapHalfOpen6}},
		{s.Pins, []string{bpfMapPins, bpfMapPins6}},
		{s.NAT, []string{bpfMapNatOut, bpfMapNatIn, bpfMapNatOut6, bpfMapNatIn6}},
		{s.Affinity, []string{bpfMapAffinity, bpfMapAffinity6}},
		{s.Fragments, []string{bpfMapFragments, bpfMapFragments6}},
	}
}

// The tables of flows are a power of two times as large as in bpf/shapes.h, so
// that they do not change with every little change of the memory there is.
const (
	scaleMin = 0.25
	scaleMax = 64
)

// entryOverhead is about what the kernel adds to the key and value of a hash's
// entry, in bytes.
const entryOverhead = 64

// whole is about what the tables of flows take in bytes when all are full. Those that are
// no LRU tables take it only as they fill.
func whole(specs map[string]*ebpf.MapSpec) (bytes float64) {
	for _, t := range (Sizes{}).tables() {
		for _, name := range t.maps {
			m := specs[name]
			bytes += float64(m.MaxEntries) * float64(m.KeySize+m.ValueSize+entryOverhead)
		}
	}
	return bytes
}

// scale is how many times as large the tables of flows may be, to take no more than
// that much memory.
func scale(specs map[string]*ebpf.MapSpec, memory uint64) float64 {
	whole, factor := whole(specs), float64(scaleMin)
	for factor < scaleMax && 2*factor*whole <= float64(memory) {
		factor *= 2
	}
	return factor
}

// resize gives the maps the sizes that are configured; memory as in Config.
func resize(specs map[string]*ebpf.MapSpec, sizes Sizes, memory uint64) {
	factor := 1.0
	if memory != 0 {
		factor = scale(specs, memory)
	}
	for _, t := range sizes.tables() {
		times := factor
		if t.entries != 0 {
			times = float64(t.entries) / float64(specs[t.maps[0]].MaxEntries)
		}
		for _, name := range t.maps {
			specs[name].MaxEntries = max(uint32(float64(specs[name].MaxEntries)*times+0.5), 1)
		}
	}
	if sizes.Endpoints != 0 {
		specs[bpfMapEndpoints].MaxEntries = sizes.Endpoints
		specs[bpfMapEndpoints6].MaxEntries = sizes.Endpoints
	}
}
