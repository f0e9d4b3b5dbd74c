package datapath

import "fmt"

// leaver is a backend that a service port no longer has.
type leaver struct{ service, backend uint32 }

// purge is what the maps that flows fill are to forget.
type purge struct {
	sets   map[uint32]bool // that are gone
	closed map[uint32]bool // sets whose pins are no longer needed
	left   map[leaver]bool // a client of the service must not keep the backend
}

func newPurge() purge {
	return purge{map[uint32]bool{}, map[uint32]bool{}, map[leaver]bool{}}
}

// leave notes that a service port no longer has a backend, and that clients
// may have kept to it.
func (p purge) leave(service, backend uint32) { p.left[leaver{service, backend}] = true }

// clients makes no client keep to a backend that its service no longer has.
func (p purge) clients(m Maps) error {
	if len(p.left) == 0 {
		return nil
	}
	err := forgetEntries("affinity", m.Affinity, func(k AffinityKey, v AffinityEntry) bool {
		return p.left[leaver{k.Service, v.Backend}]
	})
	if err == nil {
		clear(p.left)
	}
	return err
}

// mentions deletes what mentions one of the backends or services, and the pins
// of sets that need none.
func (p purge) mentions(m Maps, backends, services map[uint32]bool) error {
	if len(p.sets)+len(p.closed)+len(backends) > 0 {
		err := forgetEntries("pins", m.Pins, func(_ Tuple, pin Pin) bool {
			return p.sets[pin.Set] || p.closed[pin.Set] || backends[pin.Backend]
		})
		if err != nil {
			return err
		}
	}
	if len(services)+len(backends) > 0 {
		err := forgetEntries("affinity", m.Affinity, func(k AffinityKey, v AffinityEntry) bool {
			return services[k.Service] || backends[v.Backend]
		})
		if err != nil {
			return err
		}
	}
	for id := range backends {
		if err := m.BackendCounts.Reset(id); err != nil {
			return fmt.Errorf("reset count %d of map backend_counts: %w", id, err)
		}
	}
	for number := range services {
		if err := m.ServiceCounts.Reset(number); err != nil {
			return fmt.Errorf("reset count %d of map service_counts: %w", number, err)
		}
	}
	return nil
}

// forgetEntries deletes the entries that forget is true of.
func forgetEntries[K, V comparable](name string, m Map[K, V], forget func(K, V) bool) error {
	var errDelete error
	err := m.Each(func(key K, value V) bool {
		if forget(key, value) {
			errDelete = m.Delete(key)
		}
		return errDelete == nil
	})
	if err != nil {
		return fmt.Errorf("read map %s: %w", name, err)
	}
	if errDelete != nil {
		return fmt.Errorf("delete from map %s: %w", name, errDelete)
	}
	return nil
}
