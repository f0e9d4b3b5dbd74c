package datapath

import (
	"fmt"
	"hash/fnv"
	"slices"

	"github.com/seamark-lb/seamark/state"
)

// servicePort is what has a number of its own, for counters, affinity and sources.
type servicePort struct {
	service  state.ObjectName
	port     string
	protocol state.Protocol
	host     uint16 // a HostPort; 0: of a Service
}

// balancedPort is what has backend sets of its own: the frontends of one
// service port and family have the same backends, whatever their address.
type balancedPort struct {
	servicePort
	six bool
}

func balancedPortOf(row state.Frontend) balancedPort {
	port := balancedPort{servicePort{service: row.Service, port: row.PortName, protocol: row.Protocol}, row.Addr.Is6()}
	if row.Kind == state.KindHostPort {
		port.host = row.Port
	}
	return port
}

// hash is what a later process knows the port's sets by; never 0.
func (p balancedPort) hash() uint32 {
	h := fnv.New32a()
	fmt.Fprint(h, p.service, "/", p.port, "/", uint8(p.protocol), "/", p.host, "/", p.six)
	return max(h.Sum32(), 1)
}

// role is for whom a port's backends are: they differ by the traffic policies
// and by topology.
type role uint8

const (
	fromOutside role = iota // Backends
	fromInside              // Inside
	toClusterIP             // Inside of ClusterIPs
	roles
)

// portSets are the sets of one balanced port. Roles with the same backends share one.
type portSets struct {
	port balancedPort
	hash uint32
	rows map[FrontendKey]bool // its frontends, true: of a ClusterIP
	sets [roles]uint32        // 0: none yet
	list [roles][]state.Backend
	size uint32 // state.Frontend.TableSize
}

// has says whether a frontend has the role.
func (p *portSets) has(r role) bool {
	for _, clusterIP := range p.rows {
		if clusterIP == (r == toClusterIP) {
			return true
		}
	}
	return false
}

// rolesOf returns the roles that the row says something of: for packets from
// outside, and from inside.
func rolesOf(row state.Frontend) (outside, inside role) {
	if row.Kind == state.KindClusterIP {
		return toClusterIP, toClusterIP
	}
	return fromOutside, fromInside
}

// wantPort notes the row's backends, and which sets and number its port has
// had from an earlier process.
func (t *FrontendTarget) wantPort(key FrontendKey, row state.Frontend) {
	port := balancedPortOf(row)
	p := t.ports[port]
	if p == nil {
		p = &portSets{port: port, hash: port.hash(), rows: map[FrontendKey]bool{}}
		t.ports[port] = p
	}
	if old := t.portOf[key]; old != p {
		t.unwantPort(key)
		t.portOf[key] = p
	}
	p.rows[key] = row.Kind == state.KindClusterIP
	outside, inside := rolesOf(row)
	if outside == fromOutside {
		p.list[outside] = row.Backends
	}
	p.list[inside] = row.Inside
	p.size = row.TableSize

	held := t.frontends.have[key]
	t.adopt(p, outside, held.Set)
	t.adopt(p, inside, held.Inside)
	_, taken := t.numbers[held.Service]
	if held.Service != 0 && !taken && t.services[port.servicePort] == 0 && p.sets[inside] == held.Inside {
		t.services[port.servicePort], t.numbers[held.Service] = held.Service, port.servicePort
	}
}

// unwantPort notes that there is no such row any more.
func (t *FrontendTarget) unwantPort(key FrontendKey) {
	if p := t.portOf[key]; p != nil {
		delete(p.rows, key)
		delete(t.portOf, key)
		t.forgetPort(p)
	}
}

// forgetPort forgets a port that has neither rows nor sets.
func (t *FrontendTarget) forgetPort(p *portSets) {
	if len(p.rows) == 0 && p.sets == [roles]uint32{} {
		delete(t.ports, p.port)
	}
}

// adopt makes a set that the kernel has the role's, if it was this port's.
func (t *FrontendTarget) adopt(p *portSets, r role, set uint32) {
	known := t.known[set]
	if p.sets[r] != 0 || known == nil || known.port != nil && known.port != p || t.sets.have[set].Owner != p.hash {
		return
	}
	known.port = p
	p.sets[r] = set
}

// arrange returns the row's frontend, with sets whose backends are planned.
func (t *FrontendTarget) arrange(key FrontendKey, row state.Frontend) (FrontendEntry, error) {
	p := t.portOf[key]
	if err := t.arrangeSets(p); err != nil {
		return FrontendEntry{}, err
	}
	service, err := t.number(p.port.servicePort)
	if err != nil {
		return FrontendEntry{}, err
	}
	outside, inside := rolesOf(row)
	return FrontendEntry{Set: p.sets[outside], Inside: p.sets[inside], Service: service,
		Flags: flagsAfter(t.frontends.have[key], flagsOf(row))}, nil
}

