package datapath

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Responder is the kernel's side of announcing: the addresses that XDP and tc
// answer ARP and Neighbor Solicitations for, until when they may, and whose claims to them mute them. It
// keeps nothing in memory; two Responders over the same maps are one.
type Responder struct{ maps Maps }

// NewResponder returns the Responder over maps.
func NewResponder(maps Maps) *Responder { return &Responder{maps} }

// Held is an address on one interface, as the kernel has it.
type Held struct {
	Addr       netip.Addr
	Ifindex    int
	MAC        net.HardwareAddr // that is answered
	Generation int64
	// Muted: silent, since another cluster node claims the address.
	Muted bool
	// ClaimedAt is when another machine last claimed it (CLOCK_BOOTTIME), and
	// ClaimMAC which; zero when none has.
	ClaimedAt time.Duration
	ClaimMAC  net.HardwareAddr
	// Probing: not announced yet, silent, and listening for claims.
	Probing bool
}

// Set makes the kernel answer for addr on the interface with mac. An entry
// that is there at the same generation stays as mute as it is; one of another
// generation begins anew.
func (r *Responder) Set(addr netip.Addr, ifindex int, mac net.HardwareAddr, generation int64) error {
	key, err := announcedKey(addr, ifindex)
	if err != nil {
		return fmt.Errorf("announce %s: %w", addr, err)
	}
	m, err := macFrom(mac)
	if err != nil {
		return fmt.Errorf("announce %s: %w", addr, err)
	}
	old, ok, err := r.maps.Announced.Lookup(key)
	if err != nil {
		return fmt.Errorf("announce %s: read map announced: %w", addr, err)
	}
	entry := AnnouncedEntry{Generation: uint64(generation), MAC: m}
	if old.Generation == entry.Generation {
		entry = old
		entry.MAC = m
		entry.Muted &^= MutedProbing
	}
	if ok && entry == old {
		return nil
	}
	if err := r.maps.Announced.Update(key, entry); err != nil {
		return fmt.Errorf("announce %s: write map announced: %w", addr, err)
	}
	return nil
}

// Probe makes an entry that answers nothing and hears claims, anew, until Set.
func (r *Responder) Probe(addr netip.Addr, ifindex int, mac net.HardwareAddr, generation int64) error {
	key, err := announcedKey(addr, ifindex)
	if err != nil {
		return fmt.Errorf("probe for %s: %w", addr, err)
	}
	m, err := macFrom(mac)
	if err != nil {
		return fmt.Errorf("probe for %s: %w", addr, err)
	}
	if err := r.maps.Announced.Update(key, AnnouncedEntry{Generation: uint64(generation), MAC: m, Muted: MutedProbing}); err != nil {
		return fmt.Errorf("probe for %s: write map announced: %w", addr, err)
	}
	return nil
}

// Delete makes the kernel not answer for addr on the interface.
func (r *Responder) Delete(addr netip.Addr, ifindex int) error {
	key, err := announcedKey(addr, ifindex)
	if err != nil {
		return nil // never set
	}
	if err := r.maps.Announced.Delete(key); err != nil {
		return fmt.Errorf("withdraw %s: write map announced: %w", addr, err)
	}
	return nil
}

// Unmute makes a muted entry answer again.
func (r *Responder) Unmute(addr netip.Addr, ifindex int) error {
	key, err := announcedKey(addr, ifindex)
	if err != nil {
		return fmt.Errorf("unmute %s: %w", addr, err)
	}
	entry, ok, err := r.maps.Announced.Lookup(key)
	if err != nil {
		return fmt.Errorf("unmute %s: read map announced: %w", addr, err)
	}
	if !ok || entry.Muted&MutedClaimed == 0 {
		return nil
	}
	entry.Muted &^= MutedClaimed
	if err := r.maps.Announced.Update(key, entry); err != nil {
		return fmt.Errorf("unmute %s: write map announced: %w", addr, err)
	}
	return nil
}

// Held returns what the kernel answers for, sorted by address and interface.
func (r *Responder) Held() ([]Held, error) {
	all, err := r.maps.Announced.All()
	if err != nil {
		return nil, fmt.Errorf("read map announced: %w", err)
	}
	list := make([]Held, 0, len(all))
	for key, e := range all {
		held := Held{Addr: key.Addr, Ifindex: int(key.Ifindex), MAC: e.MAC[:], Generation: int64(e.Generation),
			Muted: e.Muted&MutedClaimed != 0, Probing: e.Muted&MutedProbing != 0, ClaimedAt: time.Duration(e.ClaimedAt)}
		if e.ClaimMAC != (MAC{}) {
			held.ClaimMAC = e.ClaimMAC[:]
		}
		list = append(list, held)
	}
	slices.SortFunc(list, func(a, b Held) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Ifindex, b.Ifindex))
	})
	return list, nil
}

// Renew lets the kernel answer until validUntil (CLOCK_BOOTTIME), which may
// also lie in the past: then it is silent from now on.
func (r *Responder) Renew(validUntil time.Duration) error {
	if err := r.maps.Announcer.Update(0, AnnouncerEntry{ValidUntil: uint64(max(validUntil, 0))}); err != nil {
		return fmt.Errorf("renew the right to announce: write map announcer: %w", err)
	}
	return nil
}

// ValidUntil returns until when the kernel answers (CLOCK_BOOTTIME), 0 when it never did.
func (r *Responder) ValidUntil() (time.Duration, error) {
	entry, _, err := r.maps.Announcer.Lookup(0)
	if err != nil {
		return 0, fmt.Errorf("read map announcer: %w", err)
	}
	return time.Duration(entry.ValidUntil), nil
}

// SetClusterMACs makes macs the whole set of MACs by which the other cluster
// nodes are known: only a claim by one of them mutes an entry.
func (r *Responder) SetClusterMACs(macs []net.HardwareAddr) error {
	have, err := r.maps.ClusterMACs.All()
	if err != nil {
		return fmt.Errorf("read map cluster_macs: %w", err)
	}
	for _, hw := range macs {
		m, err := macFrom(hw)
		if err != nil {
			return fmt.Errorf("set cluster MACs: %w", err)
		}
		key := MACKey{MAC: m}
		if _, ok := have[key]; !ok {
			if err := r.maps.ClusterMACs.Update(key, 1); err != nil {
				return fmt.Errorf("write %s to map cluster_macs: %w", m, err)
			}
		}
		delete(have, key)
	}
	for key := range have {
		if err := r.maps.ClusterMACs.Delete(key); err != nil {
			return fmt.Errorf("delete %s from map cluster_macs: %w", key.MAC, err)
		}
	}
	return nil
}

func announcedKey(addr netip.Addr, ifindex int) (AnnouncedKey, error) {
	if addr = addr.Unmap(); !addr.IsGlobalUnicast() {
		return AnnouncedKey{}, fmt.Errorf("address %s: want one that is unicast, and not link-local", addr)
	}
	return AnnouncedKey{Addr: addr, Ifindex: uint32(ifindex)}, nil
}
