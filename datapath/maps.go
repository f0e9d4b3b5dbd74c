package datapath

import (
	"bytes"
	"cmp"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Map is one map of the kernel, or a fake of one. In an array every index
// exists; there, a value of all zeros counts as absent.
type Map[K, V comparable] interface {
	Lookup(K) (value V, ok bool, err error)
	Update(K, V) error
	// Delete of what is absent is no error.
	Delete(K) error
	// All returns what the map holds.
	All() (map[K]V, error)
}

// Tables are the Maglev tables, by index into the outer map. A slot holds a
// backend id.
type Tables interface {
	// Sizes returns the number of slots of every table there is.
	Sizes() (map[uint32]uint32, error)
	// Read returns a table; nil when there is none.
	Read(index uint32) ([]uint32, error)
	// Write fills each table in place, or makes it anew when it has another
	// size. One call for many is far cheaper: the kernel waits for RCU each
	// time it takes in a new table.
	Write(tables map[uint32][]uint32) error
	// Delete deletes tables, many at once for the same reason.
	Delete(indexes []uint32) error
}

// Maps are the maps that userspace writes. The fields are those of bpf/maps.h.
type Maps struct {
	Frontends    Map[FrontendKey, FrontendEntry]
	Sets         Map[uint32, BackendSet]
	Maglev       Tables
	Backends     Map[uint32, BackendEntry]
	NextHops     Map[uint32, NextHopEntry]
	LocalTargets Map[LocalKey, LocalTarget]
	Endpoints    Map[IPv4, EndpointEntry]
	Announcer    Map[uint32, AnnouncerEntry]
	Announced    Map[AnnouncedKey, AnnouncedEntry]
	ClusterMACs  Map[MACKey, uint32]
}

// tableIndex is the index into Tables of one of the two tables of a set.
func tableIndex(set, which uint32) uint32 { return 2*set + which }

// Dump writes what the maps hold, one line per entry, in the order of a
// lookup and, within a map, sorted by key. Of a Maglev table it writes each
// backend's number of slots and a checksum over who has which slot, the same
// on every node; MaglevSlots returns the slots.
func (m Maps) Dump(w io.Writer) error {
	out := &bytes.Buffer{}
	backends, err := m.Backends.All()
	if err != nil {
		return fmt.Errorf("dump backends: %w", err)
	}
	sets, err := m.Sets.All()
	if err != nil {
		return fmt.Errorf("dump sets: %w", err)
	}
	err = dumpMap(out, "frontends", m.Frontends, FrontendKey.compare, func(k FrontendKey, v FrontendEntry) string {
		if k.isVIP() {
			return fmt.Sprintf("frontend %s address", k)
		}
		return fmt.Sprintf("frontend %s set=%d", k, v.Set)
	})
	if err != nil {
		return err
	}
	for _, i := range slices.Sorted(maps.Keys(sets)) {
		if err := m.dumpSet(out, i, sets[i], backends); err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(backends)) {
		b := backends[id]
		fmt.Fprintf(out, "backend %d %s %s\n", id, b.addrPort(), where(b))
	}
	err = cmp.Or(
		dumpMap(out, "next_hops", m.NextHops, cmp.Compare[uint32], func(i uint32, h NextHopEntry) string {
			return fmt.Sprintf("next-hop %d ifindex=%d source=%s from=%s to=%s", i, h.Ifindex, h.Saddr, h.Smac, h.Dmac)
		}),
		dumpMap(out, "local_targets", m.LocalTargets, LocalKey.compare, func(k LocalKey, v LocalTarget) string {
			return fmt.Sprintf("local-target %s %s", k.frontend(), addrPort(k.Pod, v.Port))
		}),
		dumpMap(out, "endpoints", m.Endpoints, IPv4.compare, func(a IPv4, e EndpointEntry) string {
			return fmt.Sprintf("endpoint %s ifindex=%d pod=%s host=%s", a, e.Ifindex, e.PodMAC, e.HostMAC)
		}),
		dumpMap(out, "announcer", m.Announcer, cmp.Compare[uint32], func(_ uint32, a AnnouncerEntry) string {
			return fmt.Sprintf("announcer valid-until=%s after boot", time.Duration(a.ValidUntil))
		}),
		dumpMap(out, "announced", m.Announced, AnnouncedKey.compare, dumpAnnounced),
		dumpMap(out, "cluster_macs", m.ClusterMACs, MACKey.compare, func(k MACKey, _ uint32) string {
			return fmt.Sprintf("cluster-mac %s", k.MAC)
		}),
	)
	if err != nil {
		return err
	}
	_, err = out.WriteTo(w)
	return err
}

func (m Maps) dumpSet(out io.Writer, i uint32, set BackendSet, backends map[uint32]BackendEntry) error {
	fmt.Fprintf(out, "set %d active=%d slots=%d/%d\n", i, set.Active&1, set.Size[0], set.Size[1])
	slots, err := m.Maglev.Read(tableIndex(i, set.Active&1))
	if err != nil {
		return fmt.Errorf("dump maglev table of set %d: %w", i, err)
	}
	if set.Size[set.Active&1] == 0 {
		return nil
	}
	share := map[string]int{}
	sum := crc32.NewIEEE()
	for _, id := range slots {
		name := slotName(id, backends)
		share[name]++
		io.WriteString(sum, name+"\n")
	}
	var line strings.Builder
	for _, name := range slices.Sorted(maps.Keys(share)) {
		fmt.Fprintf(&line, " %s=%d", name, share[name])
	}
	fmt.Fprintf(out, "maglev %d slots=%d sum=%08x%s\n", i, len(slots), sum.Sum32(), line.String())
	return nil
}

// MaglevSlots returns the backend in each slot of the table that packets to
// the frontend are looked up in; the zero AddrPort where a slot leads nowhere.
// Without backends there are no slots; a frontend that is not in the kernel is
// an error.
func (m Maps) MaglevSlots(frontend FrontendKey) ([]netip.AddrPort, error) {
	entry, ok, err := m.Frontends.Lookup(frontend)
	if err != nil {
		return nil, fmt.Errorf("look up frontend %s: %w", frontend, err)
	}
	if !ok || frontend.isVIP() {
		return nil, fmt.Errorf("look up frontend %s: not in the kernel; seamark bpf lb list shows what is", frontend)
	}
	set, _, err := m.Sets.Lookup(entry.Set)
	if err != nil {
		return nil, fmt.Errorf("look up set %d: %w", entry.Set, err)
	}
	active := set.Active & 1
	if set.Size[active] == 0 {
		return nil, nil
	}
	backends, err := m.Backends.All()
	if err != nil {
		return nil, fmt.Errorf("read backends: %w", err)
	}
	ids, err := m.Maglev.Read(tableIndex(entry.Set, active))
	if err != nil {
		return nil, fmt.Errorf("read maglev table of set %d: %w", entry.Set, err)
	}
	slots := make([]netip.AddrPort, len(ids))
	for i, id := range ids {
		if b, ok := backends[id]; ok {
			slots[i] = netip.AddrPortFrom(b.Addr.Addr(), b.Port.Uint16())
		}
	}
	return slots, nil
}

func slotName(id uint32, backends map[uint32]BackendEntry) string {
	if b, ok := backends[id]; ok {
		return b.addrPort()
	}
	return "none"
}

func where(b BackendEntry) string {
	switch {
	case b.Flags&BackendLocal != 0:
		return "local"
	case b.NextHop == 0:
		return "next-hop=fib"
	}
	return fmt.Sprintf("next-hop=%d", b.NextHop)
}

func dumpAnnounced(k AnnouncedKey, e AnnouncedEntry) string {
	line := fmt.Sprintf("announced %s ifindex=%d mac=%s generation=%d claims=%d", k.Addr, k.Ifindex, e.MAC, e.Generation, e.Claims)
	if e.Claims > 0 {
		line += fmt.Sprintf(" last-claim=%s by %s", time.Duration(e.ClaimedAt), e.ClaimMAC)
	}
	if e.Muted != 0 {
		line += " muted"
	}
	return line
}

func dumpMap[K, V comparable](out io.Writer, name string, m Map[K, V], compare func(a, b K) int, line func(K, V) string) error {
	all, err := m.All()
	if err != nil {
		return fmt.Errorf("dump %s: %w", name, err)
	}
	for _, k := range slices.SortedFunc(maps.Keys(all), compare) {
		fmt.Fprintln(out, line(k, all[k]))
	}
	return nil
}

func (a IPv4) compare(b IPv4) int { return bytes.Compare(a[:], b[:]) }

func (k FrontendKey) compare(l FrontendKey) int {
	return cmp.Or(k.Addr.compare(l.Addr), bytes.Compare(k.Port[:], l.Port[:]), cmp.Compare(k.Proto, l.Proto))
}

func (k LocalKey) compare(l LocalKey) int {
	return cmp.Or(k.frontend().compare(l.frontend()), k.Pod.compare(l.Pod))
}

func (k AnnouncedKey) compare(l AnnouncedKey) int {
	return cmp.Or(k.Addr.compare(l.Addr), cmp.Compare(k.Ifindex, l.Ifindex))
}

func (k MACKey) compare(l MACKey) int { return bytes.Compare(k.MAC[:], l.MAC[:]) }
