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

// Dump writes what userspace has put into the maps, one line per entry, in the
// order of a lookup and, within a map, sorted by key. Of a Maglev table it
// writes each backend's number of slots and a checksum over who has which
// slot, the same on every node; MaglevSlots returns the slots. With of, only the
// frontends that it says are written, and what these are made of.
func (m Maps) Dump(w io.Writer, of func(FrontendKey) bool) error {
	frontends, err := m.Frontends.All()
	if err != nil {
		return fmt.Errorf("dump frontends: %w", err)
	}
	backends, err := m.Backends.All()
	if err != nil {
		return fmt.Errorf("dump backends: %w", err)
	}
	sets, err := m.Sets.All()
	if err != nil {
		return fmt.Errorf("dump sets: %w", err)
	}
	all := of == nil
	if all {
		of = func(FrontendKey) bool { return true }
	}
	d := dump{maps: m, all: all, addrs: map[netip.Addr]bool{}, services: map[uint32]bool{}, sets: map[uint32]bool{},
		backends: map[uint32]bool{}, hops: map[uint32]bool{}}
	for k, v := range frontends {
		if !k.isVIP() && of(k) {
			d.addrs[k.Addr], d.services[v.Service], d.sets[v.Set], d.sets[v.Inside] = true, true, true, true
		}
	}
	err = cmp.Or(
		dumpMap(&d, "frontends", m.Frontends, FrontendKey.compare, func(k FrontendKey, v FrontendEntry) string {
			return d.only(k.isVIP() && d.addrs[k.Addr] || of(k), dumpFrontend(k, v))
		}),
		dumpMap(&d, "sources", m.Sources, SourceKey.compare, func(k SourceKey, _ uint32) string {
			return d.only(d.services[k.Service], fmt.Sprintf("source service=%d %s", k.Service, k.Prefix))
		}),
	)
	if err != nil {
		return err
	}
	for _, i := range slices.Sorted(maps.Keys(sets)) {
		if !d.all && !d.sets[i] {
			continue
		}
		if err := d.set(i, sets[i], backends); err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(backends)) {
		b := backends[id]
		if line := d.only(d.backends[id], fmt.Sprintf("backend %d %s %s", id, b.addrPort(), where(b))); line != "" {
			fmt.Fprintln(&d, line)
			d.hops[b.NextHop] = true
		}
	}
	err = cmp.Or(
		dumpMap(&d, "next_hops", m.NextHops, cmp.Compare[uint32], func(i uint32, h NextHopEntry) string {
			return d.only(d.hops[i], dumpNextHop(i, h))
		}),
		dumpMap(&d, "local_targets", m.LocalTargets, LocalKey.compare, func(k LocalKey, v LocalTarget) string {
			return d.only(of(k.frontend()), fmt.Sprintf("local-target %s %s", k.frontend(), netip.AddrPortFrom(k.Pod, v.Port)))
		}),
		dumpMap(&d, "endpoints", m.Endpoints, netip.Addr.Compare, func(a netip.Addr, e EndpointEntry) string {
			return d.only(false, fmt.Sprintf("endpoint %s ifindex=%d pod=%s host=%s", a, e.Ifindex, e.PodMAC, e.HostMAC))
		}),
		dumpMap(&d, "announcer", m.Announcer, cmp.Compare[uint32], func(_ uint32, a AnnouncerEntry) string {
			return d.only(false, fmt.Sprintf("announcer valid-until=%s after boot", time.Duration(a.ValidUntil)))
		}),
		dumpMap(&d, "announced", m.Announced, AnnouncedKey.compare, func(k AnnouncedKey, e AnnouncedEntry) string {
			return d.only(d.addrs[k.Addr], dumpAnnounced(k, e))
		}),
		dumpMap(&d, "cluster_macs", m.ClusterMACs, MACKey.compare, func(k MACKey, _ uint32) string {
			return d.only(false, fmt.Sprintf("cluster-mac %s", k.MAC))
		}),
	)
	if err != nil {
		return err
	}
	_, err = d.WriteTo(w)
	return err
}