// arrangeSets gives each role a set for its backends, and plans them.
//
// Roles that have one set and no longer the same backends part: the first
// keeps the set, and the others get copies of it, so that neither loses a flow.
// Roles that have two sets come together only when nothing tells those apart.
func (t *FrontendTarget) arrangeSets(p *portSets) error {
	for r := range roles {
		if !p.has(r) {
			continue
		}
		if p.parts(r) {
			set, err := t.copyFor(p, r)
			if err == nil {
				err = t.repoint(p, r, set)
			}
			if err != nil {
				return err
			}
			p.sets[r] = set
		} else if p.sets[r] == 0 {
			set, err := t.setFor(p, r)
			if err != nil {
				return err
			}
			p.sets[r] = set
		}
		for q := range r {
			if p.has(q) && p.sets[q] != p.sets[r] && p.alike(q, r) && t.interchangeable(p.sets[q], p.sets[r]) {
				p.sets[r] = p.sets[q]
			}
		}
	}
	for r := range roles {
		if !p.has(r) {
			continue
		}
		if err := t.plan(t.known[p.sets[r]], p.list[r], p.size); err != nil {
			return err
		}
	}
	return nil
}

// parts says whether r has its set in common with an earlier role and no
// longer the same backends.
func (p *portSets) parts(r role) bool {
	for q := range r {
		if p.has(q) && p.sets[r] != 0 && p.sets[q] == p.sets[r] && !p.alike(q, r) {
			return true
		}
	}
	return false
}

// alike says whether two roles have the same backends.
func (p *portSets) alike(q, r role) bool { return slices.Equal(p.list[q], p.list[r]) }

// setFor returns a set for a role that has none: that of another role with
// the same backends, or a new one.
func (t *FrontendTarget) setFor(p *portSets, r role) (uint32, error) {
	for q := range roles {
		if q != r && p.has(q) && p.sets[q] != 0 && p.alike(q, r) {
			return p.sets[q], nil
		}
	}
	return t.newSet(p)
}

func (t *FrontendTarget) newSet(p *portSets) (uint32, error) {
	set, err := t.freeSet.take()
	if err != nil {
		return 0, fmt.Errorf("allocate a backend set: %w", err)
	}
	t.known[set] = &backendSet{port: p}
	t.setUse.note(t.Now(), set)
	return set, nil
}

// copyFor returns a copy of the set that r parts from: the one of an earlier
// role that parted from it with the same backends, or a new one.
func (t *FrontendTarget) copyFor(p *portSets, r role) (uint32, error) {
	from := p.sets[r]
	entry, _, err := t.sets.get(from)
	if err != nil {
		return 0, err
	}
	for q := range r {
		if p.has(q) && p.sets[q] != from && p.alike(q, r) && t.isCopy(p.sets[q], from, entry) {
			return p.sets[q], nil
		}
	}
	l, err := t.lookupOf(from)
	if err != nil {
		return 0, err
	}
	set, err := t.newSet(p)
	if err != nil {
		return 0, err
	}
	err = t.tables.write(map[uint32][]uint32{
		tableIndex(set, entry.Look.Previous()): l.previous,
		tableIndex(set, entry.Look.Active()):   l.active,
	})
	if err == nil {
		err = t.sets.put(set, entry)
	}
	if err != nil {
		return 0, err
	}
	known := t.known[from]
	t.known[set].changed = known.changed
	t.settle(set, known.live, known.past, entry.Look)
	return set, nil
}

// isCopy says whether set is a copy of another, whose row is entry.
func (t *FrontendTarget) isCopy(set, of uint32, entry BackendSet) bool {
	same := func(which uint32) bool {
		copied, ok := t.tables.have[tableIndex(set, which)]
		return entry.Size[which] == 0 || ok && copied == t.tables.have[tableIndex(of, which)]
	}
	return !t.sets.unsure[set] && t.sets.have[set] == entry && same(entry.Look.Active()) && same(entry.Look.Previous())
}

// repoint makes all frontends that the kernel has lead to the role's new set.
func (t *FrontendTarget) repoint(p *portSets, r role, set uint32) error {
	for key, clusterIP := range p.rows {
		entry, ok, err := t.frontends.get(key)
		if err != nil {
			return err
		}
		if !ok || clusterIP != (r == toClusterIP) {
			continue
		}
		if r != fromInside {
			entry.Set = set
		}
		if r != fromOutside {
			entry.Inside = set
		}
		if err := t.putFrontend(key, entry); err != nil {
			return err
		}
	}
	return nil
}

// interchangeable says whether a packet meets the same in both sets.
func (t *FrontendTarget) interchangeable(a, b uint32) bool {
	for _, set := range []uint32{a, b} {
		entry := t.sets.have[set]
		if entry.Look.Moving() || t.sets.unsure[set] || !t.isLive(set, entry) {
			return false
		}
	}
	return t.known[a].want.leads(t.known[b].want)
}

// number returns the number of the service port.
func (t *FrontendTarget) number(port servicePort) (uint32, error) {
	if number := t.services[port]; number != 0 {
		return number, nil
	}
	number, err := t.freeService.take()
	if err != nil {
		return 0, fmt.Errorf("allocate a service number: %w", err)
	}
	t.services[port], t.numbers[number] = number, port
	t.serviceUse.note(t.Now(), number)
	return number, nil
}
