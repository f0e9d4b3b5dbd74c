package announce

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
)

// Standing is how a node stands with an address: a candidate for it, or why not.
type Standing struct {
	Node string
	// Interfaces it would be announced on, sorted.
	Interfaces []string
	// Preference of the policies for the node; the highest counts.
	Preference int
	// Bar is why the node is no candidate, "" when it is one.
	Bar Bar
}

// Bar is what keeps a node from announcing an address.
type Bar string

// The bars, in the order they are looked at.
const (
	BarUnknownNode    Bar = "UnknownNode"    // has a lease, and is neither a node of the cluster nor an appliance
	BarNoLease        Bar = "NoLease"        // is a node, and no daemon there ever kept a lease
	BarLeaseExpired   Bar = "LeaseExpired"   // its lease went unrenewed
	BarDrained        Bar = "Drained"        // somebody drained it (seamark drain)
	BarReleased       Bar = "Released"       // it gave its addresses up
	BarStopping       Bar = "Stopping"       // its machine is shutting down
	BarCordoned       Bar = "Cordoned"       // spec.unschedulable, where that drains
	BarExcluded       Bar = "Excluded"       // label node.kubernetes.io/exclude-from-external-load-balancers
	BarNotSelected    Bar = "NotSelected"    // no policy for the address selects the node
	BarNoInterface    Bar = "NoInterface"    // no interface that the policies name
	BarOffLink        Bar = "OffLink"        // the address belongs to a subnet that its interfaces are not on
	BarInterfaceDown  Bar = "InterfaceDown"  // the interface is down
	BarCutOff         Bar = "CutOff"         // the others on the segment do not hear it, or it does not hear them
	BarNoLocalBackend Bar = "NoLocalBackend" // externalTrafficPolicy Local, and no ready backend there
	BarNoBackend      Bar = "NoBackend"      // no backend serves anywhere, and the policies withdraw the address then
)

// labelExclude on a node keeps it from announcing (KEP-1143).
const labelExclude = "node.kubernetes.io/exclude-from-external-load-balancers"

// Explain returns how every node stands with the address, sorted by node;
// nothing when no policy announces it.
func Explain(in Inputs, addr netip.Addr) []Standing {
	site := survey(in)
	var stands []Standing
	for _, w := range site.wanted() {
		if w.addr == addr {
			for _, node := range site.names {
				stands = append(stands, site.stand(w, node))
			}
		}
	}
	return stands
}

// site is the Inputs, arranged for looking things up.
type site struct {
	policies []policy
	services []state.Service
	nodes    map[string]state.Node
	leases   map[string]state.NodeLease
	names    []string // of all nodes and leases, sorted
	verdicts map[string]Verdict
	backends map[state.ObjectName]map[string]bool // nodes with a ready one; "" is no node
	onNodes  map[state.ObjectName]bool            // that have an endpoint on a node
	cut      map[nodeInterface]bool               // that are up, and not connected with the others
	served   map[state.ObjectName]bool            // that have a ready backend, or one that serves while it terminates
	// drainCordoned is Inputs.DrainCordoned.
	drainCordoned bool
	// cache of candidates: addresses asking for the same have the same.
	cache map[string]map[string]Standing
}

func survey(in Inputs) *site {
	s := &site{
		services: in.Services, nodes: nodesByName(in.Nodes), verdicts: in.Verdicts, drainCordoned: in.DrainCordoned,
		leases: map[string]state.NodeLease{}, backends: map[state.ObjectName]map[string]bool{}, served: map[state.ObjectName]bool{}, onNodes: map[state.ObjectName]bool{},
		cache: map[string]map[string]Standing{},
	}
	s.policies, _ = compilePolicies(in.Policies, in.Pools)
	s.cut = cutOff(in.Leases, witnesses(in.Verdicts, in.Unrenewed), in.Isolated)
	for _, n := range in.Nodes {
		s.names = append(s.names, n.Name)
	}
	for _, l := range in.Leases {
		s.leases[l.Node] = l
		s.names = append(s.names, l.Node)
	}
	slices.Sort(s.names)
	s.names = slices.Compact(s.names)
	for _, slice := range in.Slices {
		for _, b := range slice.Endpoints {
			if b.Node != "" {
				s.onNodes[slice.Service] = true
			}
			if b.Ready || b.Serving && b.Terminating {
				s.served[slice.Service] = true
			}
			if b.Ready {
				if s.backends[slice.Service] == nil {
					s.backends[slice.Service] = map[string]bool{}
				}
				s.backends[slice.Service][b.Node] = true
			}
		}
	}
	return s
}

// wantedAddr is an address that policies announce.
type wantedAddr struct {
	addr     netip.Addr
	services []state.ObjectName // that carry it
	local    []state.ObjectName // those of them with externalTrafficPolicy Local
	policies []int              // that announce it, ascending
	subnets  []netip.Prefix     // on-link somewhere, that it is in
	failback bool               // to a node that is preferred
	idle     bool               // to be withdrawn: nothing serves it
}

func (w wantedAddr) service() state.ObjectName {
	return slices.MinFunc(w.services, state.ObjectName.Compare)
}

