package datapath

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// MaglevBackend is one backend as Maglev sees it: an identity and a weight.
type MaglevBackend struct {
	Addr   netip.AddrPort
	Weight uint16 // 0 counts as 1
}

// maglevSizes are the table sizes there are: primes, for 10, 40, 100, 163, 655 and
// 1310 backends. Between two sizes nearly every flow changes its slot, so they
// are far apart: a Service that scales from 2 to 10 backends, or from 11 to
// 40, keeps its size, and only the flows that must move do. Not further: what
// does not fit the CPU's caches costs more than all the rest of a packet.
var maglevSizes = [...]uint32{1021, 4093, 10007, 16381, 65521, 131071}

// soleSize is for a single backend, which has every slot of any table.
const soleSize = 251

// MaglevSize returns the number of slots for that many backends: the first of
// the sizes that is at least 100 times as large, which keeps the backends'
// shares within about 1 % of each other (NSDI'16 §5.3). It depends on nothing
// else, so every node has the same size and the table before a change is
// found by its own size. No backends: 0.
func MaglevSize(backends int) uint32 {
	switch backends {
	case 0:
		return 0
	case 1:
		return soleSize
	}
	for _, size := range maglevSizes {
		if int(size) >= 100*backends {
			return size
		}
	}
	return maglevSizes[len(maglevSizes)-1]
}

// tableSize is MaglevSize, or the size asked for, if not 0. A small one that is asked
// for has no room for many backends (tableForm): these have the next that has.
func tableSize(asked uint32, backends int) uint32 {
	if asked == 0 || backends == 0 {
		return MaglevSize(backends)
	}
	if isSmall(asked) && backends > smallBackends {
		return maglevSizes[slices.IndexFunc(maglevSizes[:], func(size uint32) bool { return !isSmall(size) })]
	}
	return asked
}

// MaglevTable populates a table of size slots (a prime) by the algorithm of
// Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
// Balancer", NSDI'16 §3.4. Slot i holds an index into backends.
//
// The table is the same on every node: it depends on the identities and
// weights, not on their order (ties in a round go by identity, so backends
// must be distinct). A backend of weight w takes w turns for every turn of a
// backend of weight 1.
func MaglevTable(backends []MaglevBackend, size uint32) []uint32 {
	if len(backends) == 0 || size == 0 {
		return nil
	}
	order := make([]uint32, len(backends))
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(a, b uint32) int {
		return backends[a].Addr.Compare(backends[b].Addr)
	})
	table := make([]uint32, size)
	// A bit for each slot that is filled: nearly all tries meet one, and the bits stay in the CPU's cache.
	filled := make([]uint64, (size+63)/64)
	// In each round a backend earns its weight and pays the greatest weight for a turn.
	type turn struct{ backend, slot, skip, weight, credit uint32 }
	turns := make([]turn, len(order))
	var greatest uint32
	for i, b := range order {
		offset, skip := permutation(backends[b].Addr, size)
		weight := uint32(cmp.Or(backends[b].Weight, 1))
		turns[i] = turn{backend: b, slot: offset, skip: skip, weight: weight}
		greatest = max(greatest, weight)
	}
	for left := size; ; {
		for i := range turns {
			t := &turns[i]
			if t.credit += t.weight; t.credit < greatest {
				continue
			}
			t.credit -= greatest
			for filled[t.slot/64]&(1<<(t.slot%64)) != 0 {
				if t.slot += t.skip; t.slot >= size {
					t.slot -= size
				}
			}
			filled[t.slot/64] |= 1 << (t.slot % 64)
			table[t.slot] = t.backend
			if left--; left == 0 {
				return table
			}
		}
	}
}

// permutation returns the backend's offset and skip (NSDI'16 §3.4): from the
// 64-bit FNV-1a hash of its 16-byte address (IPv4 mapped) and 2-byte port,
// both in network byte order, finished by the mixer of SplitMix64. What is
// written here must never change: nodes of different versions share traffic.
func permutation(addr netip.AddrPort, size uint32) (offset, skip uint32) {
	var id [18]byte
	as16 := addr.Addr().As16()
	copy(id[:], as16[:])
	binary.BigEndian.PutUint16(id[16:], addr.Port())
	h := uint64(14695981039346656037)
	for _, b := range id {
		h = (h ^ uint64(b)) * 1099511628211
	}
	const golden = 0x9e3779b97f4a7c15
	offset = uint32(splitMix(h) % uint64(size))
	skip = uint32(splitMix(h+golden)%uint64(size-1)) + 1
	return offset, skip
}

func splitMix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
