package lbipam

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
)

// tenancy is an address and the Services that have it: one, or several with
// one sharing key, each of which would share it with each other.
type tenancy struct {
	first   *claim // the oldest
	tenants []*claim
	// What is known of all tenants, once somebody asks to share:
	ports map[port]*claim
	// the oldest of each namespace and list of namespaces that it shares with
	kinds []*claim
	local bool   // some have externalTrafficPolicy Local
	odd   *claim // the oldest with other pods than the first's; nil when there is none
}

func newTenancy(c *claim) *tenancy { return &tenancy{first: c, tenants: []*claim{c}} }

// port is what two Services cannot both have on one address.
type port struct {
	protocol state.Protocol
	number   uint16
}

func portsOf(c *claim) []port {
	ports := make([]port, len(c.svc.Ports))
	for i, p := range c.svc.Ports {
		ports[i] = port{p.Protocol, p.Port}
	}
	return ports
}

// refusal is why a Service cannot have an address, too: a tenant and what is
// in the way. The zero refusal is none.
type refusal struct {
	tenant *claim
	cause  cause
	port   port
}

type cause uint8

const (
	noKey      cause = iota // the Service has none
	tenantKey               // the tenant has none
	otherKey                // the tenant has another
	samePort                //
	noConsent               // of two namespaces, one does not share with the other
	localAlone              // externalTrafficPolicy Local, and not the same pods
)

func (r refusal) any() bool { return r.tenant != nil }

// String names the tenant and says what is in the way.
func (r refusal) String() string {
	s := "Service " + r.tenant.svc.Name.String()
	switch r.cause {
	case tenantKey:
		s += ", which has no sharing key"
	case otherKey:
		s += ", whose sharing key is another"
	case samePort:
		s += fmt.Sprintf(", which has port %d/%s, too", r.port.number, r.port.protocol)
	case noConsent:
		s += ", of another namespace: both must name the other's in annotation " + v1alpha1.AnnotationSharingCrossNamespace
	case localAlone:
		s += ", which does not select the same pods, as it must with externalTrafficPolicy Local"
	}
	return s
}

// refuses says why c cannot have the address, too.
func (t *tenancy) refuses(c *claim) refusal {
	switch {
	case c.svc.Sharing == "":
		return refusal{tenant: t.first, cause: noKey}
	case t.first.svc.Sharing == "":
		return refusal{tenant: t.first, cause: tenantKey}
	case t.first.svc.Sharing != c.svc.Sharing:
		return refusal{tenant: t.first, cause: otherKey}
	}
	t.know()
	for _, p := range portsOf(c) {
		if t.ports[p] != nil {
			return refusal{tenant: t.ports[p], cause: samePort, port: p}
		}
	}
	var alien *claim
	for _, tenant := range t.kinds {
		if !consent(c, tenant) && (alien == nil || older(tenant, alien) < 0) {
			alien = tenant
		}
	}
	if alien != nil {
		return refusal{tenant: alien, cause: noConsent}
	}
	if t.local || c.svc.ExternalTrafficPolicyLocal {
		switch {
		case !samePods(c, t.first):
			return refusal{tenant: t.first, cause: localAlone}
		case t.odd != nil:
			return refusal{tenant: t.odd, cause: localAlone}
		}
	}
	return refusal{}
}

// has says whether the port is taken.
func (t *tenancy) has(p port) bool {
	t.know()
	return t.ports[p] != nil
}

// know fills in what sharing depends on: most addresses are never asked.
func (t *tenancy) know() {
	if t.ports == nil {
		t.ports = map[port]*claim{}
		for _, c := range t.tenants {
			t.take(c)
		}
	}
}

// forget is for when what is known is no longer so.
func (t *tenancy) forget() { t.ports, t.kinds, t.local, t.odd = nil, nil, false, nil }

// consent says whether the two may share by their namespaces.
func consent(c, o *claim) bool {
	return c.svc.Name.Namespace == o.svc.Name.Namespace || sharesWith(c, o) && sharesWith(o, c)
}

func sharesWith(c, o *claim) bool {
	return slices.Contains(c.svc.SharingWith, "*") || slices.Contains(c.svc.SharingWith, o.svc.Name.Namespace)
}

// samePods says whether the two are known to have the same pods behind them,
// and so on the same nodes: a Service without a selector has whatever its
// endpoints say.
func samePods(c, o *claim) bool {
	return len(c.svc.Selector) > 0 && c.svc.Name.Namespace == o.svc.Name.Namespace && maps.Equal(c.svc.Selector, o.svc.Selector)
}

// join adds a tenant that is not refused.
func (t *tenancy) join(c *claim) {
	t.tenants = append(t.tenants, c)
	switch {
	case older(c, t.first) < 0:
		t.first = c
		t.forget()
	case t.ports != nil:
		t.take(c)
	}
}

func (t *tenancy) take(c *claim) {
	for _, p := range portsOf(c) {
		t.ports[p] = c
	}
	t.local = t.local || c.svc.ExternalTrafficPolicyLocal
	if !samePods(c, t.first) && c != t.first && (t.odd == nil || older(c, t.odd) < 0) {
		t.odd = c
	}
	alike := slices.IndexFunc(t.kinds, func(o *claim) bool {
		return o.svc.Name.Namespace == c.svc.Name.Namespace && slices.Equal(o.svc.SharingWith, c.svc.SharingWith)
	})
	switch {
	case alike < 0:
		t.kinds = append(t.kinds, c)
	case older(c, t.kinds[alike]) < 0:
		t.kinds[alike] = c
	}
}