// dump is the text of a Dump, and what is to be in one of some frontends alone.
type dump struct {
	bytes.Buffer
	maps     Maps
	all      bool
	addrs    map[netip.Addr]bool
	services map[uint32]bool // by number, as the following
	sets     map[uint32]bool
	backends map[uint32]bool // in the tables of the sets
	hops     map[uint32]bool // of the backends
}

// only is a line that belongs to a Dump of all; and if wanted says so, to this one.
func (d *dump) only(wanted bool, line string) string {
	if d.all || wanted {
		return line
	}
	return ""
}

func dumpFrontend(k FrontendKey, v FrontendEntry) string {
	line := "frontend " + k.String()
	if !k.isVIP() {
		line += fmt.Sprintf(" service=%d set=%d", v.Service, v.Set)
	}
	if v.Inside != v.Set {
		line += fmt.Sprintf(" inside=%d", v.Inside)
	}
	if v.Flags != 0 {
		line += " " + v.Flags.String()
	}
	return line
}

// set writes a set and the tables that packets are looked up in: the active one, and
// the previous one if there is any.
func (d *dump) set(i uint32, set BackendSet, backends map[uint32]BackendEntry) error {
	active, previous := set.Look.Active(), set.Look.Previous()
	fmt.Fprintf(d, "set %d slots=%d", i, set.Size[active])
	if set.Affinity != 0 {
		fmt.Fprintf(d, " affinity=%s", (time.Duration(set.Affinity) * tick).Round(time.Second))
	}
	if set.Look.Moving() {
		fmt.Fprint(d, " moving")
	}
	fmt.Fprintln(d)
	if err := d.table("maglev", i, active, set.Size[active], backends); err != nil {
		return err
	}
	if previous == active {
		return nil
	}
	return d.table("previous", i, previous, set.Size[previous], backends)
}

func (d *dump) table(name string, set, which, size uint32, backends map[uint32]BackendEntry) error {
	if size == 0 {
		return nil
	}
	slots, err := d.maps.Tables.Read(tableIndex(set, which), size)
	if err != nil {
		return fmt.Errorf("dump maglev table of set %d: %w", set, err)
	}
	share := map[string]int{}
	sum := crc32.NewIEEE()
	moved := 0
	for _, slot := range slots {
		backend := slotName(slot, backends)
		d.backends[slot&slotBackend] = true
		share[backend]++
		io.WriteString(sum, backend+"\n")
		moved += int(slot / SlotMoved)
	}
	var line strings.Builder
	fmt.Fprintf(&line, "%s %d slots=%d", name, set, size)
	if moved > 0 {
		fmt.Fprintf(&line, " moved=%d", moved)
	}
	fmt.Fprintf(&line, " sum=%08x", sum.Sum32())
	for _, backend := range slices.Sorted(maps.Keys(share)) {
		fmt.Fprintf(&line, " %s=%d", backend, share[backend])
	}
	_, err = fmt.Fprintln(d, line.String())
	return err
}

// MaglevSlot is where one slot of a frontend's table leads.
type MaglevSlot struct {
	Backend netip.AddrPort // zero: nowhere
	Moved   bool           // since the window of changes opened: pins decide first
}

// MaglevSlots returns the slots of the table that packets from outside to the
// frontend are looked up in; of a ClusterIP, those from inside. Without
// backends there are no slots; a frontend that is not in the kernel is an error.
func (m Maps) MaglevSlots(frontend FrontendKey) ([]MaglevSlot, error) {
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
	active := set.Look.Active()
	if set.Size[active] == 0 {
		return nil, nil
	}
	backends, err := m.Backends.All()
	if err != nil {
		return nil, fmt.Errorf("read backends: %w", err)
	}
	ids, err := m.Tables.Read(tableIndex(entry.Set, active), set.Size[active])
	if err != nil {
		return nil, fmt.Errorf("read maglev table of set %d: %w", entry.Set, err)
	}
	slots := make([]MaglevSlot, len(ids))
	for i, id := range ids {
		slots[i].Moved = id&SlotMoved != 0
		if b, ok := backends[id&slotBackend]; ok {
			slots[i].Backend = b.addrPort()
		}
	}
	return slots, nil
}

