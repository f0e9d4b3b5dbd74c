package datapath

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// met is what packets of one side to a frontend meet.
type met struct {
	served   bool
	active   []string // the backends that new flows reach
	previous []string // and those that older ones may reach besides
	deaf     []string // local ones that would not know the packet's target port
}

// glance is the maps at one moment: what many packets meet is read once.
type glance struct {
	Maps
	backends map[uint32]BackendEntry
	tables   map[uint32][]uint32
}

func (g *glance) read(index, size uint32) ([]uint32, error) {
	if slots, ok := g.tables[index]; ok || size == 0 {
		return slots, nil
	}
	slots, err := g.Tables.Read(index, size)
	if err == nil {
		g.tables[index] = backendsIn(slots)
	}
	return g.tables[index], err
}

func glanceAt(m Maps) (*glance, error) {
	backends, err := m.Backends.All()
	return &glance{m, backends, map[uint32][]uint32{}}, err
}

// lookUp walks the maps as a packet does, for every slot.
func lookUp(m Maps, key FrontendKey, inside bool) (met, error) {
	g, err := glanceAt(m)
	if err != nil {
		return met{}, err
	}
	return g.lookUp(key, inside)
}

func (m *glance) lookUp(key FrontendKey, inside bool) (is met, err error) {
	entry, ok, err := m.Frontends.Lookup(key)
	if err != nil || !ok || !inside && entry.Flags&FrontendInside != 0 {
		return is, err
	}
	is.served = true
	index := entry.Set
	if inside {
		index = entry.Inside
	}
	set, _, err := m.Sets.Lookup(index)
	if err != nil {
		return is, err
	}
	read := func(which uint32) ([]uint32, error) {
		ids, err := m.read(tableIndex(index, which), set.Size[which])
		if err != nil {
			err = fmt.Errorf("%s: table %d of set %d: %w", key, which, index, err)
		}
		return ids, err
	}
	active, err := read(set.Look.Active())
	if err != nil {
		return is, err
	}
	previous, err := read(set.Look.Previous())
	if err != nil {
		return is, err
	}
	if is.active, err = reach(key, m.backends, active, true); err != nil {
		return is, err
	}
	if set.Look.Moving() {
		is.previous, err = reach(key, m.backends, previous, false)
	}
	for _, id := range active {
		if b := m.backends[id]; b.Flags&BackendLocal != 0 {
			if _, ok, _ := m.LocalTargets.Lookup(localKey(key, b.Addr)); !ok {
				is.deaf = append(is.deaf, b.addrPort().String())
			}
		}
	}
	return is, err
}

// reach returns the backends with these ids; with all, each must have a row.
func reach(key FrontendKey, backends map[uint32]BackendEntry, ids []uint32, all bool) ([]string, error) {
	reached := map[string]bool{}
	for _, id := range ids {
		b, ok := backends[id]
		if !ok && all {
			return nil, fmt.Errorf("%s: a slot leads to backend %d, which is empty", key, id)
		}
		if !ok {
			continue // the packet goes to the active slot
		}
		if all && b.Flags&BackendDraining != 0 {
			return nil, fmt.Errorf("%s: a new flow reaches backend %s, which drains", key, b.addrPort())
		}
		reached[b.addrPort().String()] = true
	}
	return slices.Sorted(maps.Keys(reached)), nil
}

// checkServed says what a packet would meet that is neither of the two states
// that a change goes between, or that its service never had.
func checkServed(maps Maps, before, after []state.Frontend, ever map[string]bool) error {
	m, err := glanceAt(maps)
	if err != nil {
		return err
	}
	for _, inside := range []bool{false, true} {
		states := map[FrontendKey][]met{}
		for _, rows := range [][]state.Frontend{before, after} {
			for _, row := range rows {
				key, _ := keyOf(row)
				states[key] = append(states[key], stateOf(row, inside))
			}
		}
		for key, either := range states {
			got, err := m.lookUp(key, inside)
			if err != nil {
				return err
			}
			is := func(s met) bool { return s.served == got.served && slices.Equal(s.active, got.active) }
			switch {
			case len(either) > 1 && len(got.deaf) > 0:
				return fmt.Errorf("%s: local backends %v have no local target", key, got.deaf)
			case slices.ContainsFunc(either, is), !got.served && !inBoth(key, before, after):
			case len(either) == 1 && subset(got.active, ever): // it goes, could not be deleted at once, and follows its service
			default:
				return fmt.Errorf("packets to %s (inside: %t) reach %v (served: %t), want one of %v", key, inside, got.active, got.served, either)
			}
			if !subset(got.previous, ever) {
				return fmt.Errorf("older flows to %s may reach a stranger among %v", key, got.previous)
			}
		}
	}
	return nil
}

