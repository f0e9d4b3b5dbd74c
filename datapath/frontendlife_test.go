package datapath

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/seamark-lb/seamark/state"
)

// lookUp walks the maps as a packet does, for every slot, and returns the
// backends that the frontend's packets reach.
func lookUp(m Maps, key FrontendKey) ([]string, bool, error) {
	entry, ok, err := m.Frontends.Lookup(key)
	if err != nil || !ok {
		return nil, false, err
	}
	set, _, err := m.Sets.Lookup(entry.Set)
	if err != nil {
		return nil, true, err
	}
	size := set.Size[set.Active&1]
	if size == 0 {
		return nil, true, nil
	}
	slots, err := m.Maglev.Read(tableIndex(entry.Set, set.Active&1))
	if err != nil {
		return nil, true, err
	}
	if len(slots) < int(size) {
		return nil, true, fmt.Errorf("%s: set %d says %d slots, its table has %d", key, entry.Set, size, len(slots))
	}
	backends, err := m.Backends.All()
	if err != nil {
		return nil, true, err
	}
	reached := map[string]bool{}
	slots = slots[:size]
	slices.Sort(slots)
	for _, id := range slices.Compact(slots) {
		b, ok := backends[id]
		if !ok {
			return nil, true, fmt.Errorf("%s: a slot leads to backend %d, which is empty", key, id)
		}
		reached[b.addrPort()] = true
		if b.Flags&BackendLocal != 0 {
			if _, ok, _ := m.LocalTargets.Lookup(LocalKey{VIP: key.Addr, Pod: b.Addr, Port: key.Port, Proto: key.Proto}); !ok {
				return nil, true, fmt.Errorf("%s: local backend %s has no local target", key, b.addrPort())
			}
		}
	}
	return slices.Sorted(maps.Keys(reached)), true, nil
}

// checkServed says what a packet would meet that is neither of the two states
// that a change goes between.
func checkServed(m Maps, before, after []state.Frontend) error {
	type served struct {
		backends []string
		ok       bool
	}
	states := map[FrontendKey][]served{}
	for _, rows := range [][]state.Frontend{before, after} {
		for _, row := range rows {
			key, _ := keyOf(row)
			s := served{ok: true}
			for _, b := range row.Backends {
				s.backends = append(s.backends, netip.AddrPortFrom(b.Addr, b.Port).String())
			}
			slices.Sort(s.backends)
			states[key] = append(states[key], s)
		}
	}
	// A frontend that goes, and that could not be deleted at once, follows its service.
	for _, old := range before {
		for _, row := range after {
			if key, _ := keyOf(old); old.Service == row.Service && len(states[key]) == 1 {
				rowKey, _ := keyOf(row)
				states[key] = append(states[key], states[rowKey]...)
			}
		}
	}
	for key, either := range states {
		backends, ok, err := lookUp(m, key)
		if err != nil {
			return err
		}
		is := func(s served) bool { return s.ok == ok && slices.Equal(s.backends, backends) }
		if !slices.ContainsFunc(either, is) && (ok || inBoth(key, before, after)) {
			return fmt.Errorf("packets to %s reach %v (served: %t), want one of %v", key, backends, ok, either)
		}
	}
	return nil
}

func inBoth(key FrontendKey, before, after []state.Frontend) bool {
	is := func(row state.Frontend) bool { k, _ := keyOf(row); return k == key }
	return slices.ContainsFunc(before, is) && slices.ContainsFunc(after, is)
}

// history is a life of a cluster, state by state.
var history = [][]state.Frontend{
	nil,
	{
		frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.1:8080@w0", "172.20.1.1:8080@w1", "172.20.1.2:8080@w1"),
		frontend("a/web", "192.168.10.212:80/TCP", "172.20.0.1:8080@w0", "172.20.1.1:8080@w1", "172.20.1.2:8080@w1"),
		frontend("a/dns", "192.168.10.211:53/UDP", "172.20.0.9:53@w0"),
		frontend("a/none", "192.168.10.213:80/TCP"),
	},
	{ // a backend less and one more; one address less; backends where were none
		frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.1:8080@w0", "172.20.1.2:8080@w1", "172.20.2.1:8080@w2"),
		frontend("a/dns", "192.168.10.211:53/UDP", "172.20.0.9:53@w0"),
		frontend("a/none", "192.168.10.213:80/TCP", "172.20.1.3:80@w1"),
	},
	{ // another table size; none left; an address changes hands
		frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.1:8080@w0", "172.20.0.2:8080@w0", "172.20.0.3:8080@w0", "172.20.0.4:8080@w0", "172.20.1.2:8080@w1", "172.20.2.1:8080@w2"),
		frontend("b/dns", "192.168.10.211:53/UDP", "172.20.0.10:53@w0"),
		frontend("a/none", "192.168.10.213:80/TCP"),
	},
	{ // and back
		frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.1:8080@w0", "172.20.1.1:8080@w1", "172.20.1.2:8080@w1"),
	},
	nil,
}

// live runs the history on the maps, looking at them after every operation,
// and returns the dump of each state. With restart, each change is another process's.
func live(fake *FakeMaps, restart bool) (dumps []string, err error) {
	var before, after []state.Frontend
	outer := fake.After
	fake.After = func(op Op) error {
		if index, ok := op.Key.(uint32); ok && op.Verb == "write" && err == nil && isLive(fake.Maps, index) {
			err = fmt.Errorf("%s: packets are looked up in this table", op)
		}
		if err2 := checkServed(fake.Maps, before, after); err2 != nil && err == nil {
			err = fmt.Errorf("after %s: %w", op, err2)
		}
		if outer != nil {
			return outer(op)
		}
		return nil
	}
	target := newTestTarget(fake.Maps)
	for _, rows := range history {
		before, after = after, rows
		if restart {
			now := target.now
			target = newTestTarget(fake.Maps)
			target.now = now
		}
		if err := target.converge(before, rows); err != nil {
			return dumps, err
		}
		before = rows
		// Until all that is old has drained: first noted, then dropped.
		for range 2 {
			target.now = target.now.Add(target.Grace)
			if err := target.converge(rows, rows); err != nil {
				return dumps, err
			}
		}
		failing, looking := fake.Before, fake.After
		fake.Before, fake.After = nil, nil
		dumps = append(dumps, target.dump())
		fake.Before, fake.After = failing, looking
	}
	return dumps, err
}

// isLive says whether packets are looked up in the table.
func isLive(m Maps, index uint32) bool {
	set, _, _ := m.Sets.Lookup(index / 2)
	frontends, _ := m.Frontends.All()
	for key, entry := range frontends {
		if !key.isVIP() && entry.Set == index/2 && set.Active&1 == index%2 {
			return true
		}
	}
	return false
}
