package kernel

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// Verdict counts the packets that one program handled in one way, summed over
// the CPUs, since the maps were made.
type Verdict struct {
	// Hook is "xdp", "tc-outside", "tc-pod" or "tc-to-pod".
	Hook string
	// Reason is one of bpf/reasons.h, such as "forward_remote".
	Reason  string
	Dropped bool
	Packets uint64
	Bytes   uint64
}

// Verdicts returns the counts that are not zero.
func (k *Kernel) Verdicts() ([]Verdict, error) {
	counters := k.maps[bpfMapVerdicts]
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("read verdicts: %w", err)
	}
	keys := make([]uint32, counters.MaxEntries())
	counts := make([]bpfCount, len(keys)*cpus)
	var cursor ebpf.MapBatchCursor
	if _, err := counters.BatchLookup(&cursor, keys, counts, nil); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, fmt.Errorf("read verdicts: %w", err)
	}
	var all []Verdict
	for hook, name := range hooks {
		for reason := range k.reasons {
			v := Verdict{Hook: name, Reason: k.reasons[reason], Dropped: drops(bpfReason(reason))}
			at := (hook*int(bpfVerdictStrideVERDICT_STRIDE) + reason) * cpus
			for _, c := range counts[at : at+cpus] {
				v.Packets += c.Packets
				v.Bytes += c.Bytes
			}
			if v.Packets != 0 {
				all = append(all, v)
			}
		}
	}
	return all, nil
}

// hooks are the names of enum hook (bpf/shapes.h).
var hooks = []string{kindXDP, kindTCOutside, kindTCPod, kindTCToPod}

// drops says whether a reason is one to drop packets for, as bpf/reasons.h has
// them in groups.
func drops(r bpfReason) bool {
	return r >= bpfReasonREASON_TRUNCATED && r <= bpfReasonREASON_FLOW_TABLE ||
		r >= bpfReasonREASON_FRAGMENT_ORPHAN && r <= bpfReasonREASON_SPOOFED_POD ||
		r >= bpfReasonREASON_NEIGHBOUR_QUOTA
}

// reasonNames reads the names of bpf/reasons.h out of the programs' BTF.
func reasonNames(spec *ebpf.CollectionSpec) ([]string, error) {
	var reasons *btf.Enum
	if err := spec.Types.TypeByName("reason", &reasons); err != nil {
		return nil, fmt.Errorf("read reasons: %w", err)
	}
	names := make([]string, bpfReasonREASON_MAX)
	for _, v := range reasons.Values {
		if v.Value < uint64(len(names)) {
			names[v.Value] = strings.ToLower(strings.TrimPrefix(v.Name, "REASON_"))
		}
	}
	return names, nil
}
