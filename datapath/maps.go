package datapath

import (
	"errors"
	"net/netip"
)

// Map is one map of the kernel, or two of them, one for each family; or a fake
// of that. In an array every index exists; there, a value of all zeros counts
// as absent.
type Map[K, V comparable] interface {
	Lookup(K) (value V, ok bool, err error)
	Update(K, V) error
	// Delete of what is absent is no error.
	Delete(K) error
	// All returns what the map holds.
	All() (map[K]V, error)
	// Each calls f for what the map holds, a batch at a time, until f returns
	// false. f may change the map; what is changed meanwhile may be missed, and
	// an entry may come twice.
	Each(f func(K, V) bool) error
}

// Counters are an array of counts per CPU, summed.
type Counters interface {
	Lookup(index uint32) (Count, error)
	// All returns the counts that are not zero.
	All() (map[uint32]Count, error)
	// Reset makes a count zero. What is counted meanwhile may be lost.
	Reset(index uint32) error
}

// Tables are the Maglev tables, by index into the outer map. A slot holds a
// backend id, and SlotMoved.
type Tables interface {
	// Sizes returns, of every table there is, how many slots it has room for: room of
	// what was written, or 0 when that is not known.
	Sizes() (map[uint32]uint32, error)
	// Read returns a table of size slots; errNoTable when there is none of that size.
	Read(index, size uint32) ([]uint32, error)
	// Write fills each table in place, or makes it anew when it has another
	// size. One call for many is far cheaper: the kernel waits for RCU each
	// time it takes in a new table.
	Write(tables map[uint32][]uint32) error
	// Delete deletes tables, many at once for the same reason.
	Delete(indexes []uint32) error
}

var errNoTable = errors.New("there is no such table")

// Maps are the maps that userspace reads and writes. The fields are the
// concepts of bpf/maps.h: what that has a map for each family of, is one here.
type Maps struct {
	Frontends     Map[FrontendKey, FrontendEntry]
	Sets          Map[uint32, BackendSet]
	Tables        Tables
	Backends      Map[uint32, BackendEntry] // an id is in the map of its address's family
	NextHops      Map[uint32, NextHopEntry]
	LocalTargets  Map[LocalKey, LocalTarget]
	Flows         Map[FlowKey, FlowEntry]
	HalfOpen      Map[FlowKey, FlowEntry]
	Pins          Map[Tuple, Pin]
	Affinity      Map[AffinityKey, AffinityEntry]
	Sources       Map[SourceKey, uint32]
	Fragments     Map[FragmentKey, FragmentEntry]
	NATOut        Map[Tuple, NATEntry]
	NATIn         Map[Tuple, NATEntry]
	FormerWays    Map[uint32, uint32] // ticks, by service number
	Endpoints     Map[netip.Addr, EndpointEntry]
	Announcer     Map[uint32, AnnouncerEntry]
	Announced     Map[AnnouncedKey, AnnouncedEntry]
	ClusterMACs   Map[MACKey, uint32]
	ServiceCounts Counters
	BackendCounts Counters
}

// tableIndex is the index into Tables of one of the three tables of a set.
func tableIndex(set, which uint32) uint32 { return 4*set + which }
