package announce

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"sync"

	"github.com/seamark-lb/seamark/state"
)

// responderTarget brings Announcements into the responder and has them
// heralded when this node has just taken them over.
type responderTarget struct {
	node      string
	db        *state.DB
	responder Responder
	herald    *herald
	groups    multicast
	detector  *detector
	// mayTake is leaseKeeper's.
	mayTake func() bool

	mu   sync.Mutex
	held map[string]Held // by RowKey: what this daemon set or found
	// left are those, by RowKey, that this daemon answered for and stopped to,
	// though they are this node's still: its interface was cut off, or down.
	left map[string]Held
}

// multicast has interfaces listen to the questions for IPv6 addresses.
type multicast interface {
	Join(ifindex int, addr netip.Addr) error
	Leave(ifindex int, addr netip.Addr)
}

// Update is state.Target's.
func (t *responderTarget) Update(_ context.Context, row state.Announcement) error {
	k, mac, err := t.entry(row)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	was, known := t.held[row.RowKey()]
	found := free
	if known && was.Probing && was.Ifindex == k.ifindex {
		var other net.HardwareAddr
		if found, other = t.detector.known(k); found == taken {
			return fmt.Errorf("announce %s on %s: the machine with hardware address %s has it: take the address from it; it is asked for again every minute",
				row.Addr, row.Interface, other)
		}
	}
	if known && was.Ifindex != k.ifindex { // the interface was made anew
		if err := t.remove(row.RowKey(), was); err != nil {
			return err
		}
		known = false
	}
	if err := t.groups.Join(k.ifindex, row.Addr); err != nil {
		return fmt.Errorf("announce %s on %s: %w", row.Addr, row.Interface, err)
	}
	if err := t.responder.Set(row.Addr, k.ifindex, mac, row.Generation); err != nil {
		return fmt.Errorf("announce %s on %s: %w", row.Addr, row.Interface, err)
	}
	t.held[row.RowKey()] = Held{Addr: row.Addr, Ifindex: k.ifindex, MAC: mac, Generation: row.Generation}
	t.detector.forget(k)
	delete(t.left, row.RowKey())
	switch {
	case found == claimed: // the entry is mute, until the referee knows whose it is
		t.herald.Keep(k, mac)
		t.herald.Mute(k, true)
	case known && !was.Probing && was.Generation == row.Generation && bytes.Equal(was.MAC, mac):
		t.herald.Keep(k, mac)
	default:
		t.herald.Take(k, mac)
	}
	return nil
}

// entry is where a row's entry is, as of now, and with which hardware address.
func (t *responderTarget) entry(row state.Announcement) (entryKey, net.HardwareAddr, error) {
	dev, ok := t.db.Devices.Get(t.db.Snapshot(), row.Interface)
	if !ok {
		return entryKey{}, nil, fmt.Errorf("announce %s: no interface %s", row.Addr, row.Interface)
	}
	mac, err := net.ParseMAC(dev.MAC)
	if err != nil {
		return entryKey{}, nil, fmt.Errorf("announce %s on %s: %w", row.Addr, row.Interface, err)
	}
	return entryKey{row.Addr, dev.Index}, mac, nil
}

// Delete is state.Target's.
func (t *responderTarget) Delete(_ context.Context, row state.Announcement) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	was, known := t.held[row.RowKey()]
	if !known {
		return nil // never set, or pruned
	}
	if !was.Probing && t.owns(t.db.Snapshot(), was) {
		t.left[row.RowKey()] = was
	}
	return t.remove(row.RowKey(), was)
}

// owns says whether the store, as snap has it, gives the entry to this node still.
func (t *responderTarget) owns(snap state.Snapshot, h Held) bool {
	a, ok := t.db.Assigned.Get(snap, h.Addr.String())
	return ok && a.Node == t.node && a.Generation == h.Generation
}

// mayReturn says whether this node may answer for an address again without a
// valid lease: it was the last to, as far as the store could be read, and gave
// up for want of the segment alone. Nobody can move the address while the store
// is gone for everyone, so it would be answered for by nobody; and should
// somebody have, who has it answers when it is asked for.
func (t *responderTarget) mayReturn(row state.Announcement) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	was, left := t.left[row.RowKey()]
	return left && was.Generation == row.Generation
}

func (t *responderTarget) remove(key string, was Held) error {
	if err := t.responder.Delete(was.Addr, was.Ifindex); err != nil {
		return fmt.Errorf("withdraw %s: %w", key, err)
	}
	t.silence(entryKey{was.Addr, was.Ifindex})
	delete(t.held, key)
	return nil
}

// Prune is state.Target's. What is in the responder and wanted, this daemon
// takes for its own, found or not: it was announced before.
func (t *responderTarget) Prune(_ context.Context, wanted []state.Announcement) error {
	snap := t.db.Snapshot()
	keep := map[entryKey]string{}
	for _, row := range wanted {
		if dev, ok := t.db.Devices.Get(snap, row.Interface); ok {
			keep[entryKey{row.Addr, dev.Index}] = row.RowKey()
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	entries, err := t.responder.Held()
	if err != nil {
		return fmt.Errorf("list responder entries: %w", err)
	}
	held := map[string]Held{}
	var errs []error
	for _, e := range entries {
		k := entryKey{e.Addr, e.Ifindex}
		if key, ok := keep[k]; ok {
			held[key] = e
			continue
		}
		if err := t.responder.Delete(e.Addr, e.Ifindex); err != nil {
			errs = append(errs, fmt.Errorf("withdraw %s from interface %d: %w", e.Addr, e.Ifindex, err))
			continue
		}
		t.silence(k)
	}
	t.held = held
	maps.DeleteFunc(t.left, func(_ string, h Held) bool { return !t.owns(snap, h) })
	return errors.Join(errs...)
}

// silence is for an entry that is out of the responder.
func (t *responderTarget) silence(k entryKey) {
	t.herald.Drop(k)
	t.detector.forget(k)
	t.groups.Leave(k.ifindex, k.addr)
}

// disown deletes from the responder what the store, as snap has it, does not
// give to this node. It is for a daemon that was away for so long that it may have lost addresses.
func (t *responderTarget) disown(snap state.Snapshot) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	entries, err := t.responder.Held()
	if err != nil {
		return fmt.Errorf("list responder entries: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if a, ok := t.db.Assigned.Get(snap, e.Addr.String()); ok && a.Node == t.node {
			continue
		}
		if err := t.responder.Delete(e.Addr, e.Ifindex); err != nil {
			errs = append(errs, fmt.Errorf("withdraw %s from interface %d: %w", e.Addr, e.Ifindex, err))
			continue
		}
		t.silence(entryKey{e.Addr, e.Ifindex})
	}
	return errors.Join(errs...)
}