func slotName(slot uint32, backends map[uint32]BackendEntry) string {
	if b, ok := backends[slot&slotBackend]; ok {
		return b.addrPort().String()
	}
	return "none"
}

func where(b BackendEntry) string {
	var at string
	switch {
	case b.Flags&BackendLocal != 0:
		at = "local"
	case b.NextHop == 0:
		at = "next-hop=fib"
	default:
		at = fmt.Sprintf("next-hop=%d", b.NextHop)
	}
	switch {
	case b.Flags&BackendGone != 0:
		at += " gone"
	case b.Flags&BackendDraining != 0:
		at += " draining"
	}
	return at
}

func dumpNextHop(i uint32, h NextHopEntry) string {
	line := fmt.Sprintf("next-hop %d ifindex=%d", i, h.Ifindex)
	if h.VLAN != 0 {
		line += fmt.Sprintf(" vlan=%d", h.VLAN)
	}
	line += fmt.Sprintf(" mtu=%d", h.MTU)
	if h.Saddr != (IPv4{}) {
		line += " source=" + h.Saddr.String()
	}
	if h.Saddr6 != (IPv6{}) {
		line += " source=" + h.Saddr6.String()
	}
	line += fmt.Sprintf(" from=%s to=%s", h.Smac, h.Dmac)
	if h.Node != (IPv4{}) {
		line += " node=" + h.Node.String()
	}
	if h.Node6 != (IPv6{}) {
		line += " node=" + h.Node6.String()
	}
	return line
}

func dumpAnnounced(k AnnouncedKey, e AnnouncedEntry) string {
	line := fmt.Sprintf("announced %s ifindex=%d mac=%s generation=%d claims=%d", k.Addr, k.Ifindex, e.MAC, e.Generation, e.Claims)
	if e.Claims > 0 {
		line += fmt.Sprintf(" last-claim=%s by %s", time.Duration(e.ClaimedAt), e.ClaimMAC)
	}
	if e.Muted&MutedClaimed != 0 {
		line += " muted"
	}
	if e.Muted&MutedProbing != 0 {
		line += " probing"
	}
	return line
}

func dumpMap[K, V comparable](out io.Writer, name string, m Map[K, V], compare func(a, b K) int, line func(K, V) string) error {
	all, err := m.All()
	if err != nil {
		return fmt.Errorf("dump %s: %w", name, err)
	}
	for _, k := range slices.SortedFunc(maps.Keys(all), compare) {
		if text := line(k, all[k]); text != "" {
			fmt.Fprintln(out, text)
		}
	}
	return nil
}

func (k FrontendKey) compare(l FrontendKey) int {
	return cmp.Or(k.Addr.Compare(l.Addr), cmp.Compare(k.Port, l.Port), cmp.Compare(k.Proto, l.Proto))
}

func (k LocalKey) compare(l LocalKey) int {
	return cmp.Or(k.frontend().compare(l.frontend()), k.Pod.Compare(l.Pod))
}

func (k SourceKey) compare(l SourceKey) int {
	return cmp.Or(cmp.Compare(k.Service, l.Service), k.Prefix.Addr().Compare(l.Prefix.Addr()), cmp.Compare(k.Prefix.Bits(), l.Prefix.Bits()))
}

func (k AnnouncedKey) compare(l AnnouncedKey) int {
	return cmp.Or(k.Addr.Compare(l.Addr), cmp.Compare(k.Ifindex, l.Ifindex))
}

func (k MACKey) compare(l MACKey) int { return bytes.Compare(k.MAC[:], l.MAC[:]) }