func subset(backends []string, of map[string]bool) bool {
	return !slices.ContainsFunc(backends, func(b string) bool { return !of[b] })
}

func stateOf(row state.Frontend, inside bool) met {
	list := row.Backends
	if inside {
		list = row.Inside
	}
	s := met{served: inside || row.Kind != state.KindClusterIP}
	for _, b := range list {
		if s.served {
			s.active = append(s.active, netip.AddrPortFrom(b.Addr, b.Port).String())
		}
	}
	slices.Sort(s.active)
	return s
}

func inBoth(key FrontendKey, before, after []state.Frontend) bool {
	is := func(row state.Frontend) bool { k, _ := keyOf(row); return k == key }
	return slices.ContainsFunc(before, is) && slices.ContainsFunc(after, is)
}

// Changes to a row of the history.
func only(node string) func(*state.Frontend) { // externalTrafficPolicy Local
	return func(row *state.Frontend) {
		row.Backends = slices.DeleteFunc(slices.Clone(row.Backends), func(b state.Backend) bool { return b.Node != node })
	}
}

func affinity(d time.Duration) func(*state.Frontend) {
	return func(row *state.Frontend) { row.Affinity = d }
}

func sources(prefixes ...string) func(*state.Frontend) {
	return func(row *state.Frontend) {
		row.Sources = []netip.Prefix{}
		for _, p := range prefixes {
			row.Sources = append(row.Sources, netip.MustParsePrefix(p))
		}
	}
}

func draining(backends ...string) func(*state.Frontend) {
	return func(row *state.Frontend) {
		row.Draining = frontend("x/y", "1.1.1.1:1/TCP", backends...).Backends
	}
}

func slots(n uint32) func(*state.Frontend) {
	return func(row *state.Frontend) { row.TableSize = n }
}

func kind(k state.FrontendKind) func(*state.Frontend) {
	return func(row *state.Frontend) { row.Kind = k }
}

func with(row state.Frontend, changes ...func(*state.Frontend)) state.Frontend {
	for _, change := range changes {
		change(&row)
	}
	return row
}