// wanted returns the addresses that policies announce, sorted.
func (s *site) wanted() []wantedAddr {
	byAddr := map[netip.Addr]*wantedAddr{}
	add := func(addr netip.Addr, svc state.Service, policy int) {
		w := byAddr[addr]
		if w == nil {
			w = &wantedAddr{addr: addr}
			byAddr[addr] = w
		}
		if !slices.Contains(w.services, svc.Name) {
			w.services = append(w.services, svc.Name)
			if svc.ExternalTrafficPolicyLocal {
				w.local = append(w.local, svc.Name)
			}
		}
		if !slices.Contains(w.policies, policy) {
			w.policies = append(w.policies, policy)
		}
	}
	for i, p := range s.policies {
		for _, svc := range s.services {
			if !forL2(svc) || !p.selectsService(svc) {
				continue
			}
			if svc.Type == "LoadBalancer" {
				for _, addr := range svc.Ingress {
					if p.meansBalanced(addr) {
						add(addr, svc, i)
					}
				}
			}
			if p.externalIPs {
				for _, addr := range svc.ExternalIPs {
					add(addr, svc, i)
				}
			}
		}
	}
	wanted := make([]wantedAddr, 0, len(byAddr))
	onLinkOf := map[string][]netip.Prefix{} // by policies
	for _, w := range byAddr {
		key := fmt.Sprint(w.policies)
		if _, ok := onLinkOf[key]; !ok {
			onLinkOf[key] = s.onLink(w.policies)
		}
		for _, p := range onLinkOf[key] {
			if p.Contains(w.addr) {
				w.subnets = append(w.subnets, p)
			}
		}
		w.failback = slices.ContainsFunc(w.policies, func(p int) bool { return s.policies[p].failback })
		w.idle = !slices.ContainsFunc(w.policies, func(p int) bool { return !s.policies[p].withdraw }) &&
			!slices.ContainsFunc(w.services, func(svc state.ObjectName) bool { return s.served[svc] })
		wanted = append(wanted, *w)
	}
	slices.SortFunc(wanted, func(a, b wantedAddr) int { return a.addr.Compare(b.addr) })
	return wanted
}

// forL2 says whether the Service is for L2 to announce. Only one of type
// LoadBalancer can have a class.
func forL2(svc state.Service) bool { return svc.Class == "" || svc.Class == v1alpha1.ClassL2 }

// candidates returns the nodes that may announce w, also those that may only keep it.
func (s *site) candidates(w wantedAddr) map[string]Standing {
	key := fmt.Sprint(w.policies, w.local, w.subnets, w.idle)
	if cached, ok := s.cache[key]; ok {
		return cached
	}
	candidates := map[string]Standing{}
	for _, node := range s.names {
		if stand := s.stand(w, node); stand.Bar == "" {
			candidates[node] = stand
		}
	}
	s.cache[key] = candidates
	return candidates
}

// onLink returns the subnets of the interfaces that the policies mean, on any
// node. A dead node's count too: they say where an address belongs.
func (s *site) onLink(policies []int) []netip.Prefix {
	var subnets []netip.Prefix
	for _, node := range s.names {
		for _, i := range s.interfaces(policies, node) {
			subnets = append(subnets, i.Prefixes...)
		}
	}
	return onLink(subnets)
}

// interfaces of the node that the policies mean, up or not.
func (s *site) interfaces(policies []int, node string) []state.LeaseInterface {
	var found []state.LeaseInterface
	for _, i := range s.leases[node].Interfaces {
		if slices.ContainsFunc(policies, func(p int) bool {
			return s.policies[p].selectsNode(s.nodes[node]) && s.policies[p].matches(i.Name)
		}) {
			found = append(found, i)
		}
	}
	return found
}

func (s *site) stand(w wantedAddr, name string) Standing {
	barred := func(b Bar) Standing { return Standing{Node: name, Bar: b} }
	node, known := s.nodes[name]
	if !known {
		return barred(BarUnknownNode)
	}
	switch s.verdicts[name] {
	case NoLease:
		return barred(BarNoLease)
	case Expired:
		return barred(BarLeaseExpired)
	case Released:
		if s.leases[name].Drained {
			return barred(BarDrained)
		}
		return barred(BarReleased)
	}
	switch {
	case node.Stopping:
		return barred(BarStopping)
	case node.Unschedulable && s.drainCordoned:
		return barred(BarCordoned)
	}
	// The label counts whatever its value (KEP-1143).
	if _, excluded := node.Labels[labelExclude]; excluded {
		return barred(BarExcluded)
	}
	if !slices.ContainsFunc(w.policies, func(p int) bool { return s.policies[p].selectsNode(node) }) {
		return barred(BarNotSelected)
	}
	interfaces := s.interfaces(w.policies, name)
	if len(interfaces) == 0 {
		return barred(BarNoInterface)
	}
	if len(w.subnets) > 0 {
		interfaces = slices.DeleteFunc(interfaces, func(i state.LeaseInterface) bool {
			return !slices.ContainsFunc(i.Prefixes, func(p netip.Prefix) bool { return slices.Contains(w.subnets, p.Masked()) })
		})
		if len(interfaces) == 0 {
			return barred(BarOffLink)
		}
	}
	interfaces = slices.DeleteFunc(interfaces, func(i state.LeaseInterface) bool { return !i.Up })
	if len(interfaces) == 0 {
		return barred(BarInterfaceDown)
	}
	interfaces = slices.DeleteFunc(interfaces, func(i state.LeaseInterface) bool { return s.cut[nodeInterface{name, i.Name}] })
	if len(interfaces) == 0 {
		return barred(BarCutOff)
	}
	if w.idle {
		return barred(BarNoBackend)
	}
	for _, svc := range w.local {
		// Where no endpoint is on a node of the cluster, none is local anywhere, and
		// each node is as good a way to them as another.
		nowhere := s.backends[svc][""] && !s.onNodes[svc]
		if !s.backends[svc][name] && !nowhere {
			return barred(BarNoLocalBackend)
		}
	}
	stand := Standing{Node: name}
	for _, p := range w.policies {
		if s.policies[p].selectsNode(node) {
			stand.Preference = max(stand.Preference, s.policies[p].preference(node))
		}
	}
	for _, i := range interfaces {
		stand.Interfaces = append(stand.Interfaces, i.Name)
	}
	slices.SortFunc(stand.Interfaces, strings.Compare)
	return stand
}
