package collect

import (
	"context"
	"net/netip"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// Map is what of a map is needed to walk it.
type Map[K comparable, V any] interface {
	// Each calls f for every entry, a batch at a time, until that says false.
	Each(f func(K, V) bool) error
	Lookup(K) (V, bool, error)
	// Delete of what is absent is no error.
	Delete(K) error
}

// Table is one table to walk.
type Table interface {
	walk(w *walk) error
	about() profile
}

// Size is a number of entries, or of rooms for them, by family.
type Size struct{ IPv4, IPv6 uint32 }

// profile is what a Table is.
type profile struct {
	name string // in bpf/maps.h
	size Size
	// evicts: a full table makes room by itself, so its fill presses nobody.
	evicts bool
	// ports: its flows each have a port, which can be short when room is not.
	ports bool
}

// table is a Table whose entries are each for themselves.
type table[K comparable, V any] struct {
	profile
	entries Map[K, V]
	entry   func(K, V) Entry
}

// NewTable returns a table that refuses what it has no room for.
func NewTable[K comparable, V any](name string, size Size, entries Map[K, V], entry func(K, V) Entry) Table {
	return table[K, V]{profile{name: name, size: size}, entries, entry}
}

// NewLRU is NewTable for one that evicts what was used least lately.
func NewLRU[K comparable, V any](name string, size Size, entries Map[K, V], entry func(K, V) Entry) Table {
	return table[K, V]{profile{name: name, size: size, evicts: true}, entries, entry}
}

func (t profile) about() profile { return t }

func (t table[K, V]) walk(w *walk) error {
	return each(w, t.entries, func(k K, v V) error {
		e := t.entry(k, v)
		if !w.over(e) {
			w.alive(e)
			return nil
		}
		// A packet may have come since the batch was read. One that comes between
		// this look and the removal finds its flow gone, as if it came a little
		// later.
		v, ok, err := t.entries.Lookup(k)
		if !ok || err != nil {
			return err
		}
		if e = t.entry(k, v); !w.over(e) {
			w.alive(e)
			return nil
		}
		return w.remove(t.entries.Delete(k))
	})
}

// stepEntries is how many entries are looked at before the walk rests.
const stepEntries = 2048

// each calls f for the entries of a map, in steps.
func each[K comparable, V any](w *walk, entries Map[K, V], f func(K, V) error) (err error) {
	n := 0
	walked := entries.Each(func(k K, v V) bool {
		if err = f(k, v); err != nil {
			return false
		}
		if n++; n%stepEntries == 0 {
			err = w.rest()
		}
		return err == nil
	})
	if err == nil {
		err = walked
	}
	return err
}

// Place is a frontend or a backend.
type Place struct {
	Addr     netip.AddrPort
	Protocol state.Protocol
}

// Flows counts established flows.
type Flows struct {
	Frontends, Backends map[Place]uint64
}

// walk is one walk over one table.
type walk struct {
	profile
	ctx      context.Context
	now      uint32 // ticks
	timeouts Timeouts
	fill     float64   // of the fullest table in the last pass
	step     time.Time // the last step began
	flows    Flows

	entries Size // that stay
	removed uint64
}

func (w *walk) over(e Entry) bool { return w.timeouts.Over(e, w.now) }

// alive counts an entry that stays.
func (w *walk) alive(e Entry) {
	if e.IPv6 {
		w.entries.IPv6++
	} else {
		w.entries.IPv4++
	}
	if !e.Replied || e.Closing || !e.Frontend.IsValid() {
		return
	}
	w.flows.Frontends[Place{e.Frontend, e.Protocol}]++
	w.flows.Backends[Place{e.Backend, e.Protocol}]++
}

// remove counts a removal, unless it failed.
func (w *walk) remove(err error) error {
	if err == nil {
		w.removed++
	}
	return err
}

// rest pauses after a step.
func (w *walk) rest() error {
	fill := w.fill
	if !w.evicts {
		fill = max(fill, w.entries.fill(w.size))
	}
	select {
	case <-w.ctx.Done():
		return w.ctx.Err()
	case <-time.After(Rest(fill, time.Since(w.step))):
		w.step = time.Now()
		return nil
	}
}