// history is a life of a cluster, state by state.
var history = [][]state.Frontend{
	nil,
	{
		with(frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.1:8080@w0", "172.20.1.1:8080@w1", "172.20.1.2:8080@w1"), slots(251), sources("10.0.0.0/8", "2001:db8::/32")),
		with(frontend("a/web", "10.96.0.7:80/TCP", "172.20.0.1:8080@w0", "172.20.1.1:8080@w1", "172.20.1.2:8080@w1"), slots(251), kind(state.KindClusterIP)),
		with(frontend("a/web", "192.168.10.101:30080/TCP", "172.20.0.1:8080@w0", "172.20.1.1:8080@w1", "172.20.1.2:8080@w1"), slots(251), kind(state.KindNodePort)),
		with(frontend("a/six", "[fd00::211]:80/TCP", "[fd00:20::1]:8080@w0", "[fd00:20:1::1]:8080@w1"), slots(251)),
		with(frontend("a/dns", "192.168.10.211:53/UDP", "172.20.0.9:53@w0"), affinity(time.Hour)),
		frontend("a/none", "192.168.10.213:80/TCP"),
	},
	{ // a backend less and one more; one address less; backends where were none; the policy becomes Local
		with(frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.1:8080@w0", "172.20.1.2:8080@w1", "172.20.2.1:8080@w2"),
			only("w1"), slots(251), sources("10.0.0.0/8", "10.1.0.0/16"), draining("172.20.1.1:8080@w1")),
		with(frontend("a/web", "10.96.0.7:80/TCP", "172.20.0.1:8080@w0", "172.20.1.2:8080@w1", "172.20.2.1:8080@w2"),
			slots(251), kind(state.KindClusterIP), draining("172.20.1.1:8080@w1")),
		frontend("a/six", "[fd00::211]:80/TCP", "[fd00:20:1::1]:8080@w1"),
		frontend("a/dns", "192.168.10.211:53/UDP", "172.20.0.9:53@w0"),
		frontend("a/none", "192.168.10.213:80/TCP", "172.20.1.3:80@w1"),
	},
	{ // another table size; none left; an address changes hands; the policy becomes Cluster again
		frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.1:8080@w0", "172.20.0.2:8080@w0", "172.20.0.3:8080@w0", "172.20.0.4:8080@w0", "172.20.1.2:8080@w1", "172.20.2.1:8080@w2"),
		with(frontend("a/web", "10.96.0.7:80/TCP", "172.20.0.1:8080@w0", "172.20.0.2:8080@w0", "172.20.0.3:8080@w0", "172.20.0.4:8080@w0", "172.20.1.2:8080@w1", "172.20.2.1:8080@w2"), kind(state.KindClusterIP)),
		frontend("a/six", "[fd00::211]:80/TCP"),
		with(frontend("b/dns", "192.168.10.211:53/UDP", "172.20.0.10:53@w0"), affinity(time.Minute)),
		frontend("a/none", "192.168.10.213:80/TCP"),
	},
	{ // and back
		with(frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.1:8080@w0", "172.20.1.1:8080@w1", "172.20.1.2:8080@w1"), slots(251)),
	},
	nil,
}

// live runs the history on the maps, looking at them after every operation,
// and returns the dumps of each state. With restart, each change is another process's.
func live(fake *FakeMaps, restart bool) (dumps []string, err error) {
	return liveFrom(0, fake, restart)
}

// liveFrom is live that does not look before that operation: what goes before the
// first failure is the same in every life.
func liveFrom(first int, fake *FakeMaps, restart bool) (dumps []string, err error) {
	var before, after []state.Frontend
	ever := map[string]bool{}
	outer := fake.After
	fake.After = func(op Op) error {
		look := op.N >= first && err == nil
		if index, ok := op.Key.(uint32); ok && op.Verb == "write" && look && isLive(fake.Maps, index) {
			err = fmt.Errorf("%s: packets are looked up in this table", op)
		}
		if slices.Contains(writing, op.Verb) && look && err == nil {
			if err = checkServed(fake.Maps, before, after, ever); err != nil {
				err = fmt.Errorf("after %s: %w", op, err)
			}
		}
		if outer != nil {
			return outer(op)
		}
		return nil
	}
	turn := func(from, to []state.Frontend) {
		before, after = from, to
		for _, row := range to {
			for _, b := range slices.Concat(row.Backends, row.Inside) {
				ever[netip.AddrPortFrom(b.Addr, b.Port).String()] = true
			}
		}
	}
	dumps, errPlay := play(fake.Maps, restart, turn, func(dump func() string) string {
		failing, looking := fake.Before, fake.After
		defer func() { fake.Before, fake.After = failing, looking }()
		fake.Before, fake.After = nil, nil
		return dump()
	})
	return dumps, cmp.Or(err, errPlay)
}

// writing are the operations after which packets may meet something else.
var writing = []string{"update", "delete", "write"}

// play runs the history on the maps. It calls turn before each change, and
// returns what unwatched gives of two dumps of each state: at once, and when
// the windows of changes have closed and all that is old has gone.
func play(maps Maps, restart bool, turn func(before, after []state.Frontend), unwatched func(func() string) string) (dumps []string, err error) {
	target := newTestTarget(maps)
	var before []state.Frontend
	for _, rows := range history {
		turn(before, rows)
		if restart {
			now := target.now
			target = newTestTarget(maps)
			target.now = now
		}
		err := target.converge(before, rows)
		dumps = append(dumps, unwatched(target.dump))
		target.now = target.now.Add(target.Window)
		for range 4 { // first the sets, then what was theirs
			err = cmp.Or(err, target.converge(rows, rows))
			target.now = target.now.Add(target.Grace)
		}
		dumps = append(dumps, unwatched(target.dump))
		if err != nil {
			return dumps, err
		}
		before = rows
	}
	return dumps, nil
}

// isLive says whether packets are looked up in the table.
func isLive(m Maps, index uint32) bool {
	set, _, _ := m.Sets.Lookup(index / 4)
	frontends, _ := m.Frontends.All()
	for key, entry := range frontends {
		if !key.isVIP() && (entry.Set == index/4 || entry.Inside == index/4) &&
			(index%4 == set.Look.Active() || index%4 == set.Look.Previous() && set.Size[index%4] > 0) {
			return true
		}
	}
	return false
}