// leave removes a tenant.
func (t *tenancy) leave(c *claim) {
	at := slices.Index(t.tenants, c)
	t.tenants = slices.Delete(t.tenants, at, at+1)
	if len(t.tenants) == 0 {
		return
	}
	if t.first == c {
		t.first = slices.MinFunc(t.tenants, older)
		t.forget()
		return
	}
	for _, p := range portsOf(c) {
		delete(t.ports, p)
	}
	if c.svc.ExternalTrafficPolicyLocal || t.odd == c || slices.Contains(t.kinds, c) {
		t.forget()
	}
}

// group is what Services with one sharing key have.
type group struct {
	held [2][]holding // by address
	// from is where to begin to look for an address without the port: it is
	// taken on all before.
	from [2]map[port]int
	// short are the Services that have no address of some family, alone those
	// that share none.
	short, alone map[*claim]bool
}

type holding struct {
	addr netip.Addr
	*tenancy
}

// group returns that of the key.
func (a *Allocator) group(key string) *group {
	g := a.groups[key]
	if g == nil {
		g = &group{short: map[*claim]bool{}, alone: map[*claim]bool{}}
		a.groups[key] = g
	}
	return g
}

// empty says whether nobody has the key.
func (g *group) empty() bool {
	return len(g.held[ipv4])+len(g.held[ipv6])+len(g.short)+len(g.alone) == 0
}

func (g *group) wait(c *claim, short, alone bool) {
	if short {
		g.short[c] = true
	}
	if alone {
		g.alone[c] = true
	}
}

func (g *group) unwait(c *claim) {
	delete(g.short, c)
	delete(g.alone, c)
}

// at returns the place of the address, and whether it is there.
func (g *group) at(addr netip.Addr) (family, int, bool) {
	f := familyOf(addr)
	i, there := slices.BinarySearchFunc(g.held[f], addr, func(h holding, a netip.Addr) int { return h.addr.Compare(a) })
	return f, i, there
}

// add takes in an address that a Service of the group is the first to have.
func (g *group) add(addr netip.Addr, t *tenancy) {
	f, i, _ := g.at(addr)
	g.held[f] = slices.Insert(g.held[f], i, holding{addr, t})
	if i == len(g.held[f])-1 {
		return
	}
	for p, from := range g.from[f] {
		switch {
		case from <= i:
		case t.has(p):
			g.from[f][p] = from + 1
		default:
			g.from[f][p] = i
		}
	}
}

// freed takes in that the ports are no longer taken on the address.
func (g *group) freed(addr netip.Addr, ports []port) {
	f, i, _ := g.at(addr)
	for _, p := range ports {
		if from, known := g.from[f][p]; known && i < from {
			g.from[f][p] = i
		}
	}
}

// remove takes out an address that no Service has any longer.
func (g *group) remove(addr netip.Addr) {
	f, i, _ := g.at(addr)
	g.held[f] = slices.Delete(g.held[f], i, i+1)
	for p, from := range g.from[f] {
		if i < from {
			g.from[f][p] = from - 1
		}
	}
}

// without returns what of the group c's ports may be free on, by address.
func (g *group) without(c *claim, f family) []holding {
	if g.from[f] == nil {
		g.from[f] = map[port]int{}
	}
	start := 0
	for _, p := range portsOf(c) {
		from := g.from[f][p]
		for from < len(g.held[f]) && g.held[f][from].has(p) {
			from++
		}
		g.from[f][p] = from
		start = max(start, from)
	}
	return g.held[f][start:]
}

// lowestShared returns the lowest address of c's group that c can have, too.
func (a *Allocator) lowestShared(c *claim, f family) (netip.Addr, bool) {
	g := a.groups[c.svc.Sharing]
	if g == nil {
		return netip.Addr{}, false
	}
	for _, h := range g.without(c, f) {
		if !h.refuses(c).any() && a.mayShareFrom(c, a.poolOf(h.addr)) == "" {
			return h.addr, true
		}
	}
	return netip.Addr{}, false
}

// mayShareFrom says why c cannot have an address of p that its group has, ""
// when it can.
func (a *Allocator) mayShareFrom(c *claim, p *pool) string {
	if !c.mayUse(p) {
		return fmt.Sprintf("%s names pool %s", c.svc.PoolField, c.svc.Pool)
	}
	return p.refuses(c, c.svc.Pool != "")
}

// unshared says why c, though it has a sharing key and a choice, does not
// share the lowest address that an older Service of its group has; "" when it
// does, or there is none.
func (a *Allocator) unshared(c *claim, f family) string {
	g := a.groups[c.svc.Sharing]
	if g == nil || len(g.held[f]) == 0 || len(c.requested[f]) > 0 {
		return ""
	}
	if a.shares(c, f) {
		return ""
	}
	lowest := g.held[f][0]
	if older(lowest.first, c) >= 0 {
		return ""
	}
	if refusal := lowest.refuses(c); refusal.any() {
		return fmt.Sprintf("%s of its sharing key is not shared with %s", lowest.addr, refusal)
	}
	if p := a.poolOf(lowest.addr); a.mayShareFrom(c, p) != "" {
		return fmt.Sprintf("%s of its sharing key is not shared: it is of pool %s: %s", lowest.addr, p.Name, a.mayShareFrom(c, p))
	}
	return ""
}

// shares says whether c has an address of the family with others.
func (a *Allocator) shares(c *claim, f family) bool {
	return slices.ContainsFunc(c.given[f], func(addr netip.Addr) bool { return len(a.tenancies[addr].tenants) > 1 })
}

// alone says whether unshared may have something to say of c.
func (a *Allocator) alone(c *claim) bool {
	return slices.ContainsFunc(c.families, func(f family) bool { return len(c.requested[f]) == 0 && !a.shares(c, f) })
}
